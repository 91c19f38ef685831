"""The settings of a race: one small frozen record that validates, and round-trips through JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self

from rwp_edu import methods
from rwp_edu.parameters import Parameter, unknown
from rwp_edu.schedules import SHAPES

TRAINING: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("lr", "η", 0.1, "learning rate of the base optimizer, SGD", slider=(0.001, 1.0), log=True,
                  ticks=((0.001, "0.001"), (0.01, "0.01"), (0.1, "preset"), (1.0, "1")), title="learning rate"),
        Parameter("weight_decay", "wd", 0.01, "weight decay (L2, at the clean weights)", slider=(0.0, 0.1), step=0.001,
                  ticks=((0.01, "preset"), (0.04, "best for SGD"), (0.1, "0.1")), title="weight decay"),
        Parameter("momentum", "μ", 0.9, "momentum of the base optimizer", high=0.999, slider=(0.0, 0.99), title="momentum"),
        Parameter("schedule", "", "cosine", "learning rate over the updates", choices=("cosine", "constant"),
                  title="learning rate schedule"),
        Parameter("scale", "", "constant", "σ and ρ over the updates: constant, growing, or switched off for the last fifth",
                  choices=tuple(SHAPES), title="schedule of the scale"),
        Parameter("scale_start", "", 0.0, "where a growing schedule starts, as a fraction of σ and ρ", high=1.0, title="start of the schedule"),
        Parameter("steps", "T", 400, "updates of a whole training", low=1, high=1_000_000, slider=(100, 2000), step=100,
                  live=False, title="updates in all"),
        Parameter("seeds", "S", 8, "runs per method, each with its own split, labels, start and batches",
                  low=1, high=256, slider=(1, 16), step=1, live=False, title="seeds (runs per method)"),
        Parameter("seed", "s", 0, "the first seed", high=2**31, slider=(0, 100), step=1, live=False, title="first seed"),
        Parameter("batch", "B", 30, "images per mini-batch", low=1, high=500, slider=(5, 100), step=5, live=False, title="images per batch"),
        Parameter("train", "n", 300, "training images", low=1, high=500, slider=(50, 500), step=50, live=False, title="training images"),
        Parameter("label_noise", "p", 0.3, "fraction of training labels replaced by a random class",
                  high=1.0, slider=(0.0, 0.6), step=0.05, live=False, title="label noise"),
        Parameter("width", "H", 64, "hidden units", low=1, high=4096, slider=(8, 128), step=8, live=False, title="hidden units"),
        Parameter("record_every", "", 10, "updates between two records", low=1, high=10_000, slider=(1, 50), step=1,
                  live=False, title="updates between records"),
    )
}  # fmt: skip

# What a race of small networks on digits has in other ways than the published defaults.
_HERE: dict[str, dict[str, Any]] = {
    "sigma": {"ticks": ((0.0, "0"), (0.1, "RWP at best"), (0.2, "RWP fails"), (0.3, "0.3"))},
    "rho": {"default": 0.4, "ticks": ((0.05, "published"), (0.4, "best here"), (1.0, "1"))},
    "lam": {"ticks": ((0.0, "clean"), (0.5, "published"), (1.0, "RWP"))},
    "eta": {"default": 1.0, "ticks": ((0.1, "published"), (1.0, "here"), (5.0, "5"))},
    "beta": {"default": 0.9},
    "prior": {"default": 3.0},
}
RACE = {name: dataclasses.replace(row, **_HERE.get(name, {})) for name, row in methods.PARAMETERS.items()}
PARAMETERS: dict[str, Parameter] = {**RACE, **TRAINING}
LIVE = tuple(name for name, row in PARAMETERS.items() if row.live)
PROBLEMS = ("digits",)


@dataclass(frozen=True)
class Entrant:
    """A method in a race, perhaps with values of its own: written ``m-rwp`` or ``m-rwp:sigma=0.15:lam=0.3``.

    >>> Entrant.parse("m-rwp:sigma=0.15")
    Entrant(method='m-rwp', own=(('sigma', 0.15),))
    >>> str(_)
    'm-rwp:sigma=0.15'
    """

    method: str
    own: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        if not isinstance(text, str):
            raise ValueError(f"a method is written as text such as 'm-rwp' or 'm-rwp:sigma=0.15', got {text!r}")
        name, *pairs = text.strip().split(":")
        row = methods.get(name)
        allowed = (*row.parameters, *(n for n in TRAINING if TRAINING[n].live and n != "schedule"))
        own = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if key not in allowed:
                raise unknown(f"parameter of {name}", key, allowed)
            if not equals:
                raise ValueError(f"write {name}:{key}=VALUE, got {text!r}")
            own[key] = PARAMETERS[key].parse(value)
        return cls(name, tuple(own.items()))

    def __str__(self) -> str:
        return ":".join(
            (self.method, *(f"{k}={v:g}" if isinstance(v, float) and float(f"{v:g}") == v else f"{k}={v}" for k, v in self.own))
        )

    @property
    def pins(self) -> dict[str, Any]:
        """Values that no common setting moves: those a race gives the method, then the entrant's own."""
        return dict(methods.get(self.method).pins) | dict(self.own)

    @property
    def label(self) -> str:
        pins = ", ".join(f"{PARAMETERS[k].symbol or k} {v:g}" if isinstance(v, (int, float)) else str(v) for k, v in self.own)
        return methods.get(self.method).label + (f" ({pins})" if pins else "")


_Values = dataclasses.make_dataclass("_Values", [(row.name, row.type, row.default) for row in PARAMETERS.values()], frozen=True)


@dataclass(frozen=True)
class Settings(_Values):
    """Everything a race depends on: a field for every row of ``PARAMETERS``, beside the problem and the methods.

    ``methods`` are entrants; a slider acts on all that do not pin the value themselves.

    >>> Settings(sigma=-1)
    Traceback (most recent call last):
        ...
    ValueError: sigma must be a finite number >= 0, got -1
    >>> Settings.from_json(Settings(sigma=0.2).to_json()) == Settings(sigma=0.2)
    True
    """

    problem: str = "digits"
    methods: tuple[str, ...] = ("sgd", "sam", "rwp", "m-rwp", "nso")

    def __post_init__(self) -> None:
        if self.problem not in PROBLEMS:
            raise unknown("problem", self.problem, PROBLEMS)
        for name, row in PARAMETERS.items():
            object.__setattr__(self, name, row.parse(getattr(self, name)))
        names = self.methods.split(",") if isinstance(self.methods, str) else self.methods
        if not isinstance(names, (list, tuple)):
            raise ValueError(f"methods must be a list such as 'sgd,rwp', got {names!r}")
        object.__setattr__(self, "methods", tuple(dict.fromkeys(str(Entrant.parse(name)) for name in names)))
        if not self.methods:
            raise ValueError("choose at least one method (there is: " + ", ".join(methods.METHODS) + ")")
        if self.batch > self.train:
            raise ValueError(f"batch must not exceed train, got batch={self.batch}, train={self.train}")

    @property
    def entrants(self) -> tuple[Entrant, ...]:
        return tuple(Entrant.parse(name) for name in self.methods)

    def of(self, entrant: Entrant) -> dict[str, Any]:
        """The live values as ``entrant`` sees them: its own where it or its method pins them."""
        return {name: getattr(self, name) for name in LIVE} | entrant.pins

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; an unknown name is an error that lists what exists."""
        names = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise unknown("setting", name, names)
        return dataclasses.replace(self, **changes)

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"these settings are not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"settings are a JSON object, got {text[:40]!r}")
        return cls().replace(**values)
