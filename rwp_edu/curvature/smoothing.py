"""Curvature of a loss by probing it with noise: what it gains on average, how noisy gradients become, and traces of its Hessian.

Functions take flat weights ``w`` (P,) and a *batched* loss (N, P) -> (N,) or gradient (N, P) -> (N, P), whose rows do not
influence each other; ``torch.vmap`` makes one of a loss (P,) -> (). Noise is u = σ z with independent entries zᵢ of mean 0 and
variance 1 (``rwp_edu.methods.noise.LAWS``). Derivatives beyond the gradient come from autograd and see no kinks: of a ReLU network they
are those of the smooth pieces. Everything is computed in the type of ``w``; float64 is wise for small σ.

Draws are made in pieces, so that memory does not grow with their number; the same seed gives the same numbers, and the global
random state is not touched. Errors: ``ValueError`` for an impossible argument, a wrong shape, or values that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rwp_edu.methods.noise import LAWS, generator
from rwp_edu.utils.parameters import Parameter, rounded, unknown

Function = Callable[[Tensor], Tensor]
_SIGMA = Parameter("sigma", "σ", 0.1, "standard deviation of the noise")
_DRAWS = Parameter("draws", "", 1000, "independent draws", low=2)
_K = Parameter("k", "k", 1, "draws that are averaged", low=1)
PIECE = 2**18  # numbers drawn at a time
POINTS: dict[str, tuple[int, ...]] = {"one-point": (1,), "two-point": (1, -1)}
"""The signs with which a gradient estimate uses each of its draws."""


class Estimate(NamedTuple):
    """A mean and its standard error.

    >>> print(Estimate(0.12345, 0.0067))
    0.1235 ± 0.0067
    """

    value: float
    error: float

    def __str__(self) -> str:
        return f"{rounded(self.value, 4)} ± {rounded(self.error, 2)}"


def joined(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates of one number."""
    return Estimate(sum(p.value for p in parts) / len(parts), math.sqrt(sum(p.error**2 for p in parts)) / len(parts))


class _Tally:
    """Mean and spread of samples that come in pieces."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, samples: Tensor) -> None:
        n, mean = len(samples), samples.mean().item()
        total, apart = self.count + n, mean - self.mean
        self.squares += n * samples.var(correction=0).item() + apart**2 * self.count * n / total
        self.mean += apart * n / total
        self.count = total

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.mean, math.sqrt(self.squares / (self.count - 1) / self.count))


def _look_over(w: Tensor) -> None:
    if w.dim() != 1 or not w.is_floating_point():
        raise ValueError(f"w must be flat weights of a floating-point type, got {w.dtype} {tuple(w.shape)}")


def _draws(w: Tensor, draws: int, each: int, law: str, seed: int) -> Iterator[Tensor]:
    """z (n, each, P) for ``draws`` rows in all."""
    _look_over(w)
    if law not in LAWS:
        raise unknown("law", law, LAWS)
    left, g = _DRAWS.parse(draws), generator(seed, "curvature", device=w.device)
    while left:
        n = min(left, max(1, PIECE // (each * len(w))))
        yield LAWS[law](w.new_empty(n, each, len(w)), g)
        left -= n


def _values(function: Function, at: Tensor, what: str) -> Tensor:
    """``function`` at the rows of ``at``, looked over."""
    found = function(at)
    wanted = at.shape[:1] if what == "loss" else at.shape
    if found.shape != wanted:
        raise ValueError(f"the {what} must give {tuple(wanted)} for weights {tuple(at.shape)}, it gave {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        bad = int((~torch.isfinite(found)).flatten(1 if found.dim() > 1 else 0).any(-1).sum())
        raise ValueError(f"the {what} is not finite at {bad} of {len(at)} points: choose a smaller sigma or other weights")
    return found


def expected_rise(
    loss: Function,
    w: Tensor,
    sigma: float,
    law: str = "gaussian",
    draws: int = 1000,
    antithetic: bool = True,
    seed: int = 0,
) -> Estimate:
    """E f(w + u) - f(w) = σ²/2 tr H + O(σ⁴): how much the loss rises under noise.

    ``antithetic`` takes the mean of f(w + u) and f(w - u) as one sample of a draw: its variance is (σ⁴/2) ‖H‖² + ... instead of
    σ² ‖∇f‖² + ..., both for Gaussian noise. Divided by σ²/2 this is the estimate of the trace in 2306.08553, whose released code
    draws one-sided.

    >>> rise = expected_rise(lambda w: w.square().sum(-1), torch.zeros(3), 0.1, law="rademacher", draws=2)
    >>> round(rise.value, 6)  # σ²/2 tr H
    0.03
    """
    sigma, tally = _SIGMA.parse(sigma), _Tally()
    for z in _draws(w, draws, 1, law, seed):
        u = sigma * z[:, 0]
        start = _values(loss, w[None], "loss")
        rises = _values(loss, w + u, "loss") - start
        if antithetic:
            rises = (rises + _values(loss, w - u, "loss") - start) / 2
        tally.add(rises)
    return tally.estimate


def gradient_variance(
    gradient: Function,
    w: Tensor,
    sigma: float,
    points: str = "one-point",
    k: int = 1,
    law: str = "gaussian",
    draws: int = 200,
    seed: int = 0,
) -> Estimate:
    """Total variance (the trace of the covariance) of a gradient estimate that draws noise.

        one-point:  G = 1/k  Σⱼ ∇f(w + uⱼ)                          Var = (σ² ‖H‖² + O(σ⁴)) / k
        two-point:  G = 1/2k Σⱼ (∇f(w + uⱼ) + ∇f(w - uⱼ))           Var = (σ⁴/2 Σᵢ ‖∂ᵢH‖² + O(σ⁶)) / k     (Gaussian noise)

    with Frobenius norms. One-point costs k gradients and two-point, of 2306.08553, 2k: compare one-point with k = 2 to two-point
    with k = 1. A sample is ½ |G - G'|² of two independent estimates, whose mean is the variance; ``draws`` counts such samples.

    >>> g = lambda w: 3 * w
    >>> one, two = (gradient_variance(g, torch.zeros(2), 0.1, points) for points in ("one-point", "two-point"))
    >>> abs(one.value - 0.1**2 * 18) < 4 * one.error, two.value
    (True, 0.0)
    """
    if points not in POINTS:
        raise unknown("points", points, POINTS)
    sigma, k, signs, tally = _SIGMA.parse(sigma), _K.parse(k), POINTS[points], _Tally()
    for z in _draws(w, draws, 2 * k, law, seed):
        g = sum(_values(gradient, (w + sign * sigma * z).view(-1, len(w)), "gradient") for sign in signs)
        g = g.view(-1, 2, k, len(w)).mean(2).div_(len(signs))
        tally.add((g[:, 0] - g[:, 1]).square_().sum(1).div_(2))
    return tally.estimate


def _slopes(value: Tensor, at: Tensor, more: bool) -> Tensor:
    """∇value, zero where ``value`` does not depend on ``at``."""
    if not value.requires_grad:
        return torch.zeros_like(at)
    return torch.autograd.grad(value, at, create_graph=more, materialize_grads=True)[0]


def derivatives(loss: Function, w: Tensor, *along: Tensor) -> Tensor:
    """D f(w)[v, ·] by repeated backward passes: ∇f (N, P) for no v, H v for one, ∂(uᵀH v)/∂w for two; every v is (N, P).

    >>> derivatives(lambda w: w.pow(4).sum(-1), torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 1.0], [0.0, 3.0]]))
    tensor([[ 12.,  48.],
            [  0., 144.]])
    """
    _look_over(w)
    at = w.detach().expand_as(along[0] if along else w[None]).clone().requires_grad_()
    with torch.enable_grad():
        found = _slopes(_values(loss, at, "loss").sum(), at, bool(along))
        for left, v in enumerate(along, 1 - len(along)):
            found = _slopes((found * v).sum(), at, left < 0)
    return found.detach()


def hessian(loss: Function, w: Tensor) -> Tensor:
    """The exact Hessian (P, P), by one product with every unit vector: for small P."""
    rows = torch.eye(len(w), dtype=w.dtype, device=w.device).split(max(1, PIECE // len(w)))
    return torch.cat([derivatives(loss, w, part) for part in rows])


def hessian_trace(loss: Function, w: Tensor, draws: int = 100, law: str = "rademacher", seed: int = 0) -> Estimate:
    """tr H = E vᵀH v (Hutchinson), exact for a diagonal H and Rademacher noise.

    The variance of a draw is 2 (‖H‖² - Σ Hᵢᵢ²) for Rademacher and 2 ‖H‖² for Gaussian noise. All draws count: stopping when the
    running mean settles, as released Hessian tools do, can stop after two and is biased.
    """
    return _probe(loss, w, lambda v, hv: (v * hv).sum(1), draws, law, seed)


def squared_hessian_trace(loss: Function, w: Tensor, draws: int = 100, law: str = "rademacher", seed: int = 0) -> Estimate:
    """tr H² = ‖H‖² = E |H v|²: over σ² the leading variance of a one-point gradient."""
    return _probe(loss, w, lambda v, hv: hv.square().sum(1), draws, law, seed)


def _probe(loss: Function, w: Tensor, sample: Callable[[Tensor, Tensor], Tensor], draws: int, law: str, seed: int) -> Estimate:
    tally = _Tally()
    for v in _draws(w, draws, 1, law, seed):
        tally.add(sample(v[:, 0], derivatives(loss, w, v[:, 0])))
    return tally.estimate


def hessian_change(loss: Function, w: Tensor, draws: int = 100, law: str = "rademacher", seed: int = 0) -> Estimate:
    """Σᵢ ‖∂ᵢH‖² = E |∂(uᵀH v)/∂w|² with independent u and v: times σ⁴/2 the leading variance of a two-point gradient."""
    tally = _Tally()
    for uv in _draws(w, draws, 2, law, seed):
        tally.add(derivatives(loss, w, *uv.unbind(1)).square().sum(1))
    return tally.estimate
