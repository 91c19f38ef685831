"""The exercise of *SAM's radius and RWP's radius*: how many times as far noise goes at an equal rise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rwp_edu.lab.exercises import numbers, verdict

CASES = ((50.0, 4.0, 4810), (8.0, 0.5, 100), (3.0, 3.0, 7))


def check_radius_ratio(ratio: Callable[..., Any]) -> bool:
    """Is ``ratio(trace, along, size)`` √(P uᵀHu / tr H), for a quadratic loss? Prints what is wrong; returns whether it is right."""
    return verdict(_problem, ratio, *CASES)


def _problem(ratio: Callable[..., Any], trace: float, along: float, size: int) -> str:
    where = f"for tr H = {trace:g}, uᵀHu = {along:g} and P = {size}"
    result = ratio(trace, along, size)
    found = numbers(result)
    if found is None or found.numel() != 1:
        return f"return one number; it returned {result!r}."
    found = found.item()
    right = math.sqrt(size * along / trace)
    known = {
        right**2: "that is the square of it: rises go with the square of a distance",
        1 / right: "that is how many times as far SAM goes; the other way round is asked for",
        right / math.sqrt(size): "that compares ρ with σ, the noise in one weight; the distance of the noise is √P σ",
        math.sqrt(2) * right: "½ ρ² uᵀHu and ½ σ² tr H both have the factor ½: it cancels",
        right / math.sqrt(2): "½ ρ² uᵀHu and ½ σ² tr H both have the factor ½: it cancels",
    }
    if math.isclose(found, right, rel_tol=1e-3):
        return ""
    hint = next(
        (text for value, text in known.items() if math.isclose(found, value, rel_tol=1e-3)),
        "set both rises equal and solve for √P σ / ρ",
    )
    return f"{where} noise goes {right:.3g} times as far, you say {found:.3g}; {hint}."
