"""What a sweep came to: a row per setting, and which of them is chosen."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rwp_edu import __version__, problems
from rwp_edu.sweep.plan import Point
from rwp_edu.training import Record


def whole(path: Path, text: str) -> None:
    """A whole file or none: on the disk before it takes its name."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


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


def _mean(values: np.ndarray, log: bool) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log10(values).mean() if log else values.mean())


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
    def halves(self) -> tuple[slice, slice]:
        """The seeds that choose and those that report; with a validation metric all do both."""
        n = self.rows[0].point.settings.seeds
        return (slice(0, n), slice(0, n)) if self.chooses_by else (slice(0, n // 2), slice(n // 2, n))

    @property
    def chooses_by(self) -> str:
        """The validation metric of the problem, if there is one."""
        return next((m.name for m in problems.get(self.problem).metrics if m.name.startswith("validation")), "")

    @property
    def rule(self) -> str:
        """How settings are chosen, in words."""
        choose, report = self.halves
        if self.chooses_by:
            return f"chosen by {self.chooses_by}, reported on test"
        if not choose.stop:
            return "one seed: nothing can be chosen honestly; take 2 seeds at least"
        first = self.rows[0].point.settings.seed
        return (
            f"chosen on seeds {first} to {first + choose.stop - 1}, reported on seeds {first + report.start} to {first + report.stop - 1}, "
            "which had no part in the choice"
        )

    def chosen(self) -> dict[str, Row]:
        """For every method the best setting, by the seeds or the metric that choose; a setting with a diverged run only if all have."""
        score, (seeds, _) = problems.get(self.problem).score, self.halves
        name, sign = self.chooses_by or score.name, 1 if score.high_is_good else -1

        def rank(row: Row) -> tuple[bool, float]:
            value = sign * _mean(row.last(name)[seeds], score.log)
            return not row.diverged, value if math.isfinite(value) else -math.inf

        if not seeds.stop:
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
        """One row per setting, as plain values: the score on the seeds that choose and on those that report."""
        score, (choose, report) = problems.get(self.problem).score, self.halves
        best = [id(row) for row in self.chosen().values()]
        out = []
        for row in self.rows:
            told = {"method": row.point.method, **dict(row.point.values)}
            status = "failed" if row.failed else "finished" if row.record else "not run"
            told |= {"status": status, "why": row.failed, "chosen": id(row) in best}
            if row.record is not None:
                values, e = row.last(score.name), row.entrant
                told["diverged"] = row.diverged
                told["gradient_evaluations"] = float(row.record.rows[-1]["gradient_evaluations"][e])
                told["seconds"] = float(row.record.rows[-1]["seconds"][e])
                for half, part in (("chooses", choose), ("reports", report)):
                    own = values[part]
                    told[f"{half}_mean"] = float(own.mean()) if len(own) else None
                    told[f"{half}_se"] = float(own.std(ddof=1) / math.sqrt(len(own))) if len(own) > 1 else None
                told["values"] = values.tolist()
            out.append(told)
        return out

    def to_dict(self) -> dict[str, Any]:
        score = problems.get(self.problem).score.name
        return {"version": __version__, "problem": self.problem, "grid": self.grid, "score": score, "selection": self.rule,
                "interrupted": self.interrupted, "results": self.results()}  # fmt: skip

    def save(self, folder: Path) -> list[Path]:
        """results.csv, sweep.json and, where plotly is installed, sweep.html; each whole or not at all."""
        rows = [{key: value for key, value in row.items() if key != "values"} for row in self.results()]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        texts = {"results.csv": text.getvalue(), "sweep.json": json.dumps(self.to_dict(), indent=1)}
        if find_spec("plotly"):
            from rwp_edu.sweep.figures import page

            texts["sweep.html"] = page(self)
        for name, content in texts.items():
            whole(Path(folder) / name, content)
        return [Path(folder) / name for name in texts]
