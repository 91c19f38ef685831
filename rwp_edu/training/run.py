"""A Run: all methods and all seeds of a race, step by step, with settings that may change on the way, and its record."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwp_edu import problems
from rwp_edu.methods import METHODS
from rwp_edu.methods.noise import generator
from rwp_edu.optim.schedules import learning_rate, scale
from rwp_edu.problems import Metric, Problem
from rwp_edu.training.batched import Batched, Group
from rwp_edu.training.sequential import OneByOne
from rwp_edu.training.settings import LIVE, WATCHED, Settings
from rwp_edu.utils import clock
from rwp_edu.utils.files import whole
from rwp_edu.utils.parameters import unknown

PAUSE = 1.5  # seconds without a change that end a gesture
DEVICES = ("auto", "cpu", "cuda")
ENGINES = {"batched": Batched, "one by one": OneByOne}


def device_named(name: str) -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu`` or ``cuda``."""
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device here; choose cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads inside, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Small products are several times faster on one thread; the other core is left to the notebook."""
    return threads(1)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next update instead of returning it to the system: without, the batched engine
    is up to 1.7 times slower, depending on the history of the heap. All threads share one heap, since glibc gives back what is free in those of
    further threads whatever it is told. For processes of our own (the lab, the command line)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold, most_heaps = -1, -3, -8
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 28)
        libc.mallopt(most_heaps, 1)


@dataclass(frozen=True)
class Mark:
    """A setting moved while the run was going on: before update number ``update + 1``.

    Marks of the same ``gesture`` belong together, as those of a slider that is dragged.
    """

    update: int
    name: str
    old: Any
    new: Any
    gesture: int | None = field(default=None, compare=False)


@dataclass(eq=False)
class Record:
    """What was measured, as plain arrays: T records, E entrants, S seeds.

    ``updates`` (T,); ``gradient_evaluations`` (T, E) of one run, in gradients of a whole batch; ``seconds`` (T, E) for the S runs of
    an entrant together, its share of the batched work; every metric of the problem (accuracies are fractions), those of flatness and of data held back (NaN
    where they were not measured) and ``perturbation`` (‖e‖/‖w‖ at the farthest point of the latest update) (T, E, S); ``diverged`` (E, S): the update after which a run was frozen, -1
    for none. ``profiles`` holds the latest (E, S, ...) of what is a curve in itself, ``reference`` what the truth has, if there
    is one. ``settings`` are those of the start, ``marks`` what changed later.
    """

    settings: Settings
    marks: list[Mark] = field(default_factory=list)
    diverged: np.ndarray = field(default=None)
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)
    profiles: dict[str, np.ndarray] = field(default_factory=dict)
    reference: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def problem(self) -> Problem:
        return problems.get(self.settings.problem)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("updates", "gradient_evaluations", "seconds", *(metric.name for metric in self.problem.measured))

    def __getattr__(self, name: str) -> np.ndarray:
        if "settings" not in vars(self):  # while it is copied
            raise AttributeError(name)
        if name not in self.columns:
            raise AttributeError(f"a record has no {name!r} (there is: {', '.join(self.columns)})")
        return np.array([row[name] for row in self.rows])

    @property
    def entrants(self) -> tuple[str, ...]:
        return self.settings.methods

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.settings.seed, self.settings.seed + self.settings.seeds))

    @property
    def at_the_end(self) -> list[Metric]:
        """The metrics that decide and, where it was measured, the flatness."""
        own, last = self.problem, self.rows[-1]
        return [*own.metrics, *(metric for metric in own.flatness if np.isfinite(last[metric.name]).any())]

    def results(self) -> list[dict[str, Any]]:
        """One row per entrant at the latest record: means over seeds, and standard errors ``_se`` of the metric that decides."""
        last, rows, n = self.rows[-1], [], self.settings.seeds
        score = self.problem.score.name
        for e, name in enumerate(self.entrants):
            rows.append(
                {
                    "method": name,
                    "seeds": n,
                    "updates": int(last["updates"]),
                    "gradient_evaluations": int(last["gradient_evaluations"][e]),
                    "seconds": float(last["seconds"][e]),
                    **{f"{metric.name}_mean": float(last[metric.name][e].mean()) for metric in self.at_the_end},
                    f"{score}_se": float(last[score][e].std(ddof=1) / math.sqrt(n)) if n > 1 else None,
                    "diverged": int((self.diverged[e] >= 0).sum()),
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers; a value that does not exist (the perturbation before the first update) is None."""

        def plain(array: np.ndarray) -> Any:
            return np.where(np.isfinite(array), array.astype(object), None).tolist()

        return {
            "settings": self.settings.to_dict(),
            "marks": [dataclasses.asdict(mark) for mark in self.marks],
            "diverged": self.diverged.tolist(),
            "profiles": {name: plain(array) for name, array in self.profiles.items()},
            "reference": {name: plain(array) for name, array in self.reference.items()},
            **{name: plain(getattr(self, name)) for name in self.columns},
        }

    def save(self, path: str | Path) -> Path:
        """Write the record as JSON; what was there stays until the new is whole."""
        return whole(path, json.dumps(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """Read what :meth:`save` wrote."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{path} is not a record of rwp_edu: {error}") from error

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        """The record that :meth:`to_dict` has written down."""
        record = cls(Settings(**data["settings"]), [Mark(**mark) for mark in data["marks"]], np.array(data["diverged"]))
        columns = {name: np.array(data[name], dtype=float) for name in record.columns}
        columns["updates"] = columns["updates"].astype(int)
        record.rows = [{name: column[t] for name, column in columns.items()} for t in range(len(columns["updates"]))]
        for name in ("profiles", "reference"):
            getattr(record, name).update({key: np.array(value, dtype=float) for key, value in data.get(name, {}).items()})
        return record

    def table(self) -> list[dict[str, Any]]:
        """One row per record, entrant and seed with all that was measured, for a CSV or a data frame."""
        names = [metric.name for metric in self.problem.measured]
        return [
            {
                "updates": int(row["updates"]),
                "method": entrant,
                "seed": seed,
                "gradient_evaluations": float(row["gradient_evaluations"][e]),
                **{name: float(row[name][e, s]) for name in names},
            }
            for row in self.rows
            for e, entrant in enumerate(self.entrants)
            for s, seed in enumerate(self.seeds)
        ]


class Run:
    """Methods x seeds trained together: the same initial weights, batches and noise stream for every method of a seed.

    ``threads_of`` is how many threads it takes, whatever its settings say. With ``background`` flatness is measured by a thread beside the training and enters the record when it is found (:meth:`collect`).

    >>> run = Run(Settings(methods="sgd,rwp", seeds=2, steps=20))
    >>> run.advance(20)
    >>> run.record.test_accuracy.shape
    (3, 2, 2)
    """

    def __init__(self, settings: Settings, device: str = "cpu", dtype: torch.dtype = torch.float32, threads_of: int | None = None):
        self.settings = settings
        self.device = device_named(device)
        self.updates = 0
        s = settings
        self.record = Record(s, diverged=np.full((len(s.methods), s.seeds), -1))
        self.problem = problems.get(s.problem).make(s, self.record.seeds, self.device, dtype)
        self.groups = [
            Group(e.method, {}, [generator(seed, "noise", device=self.device) for seed in self.record.seeds])
            for e in s.entrants
        ]
        self.engine = ENGINES[self.record.problem.engine](self.problem, self.groups)
        self.engine.threads = threads_of or self.engine.threads
        self.background = False
        self._moved = -math.inf  # when a setting was changed last
        self.flatness_seconds, self.looks = 0.0, 0
        self._measuring: tuple[dict[str, np.ndarray], Future] | None = None
        self._next: tuple[dict[str, np.ndarray], torch.Tensor] | None = None  # the end of the run, if it has to wait
        self._died = torch.full_like(self.engine.alive, -1, dtype=torch.long)
        self._pieces: Iterator[None] | None = None
        self._drawn = -1
        self._settled()
        with threads(self.engine.threads):
            self.record.reference = {
                name: value.cpu().numpy() for name, value in self.record.problem.truth(self.problem).items()
            }
            self.write()

    @property
    def base(self) -> Any:
        """The base optimizer of all runs at once, in the batched engine."""
        return self.engine.base

    @property
    def finished(self) -> bool:
        """All updates done, or no run left alive."""
        return self.updates >= self.settings.steps or bool((self.record.diverged >= 0).all())

    def set(self, **changes: Any) -> None:
        """Change live settings from the next update on; once the run has begun each change leaves a mark in the record."""
        for name in changes:
            if name not in LIVE:
                if name in vars(self.settings):
                    raise ValueError(f"{name} changes the problem: start a new run for it (live are: {', '.join(LIVE)})")
                raise unknown("setting", name, LIVE)
        settings = self.settings.replace(**changes)
        if self.updates == 0:
            self.record.settings = settings
        for name in changes if self.updates else ():
            old, new = getattr(self.settings, name), getattr(settings, name)
            if old != new and name not in WATCHED:
                self.record.marks.append(Mark(self.updates, name, old, new, self._gesture(name)))
        self.settings = settings
        self._settled()

    def _gesture(self, name: str) -> int:
        """Return the number of the gesture that a change of ``name`` belongs to.

        Consecutive changes of one setting are a gesture if there is no update between them or, on a live screen, less than ``PAUSE``
        seconds.
        """
        last = self.record.marks[-1] if self.record.marks else None
        soon = self.background and clock.now() - self._moved < PAUSE
        self._moved = clock.now()
        if last is not None and last.name == name and last.gesture is not None and (soon or last.update == self.updates):
            return last.gesture
        return 1 + max((mark.gesture or 0 for mark in self.record.marks), default=0)

    def _settled(self) -> None:
        """Hand the settings to the groups and, per run, to the base optimizer."""
        s = self.settings
        for group, entrant in zip(self.groups, s.entrants):
            group.settings = group.hyper = s.of(entrant)
        self._batches = max(METHODS[g.method].cost(k=g.hyper["k"]).batches for g in self.groups)
        self.engine.settle()

    def _scale(self) -> None:
        """Sigma and rho of every group at this update, after the entrant's schedule."""
        for group in self.groups:
            if (shape := group.settings["scale"]) != "constant":
                factor = scale(shape, group.settings["scale_start"], 1.0, self.updates / self.settings.steps)
                group.hyper = group.settings | {name: factor * group.settings[name] for name in ("sigma", "rho")}

    def step(self) -> None:
        """One update of every run that is alive; the live screen and the synchronous path both come here."""
        while self.piece():
            pass

    def piece(self) -> bool:
        """A part of an update: a network of its own, where the engine trains one after another. Is there more of this update?

        After an error or an interrupt the same update goes on where it was: nobody gets an update more than the others.
        """
        if self._pieces is None:
            if self.finished:
                return False
            self._pieces = self._update()
        try:
            next(self._pieces)
            return True
        except StopIteration:
            self._pieces = None
            return False
        except BaseException:
            self._pieces = None
            raise

    @property
    def whole(self) -> bool:
        """Between two updates, not within one, nor in one that was interrupted?"""
        return self._pieces is None and self._drawn != self.updates

    def complete(self) -> None:
        """Finish an update that has begun."""
        if not self.whole:
            with threads(self.engine.threads):
                self.step()

    def _update(self) -> Iterator[None]:
        s = self.settings
        writes = (self.updates + 1) % s.record_every == 0 or self.updates + 1 == s.steps
        alive = [e for e, dead in enumerate((self.record.diverged >= 0).all(1)) if not dead]
        if self._drawn != self.updates:
            before = self.problem.state()
            try:
                self.problem.next(self._batches)
                self._drawn = self.updates
            except BaseException:
                self.problem.restore(before)
                raise
        self._scale()
        factor = learning_rate(s.schedule, self.updates / s.steps)
        yield from self.engine.update(alive, factor, (self.updates + 1) / s.steps, writes)
        self.updates += 1
        self._died[~self.engine.alive & (self._died < 0)] = self.updates
        if writes or self.finished:  # the last run may just have diverged
            yield from self.engine.look()
            self.write()

    def advance(self, updates: int) -> None:
        """Take up to ``updates`` steps, fewer if the run finishes."""
        with threads(self.engine.threads):
            for _ in range(updates):
                self.step()
            self.collect(wait=self.finished)

    def write(self) -> None:
        """Measure every run now and add a row to the record, unless it has one for this update."""
        if self.record.rows and self.record.rows[-1]["updates"] == self.updates:
            return
        shape = (len(self.groups), self.settings.seeds)
        measured, own = self.engine.measure(), self.record.problem
        with torch.no_grad():
            for profile in own.profiles:
                of = getattr(self.problem, profile.name)
                self.record.profiles[profile.name] = np.stack([of(v).cpu().numpy() for v in self.engine.weights()])
        nothing = torch.full((self.settings.seeds,), math.nan)
        row = {name: np.stack([m[name].cpu().numpy() for m in measured]).astype(float) for name in measured[0]}
        row["perturbation"] = np.stack(
            [(nothing if g.displacement is None else g.displacement).cpu().numpy() for g in self.groups]
        )
        last = self.updates >= self.settings.steps
        row |= {metric.name: np.full(shape, math.nan) for metric in (*own.flatness, *own.held_back)}
        if own.held_back and last:
            held = self.engine.validate()
            row |= {name: np.stack([h[name].cpu().numpy() for h in held]).astype(float) for name in held[0]}
        row["updates"] = self.updates
        row["gradient_evaluations"] = np.array([float(g.work) for g in self.groups])
        row["seconds"] = np.array([g.seconds for g in self.groups])
        self.record.diverged = self._died.cpu().numpy().reshape(shape)
        self.record.rows.append(row)
        every = self.settings.flatness_every
        if own.flatness and every and (last or self.updates % every < self.settings.record_every):
            self._look(row, self.engine.weights().clone())

    def _look(self, row: dict[str, np.ndarray], w: torch.Tensor) -> None:
        """Measure flatness at weights (E, S, P) for a row of the record; while a measurement goes on, only the end of the run waits."""
        if self.background:
            self.collect()
            if self._measuring is None:
                self._measuring = row, _beside().submit(self._flatness, w)
            elif self.updates >= self.settings.steps:
                self._next = row, w
        else:
            self.collect(wait=True)
            row |= self._flatness(w)
            self.looks += 1

    def _flatness(self, w: torch.Tensor) -> dict[str, np.ndarray]:
        from rwp_edu.problems.flatness import LOOKS

        began, look = clock.now(), LOOKS[self.record.problem.family]
        with torch.no_grad():
            found = [look(self.problem, weights) for weights in w]
        self.flatness_seconds += clock.now() - began
        return {name: np.stack([f[name].cpu().numpy() for f in found]).astype(float) for name in found[0]}

    @property
    def looking(self) -> bool:
        """Is flatness being measured beside the training?"""
        return self._measuring is not None

    def collect(self, wait: bool = False) -> bool:
        """Put what the thread has found into the record; is there something new?"""
        if self._measuring is None or not (wait or self._measuring[1].done()):
            return False
        (row, found), self._measuring = self._measuring, None
        row |= found.result()
        self.looks += 1
        if self._next is not None:
            (row, w), self._next = self._next, None
            self._measuring = row, _beside().submit(self._flatness, w)
            self.collect(wait)
        return True


@cache
def _beside() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "flatness")
