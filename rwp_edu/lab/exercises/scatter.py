"""The exercise of *Does flatness explain generalisation?*: the same function at weights of another flatness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rwp_edu.lab.exercises import near, parts, verdict
from rwp_edu.problems.mlp import MLP
from rwp_edu.problems.objectives import NetworkObjective

FACTOR = 3.0
NAMES = ("w1", "b1", "w2", "b2")


def rescaled(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, a: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One that computes the same: ReLU(a z) = a ReLU(z) for a > 0 (arXiv:1703.04933)."""
    return a * w1, a * b1, w2 / a, b2


def check_rescaling(rescaled: Callable[..., Any]) -> bool:
    """Does ``rescaled(w1, b1, w2, b2, a)`` give the weights of a ReLU network of two layers that computes the same with its first layer
    ``a`` > 0 times as large? Prints what is wrong; returns whether it is right."""
    return verdict(_problem, rescaled)


def _problem(rescaled: Callable[..., Any]) -> str:
    g, net = torch.Generator().manual_seed(0), MLP((5, 8, 3))
    x, y = torch.randn(40, 5, generator=g, dtype=torch.float64), torch.randint(3, (40,), generator=g)
    flat = torch.randn(net.layout.size, generator=g, dtype=torch.float64) / 2
    given = net.layout.split(flat)
    result = rescaled(*(part.clone() for part in given), FACTOR)
    found = parts(result)
    if len(found) != 4:
        return f"return the four tensors {', '.join(NAMES)}; it returned {_short(result)}."
    for name, part, before in zip(NAMES, found, given):
        if part.shape != before.shape:
            return f"{name} must keep its shape {tuple(before.shape)}; it has {tuple(part.shape)}."
    new = torch.cat([part.flatten() for part in found])
    before, after = (net.logits(w[None], x[None]) for w in (flat, new))
    if not torch.allclose(before, after, rtol=1e-5, atol=1e-5):
        worst = (before - after).abs().max().item()
        return f"the function changed, some outputs by {worst:.2g}: {_why(given, found)}"
    old, now = (sum(NetworkObjective(net, w, x, y).traces().values()).item() for w in (flat, new))
    if abs(now / old - 1) < 1e-5:
        return f"the trace is unchanged ({old:.3f}): these are the weights that went in, or a permutation of them."
    if not near(found[0], FACTOR * given[0]):
        return f"the function is the same and the trace another ({old:.2f}, now {now:.2f}), but w1 should be {FACTOR:g} times as large."
    return ""


def _why(given: list[Tensor], found: list[Tensor]) -> str:
    a = FACTOR
    times = [((new * old).sum() / old.square().sum()).item() for new, old in zip(found, given)]
    scaled = [near(new, t * old) for new, old, t in zip(found, given, times)]
    if all(scaled):
        first, bias, second, last = times
        if first < 0:
            return "ReLU(a z) = a ReLU(z) holds for positive a alone."
        if abs(bias - first) > 1e-5:
            return f"w1 became {first:.3g} times as large and b1 {bias:.3g} times; a hidden unit is scaled by one number only if both have it."
        if abs(second - 1 / first) > 1e-5:
            return f"the hidden units are {first:.3g} times as large, so w2 must be {1 / first:.3g} times as large, not {second:.3g}."
        if abs(last - 1) > 1e-5:
            return f"b2 is added after the hidden units: leave it as it is, instead of {last:.3g} times."
    return (
        f"with a = {a:g}, every hidden unit should be {a:g} times as large, and what it is multiplied by {a:g} times smaller."
    )


def _short(value: Any) -> str:
    return f"{len(value)} things" if isinstance(value, (tuple, list)) else f"{value!r:.60}"
