"""The exercise of *What holds, and what does not*: a paired difference with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def check_paired(paired: Callable[..., Any]) -> bool:
    """Is ``paired(a, b)`` the mean of a - b per seed and the standard error of that mean? Prints what is wrong; returns whether it is right."""
    g = np.random.default_rng(0)
    problem = ""
    for n in (5, 12):
        seeds = g.normal(80, 5, n)  # some seeds are easy for both
        problem = problem or _problem(paired, seeds + g.normal(1, 0.5, n), seeds + g.normal(0, 0.5, n))
    print(f"Not yet: {problem}" if problem else "Right.")
    return not problem


def _problem(paired: Callable[..., Any], a: np.ndarray, b: np.ndarray) -> str:
    n, where = len(a), f"for {len(a)} seeds"
    try:
        mean, error = map(float, paired(a.copy(), b.copy()))
    except Exception as error:  # noqa: BLE001
        return (
            f"{where} it raised {type(error).__name__}: {error}; it should return two numbers, the mean and its standard error."
        )
    d = a - b
    if not math.isclose(mean, d.mean(), rel_tol=1e-6):
        hint = "you took b - a" if math.isclose(mean, -d.mean(), rel_tol=1e-6) else "the mean of a - b is asked for"
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
    if math.isclose(error, right, rel_tol=1e-6):
        return ""
    hint = next(
        (text for value, text in known.items() if math.isclose(error, value, rel_tol=1e-6)),
        "take the standard deviation of a - b over √n",
    )
    return f"{where} the standard error is {right:.4f}, you say {error:.4f}: {hint}."
