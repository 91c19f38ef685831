"""Sharpness as the methods see it: how much the loss rises at a distance, on average over noise or in the worst direction.

Functions take an objective (``rwp_edu.curvature.objective``); those marked so also one of R runs, for which they give a list. A distance is
measured in units of a scale s(w) (``rwp_edu.curvature.objective.SCALES``): e = s(w) a with a Gaussian of standard deviation σ, or |a| <= ρ.
"isotropic" is the plain distance of NSO and SAM, "filter-wise" the noise of LPF-SGD and RWP, "element-wise" the adaptive sharpness
of ASAM (2102.11600; on average and at worst in 2302.07011). Plain distances can be given any value by rescaling a ReLU network to
another that computes the same (1703.04933); "element-wise" ones do not change, the others not if whole layers are rescaled.

Values of the loss see kinks, which derivatives do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rwp_edu.curvature.objective import Objective
from rwp_edu.curvature.smoothing import Estimate
from rwp_edu.curvature.trace import Measurement, result, sampled
from rwp_edu.methods.noise import generator
from rwp_edu.utils.parameters import Parameter, unknown

_SIGMA = Parameter("sigma", "σ", 0.1, "standard deviation of the noise")
_RHO = Parameter("rho", "ρ", 0.1, "radius of the ball")
_STEPS = Parameter("steps", "", 30, "steps of the ascent", low=1)
_RESTARTS = Parameter("restarts", "", 4, "starts of the ascent besides that of SAM", low=0)
_RISE = Parameter("rise", "", 0.1, "what the loss shall rise by", low=1e-300)
ATTEMPTS, FAR = 60, 1e6  # to find a radius
_TOL = Parameter("tol", "", 1e-3, "how near the rise must come, relative", low=1e-9)


def _values(objective: Objective, points: Tensor) -> Tensor:
    found = objective.loss(points).double()
    if not torch.isfinite(found).all():
        raise ValueError(
            f"the loss is not finite at {(~torch.isfinite(found)).sum()} of {found.numel()} points: choose a smaller radius"
        )
    return found


def average_rise(
    objective: Objective,
    sigma: float,
    kind: str = "isotropic",
    law: str = "gaussian",
    rtol: float = 0.05,
    budget: int = 1000,
    least: int = 16,
    antithetic: bool = True,
    seed: int = 0,
) -> Any:
    """E f(w + u) - f(w) for u = σ s(w) z, until its standard error is ``rtol`` of it or ``budget`` draws are made; also for R runs.

    It is σ²/2 tr SHS + O(σ⁴), S = diag s(w), with the trace of ``rwp_edu.curvature.trace.trace`` of this kind. ``antithetic`` evaluates both
    w + u and w - u of a draw and takes their mean: the slope cancels, which is most of the variance unless it vanishes. The same
    seed draws the same z for every σ, so the rise is a smooth function of σ.

    >>> bowl = Objective(lambda w: w.square().sum(-1), torch.zeros(3))
    >>> print(average_rise(bowl, 0.1, law="rademacher", rtol=0, budget=2))
    0.03 ± 0
    """
    sigma, w = _SIGMA.parse(sigma), objective.w.unsqueeze(-2)
    still = _values(objective, w)

    def sample(v: Tensor) -> Tensor:
        rises = _values(objective, w + sigma * v) - still
        if antithetic:
            rises = (rises + _values(objective, w - sigma * v) - still) / 2
        return rises.unsqueeze(-1)

    found = sampled(objective, sample, rtol, budget, least, law, kind, seed)
    return result(objective, [measured for (measured,) in found])


def _steepest(g: Tensor, s: Tensor) -> Tensor:
    """a of unit length along which f(w + s a) rises most, (..., P); zero where the gradient is."""
    return _onto(g * s, 1.0)


def _onto(a: Tensor, radius: float, which: Tensor | bool = True) -> Tensor:
    """Rows of (N, P), or ``which`` of them, brought to a length; zero stays zero."""
    length = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
    return torch.where((length > 0) & which, radius * a / length, a)


def sam_rise(objective: Objective, rho: float, kind: str = "isotropic") -> float | list[float]:
    """f(w + e) - f(w) at the point that SAM asks about: e = ρ s² g / |s g|, the steepest direction at w; also for R runs.

    ρ |g| + ρ²/2 uᵀHu + O(ρ³) for the isotropic scale and u = g/|g|. Zero where the gradient is zero.
    """
    s = objective.scale(kind)
    points = objective.w + _RHO.parse(rho) * s * _steepest(objective.slope, s)
    found = _values(objective, torch.stack([objective.w, points], -2))
    return (found[..., 1] - found[..., 0]).tolist()


class Worst(NamedTuple):
    """The largest ``rise`` that was found, where (``point``, flat weights), what every start found, and the gradients it took."""

    rise: float
    point: Tensor
    rises: list[float]
    gradients: int


def worst_rise(
    objective: Objective, rho: float, kind: str = "isotropic", steps: int = 30, restarts: int = 4, seed: int = 0
) -> Worst:
    """max f(w + s a) - f(w) over |a| <= ρ, by projected gradient ascent: a lower bound of it, as it may end in a local maximum.

    The first start is SAM's point, the others are random ones at the radius ρ; all climb at once. A step goes ρ along the steepest
    direction and back onto the ball; one that does not raise the loss is taken back and halved.
    """
    if objective.w.dim() > 1:
        raise ValueError("the worst case is found for one run at a time: make an objective of its own weights")
    rho, steps, restarts = _RHO.parse(rho), _STEPS.parse(steps), _RESTARTS.parse(restarts)
    w, s, g = objective.w, objective.scale(kind), generator(seed, "worst", device=objective.w.device)
    start = torch.stack([_steepest(objective.slope, s), *(w.new_empty(len(w)).normal_(generator=g) for _ in range(restarts))])
    a = _onto(start, rho)
    size = torch.full_like(a[:, :1], rho)
    still, high = objective.value, _values(objective, w + s * a)
    for _ in range(steps):
        tried = a + size * _steepest(objective.gradient(w + s * a), s)
        tried = _onto(tried, rho, torch.linalg.vector_norm(tried, dim=1, keepdim=True) > rho)
        values = _values(objective, w + s * tried)
        better = values > high
        a, high = torch.where(better[:, None], tried, a), torch.maximum(values, high)
        size = torch.where(better[:, None], size, size / 2)
    best = int(high.argmax())
    return Worst(high[best].item() - still, w + s * a[best], (high - still).tolist(), 1 + steps * len(a))


class Radius(NamedTuple):
    """Where the loss rises by what was asked for: σ or ρ as ``size``; the distance √(E |e|²) and its standard error; the rise there."""

    size: float
    distance: float
    error: float
    rise: float


class _Found(NamedTuple):
    rise: float
    distance: float
    error: float


def _by_noise(objective: Objective, draws: int = 100, kind: str = "isotropic", **options: Any) -> Callable[[float], _Found]:
    length = torch.linalg.vector_norm(objective.scale(kind)).item()

    def at(sigma: float) -> _Found:
        found = average_rise(objective, sigma, kind, rtol=0, budget=draws, **options)
        return _Found(found.value, sigma * length, found.error)

    return at


def _by_sam(objective: Objective, kind: str = "isotropic") -> Callable[[float], _Found]:
    s = objective.scale(kind)
    e = s * _steepest(objective.slope, s)
    length, still = torch.linalg.vector_norm(e).item(), objective.value

    def at(rho: float) -> _Found:
        return _Found(_values(objective, (objective.w + rho * e)[None]).item() - still, rho * length, 0.0)

    return at


def _by_worst(objective: Objective, **options: Any) -> Callable[[float], _Found]:
    def at(rho: float) -> _Found:
        found = worst_rise(objective, rho, **options)
        return _Found(found.rise, torch.linalg.vector_norm(found.point - objective.w).item(), 0.0)

    return at


HOWS: dict[str, Callable[..., Callable[[float], _Found]]] = {"noise": _by_noise, "sam": _by_sam, "worst": _by_worst}
"""Ways to go away from w: by noise (options of ``average_rise``, and ``draws``), SAM's step, or to the worst point of a ball."""


def radius_of_rise(objective: Objective, rise: float, how: str = "noise", tol: float = 1e-3, **options: Any) -> Radius:
    """The radius at which the loss rises by ``rise``, within ``tol`` of it.

    At an equal rise near a minimum, noise goes r/ρ = √(P uᵀHu / tr H) times as far as SAM, where u is the direction of the
    gradient: at most √(P λ₁ / tr H), which grows with the number of weights. Where the rise is not monotone this is one of the radii.

    Where both ends of an interval are known it is cut by a secant of log rise over log size, every third time in the middle. The
    error of the distance is that of the mean rise over its slope.

    >>> valley = Objective(lambda w: (w.square() @ torch.tensor([4.0, 0.5])) / 2, torch.tensor([1e-9, 0.0]))
    >>> sam, noise = (radius_of_rise(valley, 0.5, how, tol=1e-6) for how in ("sam", "noise"))
    >>> round(sam.distance, 4), abs(noise.distance - (2 / 4.5) ** 0.5) < 4 * noise.error
    (0.5, True)
    """
    if objective.w.dim() > 1:
        raise ValueError("a radius is found for one run at a time: make an objective of its own weights")
    if how not in HOWS:
        raise unknown("how", how, HOWS)
    rise, tol, at = _RISE.parse(rise), _TOL.parse(tol), HOWS[how](objective, **options)
    size, low, high = 0.01, None, None
    for attempt in range(ATTEMPTS):
        found = at(size)
        if abs(found.rise - rise) <= tol * rise:
            break
        low, high = ((size, found.rise), high) if found.rise < rise else (low, (size, found.rise))
        size = _next_size(low, high, rise, attempt)
        if size > FAR:
            raise ValueError(
                f"the loss rises by {low[1]:.3g} at {how} of size {low[0]:.3g} and nowhere by {rise:g}: ask for less"
            )
    else:
        raise ValueError(
            f"no radius was found at which the loss rises by {rise:g} ± {tol:g}: it jumps there, or tol is too small"
        )
    error = 0.0
    if found.error:
        slope = (at(1.01 * size).rise - at(0.99 * size).rise) / 0.02
        error = abs(found.error / slope) * found.distance
    return Radius(size, found.distance, error, found.rise)


def _next_size(low: tuple[float, float] | None, high: tuple[float, float] | None, rise: float, attempt: int) -> float:
    """From (size, rise) on both sides of the rise that is looked for, or as far as they are known."""
    if low is None or high is None:
        size, here = low or high
        times = math.sqrt(rise / here) if here > 0 else 10.0
        return size * (min(max(times, 1.5), 10.0) if high is None else min(max(times, 0.1), 0.7))
    (a, below), (b, above) = low, high
    part = 0.5
    if below > 0 and attempt % 3:
        part = min(max(math.log(rise / below) / math.log(above / below), 0.01), 0.99)
    return a * (b / a) ** part


def pac_bayes(trace: float | Estimate | Measurement, distance: float, n: int, bound: float = 1.0) -> Estimate:
    """√(C tr H · r² / n): by how much the test loss may exceed the training loss, up to a constant.

    PAC-Bayes with posterior N(w, s² I), prior N(w₀, s² I), r = |w - w₀| and a loss in [0, C] says for every b in (0, 1)

        test <= train / b + (1/b - 1) s²/2 tr H + C r² / (4b (1 - b) n s²) + ...

    and the best s² makes the two terms in the middle √(C tr H r² / (2n)) / b. The bound of 2306.08553 depends on the same trace and
    radius. tr H is that of the training loss at w over n examples, r the distance from where training began: from the pre-trained
    weights in fine-tuning. A number to compare runs by, not a guarantee.

    Traps: at a training loss near zero the trace is small whatever the test loss is; both numbers change when a ReLU network is
    rescaled to another that computes the same; C is no bound for the cross-entropy.

    >>> pac_bayes(Estimate(50.0, 2.0), distance=3.0, n=450)
    Estimate(value=1.0, error=0.02)
    """
    value, error = (trace[0], trace[1]) if isinstance(trace, tuple) else (trace, 0.0)
    if not (value >= 0 and distance >= 0 and n >= 1 and bound > 0):
        raise ValueError(f"trace and distance must be >= 0, n >= 1 and bound > 0, got {value}, {distance}, {n}, {bound}")
    found = math.sqrt(bound * value * distance**2 / n)
    return Estimate(found, found * error / (2 * value) if value else 0.0)
