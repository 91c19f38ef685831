"""The spectrum of a Hessian from products with it: its ends by Lanczos, its density by quadrature, all of it where it is small.

Functions take an objective (``rwp_edu.curvature.objective``). With R runs they give a list of R results, which are what each run alone would
give with ``seed`` + its number. A budget counts products with the Hessian, of each run. The same seed gives the same numbers on the
same device; the global random state is not touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rwp_edu.curvature.objective import Objective, free_memory
from rwp_edu.curvature.smoothing import Estimate
from rwp_edu.curvature.trace import drawn, product_of, result, rows_of, streams
from rwp_edu.methods.noise import LAWS, generator
from rwp_edu.utils.incremental import stepwise
from rwp_edu.utils.parameters import Parameter, unknown

_BUDGET = Parameter("budget", "", 100, "products with the Hessian, of each run", low=1)
_TOL = Parameter("tol", "", 1e-3, "residual that suffices, relative to the largest eigenvalue")
_STEPS = Parameter("steps", "", 50, "products with the Hessian for every probe", low=1)
_PROBES = Parameter("probes", "", 4, "random vectors; two make a standard error", low=2)
_K = Parameter("k", "k", 1, "eigenvalues", low=1)
DENSE = 10_000  # weights, for a dense Hessian


class Lanczos:
    """Lanczos tridiagonalisation of B symmetric matrices in lock-step: ``apply`` multiplies row b of (B, P) by matrix b.

    After j steps H Q = Q T + β q' eᵀ: Q (B, j, P) orthonormal, T symmetric and tridiagonal. Every new vector is made orthogonal to
    all before, twice. Where none is left in the Krylov space (β = 0) a random one begins the next block of T.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor], start: Tensor, generators: list[torch.Generator]):
        self.apply, self.generators, self.steps, self.most = apply, generators, 0, start.shape[1]
        self._basis = start.new_empty(len(start), min(16, self.most), self.most)
        self.alpha, self.beta = [], []
        self._next = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)

    @property
    def basis(self) -> Tensor:
        return self._basis[:, : self.steps]

    def step(self) -> None:
        if self.steps == self._basis.shape[1]:
            more = min(2 * self.steps, self.most) - self.steps
            self._basis = torch.cat([self._basis, self._basis.new_empty(len(self._basis), more, self.most)], 1)
        q = self._basis[:, self.steps] = self._next
        self.steps += 1
        r, along = self._cleared(self.apply(q))
        norm = torch.linalg.vector_norm(r, dim=1)
        ended = norm <= 10 * torch.finfo(r.dtype).eps * torch.linalg.vector_norm(along, dim=1)
        self.alpha.append(along[:, -1])
        self.beta.append(norm.masked_fill(ended, 0.0))
        if self.steps < self.most:
            if ended.any():
                for b in ended.nonzero().flatten().tolist():
                    r[b].normal_(generator=self.generators[b])
                r = self._cleared(r)[0]
                norm = torch.linalg.vector_norm(r, dim=1)
            self._next = r / norm.unsqueeze(1)

    def _cleared(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """r (B, P) without what lies along the basis, and its coordinates there."""
        r, basis = r.unsqueeze(1), self.basis  # as rows, which is many times faster than as columns
        first = torch.bmm(r, basis.mT)
        r = torch.baddbmm(r, first, basis, alpha=-1)
        second = torch.bmm(r, basis.mT)
        return torch.baddbmm(r, second, basis, alpha=-1).squeeze(1), (first + second).squeeze(1)

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (B, j), ascending, and eigenvectors (B, j, j) of T, in float64 on the CPU."""
        alpha, beta = (torch.stack(each, 1).double().cpu() for each in (self.alpha, self.beta))
        beta = beta[:, :-1]
        return torch.linalg.eigh(torch.diag_embed(alpha) + torch.diag_embed(beta, 1) + torch.diag_embed(beta, -1))


class Eigenpairs(NamedTuple):
    """k eigenvalues (k,) with unit vectors (k, P), the one asked for first in front; |H v - λ v| of each (k,); products that it took.

    There is an eigenvalue within ``residuals`` of each value (much nearer where it lies apart).
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    reached: bool


ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda values: -values,
    "smallest": lambda values: values,
    "magnitude": lambda values: -values.abs(),
}


@stepwise
def eigenvalues(
    objective: Objective,
    k: int = 1,
    end: str = "largest",
    tol: float = 1e-3,
    budget: int = 100,
    start: Tensor | None = None,
    seed: int = 0,
) -> Any:
    """The k largest eigenvalues (or smallest, or largest in magnitude) by Lanczos, until all residuals are below ``tol`` times the
    largest magnitude, or the budget is spent.

    ``start`` in the shape of ``w``: a vector to begin from, such as the eigenvector of a while ago, instead of a random one.
    A residual tells that an eigenvalue is near, not that no other is larger; a start that is already an eigenvector is therefore
    continued from a random vector, for 2k + 3 products at least. One that occurs several times may be given once. Memory: one
    vector P for every product.

    >>> objective = Objective(lambda w: w.square() @ torch.tensor([1.0, 2.0, -3.0]), torch.ones(3))
    >>> eigenvalues(objective, k=2).values.round(decimals=4), eigenvalues(objective, end="magnitude").values.round(decimals=4)
    (tensor([4., 2.], dtype=torch.float64), tensor([-6.], dtype=torch.float64))
    """
    if end not in ENDS:
        raise unknown("end", end, ENDS)
    w = rows_of(objective)
    k, tol, most = _K.parse(k), _TOL.parse(tol), min(_BUDGET.parse(budget), w.shape[1])
    if k > most:
        raise ValueError(f"k must not exceed the budget and the number of weights, got k={k}, {most} products")
    generators = streams(w, seed, "eigenvalues")
    if start is None:
        rows = drawn(w, 1, "gaussian", generators)[:, 0]
    elif start.shape != objective.w.shape or not torch.linalg.vector_norm(start.view_as(w), dim=1).all():
        raise ValueError(f"start must have the shape {tuple(objective.w.shape)} of w and not be zero, got {tuple(start.shape)}")
    else:
        rows = start.to(w).view_as(w)
    lanczos = Lanczos(lambda q: product_of(objective, q.unsqueeze(1)).squeeze(1), rows, generators)
    found: list[Eigenpairs | None] = [None] * len(w)
    look = 2 * k + 3
    while None in found:
        lanczos.step()
        yield
        steps = lanczos.steps
        if steps < min(most, look):
            continue
        look = steps + max(1, steps // 8)
        ritz, vectors = lanczos.ritz()
        for r, (values, parts, beta) in enumerate(zip(ritz, vectors, lanczos.beta[-1].tolist())):
            chosen = ENDS[end](values).argsort()[:k]
            residuals = beta * parts[-1, chosen].abs()
            reached = bool(residuals.max() <= tol * values.abs().max())
            if found[r] is None and (reached or steps == most):
                rows = parts[:, chosen].T.to(w) @ lanczos.basis[r]
                rows *= rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()  # one of the two directions, always the same
                found[r] = Eigenpairs(values[chosen], rows, residuals, steps, reached)
    return result(objective, found)


class Density(NamedTuple):
    """A spectrum as points with weights: ``nodes`` and ``weights`` (probes, steps), where the weights of a probe add up to 1."""

    nodes: np.ndarray
    weights: np.ndarray

    def at(self, grid: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
        """The density (G,) on a grid, every point widened to a Gaussian with this standard deviation, and its standard error."""
        if not width > 0:
            raise ValueError(f"width must be a number > 0, in the units of the eigenvalues, got {width}")
        apart = (np.asarray(grid, float)[:, None, None] - self.nodes) / width
        return self._over_probes((self.weights * np.exp(-(apart**2) / 2)).sum(2).T / (width * math.sqrt(2 * math.pi)))

    def mean(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """The mean of a function over the spectrum: tr f(H) / P."""
        mean, error = self._over_probes((self.weights * function(self.nodes)).sum(1))
        return Estimate(float(mean), float(error))

    @staticmethod
    def _over_probes(each: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = len(each)
        return each.mean(0), each.std(0, ddof=1) / n**0.5 if n > 1 else np.zeros_like(each[0])


@stepwise
def density(objective: Objective, steps: int = 50, probes: int = 4, law: str = "rademacher", seed: int = 0) -> Any:
    """The spectral density by stochastic Lanczos quadrature (1901.10159 for networks): ``steps`` products of every probe, in lock-step.

    A probe v gives its spectral measure Σ (uᵢᵀv)² δ(λ - λᵢ), of which Lanczos matches the first 2 ``steps`` moments; its mean over
    probes is the density. Eigenvalues that stand apart come out sharp, the bulk as few points that only a ``width`` joins; an
    eigenvalue that occurs once among P has the weight 1/P on average, and a weight that varies between probes.

    >>> objective = Objective(lambda w: w.square() @ torch.tensor([1.0, 2.0, -3.0]), torch.ones(3))
    >>> found = density(objective, steps=3, probes=2)
    >>> found.nodes.round(4).tolist()[0], round(found.mean(lambda x: x**2).value, 4)  # 56 / 3
    ([-6.0, 2.0, 4.0], 18.6667)
    """
    if law not in LAWS:
        raise unknown("law", law, LAWS)
    w = rows_of(objective)
    steps, probes = min(_STEPS.parse(steps), w.shape[1]), _PROBES.parse(probes)
    room = free_memory(w.device) // (4 * steps * w.shape[1] * w.element_size())
    some = max(1, min(probes, room // len(w)))
    generators, parts = streams(w, seed, "density"), []
    for first in range(0, probes, some):
        start = drawn(w, min(some, probes - first), law, generators)
        restarts = [
            generator(seed + r, "spectra", str(first + k), device=w.device)
            for r in range(len(w))
            for k in range(start.shape[1])
        ]
        lanczos = Lanczos(
            lambda q, shape=start.shape: product_of(objective, q.view(shape)).flatten(0, 1), start.flatten(0, 1), restarts
        )
        for _ in range(steps):
            lanczos.step()
            yield
        parts.append([t.unflatten(0, start.shape[:2]) for t in lanczos.ritz()])
    nodes, vectors = (torch.cat(several, 1) for several in zip(*parts))
    return result(objective, [Density(*pair) for pair in zip(nodes.numpy(), vectors[:, :, 0].square().numpy())])


def dense(objective: Objective) -> Tensor:
    """The whole Hessian (P, P), or (R, P, P), by P products."""
    w = rows_of(objective)
    if w.shape[1] > DENSE:
        size = w.shape[1] ** 2 * w.element_size() / 1e9
        raise ValueError(f"a dense Hessian of {w.shape[1]} weights has {size:.3g} GB: use density, eigenvalues or trace")
    rows = torch.eye(w.shape[1], dtype=w.dtype, device=w.device).split(objective.piece)
    h = torch.cat([product_of(objective, part.expand(len(w), -1, -1)) for part in rows], 1)
    return ((h + h.mT) / 2).view(*objective.w.shape, -1)


def spectrum(objective: Objective) -> Any:
    """All eigenvalues, from the dense Hessian, as a ``Density`` without an error."""
    values = torch.linalg.eigvalsh(dense(objective).double()).view(len(rows_of(objective)), 1, -1).cpu().numpy()
    return result(objective, [Density(own, np.full_like(own, 1 / own.size)) for own in values])
