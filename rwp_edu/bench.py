"""The speed this project promises, as ratios measured in one run: A and B in turns, medians of the paired ratios."""

from __future__ import annotations

import operator
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

import torch

from rwp_edu.methods import METHODS
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.problems.digits import Digits
from rwp_edu.settings import Settings
from rwp_edu.training import Run, one_thread

UPDATES = 25
COMPARE = {"<=": operator.le, ">=": operator.ge}
Measurement = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """A figure: ``prepare`` gives two functions that measure A and B, ``what`` in ``unit``; the goal is for the ratio A / B."""

    name: str
    a: str
    b: str
    unit: str
    what: str
    goal: str
    pairs: int
    prepare: Callable[[], tuple[Measurement, Measurement]]


def seconds_of(work: Callable[[], None]) -> float:
    """CPU seconds of this process, on one thread."""
    with one_thread():
        began = process_time()
        work()
        return process_time() - began


def race() -> Measurement:
    """CPU microseconds per run and update of a race of the default methods and seeds, without any measuring of metrics."""
    run = Run(Settings(steps=1_000_000, record_every=10_000))
    runs = len(run.settings.methods) * run.settings.seeds
    return lambda: seconds_of(lambda: run.advance(UPDATES)) * 1e6 / (UPDATES * runs)


class Loop:
    """An ordinary training loop of one seed of the race: a module, a torch optimizer, mini-batches."""

    def __init__(self, seed: int, method: str | None = None):
        s = Settings()
        problem = Digits([seed])
        self.x, self.y, self.size = problem.train_x[0], problem.train_y[0], s.batch
        self.model, self.criterion = problem.module(), torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
        self.left: list[torch.Tensor] = []
        if method:
            hyper = {name: getattr(s, name) for name in METHODS[method].parameters}
            self.optimizer = OPTIMIZERS[method](self.optimizer, seed=seed, **hyper)
            self.batches = METHODS[method].cost().batches

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.left = self.left or list(torch.randperm(len(self.x)).split(self.size))
        index = self.left.pop()
        return self.x[index], self.y[index]

    def closure(self) -> Callable[[], torch.Tensor]:
        x, y = self.batch()

        def evaluate() -> torch.Tensor:
            loss = self.criterion(self.model(x), y)
            loss.backward()
            return loss

        return evaluate

    def plain(self) -> None:
        for _ in range(UPDATES):
            self.optimizer.zero_grad()
            self.closure()()
            self.optimizer.step()

    def perturbed(self) -> None:
        for _ in range(UPDATES):
            self.optimizer.step(*(self.closure() for _ in range(self.batches)))


def one_by_one(loops: list[Loop], work: Callable[[Loop], None]) -> Measurement:
    """CPU microseconds per run and update of loops that run one after another."""

    def all_loops() -> None:
        for loop in loops:
            work(loop)

    return lambda: seconds_of(all_loops) * 1e6 / (UPDATES * len(loops))


def importing(modules: str) -> Measurement:
    """CPU milliseconds of an import in a fresh process."""
    code = f"import time; began = time.process_time(); import {modules}; print(time.process_time() - began)"
    return lambda: 1e3 * float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


ROWS = (
    Row(
        "40 runs at once, against plain SGD",
        "torch.optim.SGD, one run after another: one gradient per update",
        "the five methods x 8 seeds in one Run: 1.6 gradients per update on average",
        "µs",
        "CPU time per run and update, on one thread",
        ">= 2",
        20,
        lambda: (one_by_one([Loop(seed) for seed in range(8)], Loop.plain), race()),
    ),
    Row(
        "40 runs at once, against the same runs",
        "the five methods around torch.optim.SGD, one run after another",
        "the five methods x 8 seeds in one Run",
        "µs",
        "CPU time per run and update, on one thread",
        ">= 5",
        20,
        lambda: (one_by_one([Loop(0, method) for method in Settings().methods], Loop.perturbed), race()),
    ),
    Row(
        "import",
        "import rwp_edu, rwp_edu.optim, rwp_edu.training",
        "import torch",
        "ms",
        "CPU time in a fresh process",
        "<= 1.1",
        7,
        lambda: (importing("rwp_edu, rwp_edu.optim, rwp_edu.training"), importing("torch")),
    ),
)


def measure(rows: tuple[Row, ...] = ROWS, quick: bool = False) -> list[dict[str, Any]]:
    """Every row: medians of A and B, the median and quartiles of the paired ratios A / B, and whether the goal is met."""
    return [measure_row(row, 3 if quick else row.pairs) for row in rows]


def measure_row(row: Row, pairs: int) -> dict[str, Any]:
    measure_a, measure_b = row.prepare()
    measure_a(), measure_b()
    measured = [(measure_a(), measure_b()) for _ in range(pairs)]
    first, ratio, third = statistics.quantiles((a / b for a, b in measured), n=4, method="inclusive")
    sign, _, bound = row.goal.partition(" ")
    return {
        "name": row.name,
        "what_a": row.a,
        "what_b": row.b,
        "what": row.what,
        "unit": row.unit,
        "a": statistics.median(a for a, _ in measured),
        "b": statistics.median(b for _, b in measured),
        "ratio": ratio,
        "quartiles": [first, third],
        "pairs": pairs,
        "goal": row.goal or None,
        "met": COMPARE[sign](ratio, float(bound)) if sign else None,
    }
