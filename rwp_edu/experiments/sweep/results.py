"""What a sweep came to: a row per setting, and which of them is chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rwp_edu import __version__, problems
from rwp_edu.experiments.sweep.plan import Point
from rwp_edu.problems import Metric
from rwp_edu.training import Record
from rwp_edu.utils.files import table, whole
from rwp_edu.utils.parameters import strict_json


@dataclass
class Row:
    """A setting and what became of it: its entrant in a record, or what went wrong, or neither, if it has not been run."""

    point: Point
    record: Record | None = None
    failed: str = ""

    @property
    def entrant(self) -> int:
        return self.record.entrants.index(self.point.entrant)

    def last(self, metric: str) -> np.ndarray:
        """The final values (S,) of a metric."""
        return self.record.rows[-1][metric][self.entrant]

    @property
    def diverged(self) -> int:
        """How many of its runs diverged."""
        return int((self.record.diverged[self.entrant] >= 0).sum())


def mean_of(metric: Metric, values: np.ndarray) -> float:
    """The mean over seeds of a metric, of its decimal logarithm where it is shown in powers of ten."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log10(values).mean() if metric.log else values.mean())


class Look(NamedTuple):
    """One of the two looks at a setting, the one that chooses and the one that reports: a metric on some of the seeds."""

    metric: Metric
    seeds: slice
    title: str

    def at(self, row: Row) -> np.ndarray:
        """What it sees of a finished setting: a value per seed."""
        return row.last(self.metric.name)[self.seeds]


@dataclass
class Sweep:
    """What a sweep came to: a row per setting, in the order of the grid."""

    problem: str
    rows: list[Row]
    interrupted: bool = False
    grid: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def finished(self) -> list[Row]:
        return [row for row in self.rows if row.record is not None]

    @property
    def looks(self) -> tuple[Look, Look]:
        """What chooses and what reports: validation and test data of all seeds, or, where nothing is held back, one half of the seeds each."""
        row, s = problems.get(self.problem), self.rows[0].point.settings
        if row.holds_back(s):
            return tuple(Look(metric, slice(0, s.seeds), metric.noun) for metric in (row.held_back[0], row.score))
        half = s.seeds // 2

        def part(low: int, high: int) -> Look:
            told = "no seed" if high == low else f"seed {s.seed + low}" if high == low + 1 else f"seeds {s.seed + low} to {s.seed + high - 1}"
            return Look(row.score, slice(low, high), f"{row.score.noun}, {told}")

        return part(0, half), part(half, s.seeds)

    @property
    def rule(self) -> str:
        """How settings are chosen, in words."""
        choose, report = self.looks
        if not choose.seeds.stop:
            held = "take 2 seeds at least" + (", or hold back pictures: --set validation=500" if problems.get(self.problem).held_back else "")
            return f"one seed: nothing can be chosen honestly; {held}"
        return f"chosen by {choose.title}, reported by {report.title}, which had no part in the choice"

    def chosen(self) -> dict[str, Row]:
        """For every method the best setting by the look that chooses; one with a diverged run only if all have."""
        choose, _ = self.looks
        sign = 1 if choose.metric.high_is_good else -1

        def rank(row: Row) -> tuple[bool, float]:
            value = sign * mean_of(choose.metric, choose.at(row))
            return not row.diverged, value if math.isfinite(value) else -math.inf

        if not choose.seeds.stop:
            return {}
        names = dict.fromkeys(row.point.method for row in self.finished)
        return {m: max((row for row in self.finished if row.point.method == m), key=rank) for m in names}

    def on_the_edge(self, row: Row) -> list[str]:
        """Values at an end of a grid of numbers: the best may lie beyond."""
        return [
            name
            for name, value in row.point.values
            if len(self.grid.get(name, ())) > 1
            and not isinstance(value, str)
            and value in (min(self.grid[name]), max(self.grid[name]))
        ]

    def results(self) -> list[dict[str, Any]]:
        """One row per setting, as plain values: mean and standard error of what chooses and of what reports, and the score of every seed."""
        score, looks = problems.get(self.problem).score, dict(zip(("chooses", "reports"), self.looks))
        best = [id(row) for row in self.chosen().values()]
        out = []
        for row in self.rows:
            told = {"method": row.point.method, **dict(row.point.values)}
            status = "failed" if row.failed else "finished" if row.record else "not run"
            told |= {"status": status, "why": row.failed, "chosen": id(row) in best}
            if row.record is not None:
                told["diverged"] = row.diverged
                told["gradient_evaluations"] = float(row.record.rows[-1]["gradient_evaluations"][row.entrant])
                told["seconds"] = float(row.record.rows[-1]["seconds"][row.entrant])
                for name, look in looks.items():
                    own = look.at(row)
                    told[f"{name}_mean"] = float(own.mean()) if len(own) else None
                    told[f"{name}_se"] = float(own.std(ddof=1) / math.sqrt(len(own))) if len(own) > 1 else None
                told["values"] = row.last(score.name).tolist()
            out.append(told)
        return out

    def to_dict(self) -> dict[str, Any]:
        score, (chooses, _) = problems.get(self.problem).score.name, self.looks
        return {"version": __version__, "problem": self.problem, "grid": self.grid, "score": score, "chooses": chooses.metric.name,
                "selection": self.rule, "interrupted": self.interrupted, "results": self.results()}  # fmt: skip

    def save(self, folder: Path) -> list[Path]:
        """results.csv, sweep.json and, where plotly is installed, sweep.html; each whole or not at all."""
        rows = [{key: value for key, value in row.items() if key != "values"} for row in self.results()]
        texts = {"results.csv": table(rows), "sweep.json": strict_json(self.to_dict())}
        if find_spec("plotly"):
            from rwp_edu.experiments.sweep.figures import page

            texts["sweep.html"] = page(self)
        for name, content in texts.items():
            whole(Path(folder) / name, content)
        return [Path(folder) / name for name in texts]
