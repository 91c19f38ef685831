"""Slices of a loss: its values along a line or over a plane through weights, and where given weights lie in it.

A slice shows a few of P dimensions and says nothing about the others: a random direction sees the average curvature tr H / P, not
the sharp ones. Plain distances change when layers of a ReLU network are rescaled so that it computes the same; directions that
follow the norms of the weights move with them (1712.09913).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rwp_edu.curvature.objective import Objective
from rwp_edu.methods.noise import LAWS, generator
from rwp_edu.methods.points import Layout
from rwp_edu.utils import clock
from rwp_edu.utils.parameters import unknown

PERTURB = ("all", "matrices")
PARTS: dict[str, Callable[[Tensor, Layout], list[Tensor]]] = {
    "isotropic": lambda t, layout: [t.unsqueeze(-2)],
    "layer-wise": lambda t, layout: [part.unsqueeze(-2) for part in t.split(layout.sizes, -1)],
    "filter-wise": lambda t, layout: layout.filters(t),
}
"""What keeps the norm of the weights: views (..., parts, entries of a part)."""


def random_directions(
    objective: Objective, n: int = 2, kind: str = "filter-wise", perturb: str = "all", law: str = "gaussian", seed: int = 0
) -> Tensor:
    """n random directions (n, P), in every filter of the same norm as the weights there (1712.09913): dⱼ = zⱼ / ‖zⱼ‖ ‖wⱼ‖.

    So they are the noise of ``kind`` whose length in every filter, layer ("layer-wise") or in all ("isotropic") is fixed to that of
    the weights. A filter of zeros does not move. ``perturb="matrices"`` leaves out biases and norm gains, as the released code of
    that paper does; with ``"all"`` a bias vector is one filter.
    """
    w, layout = _single(objective), objective.layout
    if perturb not in PERTURB:
        raise unknown("perturb", perturb, PERTURB)
    if law not in LAWS:
        raise unknown("law", law, LAWS)
    if kind not in PARTS:
        raise unknown("kind", kind, PARTS)
    g, d = generator(seed, "slices", device=w.device), torch.empty(n, len(w), dtype=w.dtype, device=w.device)
    for row in d:
        LAWS[law](row, g)
    if perturb == "matrices":
        for part, shape in zip(layout.split(d), layout.shapes):
            part.mul_(len(shape) > 1)
    for z, own in zip(PARTS[kind](d, layout), PARTS[kind](w, layout)):
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        z.mul_(torch.where(length > 0, torch.linalg.vector_norm(own, dim=-1, keepdim=True) / length, 0.0))
    return d


def _single(objective: Objective) -> Tensor:
    if objective.w.dim() > 1:
        raise ValueError("a slice is of one run: make an objective of its own weights")
    return objective.w


class Plane(NamedTuple):
    """Weights ``origin`` + Σ xᵢ ``axes``ᵢ: origin (P,), axes (1, P) for a line or (2, P)."""

    origin: Tensor
    axes: Tensor

    def at(self, coordinates: Tensor) -> Tensor:
        """Weights (N, P) at coordinates (N, D)."""
        return self.origin + coordinates.to(self.axes) @ self.axes

    def coordinates(self, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (N, D) of the points of the plane nearest to weights (N, P), and how far from the plane those lie (N,).

        >>> plane = Plane(torch.zeros(3), torch.tensor([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0]]))
        >>> plane.coordinates(torch.tensor([[3.0, 4.0, 5.0]]))
        (array([[1., 2.]]), array([5.]))
        """
        axes, apart = self.axes.double(), (points - self.origin).double()
        found = torch.linalg.lstsq(axes.T.cpu(), apart.T.cpu()).solution
        return found.T.numpy(), torch.linalg.vector_norm(apart.cpu() - found.T @ axes.cpu(), dim=1).numpy()


def line(a: Tensor, b: Tensor) -> Plane:
    """(1 - x) a + x b (1412.6544): a at 0, b at 1."""
    return Plane(a, (b - a)[None])


def plane_through(a: Tensor, b: Tensor, c: Tensor) -> Plane:
    """The plane through three weights (1802.10026): a at (0, 0), b on the first axis, c above it; distances are those of weights.

    >>> plane = plane_through(torch.zeros(3), torch.tensor([3.0, 0, 0]), torch.tensor([1.0, 2.0, 0]))
    >>> plane.coordinates(torch.tensor([[3.0, 0, 0], [1.0, 2.0, 0]]))[0].round(6)
    array([[3., 0.],
           [1., 2.]])
    """
    first, second = (b - a).double(), (c - a).double()
    axes = [first / torch.linalg.vector_norm(first)]
    second = second - (second @ axes[0]) * axes[0]
    axes.append(second / torch.linalg.vector_norm(second))
    if not torch.linalg.vector_norm(second) > 1e-6 * torch.linalg.vector_norm(c - a) or not torch.isfinite(axes[0]).all():
        raise ValueError("the three weights lie on a line: a plane needs three that do not; take the line through two of them")
    return Plane(a, torch.stack(axes).to(a))


def plane_along(objective: Objective, directions: Tensor) -> Plane:
    """The line or plane through the weights of an objective along directions (D, P): random ones, or eigenvectors."""
    return Plane(_single(objective), directions)


class Slice(NamedTuple):
    """``values`` of the loss (len(x),) or (len(y), len(x)), row by row of y, not finite where it overflows; ``points`` (N, D) and
    their distances ``apart`` (N,) from the plane."""

    x: np.ndarray
    y: np.ndarray | None
    values: np.ndarray
    points: np.ndarray
    apart: np.ndarray


class Filling:
    """The loss over a grid of a line (``x``) or plane (``x`` and ``y``), ``some`` points at a time (default: all at once), for whoever has other things to do meanwhile."""

    def __init__(
        self,
        objective: Objective,
        plane: Plane,
        x: Sequence[float] | np.ndarray,
        y: Sequence[float] | np.ndarray | None = None,
        points: Tensor | None = None,
        some: int | None = None,
    ):
        w = _single(objective)
        self.grids = [np.asarray(grid, float) for grid in (x, y) if grid is not None]
        if len(self.grids) != len(plane.axes) or any(grid.ndim != 1 or not grid.size for grid in self.grids):
            raise ValueError(
                f"x{' and y' * (len(plane.axes) > 1)} must be lists of coordinates, one for each of {len(plane.axes)} axes"
            )
        if plane.origin.shape != w.shape:
            raise ValueError(f"the plane lies among {plane.origin.shape[-1]} weights, the objective has {len(w)}")
        self.objective, self.plane, self.points = objective, plane, w.new_empty(0, len(w)) if points is None else points
        coordinates = torch.as_tensor(np.stack(np.meshgrid(*self.grids), -1).reshape(-1, len(self.grids)))
        self._asked = torch.cat([torch.ones(len(coordinates), 1), coordinates], 1).to(w).split(some or len(coordinates))
        self._values: list[Tensor] = []

    @property
    def part(self) -> float:
        """How much of it is known."""
        return len(self._values) / len(self._asked)

    def work(self, seconds: float = math.inf) -> None:
        """Go on for about so long."""
        end, spanned = clock.now() + seconds, torch.cat([self.plane.origin[None], self.plane.axes])
        while self.part < 1 and clock.now() < end:
            self._values.append(self.objective.combined(spanned, self._asked[len(self._values)]))

    @property
    def found(self) -> Slice:
        """The whole, when all of it is known."""
        values = torch.cat(self._values).double().cpu().numpy().reshape([len(grid) for grid in reversed(self.grids)])
        x, y = (*self.grids, None)[:2]
        return Slice(x, y, values, *self.plane.coordinates(self.points))


def evaluate(
    objective: Objective,
    plane: Plane,
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray | None = None,
    points: Tensor | None = None,
) -> Slice:
    """The loss over a grid of a line (``x``) or plane (``x`` and ``y``), some weights at a time, and where ``points`` (N, P) lie.

    >>> bowl = Objective(lambda w: w.square().sum(-1), torch.tensor([1.0, 0.0]))
    >>> evaluate(bowl, plane_along(bowl, torch.eye(2)), [-1, 0], [0, 1, 2]).values
    array([[0., 1.],
           [1., 2.],
           [4., 5.]])
    """
    filling = Filling(objective, plane, x, y, points)
    filling.work()
    return filling.found
