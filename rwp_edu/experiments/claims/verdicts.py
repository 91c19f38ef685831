"""From measured values to a verdict: statements are tested one by one, over seeds, and the verdict is counted from them.

A statement compares two measured quantities, run on the same seeds, so the test is on the differences per seed: it *holds* if the whole
95 % confidence interval (Student's t) of their mean is on the right side of 0, is *refuted* if the whole interval is on the wrong
side, and else it is *not shown*. ``=`` is a test of equivalence, not the lack of a difference: two one-sided tests at 2.5 % each, which both
pass if the whole interval lies within the margin. The number of seeds is fixed before anything is run, so one looks once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEAST = 4  # seeds
HOLDS, REFUTED, NOT_SHOWN, TOO_FEW = "holds", "refuted", "not shown", "too few seeds"
PART, FAILS = "holds in part", "does not hold here"
VERDICTS = (HOLDS, PART, FAILS, NOT_SHOWN, TOO_FEW)
CLAIMED, EQUAL, CONTROL = "claim", "equal gradients", "control"

Values = Mapping[tuple[str, str], np.ndarray]  # (who, metric): one value per seed


@dataclass(frozen=True)
class Statement:
    """``left`` is ``relation`` (``<``, ``>`` or ``=``) ``factor`` times ``right`` plus ``margin``, in ``metric``.

    ``right`` may be a number; with ``log`` the decimal logarithms are compared; ``=`` means that the difference is less than
    ``margin`` either way. ``role``: what the claim says itself, the same at equal gradient evaluations, or a control.
    """

    left: str
    relation: str
    right: str | float
    metric: str = ""
    factor: float = 1.0
    margin: float = 0.0
    log: bool = False
    role: str = CLAIMED

    def differences(self, values: Values) -> np.ndarray:
        """Per seed how far ``left`` is above what it is compared with."""
        left = np.asarray(values[self.left, self.metric], float)
        right = self.right if isinstance(self.right, (int, float)) else np.asarray(values[self.right, self.metric], float)
        right = self.factor * right
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.log10(left) - np.log10(right) if self.log else left - right
        return found - (0.0 if self.relation == "=" else self.margin)


@dataclass(frozen=True)
class Judgement:
    """What became of a statement: the mean difference, its standard error and 95 % interval, over ``seeds`` seeds."""

    statement: Statement
    mean: float
    error: float
    low: float
    high: float
    seeds: int
    status: str


def t_quantile(p: float, df: int) -> float:
    """The quantile of Student's t, for df >= 3 by the expansion of G. W. Hill (1970), about 1e-3 exact at p = 0.975
    (3e-3 at p = 0.9996 for df >= 7).

    >>> round(t_quantile(0.975, 7), 3), round(t_quantile(0.975, 60), 3)
    (2.365, 2.0)
    """
    if df < 3:
        raise ValueError(f"at least 3 degrees of freedom are needed, got {df}")
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / df ** (k + 1) for k, term in enumerate(terms))


def interval(mean: float, error: float, seeds: int, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval of a mean with this standard error."""
    reach = t_quantile((1 + level) / 2, seeds - 1) * error
    return mean - reach, mean + reach


def status_of(statement: Statement, low: float, high: float) -> str:
    """What follows from an interval of the differences."""
    m = statement.margin
    right, wrong = {
        ">": (low > 0, high < 0),
        "<": (high < 0, low > 0),
        "=": (-m < low and high < m, high < -m or low > m),
    }[statement.relation]
    return HOLDS if right else REFUTED if wrong else NOT_SHOWN


def robust(judgements: Iterable[Judgement]) -> tuple[int, int]:
    """How many statements hold, and how many of them even if the 95 % are for all statements together (Bonferroni)."""
    judgements = list(judgements)
    holding = [j for j in judgements if j.status == HOLDS]
    level = 1 - 0.05 / max(1, len(judgements))
    return len(holding), sum(status_of(j.statement, *interval(j.mean, j.error, j.seeds, level)) == HOLDS for j in holding)


def judge(statement: Statement, values: Values) -> Judgement:
    """Test a statement. Where a run diverged (a value is not finite) it is not shown: no claim rests on what is left out."""
    d = statement.differences(values)
    n = len(d)
    mean = float(d.mean())
    if n < LEAST:
        return Judgement(statement, mean, math.nan, math.nan, math.nan, n, TOO_FEW)
    error = float(d.std(ddof=1) / math.sqrt(n))
    low, high = interval(mean, error, n)
    return Judgement(statement, mean, error, low, high, n, status_of(statement, low, high))


def verdict(judgements: Iterable[Judgement]) -> str:
    """All statements hold, or some of those that are the claim itself: equal gradients and controls can spoil a claim but not carry it.
    If none of the claim holds and none is refuted, more seeds might decide."""
    judgements = list(judgements)
    found, own = ([j.status for j in judgements if j.statement.role in roles] for roles in ((CLAIMED, EQUAL, CONTROL), (CLAIMED,)))
    if not found or TOO_FEW in found:
        return TOO_FEW
    if HOLDS in own:
        return PART if set(found) > {HOLDS} else HOLDS
    return FAILS if REFUTED in own else NOT_SHOWN
