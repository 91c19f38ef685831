"""One update drawn as arrows: the points a method asks for, the gradients there, and the step it takes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwp_edu import methods
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.lab.race import summary
from rwp_edu.methods.points import At
from rwp_edu.methods.trace_update import Update, take_apart
from rwp_edu.plotting import figures
from rwp_edu.problems.surfaces import SHARP_AND_WIDE, Wells
from rwp_edu.utils.parameters import Parameter, Values, listed

SURFACE: Wells = SHARP_AND_WIDE
VIEW = 1.25, 0.95  # half the width and half the height of the picture
OWN: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("method", "", "sam", "whose update", choices=tuple(methods.METHODS), title="method",
                  labels=tuple(f"{row.label} {row.cost(k=1)}" for row in methods.METHODS.values()), tips=summary.METHODS),
        Parameter("x", "w₁", -0.3, "start, first coordinate", low=-1.2, high=1.2, slider=(-1.2, 1.2), title="start, across"),
        Parameter("y", "w₂", 0.4, "start, second coordinate", low=-0.9, high=0.9, slider=(-0.9, 0.9), title="start, up"),
        Parameter("lr", "lr", 0.25, "learning rate of the step; arrows down a gradient are drawn to the same scale", slider=(0.0, 0.5), step=0.01, title="learning rate"),
        Parameter("batch_noise", "", 0.5, "how much the two batches differ: a tilt of their gradients", slider=(0.0, 3.0), step=0.1,
                  title="difference between batches"),
        Parameter("seed", "", 0, "of the noise", high=2**31, title="draw of the noise"),
    )
}  # fmt: skip
# Values at which the arrows can be told apart on this surface.
HERE: dict[str, Any] = {"sigma": 0.2, "rho": 0.4, "kind": "isotropic", "examples": 20, "k": 1, "pull": 0.05, "floor": 0.1}
HYPER = {name: dataclasses.replace(row, default=HERE.get(name, row.default)) for name, row in methods.PARAMETERS.items()}
PARAMETERS: dict[str, Parameter] = {**OWN, **HYPER}
_TILTS = torch.tensor([[0.5, 0.4], [-0.5, -0.4]], dtype=torch.float64)
ALWAYS = ("x", "y", "lr", "batch_noise")


class UpdateState(Values):
    """All that the picture depends on; every field is a row of ``PARAMETERS``.

    >>> UpdateState(rho=-1)
    Traceback (most recent call last):
        ...
    ValueError: rho must be a finite number >= 0, got -1
    """

    TABLE = PARAMETERS

    @property
    def update(self) -> Update:
        """The update itself, in float64."""
        hyper = {name: getattr(self, name) for name in HYPER}
        w = torch.tensor([self.x, self.y], dtype=torch.float64)
        return take_apart(self.method, w, self.gradient, lr=self.lr, seed=self.seed, **hyper)

    def gradient(self, at: At) -> Tensor:
        """∇L plus the tilt of the batch; parts of a batch tilt alternately."""
        return SURFACE.gradient(at.w) + self.batch_noise * _TILTS[(at.batch + at.part) % 2]


def sentence(state: UpdateState) -> str:
    """The update in words."""
    row, update = methods.get(state.method), state.update

    def at(v: Tensor) -> str:
        return f"({v[0]:.2f}, {v[1]:.2f})"

    rounds = []
    for number in range(1, update.rounds + 1):
        asked = [a for a in update.answers if a.round == number]
        where = listed([at(a.at.w) for a in asked], 4)
        rounds.append(f"round {number} asks at {where}")
    count = len(update.answers)
    return (
        f"{row.label}: {row.formula}. {'; '.join(rounds).capitalize()}. {count} point{'s' * (count > 1)} in {update.rounds} "
        f"round{'s' * (update.rounds > 1)}; the combined gradient is {at(update.g)}, the step ends at {at(update.after)}."
    )


def _contour() -> dict[str, Any]:
    x, y = np.linspace(-VIEW[0], VIEW[0], 101), np.linspace(-VIEW[1], VIEW[1], 81)
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), -1))
    return {
        "type": "contour", "x": x, "y": y, "z": SURFACE.value(grid).numpy(), "ncontours": 22, "showscale": False, "hoverinfo": "skip",
        "contours": {"coloring": "lines"}, "colorscale": [[0, "rgba(90,120,160,0.95)"], [1, "rgba(140,140,140,0.25)"]],
        "line": {"width": 1}, "name": "loss",
    }  # fmt: skip


def _arrow(start: Tensor, end: Tensor, colour: str, width: float, head: float = 1.1) -> dict[str, Any]:
    return {
        "x": float(end[0]), "y": float(end[1]), "ax": float(start[0]), "ay": float(start[1]), "xref": "x", "yref": "y",
        "axref": "x", "ayref": "y", "showarrow": True, "arrowhead": 2, "arrowsize": head, "arrowwidth": width, "arrowcolor": colour,
        "text": "",
    }  # fmt: skip


ROUND_COLOURS = ("#2E8BC9", "#D55E00")
STEP_COLOUR, MOVE_COLOUR = "#009E73", "rgba(128,128,128,0.8)"
STEP_ARROW = {"colour": "rgba(0,158,115,0.5)", "width": 9, "head": 0.5}  # wide and light: the arrow of a gradient is seen on it


def traces(state: UpdateState) -> list[dict[str, Any]]:
    """The surface, w, the points of each round, and where the step ends."""
    update = state.update
    out = [_contour()]
    for number, colour in enumerate(ROUND_COLOURS, 1):
        asked = [a for a in update.answers if a.round == number]
        out.append(
            {"type": "scatter", "mode": "markers", "x": [float(a.at.w[0]) for a in asked], "y": [float(a.at.w[1]) for a in asked],
             "marker": {"size": 13, "color": colour, "symbol": "circle" if number == 1 else "diamond"},
             "text": [f"round {number}, batch {a.at.batch}: gradient ({a.gradient[0]:.2f}, {a.gradient[1]:.2f})" for a in asked],
             "hoverinfo": "text", "name": f"asked in round {number}"}
        )  # fmt: skip
    right = bool(update.after[0] >= update.w[0])
    sides = ("middle left", "middle right") if right else ("middle right", "middle left")
    for name, text, v, symbol, side in (("w", "w", update.w, "circle-open", sides[0]), ("w\u2032, after the step", "w\u2032", update.after, "star", sides[1])):
        out.append(
            {"type": "scatter", "mode": "markers+text", "x": [float(v[0])], "y": [float(v[1])], "text": [text],
             "textposition": side, "textfont": {"size": 15}, "name": name, "hoverinfo": "name",
             "marker": {"size": 17 if v is update.w else 13, "symbol": symbol, "color": STEP_COLOUR, "line": {"width": 2, "color": STEP_COLOUR}}}
        )  # fmt: skip
    return out


def layout(state: UpdateState) -> dict[str, Any]:
    """Arrows: wide and green for the step, on it thin grey ones from w to the points and coloured ones down the gradient there."""
    update = state.update
    down = state.lr or OWN["lr"].default
    arrows = [_arrow(update.w, update.after, **STEP_ARROW)]
    for a in update.answers:
        colour = ROUND_COLOURS[a.round - 1]
        if not torch.equal(a.at.w, update.w):
            arrows.append(_arrow(update.w, a.at.w, MOVE_COLOUR, 1.5))
        arrows.append(_arrow(a.at.w, a.at.w - down * a.gradient, colour, 2.5))
    axis = {"gridcolor": figures.FAINT, "zeroline": False, "fixedrange": True, "constrain": "domain"}
    return {
        "xaxis": {**axis, "range": [-VIEW[0], VIEW[0]], "title": {"text": "w₁", "standoff": 2}},
        "yaxis": {**axis, "range": [-VIEW[1], VIEW[1]], "title": {"text": "w₂", "standoff": 2}, "scaleanchor": "x"},
        "annotations": arrows,
        "margin": {"l": 44, "r": 10, "t": 34, "b": 40}, "height": 500, "legend": {"orientation": "h", "y": 1.09, "x": 0},
    }  # fmt: skip


class UpdateLab(Explorer):
    """One update, to look at from all sides.

    >>> lab = update(method="m-rwp", lam=0.3)
    >>> lab.set(method="sam")
    >>> lab.state.update.rounds
    2
    """

    STATE, OPEN, CHOICE = UpdateState, "rwp_edu.lab.update", "method"

    def traces(self) -> list[dict[str, Any]]:
        return traces(self.state)

    def layout(self) -> dict[str, Any]:
        return layout(self.state)

    @property
    def text(self) -> str:
        return sentence(self.state)

    @property
    def shown(self) -> tuple[str, ...]:
        used = methods.get(self.state.method).parameters
        return tuple(name for name in PARAMETERS if name in used or name in ALWAYS)

    @property
    def noisy(self) -> bool:
        return bool({"noise", "normal"} & set(methods.get(self.state.method).needs))


def update(*given: Any, **changes: Any) -> UpdateLab:
    """Open the update of one method: ``update(method="sam", rho=0.3)``."""
    return UpdateLab.open(*given, **changes)
