"""The exercise of *Fine-tune with few labels*: the noise that makes a PAC-Bayes bound smallest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rwp_edu.lab.exercises import pair, verdict

CASES = ((50.0, 3.0, 100), (4.0, 15.0, 50), (0.2, 1.0, 1000))


def bound(s2: float, trace: float, distance: float, n: int) -> float:
    """s²/2 tr H + r² / (2 n s²): what noise N(0, s² I) adds to the loss, and what it costs to be as far from the start as r."""
    return s2 / 2 * trace + distance**2 / (2 * n * s2)


def check_best_noise(best: Callable[..., Any]) -> bool:
    """Is ``best(trace, distance, n)`` the pair (s², value) at which ``bound`` is smallest? Prints what is wrong; returns whether it is right."""
    return verdict(_problem, best, *CASES)


def _problem(best: Callable[..., Any], trace: float, distance: float, n: int) -> str:
    where = f"for tr H = {trace:g}, r = {distance:g}, n = {n}"
    result = best(trace, distance, n)
    found = pair(result)
    if found is None:
        return f"return two numbers, s² and the value of the bound there; it returned {result!r}."
    s2, value = found
    if not s2 > 0:
        return f"{where} s² must be positive, it is {s2:g}."
    right = distance / math.sqrt(n * trace)
    if math.isclose(s2, math.sqrt(right), rel_tol=1e-3) and not math.isclose(right, 1.0):
        return f"{where} you returned s = {s2:.4g}; s² is wanted."
    if not math.isclose(s2, right, rel_tol=1e-3):
        side = "smaller" if s2 > right else "larger"
        return f"{where} the bound at your s² = {s2:.4g} is {bound(s2, trace, distance, n):.4g}, and a {side} s² gives less: where is the slope zero?"
    smallest = bound(right, trace, distance, n)
    if not math.isclose(value, smallest, rel_tol=1e-3):
        return f"{where} s² is right, and there the bound is {smallest:.4g}; you returned {value:.4g}."
    return ""
