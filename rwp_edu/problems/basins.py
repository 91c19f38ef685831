"""The minima of a surface, the basin a point lies in, and the scales of smoothing at which a well loses."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from rwp_edu.problems.surfaces import Surface, grid

GRID = 101, 77  # points across and up, of which those below their neighbours are where the search for minima starts
NEAR = 1e-4  # of the diagonal of the view: nearer points are one


def _diagonal(surface: Surface) -> float:
    return math.dist(*zip(*surface.view))


def _newton(surface: Surface, x: Tensor) -> tuple[Tensor, Tensor]:
    """The curvatures at x (M, 2), the smaller one first, and the step |H|⁻¹∇f (M, 2), |H| with the absolute eigenvalues."""
    curvatures, axes = torch.linalg.eigh(surface.hessian(x))
    along = (axes.mT @ surface.gradient(x).unsqueeze(-1)).squeeze(-1)
    return curvatures, (axes @ (along / curvatures.abs().clamp_min(1e-12)).unsqueeze(-1)).squeeze(-1)


def _settle(surface: Surface, x: Tensor, steps: int = 300) -> Tensor:
    """Newton's method away from saddles: no step is longer than 1/100 of the view."""
    reach = _diagonal(surface) / 100
    for _ in range(steps):
        step = _newton(surface, x)[1]
        length = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
        x = x - step * (reach / length.clamp_min(reach))
        if not (length > 1e-10 * reach).any():
            break
    return x


@lru_cache(maxsize=64)
def _minima(surface: Surface) -> Tensor:
    points = grid(surface.view, *GRID, torch.float64)
    depth = -surface.value(points).view(1, 1, *GRID[::-1])
    found = _settle(surface, points[(depth == torch.nn.functional.max_pool2d(depth, 3, 1, 1)).flatten()])
    curvatures = torch.linalg.eigvalsh(surface.hessian(found))
    still = torch.linalg.vector_norm(surface.gradient(found), dim=-1) <= 1e-8 * curvatures[:, 1].abs()
    found = found[still & (curvatures[:, 0] > 1e-6 * curvatures[:, 1])]
    distinct: list[Tensor] = []
    lowest = sorted(zip(surface.value(found).tolist(), found), key=lambda pair: (round(pair[0], 9), *pair[1].tolist()))
    for _, x in lowest:
        if all(torch.dist(x, other) > NEAR * _diagonal(surface) for other in distinct):
            distinct.append(x)
    return torch.stack(distinct) if distinct else found


def minima(surface: Surface) -> Tensor:
    """The isolated local minima that Newton's method finds from the low points of a grid over the view: (K, 2) in float64, the
    lowest first, and from the left where two are equally low.

    >>> from rwp_edu.problems.surfaces import SURFACES
    >>> minima(SURFACES["himmelblau"]).shape, minima(SURFACES["rescaling"]).shape
    (torch.Size([4, 2]), torch.Size([0, 2]))
    """
    return _minima(surface).clone()


def basin_of(surface: Surface, x: Tensor, steps: int = 500) -> Tensor:
    """Where noise-free gradient flow takes the points ``(..., 2)``: indices into :func:`minima` ``(...,)``, -1 for none of them.

    The flow is followed by gradient descent with steps of at most 1/300 of the view and 1/‖∇²f‖, which are stable wherever the
    surface bends, until all points are where Newton's method finishes: the surface bends upwards, and its step is short.
    """
    reach = _diagonal(surface) / 300
    at = x.detach().reshape(-1, 2).double()
    for number in range(steps):
        if number % 20 == 0:
            curvatures, step = _newton(surface, at)
            if ((curvatures[:, 0] > 0) & (torch.linalg.vector_norm(step, dim=-1) < reach / 100)).all():
                break
        g = surface.gradient(at)
        bend = torch.linalg.vector_norm(surface.hessian(at), dim=(-2, -1)).unsqueeze(-1)
        at = at - g / (bend + torch.linalg.vector_norm(g, dim=-1, keepdim=True) / reach + 1e-300)
    lowest = _minima(surface).to(x.device)
    if not len(lowest):
        return torch.full(x.shape[:-1], -1, device=x.device)
    distance, index = torch.cdist(_settle(surface, at), lowest).min(-1)
    return torch.where(distance <= NEAR * _diagonal(surface), index, -1).view(x.shape[:-1])


class CriticalScales(NamedTuple):
    """``lower``: from this σ on the smoothed surface is lower in the wide well; ``gone``: from this σ on its sharp minimum does
    not exist any more."""

    lower: float
    gone: float


def critical_scales(surface: Surface) -> CriticalScales:
    """The two scales of smoothing at which a sharp well loses against a wide one, by bisection on the closed form.

    The surface must have two minima; the sharp one has the larger trace of the Hessian. Its minimum is followed by letting the
    old one settle on the smoothed surface. ``lower`` is 0 where the sharp well is not the deeper one from the start.

    >>> from rwp_edu.problems.surfaces import SHARP_AND_WIDE
    >>> [round(scale, 3) for scale in critical_scales(SHARP_AND_WIDE)]
    [0.11, 0.188]
    """
    found = _minima(surface)
    if len(found) != 2:
        raise ValueError(f"critical scales need a surface with two minima, this one has {len(found)}")
    wells = found[torch.diagonal(surface.hessian(found), dim1=-2, dim2=-1).sum(-1).argsort(descending=True)]

    def both(sigma: float) -> tuple[Tensor, Tensor]:
        """The minima into which (sharp, wide) go, and their smoothed values."""
        smoothed = surface.smoothed(sigma)
        x = _settle(smoothed, wells)
        return x, smoothed.value(x)

    def is_gone(sigma: float) -> bool:
        return bool(torch.dist(*both(sigma)[0]) < NEAR * _diagonal(surface))

    def is_lower(sigma: float) -> bool:
        sharp, wide = both(sigma)[1].tolist()
        return wide <= sharp

    gone = _first(is_gone, _diagonal(surface))
    return CriticalScales(_first(is_lower, gone), gone)


def _first(holds: Callable[[float], bool], high: float) -> float:
    """The smallest number in [0, high] from which ``holds``, by bisection; ``high`` if it does not hold below."""
    low = 0.0
    if holds(low):
        return low
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
