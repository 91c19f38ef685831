"""Schedules of the scale of a perturbation (sigma or rho), with a start and an end; and of the learning rate.

    constant     end
    linear       start + (end - start) p
    cosine       start + (end - start) (1 - cos πp) / 2        p = progress, 0 to 1
    switch-off   end while p < 0.8, then 0

``cosine`` is the increasing schedule of LPF-SGD (2201.08025) and ARWP (2404.00357); their code states a multiple of the start
(and the two disagree whether that is the end or the increase), here it is the end itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from rwp_edu.utils.parameters import Parameter, unknown

SHAPES: dict[str, Callable[[float, float, float], float]] = {
    "constant": lambda start, end, p: end,
    "linear": lambda start, end, p: start + (end - start) * p,
    "cosine": lambda start, end, p: start + (end - start) * (1 - math.cos(math.pi * p)) / 2,
    "switch-off": lambda start, end, p: end if p < 0.8 else 0.0,
}

LEARNING_RATES: dict[str, Callable[[float], float]] = {
    "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2,
    "constant": lambda p: 1.0,
    "linear": lambda p: 1 - p,
    "steps": lambda p: 0.1 ** ((p >= 0.5) + (p >= 0.75)),
    "warm-up": lambda p: min(20 * p + 0.02, 1.0) * (1 + math.cos(math.pi * p)) / 2,
}


def learning_rate(shape: str, progress: float) -> float:
    """The factor of the learning rate at ``progress`` from 0 to 1: ``cosine`` and ``linear`` fall to 0, ``steps`` divides by ten at one half
    and at three quarters, ``warm-up`` is a cosine whose first twentieth grows from near 0.

    >>> [learning_rate("steps", p) for p in (0, 0.5)]
    [1.0, 0.1]
    """
    return LEARNING_RATES[shape](min(max(progress, 0.0), 1.0))


def scale(shape: str, start: float, end: float, progress: float) -> float:
    """The value at ``progress`` from 0 to 1.

    >>> [round(scale("cosine", 0.001, 0.011, p), 4) for p in (0, 0.5, 1)]
    [0.001, 0.006, 0.011]
    """
    return SHAPES[shape](start, end, min(max(progress, 0.0), 1.0))


class ScaleSchedule:
    """Moves one entry of an optimizer's parameter groups, such as ``sigma`` or ``rho``, over ``steps`` steps.

    It moves all groups but those that have 0 while others have more: these are exempt, as biases may be.
    Call :meth:`step` after every ``optimizer.step``, like a learning-rate scheduler. The value for the first step is set at once.

    >>> import torch
    >>> from rwp_edu.optim.optimizer import RWP
    >>> optimizer = RWP(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1))
    >>> schedule = ScaleSchedule(optimizer, "sigma", shape="linear", start=0.0, end=0.2, steps=4)
    >>> schedule.step(); optimizer.param_groups[0]["sigma"]
    0.05
    """

    def __init__(
        self, optimizer: Optimizer, name: str = "sigma", *, shape: str = "cosine", start: float = 0.0, end: float, steps: int
    ):
        if shape not in SHAPES:
            raise unknown("shape of a schedule", shape, SHAPES)
        groups = optimizer.param_groups
        named = [key for key, value in groups[0].items() if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if name not in named:
            raise unknown("entry of the parameter groups", name, named)
        self.optimizer, self.name, self.shape = optimizer, name, shape
        self.start, self.end = Parameter("start", "", 0.0, "").parse(start), Parameter("end", "", 0.0, "").parse(end)
        self.steps = Parameter("steps", "", 1, "", low=1).parse(steps)
        self.done = 0
        some = any(group[name] for group in groups)
        self.known, self.exempt = len(groups), [i for i, group in enumerate(groups) if some and not group[name]]
        self._set()

    def _set(self) -> None:
        groups = self.optimizer.param_groups
        self.exempt += [i for i in range(self.known, len(groups)) if not groups[i][self.name]]  # groups that were added since
        self.known = len(groups)
        for i, group in enumerate(groups):
            if i not in self.exempt:
                group[self.name] = scale(self.shape, self.start, self.end, self.done / self.steps)

    def step(self) -> None:
        """Move on by one step."""
        self.done += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "exempt": self.exempt, "known": self.known}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.done, self.exempt = state_dict["done"], list(state_dict.get("exempt", self.exempt))
        self.known = state_dict.get("known", len(self.optimizer.param_groups))
        self._set()
