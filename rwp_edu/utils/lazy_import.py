"""What others import with themselves, takes seconds and is hardly ever called, is imported when it is called."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


@contextmanager
def later(module: str, function: str) -> Iterator[None]:
    """Inside, ``from module import function`` gives a function that imports the module at its first call; afterwards nothing is left of that.

    No module is hidden: where it is not installed or was imported before, nothing is changed.
    """
    if module in sys.modules or find_spec(module) is None:
        yield
        return
    stand_in = ModuleType(module)

    def call(*given: Any, **named: Any) -> Any:
        return getattr(import_module(module), function)(*given, **named)

    setattr(stand_in, function, call)
    sys.modules[module] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]


def no_grammar() -> Any:
    """jsonschema, which plotly's widget and Jupyter's server import, brings a check of international web addresses, whose grammar takes three seconds to make."""
    return later("rfc3987_syntax", "is_valid_syntax")
