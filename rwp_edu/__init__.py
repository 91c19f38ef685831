"""See why flat minima generalise, and how to find them: weight-perturbation training methods, live."""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = (
    "curvature",
    "experiments",
    "lab",
    "methods",
    "optim",
    "plotting",
    "problems",
    "training",
    "utils",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"rwp_edu.{name}")
    raise AttributeError(f"module 'rwp_edu' has no attribute {name!r} (there is: {', '.join(_MODULES)})")


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
