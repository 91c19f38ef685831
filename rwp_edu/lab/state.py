"""The whole state of the race screen: the settings of the race plus how it is looked at. And the presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rwp_edu.figures import X_AXES
from rwp_edu.parameters import Parameter, unknown
from rwp_edu.settings import PARAMETERS, Settings

VIEW: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("x", "", "updates", "horizontal axis", choices=tuple(X_AXES)),
        Parameter("smoothing", "", 0.0, "moving average over the records; 0 is off", high=0.95, slider=(0.0, 0.95), step=0.05),
        Parameter(
            "pace", "", 20, "updates per second while it runs live; 0 is as fast as it goes", high=10_000, slider=(0, 200)
        ),
    )
}


@dataclass(frozen=True)
class RaceState(Settings):
    """``show`` names the controls on the screen; empty means all. A lesson may show a single slider.

    >>> RaceState(x="weeks")
    Traceback (most recent call last):
        ...
    ValueError: x must be one of updates, gradients, seconds, got 'weeks'
    """

    x: str = VIEW["x"].default
    smoothing: float = VIEW["smoothing"].default
    pace: int = VIEW["pace"].default
    show: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, row in VIEW.items():
            object.__setattr__(self, name, row.parse(getattr(self, name)))
        names = self.show.split(",") if isinstance(self.show, str) else self.show
        for name in names:
            if name not in PARAMETERS:
                raise unknown("control", name, PARAMETERS)
        object.__setattr__(self, "show", tuple(names))

    @property
    def settings(self) -> Settings:
        """The part that a run depends on."""
        return Settings(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Settings)})

    def snippet(self) -> str:
        """One line of Python that opens the lab in this state.

        >>> RaceState(sigma=0.2, methods="sgd,rwp").snippet()
        "rwp_edu.lab.race(sigma=0.2, methods='sgd,rwp')"
        """
        values = {k: ",".join(v) if isinstance(v, tuple) else v for k, v in self.changed().items()}
        return f"rwp_edu.lab.race({', '.join(f'{k}={v!r}' for k, v in values.items())})"


@dataclass(frozen=True)
class Preset:
    title: str
    question: str
    changes: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "noisy-labels": Preset(
        "Noisy labels", "Three labels in ten are random. Who learns the digits, and who learns the mistakes?", {}
    ),
    "too-much-noise": Preset(
        "Too much noise",
        "σ is twice as large as RWP can bear. What does mixing in a clean gradient change?",
        {"methods": "sgd,rwp,m-rwp,m-rwp:lam=0.3", "sigma": 0.2},
    ),
    "equal-cost": Preset(
        "Equal cost",
        "Set the axis to gradient evaluations: who leads when every gradient counts?",
        {"x": "gradients"},
    ),
    "controls": Preset(
        "Is it the noise?",
        "m-RWP sees two batches per update. With σ = 0 only the second batch is left: does it explain the gain?",
        {"methods": "sgd,m-rwp:sigma=0,m-rwp:sigma=0.15,rwp"},
    ),
    "weight-decay": Preset(
        "Just weight decay?",
        "A well-chosen weight decay is a strong rival on noisy labels. How much is left of the gain?",
        {"methods": "sgd,sgd:weight_decay=0.04,rwp,sam"},
    ),
    "clean-labels": Preset(
        "Clean labels",
        "100 images, every label right. Does it still pay to look for flat minima?",
        {"train": 100, "label_noise": 0.0, "weight_decay": 0.0005, "lr": 0.05, "sigma": 0.05, "rho": 0.1, "batch": 20},
    ),
}
