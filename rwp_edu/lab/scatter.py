"""Does flatness explain generalisation? Measures of flatness against test accuracy over many runs, and how well they order them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from rwp_edu import figures
from rwp_edu.flatness import LOOKS
from rwp_edu.lab.explorer import Explorer
from rwp_edu.lab.live import HEADLESS
from rwp_edu.lab.strokes import AXIS, LOG, dots, line, titled
from rwp_edu.parameters import Parameter, Values, unknown
from rwp_edu.settings import Entrant, Settings
from rwp_edu.sharpness import pac_bayes
from rwp_edu.training import Record, Run, one_thread

# How well one number orders another


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
        return f"τ = {self.tau:+.2f} (95 % interval {self.low:+.2f} to {self.high:+.2f}; {self.pairs:,} pairs of {self.runs} runs)"

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


def correlation(x: Any, y: Any, pairs: Any = None, units: tuple[Any, ...] = (), draws: int = 1000, seed: int = 0) -> Correlation:
    """``kendall`` with its bootstrap interval, the middle 95 % of ``draws``.

    ``units`` are labels (n,): runs of one seed share their data, runs of one entrant their settings, so whole seeds and whole
    entrants are drawn again, each with replacement, and a run counts as often as both of its labels together (the bootstrap of
    crossed factors, Owen 2007, which errs on the wide side). Without units runs are drawn. With three or four seeds an interval is
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


# The runs

SCALES = {
    "sgd": ("",),
    "sam": (":rho=0.2", ":rho=0.1", ":rho=0.4"),
    "rwp": (":sigma=0.06", ":sigma=0.03", ":sigma=0.1"),
    "m-rwp": (":sigma=0.08", ":sigma=0.15"),
    "nso": (":sigma=0.1", ":sigma=0.05", ":sigma=0.15"),
}
DECAYS = ("0.0005", "0.01", "0.04")
LABELS: dict[str, tuple[str, dict[str, Any]]] = {
    "noisy": ("300 digits, 30 % of the labels random", {}),
    "clean": ("100 digits, right labels", {"label_noise": 0.0, "train": 100, "lr": 0.05}),
}
STEPS, SEEDS, LOOKS_IN_ALL = 400, 4, 4


class Runs(NamedTuple):
    """All runs at one moment: arrays (n,) of labels and numbers, n = entrants x seeds."""

    updates: int
    entrant: np.ndarray
    method: np.ndarray
    decay: np.ndarray
    seed: np.ndarray
    test_accuracy: np.ndarray
    measures: dict[str, np.ndarray]

    def pairs(self, within: float = math.inf, methods: str = "") -> np.ndarray:
        """(n, n): two runs with the same seed, that is with the same data, start and batches; ``within``: whose training losses
        differ by this factor at most; ``methods``: "same" or "other"."""
        if methods not in ("", "same", "other"):
            raise unknown("choice of methods", methods, ("same", "other"))
        level = np.log(self.measures["train_loss"])
        chosen = (self.seed[:, None] == self.seed) & (np.abs(level[:, None] - level) <= math.log(within))
        alike = self.method[:, None] == self.method
        return chosen & (alike if methods == "same" else ~alike if methods == "other" else True)

    def kept(self, which: np.ndarray) -> Runs:
        """Those that ``which`` (n,) says."""
        first, *rest = self
        return Runs(first, *(part[which] for part in rest[:-1]), {name: v[which] for name, v in self.measures.items()})

    def correlation(self, measure: str, pairs: np.ndarray | None = None) -> Correlation:
        """Of a measure with the test accuracy, over ``pairs`` (those of the same seed): negative where small numbers go with right answers."""
        if measure not in self.measures:
            raise unknown("measure", measure, self.measures)
        pairs = self.pairs() if pairs is None else pairs
        return correlation(self.measures[measure], self.test_accuracy, pairs, (self.entrant, self.seed))


class Pool:
    """Methods x σ or ρ x weight decay x seeds on one kind of labels, trained as one batched run, a slice at a time, and how flat each is at
    four moments: exact traces, the others as in a race (``rwp_edu.flatness``), entered into its record.

    >>> small = Pool("clean", methods="sgd,rwp:sigma=0.1:weight_decay=0.04", seeds=2, steps=8)
    >>> small.finish()
    >>> small.at(-1).method.tolist(), small.at(0).updates
    (['sgd', 'sgd', 'rwp', 'rwp'], 2)
    """

    def __init__(self, labels: str, methods: Any = None, seeds: int = SEEDS, steps: int = STEPS):
        if labels not in LABELS:
            raise unknown("labels", labels, LABELS)
        self.run = Run(
            Settings(
                methods=methods or entrants(), seeds=seeds, steps=steps, record_every=-(-steps // LOOKS_IN_ALL), **LABELS[labels][1]
            )
        )
        self._start = self.run.base.w.clone()
        self._distances: list[np.ndarray] = []
        self._slices = self._work()
        self.finished = False

    @property
    def record(self) -> Record:
        return self.run.record

    @property
    def looks(self) -> int:
        """At how many moments the flatness of all runs is known."""
        return len(self._distances)

    @property
    def progress(self) -> float:
        return self.run.updates / self.run.settings.steps

    def work(self) -> bool:
        """A few hundredths of a second of training or measuring; is there more?"""
        self.finished = self.finished or next(self._slices, True)
        return not self.finished

    def finish(self) -> None:
        with one_thread():
            while self.work():
                pass

    def _work(self) -> Iterator[bool]:
        rows = self.record.rows
        while not self.run.finished:
            before = len(rows)
            self.run.step()
            if len(rows) > before:
                yield from self._look(rows[-1])
            yield False

    def _look(self, row: dict[str, np.ndarray]) -> Iterator[bool]:
        s = self.run.settings
        w = self.run.base.w.view(len(s.methods), s.seeds, -1).clone()
        for e, weights in enumerate(w):
            with torch.no_grad():
                found = LOOKS["digits"](self.run.problem, weights)
            for name, values in found.items():
                row[name][e] = values.numpy()
            yield False
        self._distances.append(torch.linalg.vector_norm(w - self._start.view_as(w), dim=-1).numpy())

    def at(self, look: int = -1) -> Runs:
        """The runs at a moment, those that diverged left out."""
        s, row, distance = self.run.settings, self.record.rows[1:][: self.looks][look], self._distances[look].ravel()
        method = [e.method for e in s.entrants]
        decay = [s.of(e)["weight_decay"] for e in s.entrants]
        names = [np.repeat(np.array(part), s.seeds) for part in (s.methods, method, decay)]
        measures = {name: row[name].ravel() for name in ("trace", "top_eigenvalue", "rise", "train_loss")}
        measures["pac_bayes"] = np.array([pac_bayes(max(t, 0.0), r, s.train).value for t, r in zip(measures["trace"], distance)])
        measures["per_loss"] = measures["trace"] / measures["train_loss"]
        found = Runs(int(row["updates"]), *names, np.tile(self.record.seeds, len(s.methods)), row["test_accuracy"].ravel(), measures)
        return found.kept(self.record.diverged.ravel() < 0)


def entrants(most: int = 3) -> tuple[str, ...]:
    """Every method with up to ``most`` scales and every weight decay."""
    return tuple(f"{m}{scale}:weight_decay={wd}" for m, scales in SCALES.items() for scale in scales[:most] for wd in DECAYS)


_POOLS: dict[tuple[str, str | None], Pool] = {}


def pool(labels: str) -> Pool:
    """The runs on ``noisy`` or ``clean`` labels, made once in a session: a tenth of them where notebooks run without a screen."""
    steps = os.environ.get(HEADLESS)
    if (labels, steps) not in _POOLS:
        few = {"methods": entrants(1), "seeds": 2, "steps": max(LOOKS_IN_ALL, min(STEPS, int(steps)))} if steps else {}
        _POOLS[labels, steps] = Pool(labels, **few)
    return _POOLS[labels, steps]


# The picture

MEASURES: dict[str, tuple[str, str]] = {
    "trace": ("trace", "tr H of the training loss, exactly"),
    "top_eigenvalue": ("largest eigenvalue", "λ₁ of the Hessian of the training loss"),
    "rise": ("rise under noise", "E L(w + e) - L(w) for the noise of RWP, σ = 0.1"),
    "pac_bayes": ("PAC-Bayes", "√(tr H |w - w₀|² / n)"),
    "per_loss": ("trace / training loss", "tr H divided by the training loss"),
    "train_loss": ("training loss", "no measure of flatness: what the others have to be compared with"),
}
SYMBOLS = dict(zip(DECAYS, ("circle", "square", "diamond")))
FAINT, ALL = 0.13, 1e4

PARAMETERS: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("measure", "", "trace", "drawn across", choices=tuple(MEASURES), title="measure"),
        Parameter("labels", "", "noisy", "; ".join(f"{name}: {row[0]}" for name, row in LABELS.items()), choices=tuple(LABELS), title="labels"),
        Parameter("weight_decay", "", "all", "of the runs that are compared", choices=("all", *DECAYS), title="weight decay"),
        Parameter("window", "", ALL, "the largest training loss of the runs that are compared over the smallest", low=1.05, high=ALL, slider=(1.1, ALL),
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
    >>> view.state.measure, "training" in view.text
    ('rise', True)
    """

    STATE, OPEN, CHOICE = ScatterState, "rwp_edu.lab.scatter.scatter", "measure"

    def choice_labels(self) -> dict[str, tuple[str, str]]:
        return MEASURES

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
            return f"training {len(pool.run.base.w)} runs on {LABELS[s.labels][0]}: {100 * pool.progress:.0f} % done"
        noun = MEASURES[s.measure][0]
        if not found.pairs or not math.isfinite(found.tau):
            return f"No two runs on the same data are in this window: move it, or make it wider.{going}"
        verdict = (
            "an order this weak could be chance" if not found.clear
            else f"of two runs on the same data the one with the {'smaller' if found.tau < 0 else 'larger'} value is usually the better"
        )  # fmt: skip
        return f"{noun[0].upper()}{noun[1:]} against test accuracy after {self.runs.updates} updates: {found}; {verdict}.{going}"

    def traces(self) -> list[dict[str, Any]]:
        runs, out = self.runs, []
        on = None if runs is None else self.compared(runs)
        for panel in ("", "2"):
            for method in SCALES:
                colour = figures.LOOKS[method][0]
                mine = runs.kept(runs.method == method) if runs else None
                x, y, hover = ([], [], []) if mine is None else self._points(mine, panel)
                trace = dots(x, y, Entrant.parse(method).label, colour, size=8 if not panel else 6, panel=panel, showlegend=not panel,
                             legendgroup=method, text=hover, hovertemplate="%{text}<extra></extra>")  # fmt: skip
                if mine is not None:
                    trace["marker"] |= {
                        "symbol": [SYMBOLS.get(f"{d:g}", "x") for d in mine.decay],
                        "opacity": np.where(on[runs.method == method], 0.85, FAINT),
                        "line": {"width": 0.5, "color": "#fff"},
                    }
                out.append(trace)
        return [*out, self._proportional(runs)]

    def _points(self, runs: Runs, panel: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
        m = runs.measures
        hover = [
            f"{Entrant.parse(e).label}<br>seed {s}: accuracy {100 * a:.1f} %<br>training loss {v:.3g}, trace {t:.3g}"
            for e, s, a, v, t in zip(runs.entrant, runs.seed, runs.test_accuracy, m["train_loss"], m["trace"])
        ]
        return (m["train_loss"], m["trace"], hover) if panel else (m[self.state.measure], 100 * runs.test_accuracy, hover)

    def _proportional(self, runs: Runs | None) -> dict[str, Any]:
        """Where all traces would be if only the level of the loss made them differ."""
        if runs is None:
            return line([], [], "trace ∝ training loss", figures.INK, "dot", "2")
        ratio, loss = np.median(runs.measures["per_loss"]), runs.measures["train_loss"]
        ends = np.array([loss.min(), loss.max()])
        return line(ends, ratio * ends, "trace ∝ training loss", figures.INK, "dot", "2")

    def layout(self) -> dict[str, Any]:
        s, runs = self.state, self.runs
        m = runs.measures if runs else {}
        title, meaning = MEASURES[s.measure]
        half = math.sqrt(s.window)
        band = {"type": "rect", "xref": "x2", "yref": "y2 domain", "x0": s.around / half, "x1": s.around * half, "y0": 0, "y1": 1,
                "fillcolor": figures.FAINT, "line": {"width": 0}, "layer": "below"}  # fmt: skip
        heads = ((f"Test accuracy against {title}", 0), ("Trace against training loss", 0.62))
        return {
            "xaxis": {**_logarithmic(m.get(s.measure)), **titled(title if meaning.startswith("no ") else meaning), "domain": [0, 0.54]},
            "yaxis": {**AXIS, "title": {"text": "test accuracy %", "standoff": 4}},
            "xaxis2": {**_logarithmic(m.get("train_loss")), **titled("training loss"), "domain": [0.62, 1], "anchor": "y2"},
            "yaxis2": {**_logarithmic(m.get("trace")), "anchor": "x2"},
            "shapes": [band] if s.window < ALL else [],
            "annotations": [
                {"text": f"<b>{text}</b>", "showarrow": False, "xref": "paper", "yref": "paper", "x": x, "y": 1, "xanchor": "left",
                 "yanchor": "bottom", "font": {"size": 13}} for text, x in heads
            ],
            "margin": {"l": 56, "r": 12, "t": 64, "b": 44}, "height": 470, "legend": {"orientation": "h", "y": 1.07, "x": 0, "yanchor": "bottom"},
        }  # fmt: skip


def _logarithmic(values: np.ndarray | None) -> dict[str, Any]:
    """An axis that shows all positive ``values``, with more ticks where they span little."""
    values = np.ones(1) if values is None else values[values > 0]
    low, high = (float(np.log10(v)) for v in (values.min(initial=1e6), values.max(initial=1e-6)))
    low, high = (low, high) if low < high else (-1.0, 1.0)
    room = 0.04 * (high - low) + 0.01
    return {**LOG, "range": [low - room, high + room], "dtick": "D2" if high - low < 1.7 else 1}


def scatter(**changes: Any) -> Scatter:
    """Open the picture of many runs: ``scatter(measure="rise", labels="clean", weight_decay="0.01", window=1.3)``."""
    return Scatter.open(**changes)
