"""A parameter: one row that validates a value, draws a slider, parses ``--set`` and fills the documentation; and records of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import FrozenInstanceError, dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from typing import Any, ClassVar, Self

DECADES = 0.05  # step of a logarithmic slider, in powers of ten


def unknown(what: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: it lists what does, nearest first in mind."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {str(name)!r}{hint} (there is: {', '.join(known)})")


def counted(n: int, noun: str, more: str = "") -> str:
    """Return a number with its noun, in the plural (an s is added, if it is not ``more``) unless the number is 1.

    >>> counted(1, "update"), counted(1200, "update"), counted(2, "minimum", "minima")
    ('1 update', '1,200 updates', '2 minima')
    """
    return f"{n:,} {noun if n == 1 else more or noun + 's'}"


def listed(items: list[str], most: int) -> str:
    """Return items as a list in a sentence; of more than ``most``, so many and the number of the others.

    >>> listed(["a", "b"], 4), listed(["a", "b", "c", "d"], 2)
    ('a and b', 'a, b and 2 others')
    """
    left = len(items) - most
    parts = [*items[:most], "another" if left == 1 else f"{left} others"] if left > 0 else items
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def sentence(text: str) -> str:
    """Return a text that ends as a sentence does.

    >>> sentence("Too much noise"), sentence("Is it the noise?")
    ('Too much noise.', 'Is it the noise?')
    """
    return text if text.rstrip().endswith((".", "?", "!")) else f"{text}."


def rounded(value: float, digits: int = 3) -> str:
    """Return a number with so many digits, without an exponent up to a million.

    >>> rounded(1234.5), rounded(0.0123456), rounded(2.5e-9)
    ('1,230', '0.0123', '2.5e-09')
    """
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if "e+" in text and abs(float(text)) < 1e6 else text


def strict(value: Any) -> Any:
    """``value`` for strict JSON: a number that is not finite becomes None."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def strict_json(value: Any) -> str:
    """``value`` as JSON that every parser reads.

    >>> strict_json({"loss": math.nan}).split()
    ['{', '"loss":', 'null', '}']
    """
    return json.dumps(strict(value), indent=1, allow_nan=False)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method or of the training.

    ``title`` is what a screen calls it, ``labels`` what it calls the ``choices`` where that is more than their names, ``tips`` what it
    says of them. ``low`` and ``high`` bound what is possible; ``slider`` bounds what a slider offers; ``ticks`` label values that mean
    something; ``values`` are those a slider offers, where they are no even grid; ``live`` tells whether a running training takes a new value at once.
    """

    name: str
    symbol: str
    default: Any
    meaning: str
    low: float = 0.0
    high: float = math.inf
    slider: tuple[float, float] = (0.0, 1.0)
    step: float = 0.01
    log: bool = False
    choices: tuple[str, ...] = ()
    ticks: tuple[tuple[float, str], ...] = ()
    live: bool = True
    title: str = ""
    labels: tuple[str, ...] = ()
    tips: tuple[str, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def grid(self) -> tuple[float, ...]:
        """The values that a slider offers, ascending: short decimals from one end to the other, in steps of ``step`` or, on a
        logarithmic one, of ``DECADES`` powers of ten; and the default.

        >>> Parameter("x", "", 0.0, "a coordinate", slider=(-0.1, 0.1), step=0.05).grid
        (-0.1, -0.05, 0.0, 0.05, 0.1)
        """
        (low, high), kind = self.slider, self.type
        if self.values:
            found = self.values
        elif self.log:
            n = math.floor(math.log10(high / low) / DECADES + 1e-6)
            found = [float(f"{low * 10 ** (DECADES * i):.3g}") for i in range(n + 1)]
        else:
            first, step = Decimal(str(low)), Decimal(str(kind(self.step) or 1))
            found = [kind(first + i * step) for i in range(int((Decimal(str(high)) - first) / step) + 1)]
        return tuple(sorted({kind(v) for v in (*found, low, high, self.default) if low <= v <= high}))

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """What a screen calls every choice, and the choice."""
        return tuple(zip(self.labels or self.choices, self.choices))

    @property
    def type(self) -> Callable:
        return type(self.default)

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type is str:
            return "text"
        number, form = ("a whole number", ".0f") if self.type is int else ("a finite number", "g")
        if self.high == math.inf:
            return f"{number} >= {self.low:{form}}"
        return f"{number} from {self.low:{form}} to {self.high:{form}}"

    def parse(self, value: Any) -> Any:
        """``value`` in the right type, or a ``ValueError`` that names what is allowed.

        >>> Parameter("sigma", "σ", 0.1, "scale").parse("0.2")
        0.2
        >>> Parameter("sigma", "σ", 0.1, "scale").parse(-1)
        Traceback (most recent call last):
            ...
        ValueError: sigma must be a finite number >= 0, got -1
        """
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{self.name} must be {self.allowed}, got {value!r}")
            return value
        if self.type is str:
            if not isinstance(value, str):
                raise ValueError(f"{self.name} must be {self.allowed}, got {value!r}")
            return value
        try:
            if isinstance(value, bool):
                raise TypeError
            number = float(value)
            if not math.isfinite(number) or not self.low <= number <= self.high:
                raise ValueError
            if self.type is int and number != int(number):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{self.name} must be {self.allowed}, got {value!r}") from None
        return self.type(number)


class Values:
    """A frozen record with a value for every row of ``TABLE``.

    >>> class Point(Values):
    ...     TABLE = {"x": Parameter("x", "", 1.0, "a coordinate")}
    >>> Point(x=2).replace(x=3), Point().x
    (Point(x=3.0), 1.0)
    """

    TABLE: ClassVar[Mapping[str, Parameter]] = {}

    def __init__(self, **values: Any):
        self._fill(self.TABLE, values)

    def _fill(self, table: Mapping[str, Parameter], values: Mapping[str, Any], also: tuple[str, ...] = ()) -> None:
        for name in values:
            if name not in table:
                raise unknown("setting", name, (*also, *table))
        vars(self).update({name: row.parse(values.get(name, row.default)) for name, row in table.items()})

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"settings do not change; make others with .replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError("settings do not change")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({written(self.changed())})"

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; an unknown name is an error that lists what exists."""
        return type(self)(**(vars(self) | changes))

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults."""
        default = vars(_default(type(self)))
        return {name: value for name, value in vars(self).items() if value != default[name]}

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@cache
def _default(kind: type[Values]) -> Values:
    return kind()


def written(values: Mapping[str, Any]) -> str:
    """Values as the arguments of a call; a tuple of names as one text.

    >>> written({"sigma": 0.2, "methods": ("sgd", "rwp")})
    "sigma=0.2, methods='sgd,rwp'"
    """
    plain = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return ", ".join(f"{name}={value!r}" for name, value in plain.items())
