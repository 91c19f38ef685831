"""The settings of a race: one small frozen record that validates, and round-trips through JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Self

from rwp_edu import methods, problems
from rwp_edu.optim.schedules import LEARNING_RATES, SHAPES
from rwp_edu.utils.parameters import Parameter, Values, unknown

TRAINING: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("lr", "η", 0.1, "learning rate of the base optimizer, SGD", slider=(0.001, 1.0), log=True, title="learning rate"),
        Parameter("weight_decay", "wd", 0.01, "weight decay (L2, at the clean weights)", slider=(0.0, 0.1), step=0.001,
                  title="weight decay"),
        Parameter("momentum", "μ", 0.9, "momentum of the base optimizer", high=0.999, slider=(0.0, 0.99), title="momentum"),
        Parameter("schedule", "", "cosine", "learning rate over the updates", choices=tuple(LEARNING_RATES),
                  title="learning rate schedule"),
        Parameter("scale", "", "constant", "σ and ρ over the updates: constant, growing, or switched off for the last fifth",
                  choices=tuple(SHAPES), title="schedule of the scale"),
        Parameter("scale_start", "", 0.0, "where a growing schedule starts, as a fraction of σ and ρ", high=1.0, title="start of the schedule"),
        Parameter("swa", "", 1.0, "weights are averaged, and measured, after this fraction of the updates (SWA); 1: never", high=1.0,
                  ticks=((0.75, "published"), (1.0, "never")), title="averaging from"),
        Parameter("steps", "T", 400, "updates of a whole training", low=1, high=1_000_000, slider=(100, 2000), step=100,
                  live=False, title="updates in all"),
        Parameter("seeds", "S", 8, "runs per method, each with its own data, start and batches",
                  low=1, high=256, slider=(1, 16), step=1, live=False, title="seeds (runs per method)"),
        Parameter("seed", "s", 0, "the first seed", high=2**31, slider=(0, 100), step=1, live=False, title="first seed"),
        Parameter("record_every", "", 10, "updates between two records", low=1, high=10_000, slider=(1, 50), step=1,
                  live=False, title="updates between records"),
        Parameter("flatness_every", "", 0, "updates between two measurements of flatness (at records, and at the end); 0: none",
                  high=10_000, slider=(0, 200), step=10, title="flatness every"),
    )
}  # fmt: skip

COMMON: dict[str, Parameter] = {**methods.PARAMETERS, **TRAINING}
LIVE = tuple(name for name, row in COMMON.items() if row.live)
WATCHED = ("flatness_every",)  # live, but no training depends on it
PINNABLE = tuple(name for name, row in TRAINING.items() if row.live and name not in ("schedule", *WATCHED))
DEFAULT = next(iter(problems.PROBLEMS))


@cache
def parameters(problem: str = DEFAULT) -> MappingProxyType[str, Parameter]:
    """All settings of a problem by name: those common to all, as they are there, and its own."""
    row = problems.get(problem)
    own = {parameter.name: parameter for parameter in row.parameters}
    return MappingProxyType({name: dataclasses.replace(p, **row.here.get(name, {})) for name, p in COMMON.items()} | own)


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
        allowed = (*row.parameters, *PINNABLE)
        own = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if key not in allowed:
                raise unknown(f"parameter of {name}", key, allowed)
            if not equals:
                raise ValueError(f"write {name}:{key}=VALUE, got {text!r}")
            own[key] = COMMON[key].parse(value)
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
        pins = ", ".join(f"{COMMON[k].symbol or k} {v:g}" if isinstance(v, (int, float)) else str(v) for k, v in self.own)
        return methods.get(self.method).label + (f" ({pins})" if pins else "")


def entrants(names: Any) -> tuple[str, ...]:
    """Entrants, as a list or as one text with commas, written the one way they are written; an error for none or an unknown one."""
    names = names.split(",") if isinstance(names, str) else names
    if not isinstance(names, (list, tuple)):
        raise ValueError(f"methods must be a list such as 'sgd,rwp', got {names!r}")
    if not names:
        raise ValueError("choose at least one method (there is: " + ", ".join(methods.METHODS) + ")")
    return tuple(dict.fromkeys(str(Entrant.parse(name)) for name in names))


class Settings(Values):
    """Everything a race depends on: the problem, the methods, and a value for every row of ``parameters(problem)``.

    ``methods`` are entrants; a slider acts on all that do not pin the value themselves.

    >>> Settings(sigma=-1)
    Traceback (most recent call last):
        ...
    ValueError: sigma must be a finite number >= 0, got -1
    >>> Settings.from_json(Settings(sigma=0.2).to_json()) == Settings(sigma=0.2)
    True
    """

    MORE: ClassVar[dict[str, Parameter]] = {}  # settings that a run does not depend on
    problem: str
    methods: tuple[str, ...]

    def __init__(self, problem: str = DEFAULT, **values: Any):
        row = problems.get(problem)
        vars(self).update(problem=problem, methods=entrants(values.pop("methods", row.methods)))
        self._fill({**parameters(problem), **self.MORE}, values, ("problem", "methods"))
        if wrong := row.wrong(self):
            raise ValueError(wrong)

    @property
    def entrants(self) -> tuple[Entrant, ...]:
        return tuple(Entrant.parse(name) for name in self.methods)

    def of(self, entrant: Entrant) -> dict[str, Any]:
        """The live values as ``entrant`` sees them: its own where it or its method pins them."""
        return {name: getattr(self, name) for name in LIVE} | self.pins(entrant)

    def pins(self, entrant: Entrant) -> dict[str, Any]:
        """The values of ``entrant`` that no slider moves: those its method has in every race or on this problem, and its own."""
        return entrant.pins | dict(problems.get(self.problem).pins.get(entrant.method, {})) | dict(entrant.own)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; an unknown name is an error that lists what exists. Another problem starts from its own defaults."""
        kept = {name: value for name, value in vars(self).items() if name in self.MORE}
        return type(self)(**((vars(self) if changes.get("problem", self.problem) == self.problem else kept) | changes))

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults."""
        default = vars(_defaults(type(self), self.problem)) | {"problem": DEFAULT}
        return {name: value for name, value in vars(self).items() if value != default[name]}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"these settings are not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"settings are a JSON object, got {text[:40]!r}")
        return cls(**values)


@cache
def _defaults(kind: type[Settings], problem: str) -> Settings:
    return kind(problem)
