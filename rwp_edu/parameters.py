"""A parameter: one row that validates a value, draws a slider, parses ``--set`` and fills the documentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


def unknown(what: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: it lists what does, nearest first in mind."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {str(name)!r}{hint} (there is: {', '.join(known)})")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method or of the training.

    ``title`` is what a screen calls it. ``low`` and ``high`` bound what is possible; ``slider`` bounds what a slider offers; ``ticks`` label values that mean
    something; ``live`` tells whether a running training takes a new value at once.
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

    @property
    def type(self) -> Callable:
        return type(self.default)

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
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
