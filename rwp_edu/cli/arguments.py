"""What was asked for in the arguments that ``train`` and ``sweep`` share."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from rwp_edu.utils.parameters import unknown

DOWNLOAD = {"action": "store_true", "help": "get the data set first, if it is not here yet"}


def settings_of(arguments: Namespace) -> Any:
    """The settings that were asked for."""
    from rwp_edu.problems import PICTURES, PROBLEMS
    from rwp_edu.training.settings import Settings
    from rwp_edu.training.settings import parameters as settings_in

    if arguments.problem is None:
        raise ValueError(f"name a problem to train on (there is: {', '.join((*PROBLEMS, *PICTURES, 'folder:PATH'))})")
    rows = settings_in(arguments.problem)
    given = {name: getattr(arguments, name) for name in ("methods", "seeds", "steps") if getattr(arguments, name) is not None}
    for pair in arguments.set:
        name, equals, value = pair.partition("=")
        if name not in rows:
            raise unknown("setting", name, rows)
        if not equals:
            raise ValueError(f"write --set {name}=VALUE, where {name} is {rows[name].allowed}; got --set {pair}")
        if name in given:
            raise ValueError(f"{name} is given twice, as {given[name]} and as {value}: leave one of them out")
        given[name] = value
    return Settings(arguments.problem, **given)
