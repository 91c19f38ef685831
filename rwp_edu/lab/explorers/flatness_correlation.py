"""Does flatness explain generalisation? Measures of flatness against test accuracy over many runs, and how well they order them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rwp_edu.experiments.rank_correlation import Correlation
from rwp_edu.experiments.run_pool import DECAYS, LABELS, SCALES, Pool, Runs, pool
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.plotting import figures
from rwp_edu.plotting.plotly import AXIS, LOG, dots, heads, line, round_numbers, titled
from rwp_edu.training.settings import Entrant
from rwp_edu.utils.parameters import Parameter, Values, counted, rounded

MEASURES: dict[str, tuple[str, str]] = {
    "trace": ("trace", "tr H of the training loss, exactly"),
    "top_eigenvalue": ("largest eigenvalue", "λ₁ of the Hessian of the training loss"),
    "rise": ("rise under noise", "E L(w + e) - L(w) for the noise of RWP, σ = 0.1"),
    "pac_bayes": ("PAC-Bayes", "√(tr H |w - w₀|² / n)"),
    "per_loss": ("trace / training loss", "tr H divided by the training loss"),
    "train_loss": ("training loss", "no measure of flatness: what the others have to be compared with"),
}
SYMBOLS = dict(zip(DECAYS, ("circle", "square", "diamond")))
FAINT, ALL = 0.13, 1e3

PARAMETERS: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("measure", "", "trace", "drawn across", choices=tuple(MEASURES), title="measure",
                  labels=tuple(title for title, _ in MEASURES.values()), tips=tuple(meaning for _, meaning in MEASURES.values())),
        Parameter("labels", "", "noisy", "; ".join(f"{name}: {row[0]}" for name, row in LABELS.items()), choices=tuple(LABELS), title="labels"),
        Parameter("weight_decay", "", "all", "of the runs that are compared", choices=("all", *DECAYS), title="weight decay (● 0.0005 &nbsp;■ 0.01 &nbsp;◆ 0.04)"),
        Parameter("window", "", ALL, "the largest training loss of the runs that are compared over the smallest", low=1.05, high=ALL, slider=(1.122, ALL),
                  log=True, ticks=((1.3, "matched"), (ALL, "all")), title="training losses within a factor"),
        Parameter("around", "", 0.5, "the middle of the window", low=1e-6, high=10, slider=(1e-4, 2.0), log=True, title="around a training loss of"),
    )
}  # fmt: skip


class ScatterState(Values):
    """All that the picture depends on; every field is a row of ``PARAMETERS``."""

    TABLE = PARAMETERS


class Scatter(Explorer):
    """Test accuracy against a measure of flatness, run by run.

    >>> view = scatter(measure="rise", labels="clean")
    >>> view.state.measure, "Training 144 runs" in view.text
    ('rise', True)
    """

    STATE, OPEN, CHOICE = ScatterState, "rwp_edu.lab.scatter", "measure"

    @property
    def shown(self) -> tuple[str, ...]:
        return tuple(name for name in super().shown if name != "around" or self.state.window < ALL)

    @property
    def pool(self) -> Pool:
        return pool(self.state.labels)

    def work(self) -> bool:
        """Train what is looked at, then the rest."""
        for labels in (self.state.labels, *LABELS):
            if pool(labels).work():
                return True
        return False

    @property
    def runs(self) -> Runs | None:
        """As they are at the latest moment at which their flatness is known."""
        return self.pool.at() if self.pool.looks else None

    def compared(self, runs: Runs) -> np.ndarray:
        """(n,): has it the chosen weight decay, and is its training loss in the window?"""
        s = self.state
        off = np.abs(np.log(runs.measures["train_loss"] / s.around))
        inside = (off <= math.log(s.window) / 2) | (s.window >= ALL)
        return inside & (np.ones(len(off), bool) if s.weight_decay == "all" else runs.decay == float(s.weight_decay))

    @property
    def found(self) -> Correlation | None:
        """The correlation over the runs that are compared."""
        if self.runs is None:
            return None
        key = self.state, self.pool.looks
        if vars(self).get("_last", (None,))[0] != key:
            self._last = key, self.runs.kept(self.compared(self.runs)).correlation(self.state.measure)
        return self._last[1]

    @property
    def text(self) -> str:
        s, found, pool = self.state, self.found, self.pool
        going = "" if pool.finished else f" Still training: {100 * pool.progress:.0f} % done."
        if found is None:
            return f"Training {len(pool.run.base.w)} runs on {LABELS[s.labels][0]}: {100 * pool.progress:.0f} % done."
        noun = MEASURES[s.measure][0]
        if not found.pairs or not math.isfinite(found.tau):
            return f"No two runs on the same data are in this window: move it, or make it wider.{going}"
        verdict = (
            "an order this weak could be chance" if not found.clear
            else f"of two runs on the same data the one with the {'smaller' if found.tau < 0 else 'larger'} value is more often the better"
        )  # fmt: skip
        return (
            f"{noun[0].upper()}{noun[1:]} against test accuracy after {counted(self.runs.updates, 'update')}: {found}; {verdict}.{going}"
        )

    def traces(self) -> list[dict[str, Any]]:
        runs, out = self.runs, []
        on = None if runs is None else self.compared(runs)
        for panel in ("", "2"):
            for method in SCALES:
                colour = figures.LOOKS[method][0]
                mine = runs.kept(runs.method == method) if runs else None
                x, y, hover = ([], [], []) if mine is None else self._points(mine, panel)
                trace = dots(x, y, Entrant.parse(method).label, colour, size=8 if not panel else 6, panel=panel, showlegend=False,
                             legendgroup=method, text=hover, hovertemplate="%{text}<extra></extra>")  # fmt: skip
                if mine is not None:
                    trace["marker"] |= {
                        "symbol": [SYMBOLS.get(f"{d:g}", "x") for d in mine.decay],
                        "opacity": np.where(on[runs.method == method], 0.85, FAINT),
                        "line": {"width": 0.5, "color": "#fff"},
                    }
                out.append(trace)
        key = [dots([None], [None], f"{Entrant.parse(m).label} ", figures.LOOKS[m][0], legendgroup=m) for m in SCALES]
        return [*out, *key, self._proportional(runs)]

    def _points(self, runs: Runs, panel: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
        m = runs.measures
        hover = [
            f"{Entrant.parse(e).label}<br>seed {s}: accuracy {100 * a:.1f} %<br>training loss {rounded(v)}, trace {rounded(t)}"
            for e, s, a, v, t in zip(runs.entrant, runs.seed, runs.test_accuracy, m["train_loss"], m["trace"])
        ]
        return (m["train_loss"], m["trace"], hover) if panel else (m[self.state.measure], 100 * runs.test_accuracy, hover)

    def _proportional(self, runs: Runs | None) -> dict[str, Any]:
        """Where all traces would be if only the level of the loss made them differ."""
        if runs is None:
            return line([None], [None], "trace ∝ training loss", figures.INK, "dot", "2")
        ratio, loss = np.median(runs.measures["per_loss"]), runs.measures["train_loss"]
        ends = np.array([loss.min(), loss.max()])
        return line(ends, ratio * ends, "trace ∝ training loss", figures.INK, "dot", "2")

    def layout(self) -> dict[str, Any]:
        s, runs = self.state, self.runs
        m = runs.measures if runs else {}
        title, meaning = MEASURES[s.measure]
        half, best = math.sqrt(s.window), runs.test_accuracy if runs else np.array([0.0, 1.0])
        band = {"type": "rect", "xref": "x2", "yref": "y2 domain", "x0": s.around / half, "x1": s.around * half, "y0": 0, "y1": 1,
                "fillcolor": figures.FAINT, "line": {"width": 0}, "layer": "below"}  # fmt: skip
        panels = ((f"Test accuracy against {title}", 0), ("Trace against training loss", 0.62))
        return {
            "xaxis": {**_logarithmic(m.get(s.measure)), **titled(title if meaning.startswith("no ") else meaning), "domain": [0, 0.54]},
            "yaxis": {**AXIS, **titled("test accuracy %"), "range": [100 * best.min() - 1, 100 * best.max() + 1]},
            "xaxis2": {**_logarithmic(m.get("train_loss")), **titled("training loss"), "domain": [0.62, 1], "anchor": "y2"},
            "yaxis2": {**_logarithmic(m.get("trace")), "anchor": "x2"},
            "shapes": [band] if s.window < ALL else [],
            "annotations": heads(*panels),
            "margin": {"l": 56, "r": 12, "t": 64, "b": 44}, "height": 470, "legend": {"orientation": "h", "y": 1.07, "x": 0, "yanchor": "bottom"},
        }  # fmt: skip


def _logarithmic(values: np.ndarray | None) -> dict[str, Any]:
    """An axis that shows all positive ``values``, with more ticks where they span little."""
    values = np.ones(1) if values is None else values[values > 0]
    low, high = (float(np.log10(v)) for v in (values.min(initial=1e6), values.max(initial=1e-6)))
    low, high = (low, high) if low < high else (-1.0, 1.0)
    room = 0.04 * (high - low) + 0.01
    ticks = round_numbers(low - room, high + room)
    return {**LOG, "range": [low - room, high + room], "dtick": None, "tickvals": ticks, "ticktext": [f"{v:g}" for v in ticks]}


def scatter(*given: Any, **changes: Any) -> Scatter:
    """Open the picture of many runs: ``scatter(measure="rise", labels="clean", weight_decay="0.01", window=1.3)``."""
    return Scatter.open(*given, **changes)
