"""The exercise of *How flat is flat?*: a trace from products with the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rwp_edu.lab.exercises import pair, verdict

DIAGONAL = torch.tensor([4.0, 1.0, 0.5, -0.5, 0.0, 3.0])
DRAWS = 4000


def check_trace(estimate: Callable[..., Any]) -> bool:
    """Is ``estimate(product, size, draws)`` the trace by random probes, as (mean, standard error)? Prints what is wrong; returns
    whether it is right."""
    return verdict(_problem, estimate)


def _matrix() -> Tensor:
    """A symmetric matrix that is not diagonal, with a known trace."""
    q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    return q @ torch.diag(DIAGONAL) @ q.T


def _problem(estimate: Callable[..., Any]) -> str:
    h, asked = _matrix(), []

    def product(v: Tensor) -> Tensor:
        asked.append(v.detach().clone().double())
        return h.to(torch.promote_types(h.dtype, v.dtype)) @ v

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        result = estimate(product, 6, DRAWS)
    found = pair(result)
    if found is None:
        return f"return two numbers, the mean and its standard error; it returned {result!r}."
    if len(asked) != DRAWS:
        return f"with draws={DRAWS} it should ask for {DRAWS} products, one for each probe; it asked for {len(asked)}."
    if any(v.shape != (6,) for v in asked):
        return f"a probe is a vector of `size` numbers, here (6,); it used {tuple(asked[0].shape)}."
    probes, (mean, error), trace = torch.stack(asked), found, float(DIAGONAL.sum())
    if not (probes.mean(0).abs() <= 0.1).all():
        return "the probes need mean 0 in every entry: half of the signs must be negative."
    if not ((probes.square().mean(0) - 1).abs() <= 0.15).all():
        return "the probes need variance 1 in every entry: E z zᵀ must be the identity."
    if torch.equal(probes[0], probes[1]) and torch.equal(probes[1], probes[2]):
        return "draw a new probe for every product; all of yours are the same."
    samples = (probes @ h.double() * probes).sum(1)
    right = samples.std().item() / DRAWS**0.5
    if not abs(mean - float(samples.mean())) <= 1e-3:
        if abs(mean * DRAWS - float(samples.mean())) < 1e-2 or abs(mean - float(samples.mean()) * DRAWS) < 1:
            return "take the mean of zᵀHz over the draws, once."
        return f"for these probes the mean of zᵀHz is {samples.mean():.3f} (the trace is {trace:g}); it returned {mean:.3f}."
    if not abs(error - right) <= 0.02 * right:
        if abs(error - samples.std().item()) < 0.02 * samples.std().item():
            return "that is the standard deviation of one draw; the mean of N draws has 1/√N of it."
        return f"the standard error of the mean is the standard deviation over √N, {right:.4f}; it returned {error:.4f}."
    return ""
