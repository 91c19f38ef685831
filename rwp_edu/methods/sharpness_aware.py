"""Methods that ask at the worst point nearby, found by a step of ascent: two rounds, the second waits for the first.

The first gradient is deleted before the second is asked for, so that a step does not hold both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rwp_edu.methods.points import At, Conversation, Layout, wide


def norm(g: Tensor) -> Tensor:
    """||g||_2 of every run, plus 1e-12 so that a zero gradient gives a zero step; in single precision for float16, which has neither room."""
    return torch.linalg.vector_norm(g, dim=-1, keepdim=True, dtype=torch.float32 if g.dtype == torch.float16 else None) + 1e-12


def ascend(w: Tensor, d: Tensor, rho: float | Tensor, size: Tensor | None = None) -> Tensor:
    """w + ρ d/‖d‖, or w + ρ d/size."""
    size = norm(d) if size is None else size
    return w + d * (rho / size) if isinstance(rho, Tensor) or size.dtype != d.dtype else torch.addcdiv(w, d, size, value=rho)


def sam(w: Tensor, rho: float) -> Conversation:
    """g = ∇L(w + ρ ∇L(w)/‖∇L(w)‖): the gradient at the worst point of a ball, found in one step of ascent.

    Sharpness-aware minimization, 2010.01412. Both gradients are of the same batch; the norm is over all parameters.
    Two rounds, because the second point needs the first answer. Differs from the authors' JAX code, as all PyTorch
    versions do: weight decay is not part of the ascent direction, and 1e-12 guards the norm.
    """
    (g,) = yield [At(w)]
    up = [At(ascend(w, g, rho))]
    del g
    (g,) = yield up
    return g


def usam(w: Tensor, rho: float) -> Conversation:
    """g = ∇L(w + ρ ∇L(w)): SAM without the normalisation; the radius shrinks with the gradient.

    Andriushchenko and Flammarion, 2206.06232.
    """
    (g,) = yield [At(w)]
    up = [At((rho * g).add_(w))]
    del g
    (g,) = yield up
    return g


def _size(w: Tensor, layout: Layout, floor: float | Tensor, adapt: str) -> Tensor:
    t = w.abs() + floor
    if adapt == "matrices":
        for view, shape in zip(layout.split(t), layout.shapes):
            if len(shape) < 2:
                view.fill_(1.0)
    return t


def asam(w: Tensor, layout: Layout, rho: float, floor: float, adapt: str) -> Conversation:
    """g = ∇L(w + ρ T²∇L(w)/‖T∇L(w)‖), T = |w| + η: adaptive SAM, a ball that scales with the weights.

    2102.11600. ``floor`` is η. The authors' code adapts parameters named "weight" and uses T = 1 elsewhere; as an optimizer
    does not see names, ``adapt="matrices"`` means parameters with two or more dimensions (norm gains are not among them);
    ``"all"`` adapts every parameter, as the common PyTorch port does. The authors' code restores by subtraction, ours by copy.
    """
    (g,) = yield [At(w)]
    t = _size(w, layout, floor, adapt)
    g = t * g
    up = [At(ascend(w, t.mul_(g), rho, norm(g)))]
    del g, t
    (g,) = yield up
    return g


def fsam(w: Tensor, memory: dict, rho: float, ema: float, remove: float) -> Conversation:
    """g = ∇L(w + ρ d/‖d‖), d = ∇L(w) - σ m: friendly SAM, the ascent leaves out what all batches share.

    2403.12350. m is the moving average of the gradients at w, m ← λ m + (1-λ) ∇L(w), from before the subtraction and one
    step old in d; the first step is SAM. ``ema`` is λ (the authors' class: 0.9, their script: 0.6) and ``remove`` is σ.
    """
    (g,) = yield [At(w)]
    m = memory.get("m")
    d = g if m is None else g - remove * m
    memory["m"] = wide(g) if m is None else ema * m + (1 - ema) * g
    up = [At(ascend(w, d, rho))]
    del d, g
    (g,) = yield up
    return g


def gsam(w: Tensor, rho: float, alpha: float) -> Conversation:
    """g = gₛ - α (∇L(w))⊥, gₛ = ∇L(w + ρ ∇L(w)/‖∇L(w)‖): SAM that also closes the surrogate gap.

    2203.08065. ⊥ is the part orthogonal to gₛ. In the paper ρ follows the learning rate; here ρ is constant unless a schedule
    moves it. The authors' code restores by subtraction, ours by copy.
    """
    (g,) = yield [At(w)]
    (s,) = yield [At(ascend(w, g, rho))]
    d = g - s
    del g
    d -= s * ((d * s).sum(-1, keepdim=True) / norm(s).square())
    return s - d.mul_(alpha)


def rsam(w: Tensor, noise: Callable, rho: float, pull: float) -> Conversation:
    """g = ∇L(w + ρ d/‖d‖), d = u + λ ∇L(w + u): random SAM, the ascent starts at a random point nearby.

    Liu et al., Random Sharpness-Aware Minimization, NeurIPS 2022. ``pull`` is λ, 2 in the authors' released code for vision transformers.
    There the noise is filter-wise with σ growing from 0.0005 to five times that along a cosine (``scale="cosine"`` here), ρ follows
    the learning rate, and one key draws the noise of all parameters, so that layers of one shape get the same; here all draws are
    independent. A widespread variant leaves u out of the direction and never undoes its ascent; this is not that.
    """
    u = noise(w)
    (g,) = yield [At(w + u)]
    d = pull * g
    del g
    d += u
    up = [At(ascend(w, d, rho))]
    del d, u
    (g,) = yield up
    return g


def bsam(
    w: Tensor,
    normal: Callable,
    memory: dict,
    rho: float,
    examples: int,
    prior: float,
    damping: float,
    beta1: float,
    beta2: float,
) -> Conversation:
    """g = m/s, from ∇L(w + ρ gₙ/s) with gₙ = ∇L(w + z/√(N s)): Bayes-SAM, with a learnt variance 1/(N s) per weight.

    Moellenhoff and Khan, 2210.01620, as in the authors' code: δ = prior/N; m ← β₁ m + (1-β₁) (∇L(w + ρ gₙ/s) + δ w);
    the step uses the old s, then s ← β₂ s + (1-β₂) (√s |gₙ| + damping + δ), s starting at 1. N is ``examples``, the number of
    training examples. It has its own momentum and weight decay: wrap plain SGD with neither. Versions that add isotropic noise
    to Adam, or never remove the noise, are different methods.
    """
    s = memory.get("s", torch.ones_like(wide(w)))
    delta = prior / examples
    (g_noisy,) = yield [At(w + normal(w) / (examples * s).sqrt())]
    (g,) = yield [At(w + rho * g_noisy / s)]
    memory["m"] = beta1 * memory.get("m", torch.zeros_like(s)) + (1 - beta1) * (g + delta * w)
    memory["s"] = beta2 * s + (1 - beta2) * (s.sqrt() * g_noisy.abs() + damping + delta)
    return memory["m"] / s
