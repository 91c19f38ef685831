"""Many runs of many kinds, and how flat each of them is: what a claim about flatness has to be compared with."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np
import torch

from rwp_edu.curvature.sharpness import pac_bayes
from rwp_edu.experiments.rank_correlation import Correlation, correlation
from rwp_edu.problems.flatness import LOOKS
from rwp_edu.training import Record, Run
from rwp_edu.training.run import one_thread
from rwp_edu.training.settings import Settings
from rwp_edu.utils.incremental import HEADLESS
from rwp_edu.utils.parameters import unknown

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
    four moments: exact traces, the others as in a race (``rwp_edu.problems.flatness``), entered into its record.

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
                methods=methods or entrants(),
                seeds=seeds,
                steps=steps,
                record_every=-(-steps // LOOKS_IN_ALL),
                **LABELS[labels][1],
            )
        )
        self._start = self.run.base.w.clone()
        self._distances: list[np.ndarray] = []
        self._looked = 0  # entrants, over all moments

    @property
    def record(self) -> Record:
        return self.run.record

    @property
    def looks(self) -> int:
        """At how many moments the flatness of all runs is known."""
        return self._looked // len(self.run.settings.methods)

    @property
    def finished(self) -> bool:
        return self.run.finished and self.record.rows[-1]["updates"] == self.run.updates and self.looks == len(self.record.rows) - 1

    @property
    def progress(self) -> float:
        return self.run.updates / self.run.settings.steps

    def work(self) -> bool:
        """A few hundredths of a second of training or measuring; is there more? After an error or an interrupt it goes on where it was."""
        if not self.finished:
            if self.run.finished or self.run.updates % self.run.settings.record_every == 0:
                self.run.write()  # if an interrupt came before it
            if self.looks < len(self.record.rows) - 1:
                self._look()
            else:
                self.run.step()
        return not self.finished

    def finish(self) -> None:
        with one_thread():
            while self.work():
                pass

    def _look(self) -> None:
        """Measure the next entrant; the weights stay where they are until all are measured."""
        s = self.run.settings
        look, e = divmod(self._looked, len(s.methods))
        w = self.run.base.w.view(len(s.methods), s.seeds, -1)
        with torch.no_grad():
            found = LOOKS["digits"](self.run.problem, w[e])
        for name, values in found.items():
            self.record.rows[look + 1][name][e] = values.numpy()
        self._distances[look:] = [torch.linalg.vector_norm(w - self._start.view_as(w), dim=-1).numpy()]
        self._looked += 1

    def at(self, look: int = -1) -> Runs:
        """The runs at a moment, those that diverged left out."""
        s, known = self.run.settings, range(self.looks)[look]
        row, distance = self.record.rows[1 + known], self._distances[known].ravel()
        method = [e.method for e in s.entrants]
        decay = [s.of(e)["weight_decay"] for e in s.entrants]
        names = [np.repeat(np.array(part), s.seeds) for part in (s.methods, method, decay)]
        measures = {name: row[name].ravel() for name in ("trace", "top_eigenvalue", "rise", "train_loss")}
        measures["pac_bayes"] = np.array(
            [pac_bayes(max(t, 0.0), r, s.train).value for t, r in zip(measures["trace"], distance)]
        )
        measures["per_loss"] = measures["trace"] / measures["train_loss"]
        found = Runs(
            int(row["updates"]), *names, np.tile(self.record.seeds, len(s.methods)), row["test_accuracy"].ravel(), measures
        )
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
