"""The plan of a sweep: which settings a grid means, each once, and which of them train in one run."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rwp_edu import __version__, methods
from rwp_edu.training.settings import PINNABLE, Entrant, Settings, entrants, parameters
from rwp_edu.utils.parameters import unknown

GROUP = 16
NOT_IN_A_GRID = ("seeds", "seed", "record_every")
PERTURBED = ("scale", "scale_start")  # act on methods that have a scale


@dataclass(frozen=True)
class Point:
    """One setting of a grid: the method, its values of the grid, and how it is run: an entrant of a run with these settings."""

    method: str
    values: tuple[tuple[str, Any], ...]
    entrant: str
    settings: Settings

    @property
    def key(self) -> str:
        """A hash of the settings and the version of the package."""
        return digest({**self.settings.replace(methods=[self.entrant]).to_dict()})


def digest(values: Mapping[str, Any]) -> str:
    text = json.dumps({"version": __version__, **values}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _acts(name: str, method: methods.Method) -> bool:
    if name in PERTURBED:
        return bool({"sigma", "rho"} & set(method.parameters))
    return name in method.parameters or name not in methods.PARAMETERS


def parsed(problem: str, grid: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The grid with values in the right types; ``ValueError`` for what no method or problem has."""
    rows, out = parameters(problem), {}
    for name, values in grid.items():
        if name not in rows or name in NOT_IN_A_GRID:
            raise unknown("parameter of a grid", name, (n for n in rows if n not in NOT_IN_A_GRID))
        values = values.split(",") if isinstance(values, str) else [values] if np.isscalar(values) else list(values)
        out[name] = list(dict.fromkeys(rows[name].parse(value) for value in values))
        if not out[name]:
            raise ValueError(f"the grid of {name} is empty: give at least one value, {rows[name].allowed}")
    return out


def plan(problem: str, names: Any, grid: Mapping[str, Any], **common: Any) -> list[Point]:
    """All settings of a grid, each once.

    >>> [point.entrant for point in plan("digits", "sgd,rwp", {"sigma": "0.1,0.2"})]
    ['sgd', 'rwp:sigma=0.1', 'rwp:sigma=0.2']
    """
    grid = parsed(problem, grid)
    for name in set(grid) & set(common):
        raise ValueError(f"{name} is given twice, in the grid and as {common[name]}: leave one of them out")
    points: dict[str, Point] = {}
    for text in entrants(names):
        entrant = Entrant.parse(text)
        row = methods.get(entrant.method)
        own = {name: values for name, values in grid.items() if _acts(name, row)}
        for name in set(own) & set(dict(entrant.own)):
            raise ValueError(f"{name} of {text} is given twice: leave it out there, or of the grid")
        for chosen in itertools.product(*own.values()):
            values = dict(zip(own, chosen))
            pins = {n: v for n, v in values.items() if n in row.parameters or n in PINNABLE}
            rest = {n: v for n, v in values.items() if n not in pins}
            named = str(Entrant(entrant.method, (*entrant.own, *pins.items())))
            settings = Settings(problem, methods=[named], **common, **rest)
            point = Point(text, tuple(values.items()), named, settings)
            points.setdefault(point.key, point)
    unused = [name for name in grid if not any(name in dict(point.values) for point in points.values())]
    if unused:
        raise ValueError(f"{unused[0]} acts on none of the methods {', '.join(entrants(names))}: leave it out, or add a method")
    return list(points.values())


def groups(points: Sequence[Point]) -> list[list[Point]]:
    """Points that train in one run: those that differ in pinned values only, at most ``GROUP`` of them."""
    same: dict[Settings, list[Point]] = {}
    for point in points:
        same.setdefault(point.settings.replace(methods=["sgd"]), []).append(point)
    return [run[i : i + GROUP] for run in same.values() for i in range(0, len(run), GROUP)]


def settings_of(group: Sequence[Point]) -> Settings:
    return group[0].settings.replace(methods=[point.entrant for point in group])
