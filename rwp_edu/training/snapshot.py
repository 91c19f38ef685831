"""Where the runs of a race stand at one moment, as losses that can be measured around every one of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from rwp_edu.curvature.objective import Objective, of_networks
from rwp_edu.problems import Problem
from rwp_edu.problems.images import Images
from rwp_edu.problems.module_problem import Networks
from rwp_edu.problems.objectives import NetworkObjective, of_sensing
from rwp_edu.training.run import Run
from rwp_edu.utils.parameters import unknown

MOST = 100  # examples of the loss of networks that are trained one after another

def _of_networks(problem: Any, w: Tensor, which: int, data: str) -> Objective:
    x, y = (getattr(problem, f"{data}_{part}")[which] for part in "xy")
    return NetworkObjective(problem.network, w, x, y)


OBJECTIVES: dict[str, tuple[tuple[str, ...], Callable[..., Objective]]] = {
    "digits": (("train", "test"), _of_networks),
    "fine-tuning": (("train", "test"), _of_networks),
    "images": (("train", "test"), partial(of_networks, most=MOST)),
    "sensing": (("train",), lambda problem, w, which, data: of_sensing(problem, w, which)),
}
"""Per problem: on which data there is a loss, and that loss for weights (P,) of one seed: (problem, w, which seed, data)."""


class Solutions:
    """Copies of the weights (E, S, P) of all runs, and their problem.

    >>> from rwp_edu.training.settings import Settings
    >>> run = Run(Settings(methods="sgd,rwp", seeds=2, steps=20))
    >>> run.advance(20)
    >>> found = Solutions(run)
    >>> found.entrants, round(found.objective("rwp", 1).value - found.read(found.weights("rwp", 1), 1)["train_loss"], 5)
    (('sgd', 'rwp'), 0.0)
    """

    def __init__(self, run: Run):
        settings = run.settings
        family = run.record.problem.family
        if family not in OBJECTIVES:
            raise ValueError(f"there is no looking around in {settings.problem} (there is in: {', '.join(OBJECTIVES)})")
        self.entrants, self.seeds, self.updates = settings.methods, run.record.seeds, run.updates
        self.row: Problem = run.record.problem
        self.problem = run.problem
        self.w = run.engine.weights().clone()
        self._alive = run.engine.alive.view(self.w.shape[:2]).tolist()
        self.data, self._objective = OBJECTIVES[family]

    @cached_property
    def first(self) -> dict[str, str]:
        """On which examples the loss is taken, per data, as "first 100 pictures"; nothing where it is on all that are measured."""
        noun = "pictures" if isinstance(self.problem, Images) else "examples"
        return {data: f"first {MOST} {noun}" * self._more(data) for data in self.data}

    def _more(self, data: str) -> bool:
        """Are there more than ``MOST`` of them?"""
        count = 0
        for _, y, _ in self.problem.held(0)[data] if isinstance(self.problem, Networks) else ():
            count += len(y)
            if count > MOST:
                return True
        return False

    def lives(self, entrant: str, which: int) -> bool:
        """Has that run not diverged?"""
        return self._alive[self.entrants.index(entrant)][which]

    def weights(self, entrant: str, which: int) -> Tensor:
        """The weights (P,) of an entrant with seed number ``which``."""
        return self.w[self.entrants.index(entrant), which]

    def objective(self, entrant: str, which: int, data: str = "train") -> Objective:
        """The loss around those weights."""
        if entrant not in self.entrants:
            raise unknown("entrant", entrant, self.entrants)
        if which not in range(len(self.seeds)):
            raise ValueError(f"the seed number must be from 0 to {len(self.seeds) - 1}, got {which!r}")
        if data not in self.data:
            raise unknown("data", data, self.data)
        return self._objective(self.problem, self.weights(entrant, which), which, data)

    def read(self, w: Tensor, which: int) -> dict[str, float]:
        """Every metric of the problem at any weights (P,), with the data of seed number ``which``."""
        if isinstance(self.problem, Networks):
            return self.problem.measure(self.problem.at(w, which), which)
        with torch.no_grad():
            measured = self.problem.measure(w.expand(len(self.seeds), -1).contiguous())
        return {name: float(values[which]) for name, values in measured.items()}
