"""How well one number puts runs into the order of another: Kendall's τ with an interval."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class Correlation(NamedTuple):
    """Kendall's τ with a 95 % interval, and over how many pairs of how many runs."""

    tau: float
    low: float
    high: float
    pairs: int
    runs: int

    def __str__(self) -> str:
        if not self.pairs:
            return "no pairs to compare"
        return (
            f"τ = {self.tau:+.2f} (95 % interval {self.low:+.2f} to {self.high:+.2f}; {self.pairs:,} pairs of {self.runs} runs)"
        )

    @property
    def clear(self) -> bool:
        """Does the interval exclude zero?"""
        return self.low > 0 or self.high < 0


def kendall(x: Any, y: Any, pairs: Any = None, weights: Any = None) -> Any:
    """Kendall's τ_b of x and y (n,): (concordant - discordant) / √(pairs not tied in x · pairs not tied in y), NaN where there are none.

    ``pairs`` (n, n), symmetric, says which pairs count (all). ``weights`` (..., n) count a run several times; the copies of a run
    are no pair. Gives (...,).

    >>> float(kendall([1, 2, 3, 4], [10, 30, 20, 40]))  # five pairs in order, one not
    0.6666666666666666
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    counted = np.ones((len(x), len(x))) if pairs is None else np.asarray(pairs, float)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    a, b = (np.sign(v[:, None] - v) for v in (x, y))

    def total(matrix: np.ndarray) -> np.ndarray:
        return ((w @ (counted * matrix)) * w).sum(-1)

    ranked = np.sqrt(total(a * a) * total(b * b))
    return np.divide(total(a * b), ranked, out=np.full_like(ranked, np.nan), where=ranked > 0)


def correlation(
    x: Any, y: Any, pairs: Any = None, units: tuple[Any, ...] = (), draws: int = 1000, seed: int = 0
) -> Correlation:
    """``kendall`` with its bootstrap interval, the middle 95 % of ``draws``.

    ``units`` are labels (n,): runs of one seed share their data, runs of one entrant their settings, so whole seeds and whole
    entrants are drawn again, each with replacement, and a run counts as often as both of its labels together (the bootstrap of
    crossed factors, Owen 2007, doi:10.1214/07-AOAS122, which errs on the wide side: 1106.2125). Without units runs are drawn. With three or four seeds an interval is
    rough; it knows nothing of methods, settings or data that were not tried.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x and y must be two lists of one length, got shapes {x.shape} and {y.shape}")
    g, weights = np.random.default_rng(seed), np.ones((draws, len(x)))
    for labels in units or (np.arange(len(x)),):
        _, which = np.unique(np.asarray(labels), return_inverse=True)
        n = which.max(initial=0) + 1
        weights *= g.multinomial(n, np.full(n, 1 / n), size=draws)[:, which]
    counted = np.triu(np.ones((len(x), len(x)), bool) if pairs is None else np.asarray(pairs, bool), 1)
    found = kendall(x, y, pairs, weights) if counted.any() else np.full(draws, np.nan)
    found = found[np.isfinite(found)]
    low, high = np.quantile(found, [0.025, 0.975]) if len(found) else (math.nan, math.nan)
    runs = int((counted.any(0) | counted.any(1)).sum())
    return Correlation(float(kendall(x, y, pairs)), float(low), float(high), int(counted.sum()), runs)
