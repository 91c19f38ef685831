"""Traces of a Hessian by random probes, each with its standard error: as a whole, by layer, of its square; for many runs at once.

Functions take an objective (``rwp_edu.curvature.objective``). With R runs they give a list of R results, which are what each run alone would
give with ``seed`` + its number. A budget counts draws, of each run; a draw is a product with the Hessian. The same seed gives the
same numbers on the same device, whatever the chunks; the global random state is not touched.

Two errors are not in a standard error: that of the data, as other examples have another Hessian, and kinks, which derivatives do
not see (``rwp_edu.curvature.sharpness`` does).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rwp_edu.curvature.objective import Objective
from rwp_edu.curvature.smoothing import Estimate
from rwp_edu.methods.noise import LAWS, generator
from rwp_edu.utils.incremental import stepwise
from rwp_edu.utils.parameters import Parameter, unknown

_BUDGET = Parameter("budget", "", 1000, "draws, of each run; two make a standard error", low=2)
_LEAST = Parameter("least", "", 16, "draws before the first look", low=2)
_RTOL = Parameter("rtol", "", 0.05, "standard error that suffices, relative to the value")
_SKETCH = Parameter("budget", "", 99, "products with the Hessian, in three parts", low=6)
GROWTH = 1.5  # from one look at the error to the next


class Measurement(NamedTuple):
    """A mean over ``draws`` and its standard error; ``reached`` tells whether the error is as small as was asked for."""

    value: float
    error: float
    draws: int
    reached: bool

    def __str__(self) -> str:
        return str(self.estimate)

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.error)


def result(objective: Objective, found: list) -> Any:
    """The list of results of R runs, or the only one."""
    return found if objective.w.dim() > 1 else found[0]


def rows_of(objective: Objective) -> Tensor:
    """w (R, P)."""
    return objective.w.view(-1, objective.layout.size)


def product_of(objective: Objective, v: Tensor) -> Tensor:
    """H v (R, N, P)."""
    return objective.product(v) if objective.w.dim() > 1 else objective.product(v[0])[None]


def drawn(w: Tensor, n: int, law: str, generators: list[torch.Generator]) -> Tensor:
    """z (R, n, P), one vector after another, so that numbers do not depend on how many are drawn at a time."""
    z = torch.empty(len(w), n, w.shape[1], dtype=w.dtype, device=w.device)
    for rows, g in zip(z, generators):
        for row in rows:
            LAWS[law](row, g)
    return z


def streams(w: Tensor, seed: int, what: str) -> list[torch.Generator]:
    return [generator(seed + r, "spectra", what, device=w.device) for r in range(len(w))]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, dtype=torch.float64)


@stepwise
def sampled(
    objective: Objective,
    sample: Callable[[Tensor], Tensor],
    rtol: float,
    budget: int,
    least: int,
    law: str,
    kind: str,
    seed: int,
    at_once: int | None = None,
) -> Generator[None, None, list[list[Measurement]]]:
    """For every run, the means of C numbers that ``sample`` makes of every s(w) z, (N, P) -> (N, C) for one run and
    (R, N, P) -> (R, N, C) for more, until that of their sum is known to ``rtol`` or ``budget`` draws are made.

    Looks come after ``least`` draws and then after 1.5 times as many, again and again. To stop at the first look that satisfies
    favours draws that happen to agree: with 16 at least, errors are a few per cent too small. ``rtol=0`` makes all draws.
    """
    if law not in LAWS:
        raise unknown("law", law, LAWS)
    rtol, budget, least = _RTOL.parse(rtol), _BUDGET.parse(budget), _LEAST.parse(least)
    w, s = rows_of(objective), objective.scale(kind).view(-1, 1, objective.layout.size)
    generators, samples, found = streams(w, seed, "draws"), [], [None] * len(w)
    done, look, together = 0, min(least, budget) if rtol else budget, max(1, min(objective.piece, at_once or objective.piece) // len(w))
    while None in found:
        while done < look:
            v = drawn(w, min(look - done, together), law, generators)
            done += v.shape[1]
            v = v if kind == "isotropic" else v.mul_(s)
            samples.append((sample(v) if objective.w.dim() > 1 else sample(v[0])[None]).double().cpu())
            yield
        samples = [torch.cat(samples, 1)]
        for r, own in enumerate(samples[0]):
            total, errors = own.sum(1), own.std(0) / done**0.5
            reached = (total.std() / done**0.5 <= rtol * total.mean().abs()).item()
            if found[r] is None and (reached or done == budget):
                found[r] = [Measurement(m, e, done, reached) for m, e in zip(own.mean(0).tolist(), errors.tolist())]
        look = min(budget, math.ceil(GROWTH * done))
    return found


@stepwise
def trace(
    objective: Objective,
    rtol: float = 0.05,
    budget: int = 1000,
    least: int = 16,
    law: str = "rademacher",
    kind: str = "isotropic",
    seed: int = 0,
    at_once: int | None = None,
) -> Any:
    """tr H = E vᵀH v (Hutchinson), until its standard error is ``rtol`` of it or the budget is spent.

    The variance of a draw is 2 (‖H‖² - Σ Hᵢᵢ²) for Rademacher and 2 ‖H‖² for Gaussian noise. With the scale s(w) of a ``kind`` it is
    tr SHS for S = diag s(w), of which σ²/2 is what the loss gains under that noise. Other than tr H it does not change when a layer
    of a ReLU network is multiplied and the next divided by a number, and "element-wise" not when this is done to any unit.

    ``at_once``: draws of one piece of work, of ``trace.steps`` say; as many as the memory holds without.

    Released tools stop when the running mean has settled, which is not its error and can come after two draws.

    >>> objective = Objective(lambda w: w.square() @ torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    >>> print(trace(objective), "and", trace(objective, kind="element-wise"))  # 2 + 4 and 2 · 1 + 4 · 9
    6 ± 0 and 38 ± 0
    """

    def sample(v: Tensor) -> Tensor:
        return objective.curvatures(v).unsqueeze(-1)

    found = yield from sampled.steps(objective, sample, rtol, budget, least, law, kind, seed, at_once)
    return result(objective, [measured for (measured,) in found])


def layer_traces(
    objective: Objective,
    rtol: float = 0.05,
    budget: int = 1000,
    least: int = 16,
    law: str = "rademacher",
    kind: str = "isotropic",
    seed: int = 0,
) -> Any:
    """The trace of the block of H that belongs to each parameter, by name, from the draws of ``trace``, which stop as there."""

    def sample(v: Tensor) -> Tensor:
        parts = (v * objective.product(v)).split(objective.layout.sizes, -1)
        return torch.stack([part.sum(-1, dtype=torch.float64) for part in parts], -1)

    found = sampled(objective, sample, rtol, budget, least, law, kind, seed)
    return result(objective, [dict(zip(objective.layout.names, measured)) for measured in found])


def frobenius(
    objective: Objective, rtol: float = 0.05, budget: int = 1000, least: int = 16, law: str = "rademacher", seed: int = 0
) -> Any:
    """‖H‖ = √(Σ Hᵢⱼ²) = √(E |H v|²), as ``trace``; σ² ‖H‖² leads the variance of a one-point gradient."""

    def sample(v: Tensor) -> Tensor:
        return objective.product(v).square().sum(-1, keepdim=True, dtype=torch.float64)

    found = sampled(objective, sample, 2 * _RTOL.parse(rtol), budget, least, law, "isotropic", seed)
    roots = [(math.sqrt(square.value), square) for (square,) in found]
    return result(objective, [square._replace(value=root, error=root and square.error / (2 * root)) for root, square in roots])


def hutchpp(objective: Objective, budget: int = 99, seed: int = 0) -> Any:
    """tr H by Hutch++ (2010.09649): exactly on the range of H S, for a random S of ``budget // 3`` vectors, by Hutchinson on the rest.

    Where few eigenvalues carry the spectrum, as in a small network that has converged, its error falls with the number of products
    instead of its root. Where they do not it has only a third of the draws: then ``trace`` is as good or better below about a
    hundred products. Look at both errors.
    """
    third = _SKETCH.parse(budget) // 3
    w = rows_of(objective)
    third = min(third, w.shape[1])
    generators = streams(w, seed, "draws")
    q = torch.linalg.qr(product_of(objective, drawn(w, third, "rademacher", generators)).mT)[0].mT
    exact = _dot(q, product_of(objective, q)).sum(1)
    z = drawn(w, max(2, budget - 2 * third), "rademacher", generators)
    z -= z @ q.mT @ q
    rest = _dot(z, product_of(objective, z))
    n = rest.shape[1]
    values, errors = (exact + rest.mean(1)).tolist(), (rest.std(1) / n**0.5).tolist()
    return result(objective, [Measurement(value, error, n, True) for value, error in zip(values, errors)])
