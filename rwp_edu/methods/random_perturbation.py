"""Methods that ask at random points nearby. ``noise(w)`` draws a fresh perturbation u (``rwp_edu.methods.noise``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from rwp_edu.methods.points import FEW, At, Conversation, Layout, wide


def mean(gradients: Iterable[Tensor]) -> Tensor:
    """The running mean: exact when all are equal, so that no noise gives the base optimizer bit for bit."""
    gradients = iter(gradients)
    total, n = next(gradients), 1
    for g in gradients:
        n += 1
        total = torch.lerp(total, g, 1 / n)
        del g  # before the next one is found
    return total


def mix(clean: Tensor, noisy: Tensor, lam: float | Tensor, lam_of: str) -> Tensor:
    """(1-λ) clean + λ noisy, or the other way round if λ weighs the clean gradient."""
    first, second = (clean, noisy) if lam_of == "noisy" else (noisy, clean)
    return _lerp(first, second, lam)


def _lerp(start: Tensor, end: Tensor, weight: float | Tensor) -> Tensor:
    return torch.lerp(start, end, weight.to(start.dtype) if isinstance(weight, Tensor) else weight)


def _per_parameter(value: float | Tensor, layout: Layout) -> list[float | Tensor]:
    """One value for every parameter: flat ``(P,)`` where parameter groups differ, cut as the filters are."""
    return layout.filters(value) if isinstance(value, Tensor) else [value] * len(layout.shapes)


def sgd(w: Tensor) -> Conversation:
    """g = ∇L(w): the base optimizer itself."""
    (g,) = yield [At(w)]
    return g


def rwp(w: Tensor, noise: Callable) -> Conversation:
    """g = ∇L(w + u): random weight perturbation, one noisy gradient.

    Minimises E_u L(w + u), about L + σ²/2 tr H for isotropic noise. 2201.08025 (LPF-SGD), 2211.11489, 2404.00357; with
    isotropic noise it is also called weight-perturbed SGD or noise injection, and equals Anti-PGD (2202.02831) seen from
    z = w - ξ. The released code restores w by subtracting u, which drifts; here w is never touched.
    """
    (g,) = yield [At(w + noise(w))]
    return g


def lpf_sgd(w: Tensor, noise: Callable, k: int) -> Conversation:
    """g = 1/k Σⱼ ∇L(w + uⱼ; Bⱼ): low-pass filtering, a draw of its own for each of k parts of the batch.

    2201.08025, where k is called M. The parts B₁ ... B_k together are one batch, so an update costs one gradient of the whole
    batch. With the optimizer, give k closures, one per part; with a single closure every draw sees the whole batch.
    """
    return mean((yield (At(w + noise(w), part=j, of=k) for j in range(k))))


def _shrunk(u: Tensor, memory: dict[str, Tensor], layout: Layout, eta: float, exponent: float, granularity: str) -> Tensor:
    """u / (1 + η S)^exponent with S the history v, summed over each filter of a tensor with two or more dimensions."""
    if "v" not in memory:
        return u
    alike = not isinstance(eta, Tensor) and not isinstance(exponent, Tensor)
    if granularity == "filter" and alike and u.dim() == 1 and layout.size < FEW:
        return u.mul_(layout.by_filter(memory["v"], lambda v: (1 + eta * v).pow(-exponent), cut_vectors=True))
    own = _per_parameter(eta, layout), _per_parameter(exponent, layout)
    for rows, history, shape, strength, power in zip(layout.filters(u), layout.filters(memory["v"]), layout.shapes, *own):
        if granularity == "filter" and len(shape) > 1:
            history = history.sum(-1, keepdim=True)
        rows.mul_((1 + strength * history).pow(-power))
    return u


def _remember(memory: dict[str, Tensor], g: Tensor, beta: float) -> None:
    g = wide(g)
    memory["v"] = g.square() if "v" not in memory else (beta * memory["v"]).addcmul_(g, g)


def arwp(
    w: Tensor, noise: Callable, memory: dict, layout: Layout, eta: float, beta: float, exponent: float, granularity: str
) -> Conversation:
    """g = ∇L(w + u/(1 + η v)^½), v ← β v + g²: adaptive RWP, less noise where gradients were large.

    2404.00357, eq. 14. v sums squared *noisy* gradients, without a factor 1-β; the first step is unscaled. The released
    code, our default, sums v over a filter and takes the exponent ½ of the standard deviation; the paper states it per
    weight with ¼: ``granularity="element", exponent=0.25``. A parameter with one dimension is scaled per entry in both.
    """
    (g,) = yield [At(w + _shrunk(noise(w), memory, layout, eta, exponent, granularity))]
    _remember(memory, g, beta)
    return g


def m_rwp(w: Tensor, noise: Callable, lam: float, lam_of: str) -> Conversation:
    """g = (1-λ) ∇L(w; B₀) + λ ∇L(w + u; B₁): mixed RWP, a clean and a noisy gradient on two batches.

    2404.00357. One round of two independent points: two workers answer it in the time of one. λ weighs the *noisy*
    gradient, as in the released code; ``lam_of="clean"`` has it the other way round, as a note on the paper does. At the
    recommended ½ it is the same.
    """
    clean, noisy = yield [At(w, batch=0), At(w + noise(w), batch=1)]
    return mix(clean, noisy, lam, lam_of)


def m_arwp(
    w: Tensor,
    noise: Callable,
    memory: dict,
    layout: Layout,
    lam: float,
    lam_of: str,
    eta: float,
    beta: float,
    exponent: float,
    granularity: str,
) -> Conversation:
    """g = (1-λ) ∇L(w; B₀) + λ ∇L(w + u/(1 + η v)^½; B₁): mixed and adaptive RWP.

    2404.00357. The history v is that of the noisy gradient alone. The released code alternates batches within one epoch
    counter and carries a stale clean gradient over its end; here both are of the same update.
    """
    clean, noisy = yield [
        At(w, batch=0),
        At(w + _shrunk(noise(w), memory, layout, eta, exponent, granularity), batch=1),
    ]
    _remember(memory, noisy, beta)
    return mix(clean, noisy, lam, lam_of)


def pair(w: Tensor, noise: Callable, batches: tuple[int, int] = (0, 0)) -> Iterator[At]:
    """w + u and w - u; u is let go before the second is answered."""
    u = [noise(w)]
    yield At(w + u[0], batches[0])
    yield At(w - u.pop(), batches[1])


def nso(w: Tensor, noise: Callable, k: int, signs: str, clean: float) -> Conversation:
    """g = 1/(2k) Σⱼ [∇L(w + uⱼ) + ∇L(w - uⱼ)]: two-point noise injection with k draws.

    Noise stability optimization, 2306.08553. The pair ±u cancels the first-order noise of RWP exactly. All points use the
    same batch. ``signs="one-point"`` asks at w + uⱼ only; ``clean`` > 0 adds the gradient at w with that weight. Differs
    from the released code, which always evaluates the clean gradient, even when its weight is 0.
    """
    asks = isinstance(clean, Tensor) or clean > 0  # a tensor where parameter groups differ

    def points() -> Iterator[At]:
        if asks:
            yield At(w)
        for _ in range(k):
            yield from pair(w, noise) if signs == "two-point" else [At(w + noise(w))]

    gradients = iter((yield points()))
    if not asks:
        return mean(gradients)
    g = next(gradients)
    return _lerp(mean(gradients), g, clean)


def a_rwp(w: Tensor, noise: Callable) -> Conversation:
    """g = ½ [∇L(w + u; B₀) + ∇L(w - u; B₁)]: the antithetic pair on two batches.

    Ours; no paper found. It costs what m-RWP costs and is as parallel, but keeps the whole regulariser σ²/2 tr H (m-RWP at
    λ = ½ has half of it) and, as NSO, cancels the first-order noise up to the difference between the batches.
    """
    return mean((yield pair(w, noise, batches=(0, 1))))
