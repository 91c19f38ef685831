"""Published claims, tested on this machine: ``reproduce(["matrix-sensing"])`` gives for each its figures and a verdict.

The rooms: ``claims`` (the table), ``experiments`` (what is run), ``verdicts`` (how a statement is tested), ``report`` (what is
handed out).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from rwp_edu.experiments.claims.experiments import EXPERIMENTS, Found
from rwp_edu.experiments.claims.registry import CLAIMS, Claim
from rwp_edu.experiments.claims.verdicts import LEAST, Judgement, judge, verdict
from rwp_edu.training.run import one_thread
from rwp_edu.utils.parameters import unknown

SEEDS, QUICK_SEEDS, FIRST = 32, 6, 1000


@dataclass(frozen=True)
class Result:
    """A claim, what was measured for it, and what follows."""

    claim: Claim
    settings: dict[str, Any]
    values: Found
    judgements: tuple[Judgement, ...]
    seconds: float
    quick: bool

    @property
    def verdict(self) -> str:
        return verdict(self.judgements)

    @property
    def expected(self) -> float:
        """Seconds that this many seeds were expected to take."""
        return self.claim.seconds * self.seeds / SEEDS

    @property
    def seeds(self) -> int:
        return len(next(iter(self.values.values())))


def named(names: Iterable[str]) -> list[Claim]:
    """The claims with these names, all if there are none."""
    names = list(names) or list(CLAIMS)
    for name in names:
        if name not in CLAIMS:
            raise unknown("claim", name, CLAIMS)
    return [CLAIMS[name] for name in dict.fromkeys(names)]


def settings_of(claim: Claim, seeds: int | None = None, first: int = FIRST, quick: bool = False) -> dict[str, Any]:
    """All that a claim is tested with."""
    if seeds is None:
        seeds = QUICK_SEEDS if quick else SEEDS
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= 256:
        raise ValueError(f"seeds must be a whole number from 1 to 256 ({LEAST} are needed for a verdict), got {seeds!r}")
    return {"experiment": claim.experiment, "seeds": seeds, "first_seed": first, **claim.settings, **(claim.quick if quick else {})}


def check(claim: Claim, seeds: int | None = None, first: int = FIRST, quick: bool = False) -> Result:
    """Run one claim on seeds ``first``, ``first + 1``, ...: none of them was used to choose a setting.

    >>> check(CLAIMS["naive-noise-digits"], seeds=2).verdict
    'too few seeds'
    """
    settings, began = settings_of(claim, seeds, first, quick), perf_counter()
    own = {name: value for name, value in settings.items() if name not in ("experiment", "seeds", "first_seed")}
    with one_thread():
        values = EXPERIMENTS[claim.experiment](settings["seeds"], first, **own)
    judgements = tuple(judge(statement, values) for statement in claim.statements)
    return Result(claim, settings, values, judgements, perf_counter() - began, quick)


def reproduce(
    names: Iterable[str] = (),
    *,
    seeds: int | None = None,
    first: int = FIRST,
    quick: bool = False,
    told: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Check claims one after another; ``told`` hears of each as soon as it is known."""
    out = []
    for claim in named(names):
        out.append(check(claim, seeds, first, quick))
        told(out[-1])
    return out


__all__ = ["CLAIMS", "Claim", "Result", "check", "named", "reproduce", "settings_of"]
