"""A Run: all methods and all seeds of a race, step by step, with settings that may change on the way, and its record."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from rwp_edu.batched import SGD, Group, update
from rwp_edu.methods import METHODS
from rwp_edu.noise import generator
from rwp_edu.parameters import unknown
from rwp_edu.problems.digits import Digits
from rwp_edu.schedules import scale
from rwp_edu.settings import LIVE, Settings

DEVICES = ("auto", "cpu", "cuda")


def device_named(name: str) -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu`` or ``cuda``."""
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device here; choose cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """Small products are several times faster on one thread; the other core is left to the notebook."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next update instead of returning it to the system: without, the batched engine
    is up to 1.7 times slower, depending on the history of the heap. For processes of our own (the lab, the command line)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 28)


@dataclass(frozen=True)
class Mark:
    """A setting moved while the run was going on: before update number ``update + 1``."""

    update: int
    name: str
    old: Any
    new: Any


@dataclass
class Record:
    """What was measured, as plain arrays: T records, E entrants, S seeds.

    ``updates`` (T,); ``gradient_evaluations`` (T, E) of one run, in gradients of a whole batch; ``seconds`` (T, E) for the S runs of an entrant together, its
    share of the batched work; ``train_loss``, ``test_accuracy`` (a fraction), ``wrong_labels_learnt`` and ``perturbation``
    (‖e‖/‖w‖ at the farthest point of the latest update) (T, E, S); ``diverged`` (E, S): the update after which a run was
    frozen, -1 for none. ``settings`` are those of the start, ``marks`` what changed later.
    """

    settings: Settings
    marks: list[Mark] = field(default_factory=list)
    diverged: np.ndarray = field(default=None)
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)

    PER_RUN = (*Digits.metrics, "perturbation")
    COLUMNS = ("updates", "gradient_evaluations", "seconds", *PER_RUN)

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in Record.COLUMNS:
            raise AttributeError(f"a record has no {name!r} (there is: {', '.join(Record.COLUMNS)})")
        return np.array([row[name] for row in self.rows])

    @property
    def entrants(self) -> tuple[str, ...]:
        return self.settings.methods

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.settings.seed, self.settings.seed + self.settings.seeds))

    def results(self) -> list[dict[str, Any]]:
        """One row per entrant at the latest record; accuracies are fractions, ``_se`` is the standard error over seeds."""
        last, rows = self.rows[-1], []
        for e, name in enumerate(self.entrants):
            accuracy, n = last["test_accuracy"][e], self.settings.seeds
            rows.append(
                {
                    "method": name,
                    "seeds": n,
                    "updates": int(last["updates"]),
                    "gradient_evaluations": int(last["gradient_evaluations"][e]),
                    "seconds": float(last["seconds"][e]),
                    "train_loss_mean": float(last["train_loss"][e].mean()),
                    "test_accuracy_mean": float(accuracy.mean()),
                    "test_accuracy_se": float(accuracy.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
                    "diverged": int((self.diverged[e] >= 0).sum()),
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers; a value that does not exist (the perturbation before the first update) is None."""

        def plain(array: np.ndarray) -> Any:
            return np.where(np.isfinite(array), array.astype(object), None).tolist()

        return {
            "settings": dataclasses.asdict(self.settings),
            "marks": [dataclasses.asdict(mark) for mark in self.marks],
            "diverged": self.diverged.tolist(),
            **{name: plain(getattr(self, name)) for name in self.COLUMNS},
        }

    def save(self, path: str | Path) -> Path:
        """Write the record as JSON, first to a temporary file beside it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(self.to_dict()))
        temporary.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """Read what :meth:`save` wrote."""
        try:
            data = json.loads(Path(path).read_text())
            settings = Settings.from_json(json.dumps(data["settings"]))
            columns = {name: np.array(data[name], dtype=float) for name in cls.COLUMNS}
            rows = [{name: column[t] for name, column in columns.items()} for t in range(len(columns["updates"]))]
            return cls(settings, [Mark(**mark) for mark in data["marks"]], np.array(data["diverged"]), rows)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path} is not a record of rwp_edu: {error}") from error


class Run:
    """Methods x seeds trained together: the same initial weights, batches and noise stream for every method of a seed.

    >>> run = Run(Settings(methods="sgd,rwp", seeds=2, steps=20))
    >>> run.advance(20)
    >>> run.record.test_accuracy.shape
    (3, 2, 2)
    """

    def __init__(self, settings: Settings, device: str = "cpu", dtype: torch.dtype = torch.float32):
        self.settings = settings
        self.device = device_named(device)
        self.updates = 0
        s = settings
        self.record = Record(s, diverged=np.full((len(s.methods), s.seeds), -1))
        self.problem = Digits(self.record.seeds, s.train, s.label_noise, s.width, s.batch, self.device, dtype)
        self.groups = [
            Group(e.method, {}, [generator(seed, "noise", device=self.device) for seed in self.record.seeds])
            for e in s.entrants
        ]
        self.base = SGD(self.problem.init().repeat(len(self.groups), 1))
        self._died = torch.full((len(self.base.w),), -1, device=self.device)
        self._settled()
        with one_thread():
            self.write()

    @property
    def finished(self) -> bool:
        """All updates done, or no run left alive."""
        return self.updates >= self.settings.steps or bool((self.record.diverged >= 0).all())

    def set(self, **changes: Any) -> None:
        """Change live settings from the next update on; once the run has begun each change leaves a mark in the record."""
        for name in changes:
            if name not in LIVE:
                known = name in {f.name for f in dataclasses.fields(Settings)}
                if known:
                    raise ValueError(f"{name} changes the problem: start a new run for it (live are: {', '.join(LIVE)})")
                raise unknown("setting", name, LIVE)
        settings = self.settings.replace(**changes)
        if self.updates == 0:
            self.record.settings = settings
        for name in changes if self.updates else ():
            old, new = getattr(self.settings, name), getattr(settings, name)
            if old != new:
                self.record.marks.append(Mark(self.updates, name, old, new))
        self.settings = settings
        self._settled()

    def _settled(self) -> None:
        """Hand the settings to the groups and, per run, to the base optimizer."""
        s = self.settings
        for group, entrant in zip(self.groups, s.entrants):
            group.settings = group.hyper = s.of(entrant)
        self._batches = max(METHODS[g.method].cost(k=g.hyper["k"]).batches for g in self.groups)
        self._base = {
            name: self.base.w.new_tensor([[g.hyper[name]] for g in self.groups for _ in range(s.seeds)])
            for name in ("lr", "momentum", "weight_decay")
        }

    def _scale(self) -> None:
        """Sigma and rho of every group at this update, after the entrant's schedule."""
        for group in self.groups:
            if (shape := group.settings["scale"]) != "constant":
                factor = scale(shape, group.settings["scale_start"], 1.0, self.updates / self.settings.steps)
                group.hyper = group.settings | {name: factor * group.settings[name] for name in ("sigma", "rho")}

    def _lr_factor(self) -> float:
        s = self.settings
        return 1.0 if s.schedule == "constant" else (1 + math.cos(math.pi * self.updates / s.steps)) / 2

    def step(self) -> None:
        """One update of every run that is alive; the live screen and the synchronous path both come here."""
        if self.finished:
            return
        writes = (self.updates + 1) % self.settings.record_every == 0 or self.updates + 1 == self.settings.steps
        alive = [e for e, dead in enumerate((self.record.diverged >= 0).all(1)) if not dead]
        w = self.base.w.view(len(self.groups), self.settings.seeds, -1)
        self.problem.next(self._batches)
        self._scale()
        with torch.no_grad():
            found = update(
                [w[e] for e in alive], [self.groups[e] for e in alive], self.problem.layout, self.problem.gradients, writes
            )
            g = torch.zeros_like(w)
            for e, gradient in zip(alive, found):
                g[e] = gradient
            began = perf_counter()
            was_alive = self.base.alive.clone()
            self.base.step(g.view_as(self.base.w), **{**self._base, "lr": self._base["lr"] * self._lr_factor()})
            self.updates += 1
            self._died[was_alive & ~self.base.alive] = self.updates
        for e in alive:
            self.groups[e].seconds += (perf_counter() - began) / len(alive)
        if writes:
            self.write()

    def advance(self, updates: int) -> None:
        """Take up to ``updates`` steps, fewer if the run finishes."""
        with one_thread():
            for _ in range(updates):
                self.step()

    def write(self) -> None:
        """Measure every run now and add a row to the record, unless it has one for this update."""
        if self.record.rows and self.record.rows[-1]["updates"] == self.updates:
            return
        shape = (len(self.groups), self.settings.seeds)
        with torch.no_grad():
            w = self.base.w.view(*shape, -1)
            measured = [self.problem.measure(weights) for weights in w]
        nothing = torch.full((self.settings.seeds,), math.nan)
        row = {name: np.stack([m[name].cpu().numpy() for m in measured]).astype(float) for name in self.problem.metrics}
        row["perturbation"] = np.stack(
            [(nothing if g.displacement is None else g.displacement).cpu().numpy() for g in self.groups]
        )
        row["updates"] = self.updates
        row["gradient_evaluations"] = np.array([float(g.work) for g in self.groups])
        row["seconds"] = np.array([g.seconds for g in self.groups])
        self.record.diverged = self._died.cpu().numpy().reshape(shape)
        self.record.rows.append(row)
