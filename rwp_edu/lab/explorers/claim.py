"""A published claim, tested live on as many seeds as were asked for: one after another, and the interval narrows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rwp_edu.experiments.claims import FIRST, Claim, Result, report
from rwp_edu.experiments.claims.experiments import EXPERIMENTS, Found
from rwp_edu.experiments.claims.registry import CLAIMS
from rwp_edu.experiments.claims.verdicts import LEAST, judge
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.plotting import figures
from rwp_edu.plotting.plotly import AXIS, dots, heads, line, titled
from rwp_edu.problems import Metric
from rwp_edu.training.run import one_thread
from rwp_edu.training.settings import Settings
from rwp_edu.utils.parameters import Parameter, Values

MOST, STATEMENTS = 64, 7
BUDGETS = {"a quarter": 0.25, "half": 0.5, "as stated": 1.0, "twice": 2.0}
STEPS = {"surface": 600, "radius": 400}  # where a claim does not say
TABLE: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("claim", "", "m-rwp-and-rwp", "what is tested", choices=tuple(CLAIMS), title="claim", labels=tuple(c.title for c in CLAIMS.values())),
        Parameter("statement", "", "1", "which of its statements the picture is about", choices=tuple(str(k + 1) for k in range(STATEMENTS)), title="statement"),
        Parameter("seeds", "S", 8, "seeds, each with its own data, start, batches and noise", low=1, high=MOST, slider=(1, MOST), step=1, title="seeds"),
        Parameter("budget", "", "as stated", "updates of every training, compared with those of the claim", choices=tuple(BUDGETS), title="updates"),
        Parameter("first", "", FIRST, "the first seed", high=2**31, slider=(0, 2000), step=1, title="first seed"),
    )
}  # fmt: skip


class TrialState(Values):
    """All that the picture depends on; every field is a row of ``TABLE``."""

    TABLE = TABLE


class Trial(Explorer):
    """A claim of ``rwp_edu.experiments.claims`` with a number of seeds and a budget of one's own.

    >>> lab = trial(claim="naive-noise-digits", seeds=4, budget="a quarter")
    >>> lab.finish()
    >>> len(lab.values["sgd", "test_accuracy"])
    4
    """

    STATE, OPEN, SEED, FIRST = TrialState, "rwp_edu.lab.trial", "first", "claim"
    AGAIN = ("New seeds", "random", "test the claim again, with seeds that have not been used")

    def __init__(self, state: Values):
        super().__init__(state)
        self._kept: dict[tuple[str, str], dict[int, Found]] = {}

    @property
    def claim(self) -> Claim:
        return CLAIMS[self.state.claim]

    @property
    def rows(self) -> dict[str, Parameter]:
        """The statements of this claim in words."""
        row, statements = self.state.TABLE["statement"], self.claim.statements
        numbers = row.choices[: max(len(statements), int(self.state.statement))]
        said = [f"{n}  {report.told(s, report.metric_of(self.settings, s.metric))}" for n, s in zip(numbers, statements)]
        return self.state.TABLE | {"statement": replace(row, choices=numbers, labels=(*said, *numbers[len(said) :]))}

    def set(self, **changes: Any) -> None:
        """Change the state; another claim begins at its first statement."""
        super().set(**({"statement": "1"} if "claim" in changes else {}) | changes)

    @property
    def next_seed(self) -> int:
        return self.state.first + self.state.seeds

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the experiment, with the chosen budget."""
        given, factor = dict(self.claim.settings), BUDGETS[self.state.budget]
        if self.claim.experiment in ("race", "optimum"):
            given.setdefault("steps", Settings(given["problem"]).steps)
        given |= {"steps": STEPS[self.claim.experiment]} if self.claim.experiment in STEPS else {}
        if "steps" in given:
            given["steps"] = max(1, round(factor * given["steps"]))
        return given

    @property
    def _found(self) -> dict[int, Found]:
        return self._kept.setdefault((self.state.claim, self.state.budget), {})

    @property
    def _seeds(self) -> range:
        return range(self.state.first, self.state.first + self.state.seeds)

    def work(self) -> bool:
        missing = [seed for seed in self._seeds if seed not in self._found]
        if missing:
            with one_thread():
                self._found[missing[0]] = EXPERIMENTS[self.claim.experiment](1, missing[0], **self.settings)
        return len(missing) > 1

    @property
    def values(self) -> Found:
        """What has been measured, one value per seed."""
        done = [self._found[seed] for seed in self._seeds if seed in self._found]
        return {key: np.concatenate([found[key] for found in done]) for key in done[0]} if done else {}

    def result(self) -> Result:
        """As ``rwp_edu.experiments.claims.check`` gives it, for what has been measured."""
        values = self.values
        judged = tuple(judge(s, values) for s in self.claim.statements)
        settings = {
            "experiment": self.claim.experiment,
            "seeds": self.state.seeds,
            "first_seed": self.state.first,
            **self.settings,
        }
        return Result(self.claim, settings, values, judged, math.nan, False)

    @property
    def _number(self) -> int:
        return min(int(self.state.statement), len(self.claim.statements)) - 1

    def _metric(self) -> Metric:
        return report.metric_of(self.settings, self.claim.statements[self._number].metric)

    def _running(self, values: Mapping[tuple[str, str], np.ndarray]) -> list[tuple[int, float, float, float]]:
        """The judgement after 4, 5, ... seeds."""
        statement, n = self.claim.statements[self._number], len(next(iter(values.values()), ()))
        judged = ((k, judge(statement, {key: v[:k] for key, v in values.items()})) for k in range(LEAST, n + 1))
        return [(k, j.mean, j.low, j.high) for k, j in judged]

    def traces(self) -> list[dict[str, Any]]:
        values, metric = self.values, self._metric() if self.values else None
        statement = self.claim.statements[self._number]
        rows = [(who, v) for (who, name), v in values.items() if name == statement.metric]
        colour, x, y, means = figures.LOOKS["rwp"][0], [], [], []
        for place, (_, v) in enumerate(rows):
            shown = metric.unit * v
            x, y = [*x, *shown], [*y, *[-place] * len(v)]
            means.append(float(10 ** np.log10(shown).mean() if metric.log else shown.mean()))
        unit = 1.0 if metric is None or statement.log else metric.unit
        running = [(k, *(unit * part for part in rest)) for k, *rest in self._running(values)]
        k, mean, low, high = zip(*running) if running else ((),) * 4
        return [
            dots(x, y, "one seed", colour, size=7, opacity=0.6),
            dots(means, [-p for p in range(len(rows))], "mean", figures.INK, "diamond", 9),
            line(
                [*k, *k[::-1]],
                [*low, *high[::-1]],
                "95 % interval",
                colour,
                panel="2",
                fill="toself",
                fillcolor="rgba(46,139,201,0.2)",
            ),
            line(k, mean, "mean difference", colour, panel="2", mode="lines+markers"),
            line([1, MOST], self._limits(statement, unit)[:1] * 2, "limit", figures.INK, "dot", "2", showlegend=False),
            line([1, MOST], self._limits(statement, unit)[1:] * 2, "other limit", figures.INK, "dot", "2", showlegend=False),
        ]

    @staticmethod
    def _limits(statement: Any, unit: float) -> list[float]:
        """Between what, or beyond what, the interval has to be."""
        return [-unit * statement.margin, unit * statement.margin] if statement.relation == "=" else [0.0, 0.0]

    def layout(self) -> dict[str, Any]:
        statement, metric = self.claim.statements[self._number], self._metric() if self.values else None
        names = [who for (who, name) in self.values if name == statement.metric]
        difference = (
            "log₁₀ of the ratio" if statement.log else "difference" + (" (points)" if metric and metric.unit == 100 else "")
        )
        panels = (("Every seed", 0), ("Mean difference, by seeds", 0.62))
        return {
            "xaxis": {**AXIS, **titled(metric.title if metric else ""), "type": "log" if metric and metric.log else "linear", "domain": [0.0, 0.5], "autorange": True},
            "yaxis": {**AXIS, "tickvals": [-p for p in range(len(names))], "ticktext": names, "range": [-len(names) + 0.5, 0.5], "automargin": True},
            "xaxis2": {**AXIS, **titled("seeds"), "domain": [0.62, 1.0], "anchor": "y2", "range": [0, max(10, self.state.seeds + 1)]},
            "yaxis2": {**AXIS, **titled(difference), "anchor": "x2", "autorange": True},
            "annotations": heads(*panels),
            "margin": {"l": 20, "r": 12, "t": 40, "b": 44}, "height": 420, "showlegend": False,
        }  # fmt: skip

    @property
    def text(self) -> str:
        claim, values = self.claim, self.values
        head = f"{claim.title} ({claim.source}; published: {claim.published}). "
        if not values:
            return head + "No seed is done yet."
        result = self.result()
        metric, judged = self._metric(), result.judgements[self._number]
        said = report.told(claim.statements[self._number], metric)
        told = f"Statement {self._number + 1} of {len(claim.statements)}: {said}: {report.measured(judged, metric)}, {judged.status}. "
        budget = "" if "steps" in self.settings else " (the number of updates plays no part)"
        return (
            head
            + told
            + f"After {result.seeds} seed{'s' * (result.seeds > 1)} the claim as a whole: {result.verdict}{budget}."
            + (f" To keep in mind: {claim.note}." if claim.note else "")
        )


def trial(*given: Any, **changes: Any) -> Trial:
    """Test a claim live: ``trial(claim="tuned-weight-decay", seeds=16, budget="half")``."""
    return Trial.open(*given, **changes)
