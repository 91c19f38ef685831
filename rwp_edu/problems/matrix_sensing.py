"""Matrix sensing: find a matrix of low rank from a few linear measurements, with far more weights than it needs.

The problem on which noise stability optimization was shown (2306.08553). All derivatives are closed forms: the gradient, the
trace of the Hessian, and the loss smoothed by Gaussian noise, which is exactly the loss plus σ²/2 times that trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwp_edu.methods.noise import generator
from rwp_edu.methods.points import At, Layout
from rwp_edu.utils.parameters import Parameter

if TYPE_CHECKING:
    from rwp_edu.training.batched import Group

PARAMETERS: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("d", "d", 30, "size of the matrices", low=1),
        Parameter("rank", "r", 2, "rank of the truth", low=1),
        Parameter("n", "n", 300, "number of measurements", low=1),
        Parameter("init", "", 1.0, "standard deviation of the entries of the initial weights"),
        Parameter("noise", "", 0.0, "standard deviation of the noise on y, relative to the root mean square of y"),
    )
}
SHAPES = {"A": "ndd", "y": "n", "truth": "dd", "w0": "dp"}
CHUNK = 64  # measurements unpacked at a time


class Sensing:
    """Weights W (d, p) whose WWᵀ should agree with n measurements of a truth X, for S seeds at once.

        L(W) = 1/(4n) Σᵢ rᵢ²,   rᵢ = <Aᵢ, WWᵀ> - yᵢ,   ∇L(W) = 1/n Σᵢ rᵢ Aᵢ W

    Drawn: X = UUᵀ with U (d, rank) ~ N(0, 1), Aᵢ = (G + Gᵀ)/2 with G ~ N(0, 1), yᵢ = <Aᵢ, X> plus noise, and a start W₀ (d, d)
    ~ init · N(0, 1), as in the released code of 2306.08553; its figure has d = 100, rank 5, n = 2500, learning rate 0.0025 and
    σ = 0.08. Every seed has its own X, A, y and start, shared by all methods; they are drawn in float32 whatever ``dtype`` is.

    Given: ``Sensing(A=..., y=..., truth=..., w0=...)``, tensors or arrays (n, d, d), (n,), (d, d) and (d, p), each with S in front
    or the same for all seeds (then kept once). They are brought to ``dtype``; A is symmetrised, as <A, WWᵀ> sees no more of it.
    Without a truth the distance is NaN; without ``seeds`` the runs are numbered. ``ValueError`` where shapes do not fit, values
    are not finite, or y is all zero.

    Full batch: ``next`` has nothing to do and every batch is the same; parts (LPF-SGD) are slices of the measurements. A is kept
    as its upper triangle ``packed`` (S or 1, n, d(d+1)/2), so that a gradient is two products with half of A.

    The same runs in other units; momentum is the same in all:

    ==============================  ==============  ============  ===============  =============  ==========
    loss                            weights         lr            weight decay     σ, ρ of SAM    tr H
    ==============================  ==============  ============  ===============  =============  ==========
    1/(4n) Σ r² (here)              W               lr            wd               σ, ρ           t
    1/(2n) Σ r²                     W               lr / 2        2 wd             σ, ρ           2 t
    1/(2n) Σ r², U ~ N(0, 1/d)      W / √d          lr d/2        wd · 2/d         σ/√d, ρ/√d     t · 2/d
    ==============================  ==============  ============  ===============  =============  ==========

    >>> problem = Sensing(seeds=[0, 1], d=5, rank=1, n=10)
    >>> problem.init().shape, problem.packed.shape
    (torch.Size([2, 25]), torch.Size([2, 10, 15]))
    >>> one = Sensing(A=[[[2.0]]], y=[4.0], truth=[[2.0]], w0=[[3.0]])  # L = (2w² - 4)²/4 = (w² - 2)²
    >>> one.loss(one.init()).item(), one.gradient(one.init()).item(), one.hessian_trace(one.init()).item()
    (49.0, 84.0, 100.0)
    """

    name = "sensing"
    metrics = ("train_error", "distance", "trace", "nuclear", "rank")

    def __init__(
        self,
        seeds: Sequence[int] | None = None,
        d: int = 30,
        rank: int = 2,
        n: int = 300,
        init: float = 1.0,
        noise: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        A: Any = None,
        y: Any = None,
        truth: Any = None,
        w0: Any = None,
    ):
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        if seeds is not None and not len(seeds):
            raise ValueError("seeds must name one seed at least")
        self.device, self.dtype = torch.device(device), dtype
        drawn = {"d": d, "rank": rank, "n": n, "init": init, "noise": noise}
        drawn = {name: PARAMETERS[name].parse(value) for name, value in drawn.items()}
        given = {name: value for name, value in (("A", A), ("y", y), ("truth", truth), ("w0", w0)) if value is not None}
        if given:
            changed = [name for name, value in drawn.items() if value != PARAMETERS[name].default]
            if changed or not {"A", "y", "w0"} <= given.keys():
                wrong = f"{changed[0]} cannot be chosen for them" if changed else f"got only {', '.join(given)}"
                raise ValueError(f"given data are A, y and w0 together, with or without truth: {wrong}")
            self._take(given, seeds)
        elif seeds is None:
            raise ValueError("seeds are needed, or data: A, y and w0")
        else:
            self._draw(tuple(seeds), **drawn)
        if not self._scale.all():
            raise ValueError("y must not be all zero: the training error is relative to its mean square")

    def _sized(self, d: int, p: int) -> None:
        self.d, self.p, self.layout = d, p, Layout({"W": (d, p)})
        row, column = self._row, self._column = torch.triu_indices(d, d, device=self.device)
        self._upper = row * d + column
        self._full = torch.empty(d, d, dtype=torch.long, device=self.device)
        self._full[row, column] = self._full[column, row] = torch.arange(len(row), device=self.device)
        self._full = self._full.flatten()
        self._twice = torch.where(row == column, 1.0, 2.0).to(self.dtype)

    def _draw(self, seeds: tuple[int, ...], d: int, rank: int, n: int, init: float, noise: float) -> None:
        if rank > d:
            raise ValueError(f"rank must be at most d, got rank={rank}, d={d}")
        self.seeds = seeds
        self._sized(d, d)

        def normal(what: str, *shape: int) -> Tensor:
            z = torch.empty(len(seeds), *shape, dtype=torch.float32)
            for row, seed in zip(z, seeds):
                row.normal_(generator=generator(seed, self.name, what))
            return z.to(self.device, self.dtype)

        u = normal("truth", d, rank)
        self.truth = torch.bmm(u, u.transpose(1, 2))
        self.packed = normal("measurements", n, len(self._upper)).div_(self._twice.sqrt())
        clean = self._measured(self.truth)[:, 0]
        self._scale = clean.square().mean(1)
        self.y = clean + noise * self._scale.sqrt()[:, None] * normal("noise", n)
        self._start = init * normal("start", d * d)

    def _take(self, given: dict[str, Any], seeds: Sequence[int] | None) -> None:
        sizes = {} if seeds is None else {"S": len(seeds)}
        data = {}
        for name in (name for name in SHAPES if name in given):
            value = torch.as_tensor(given[name]).detach().to(self.device, self.dtype, copy=name != "A")  # A is copied below
            data[name] = _fitted(name, value, sizes)
        self.seeds = tuple(range(sizes.get("S", 1)) if seeds is None else seeds)
        self._sized(sizes["d"], sizes["p"])
        a = data["A"]
        self.packed = (a[..., self._row, self._column] + a[..., self._column, self._row]) / 2
        self.y, self.truth = data["y"], data.get("truth")
        self._scale = self.y.square().mean(1)
        self._start = data["w0"].flatten(1)

    def measurements(self, which: int = 0) -> Tensor:
        """A (n, d, d) of seed number ``which``."""
        return self._unpack(self.packed[which if len(self.packed) > 1 else 0])

    def _unpack(self, packed: Tensor) -> Tensor:
        """Triangles (..., D) as symmetric matrices (..., d, d)."""
        return packed.index_select(-1, self._full).unflatten(-1, (self.d, self.d))

    def _square(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """W (N, d, p) and WWᵀ (N, d, d)."""
        w = w.reshape(-1, self.d, self.p)
        return w, torch.bmm(w, w.transpose(1, 2))

    def _measured(self, m: Tensor, part: slice = slice(None)) -> Tensor:
        """<Aᵢ, M> (S, R, n) for symmetric matrices M (S R, d, d)."""
        a = self.packed[:, part]
        m = m.flatten(1).index_select(1, self._upper).mul_(self._twice)
        return torch.bmm(m.view(len(a), -1, m.shape[1]), a.transpose(1, 2)).view(len(self.seeds), -1, a.shape[1])

    def init(self) -> Tensor:
        """Initial weights (S, P)."""
        return self._start.expand(len(self.seeds), -1).clone(memory_format=torch.contiguous_format)

    def state(self) -> None:
        """Nothing: every update sees all measurements."""

    def restore(self, state: None) -> None:
        """Nothing to go on from."""

    def next(self, batches: int) -> None:
        """Nothing to do: every batch is the full batch."""

    def gradients(self, points: list[At], groups: Sequence[Group] = ()) -> list[Tensor]:
        """Gradients (S, P) at every point."""
        found: list[Tensor] = [None] * len(points)
        for cut in {(at.part, at.of) for at in points}:
            same = [i for i, at in enumerate(points) if (at.part, at.of) == cut]
            gradient = self._gradient(torch.stack([points[i].w for i in same], 1), *cut)
            for i, own in zip(same, gradient.unbind(1)):
                found[i] = own
        return found

    def _gradient(self, w: Tensor, part: int, of: int) -> Tensor:
        """Gradients (S, R, P) at R points of every seed, on a part of the measurements."""
        n = self.y.shape[1]
        if of > n:
            raise ValueError(f"{n} measurements cannot be cut into {of} parts: choose n >= k")
        some = slice(part * n // of, (part + 1) * n // of)
        a = self.packed[:, some]
        matrices, squares = self._square(w)
        r = self._measured(squares, some).sub_(self.y[:, None, some]).div_(a.shape[1])
        weighted = self._unpack(torch.bmm(r.view(len(a), -1, a.shape[1]), a).flatten(0, 1))
        return torch.bmm(weighted, matrices).view_as(w)

    def gradient(self, w: Tensor) -> Tensor:
        """∇L (S, P) at weights (S, P)."""
        return self._gradient(w[:, None], 0, 1)[:, 0]

    def _residuals(self, squares: Tensor) -> Tensor:
        return self._measured(squares)[:, 0] - self.y

    def loss(self, w: Tensor) -> Tensor:
        """L (S,) at weights (S, P)."""
        return self._residuals(self._square(w)[1]).square().mean(1) / 4

    @cached_property
    def _curvature(self) -> tuple[Tensor, Tensor, Tensor]:
        """T (S or 1, d, d), t and c (S or 1,) of tr H = <T, WWᵀ> - t and of the constant c σ⁴ in the smoothed loss."""
        d, p, n = self.d, self.p, self.y.shape[1]
        squares = self.packed.new_zeros(len(self.packed), d, d)
        for some in self.packed.split(CHUNK, 1):
            a = self._unpack(some.flatten(0, 1)).view(len(squares), -1, d)
            squares.baddbmm_(a.transpose(1, 2), a, alpha=1 / n)
        traces = self.packed[:, :, self._row == self._column].sum(2)
        traced = self._unpack(torch.bmm(traces[:, None], self.packed)[:, 0]) / n
        norms = squares.diagonal(dim1=1, dim2=2).sum(1)
        return 2 * squares + p * traced, p * (traces * self.y).mean(1), (p * p * traces.square().mean(1) + 2 * p * norms) / 4

    def hessian_trace(self, w: Tensor) -> Tensor:
        """tr H (S,) at weights (S, P), exact: 2/n Σᵢ ‖AᵢW‖² + p/n Σᵢ rᵢ tr Aᵢ.

        Its mean over the measurements is (d + 1) ‖W‖² + p tr(WWᵀ - X): among the solutions, (d + 1) times the nuclear norm.
        """
        slope, offset, _ = self._curvature
        return (slope * self._square(w)[1]).sum((1, 2)) - offset

    def trace_gradient(self, w: Tensor) -> Tensor:
        """∇ tr H (S, P) at weights (S, P)."""
        return 2 * torch.matmul(self._curvature[0], w.reshape(-1, self.d, self.p)).view_as(w)

    def smoothed(self, w: Tensor, sigma: float) -> Tensor:
        """E L(W + V) (S,) for V with entries N(0, σ²), exact: L + σ²/2 tr H + σ⁴/(4n) Σᵢ (p² (tr Aᵢ)² + 2p ‖Aᵢ‖²)."""
        return self.loss(w) + sigma**2 / 2 * self.hessian_trace(w) + sigma**4 * self._curvature[2]

    def smoothed_gradient(self, w: Tensor, sigma: float) -> Tensor:
        """∇ E L(W + V) = E ∇L(W + V) (S, P), exact."""
        return self.gradient(w) + sigma**2 / 2 * self.trace_gradient(w)

    def spectrum(self, w: Tensor) -> Tensor:
        """Eigenvalues of WWᵀ (S, d), largest first; NaN where WWᵀ is not finite."""
        return self._eigenvalues(self._square(w)[1])

    def _eigenvalues(self, squares: Tensor) -> Tensor:
        finite = torch.isfinite(squares).all(2).all(1)
        values = torch.linalg.eigvalsh(torch.where(finite[:, None, None], squares, 0.0)).clamp(min=0).flip(1)
        return torch.where(finite[:, None], values, math.nan)

    def measure(self, w: Tensor) -> dict[str, Tensor]:
        """Metrics (S,) at weights (S, P).

        ``train_error``: mean rᵢ² over mean yᵢ², the latter without the noise if y was drawn. ``distance``: ‖WWᵀ - X‖²/‖X‖²; the
        figure of 2306.08553 plots this square, the code prints its root. It is also what fresh measurements would measure, as
        E <A, D>² = ‖D‖² for symmetric D: no validation set is needed. ``trace``: tr H. ``nuclear``: the nuclear norm of WWᵀ,
        which is ‖W‖². ``rank``: the number of eigenvalues of WWᵀ above 1 % of the largest.
        """
        matrices, squares = self._square(w)
        values = self._eigenvalues(squares)
        distance = torch.full_like(values[:, 0], math.nan)
        if self.truth is not None:
            distance = (squares - self.truth).square().sum((1, 2)) / self.truth.square().sum((1, 2))
        return {
            "train_error": self._residuals(squares).square().mean(1) / self._scale,
            "distance": distance,
            "trace": self.hessian_trace(w),
            "nuclear": matrices.square().sum((1, 2)),
            "rank": torch.where(values[:, 0].isnan(), math.nan, (values > 0.01 * values[:, :1]).sum(1).to(self.dtype)),
        }


def _fitted(name: str, value: Tensor, sizes: dict[str, int]) -> Tensor:
    """``value`` with an axis for the seeds in front; ``sizes`` collects what the letters of the shapes stand for."""
    form = SHAPES[name]
    full = value if value.dim() > len(form) else value[None]
    fits = full.dim() == len(form) + 1 and full.numel() > 0
    for letter, size in zip(("S", *form), full.shape):
        fits = fits and ((letter, size) == ("S", 1) or sizes.setdefault(letter, size) == size)
    if not fits:
        known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
        wanted = ", ".join(form)
        raise ValueError(
            f"{name} must have shape ({wanted}) or (S, {wanted}) without empty axes, got {tuple(value.shape)} ({known})"
        )
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} has values that are not finite")
    return full
