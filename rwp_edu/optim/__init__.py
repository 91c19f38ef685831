"""Every method as a torch.optim.Optimizer."""

import importlib
from typing import Any

from rwp_edu.optim.optimizer import *  # noqa: F403
from rwp_edu.optim.optimizer import __all__ as __all__


def __getattr__(name: str) -> Any:
    if name == "parallel":
        return importlib.import_module("rwp_edu.optim.parallel")
    raise AttributeError(f"module 'rwp_edu.optim' has no attribute {name!r} (there is: {', '.join(__all__)}, parallel)")
