"""The exercise of *What holds, and what does not*: a paired difference with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rwp_edu.lab.exercises import pair, verdict


def check_paired(paired: Callable[..., Any]) -> bool:
    """Is ``paired(a, b)`` the mean of a - b per seed and the standard error of that mean? Prints what is wrong; returns whether it is right."""
    g = np.random.default_rng(0)
    seeds = (g.normal(80, 5, n) for n in (5, 12))  # some seeds are easy for both
    return verdict(_problem, paired, *((each + g.normal(1, 0.5, len(each)), each + g.normal(0, 0.5, len(each))) for each in seeds))


def _problem(paired: Callable[..., Any], a: np.ndarray, b: np.ndarray) -> str:
    n, where = len(a), f"for {len(a)} seeds"
    result = paired(a.copy(), b.copy())
    found = pair(result)
    if found is None:
        return f"return two numbers, the mean and its standard error; it returned {result!r}."
    mean, error = found
    d = a - b
    if not math.isclose(mean, d.mean(), rel_tol=1e-4):
        hint = "you took b - a" if math.isclose(mean, -d.mean(), rel_tol=1e-4) else "the mean of a - b is asked for"
        return f"{where} the mean difference is {d.mean():.4f}, you say {mean:.4f}: {hint}."
    right = d.std(ddof=1) / math.sqrt(n)
    known = {
        d.std(ddof=1): "that is the standard deviation of one seed; the mean of n is √n times as sure",
        d.std() / math.sqrt(n): "divide the squares by n - 1 (ddof=1): the mean was estimated from the same seeds",
        d.std(): "that is the standard deviation of one seed, divided by n instead of n - 1",
        math.hypot(a.std(ddof=1), b.std(ddof=1))
        / math.sqrt(n): "that treats both as independent; what the seed does to both cancels in a - b",
        math.hypot(a.std(), b.std())
        / math.sqrt(n): "that treats both as independent; what the seed does to both cancels in a - b",
    }
    if math.isclose(error, right, rel_tol=1e-4):
        return ""
    hint = next(
        (text for value, text in known.items() if math.isclose(error, value, rel_tol=1e-4)),
        "take the standard deviation of a - b over √n",
    )
    return f"{where} the standard error is {right:.4f}, you say {error:.4f}: {hint}."
