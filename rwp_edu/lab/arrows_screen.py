"""The screen of one update: choose a method, move its sliders, look at the arrows."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import plotly.graph_objects as go

from rwp_edu import methods
from rwp_edu.lab import arrows as lab
from rwp_edu.lab.controls import STYLE, Control, headed
from rwp_edu.lab.live import Live

ALWAYS = ("x", "y", "lr", "batch_noise")


class UpdateScreen(Live):
    """Widgets of an ``UpdateLab``."""

    def __init__(self, owner: lab.UpdateLab):
        super().__init__()
        self.owner = owner
        state = owner.state
        names = [name for name in lab.PARAMETERS if name not in ("method", "seed")]
        self.controls = {name: Control(lab.PARAMETERS[name], getattr(state, name), self.store) for name in names}
        self.method = w.ToggleButtons(
            options=[(f"{row.label} {row.cost(k=1)}", row.name) for row in methods.METHODS.values()],
            style={"button_width": "auto"},
            tooltips=[f"{row.formula}: {row.meaning}" for row in methods.METHODS.values()],
        )
        self.method.observe(lambda change: self.store("method", change["new"]), names="value")
        self.again = w.Button(description="New draw", icon="random", tooltip="draw other noise", layout={"width": "auto"})
        self.again.on_click(lambda _: self.store("seed", self.owner.state.seed + 1))
        self.figure = go.FigureWidget(owner.figure)
        self.figure._config = {**self.figure._config, "responsive": True, "displayModeBar": False}
        self.says, self.status = w.HTML(), w.HTML()
        self.left = w.VBox(layout={"width": "310px", "flex": "0 0 310px"})
        right = w.VBox([self.figure, self.says, self.status], layout={"flex": "1 1 560px", "min_width": "480px"})
        body = w.HBox([self.left, right], layout={"flex_flow": "row wrap", "align_items": "flex-start"})
        self.box = w.VBox([w.HTML(STYLE), self.method, body])
        self.box.add_class("rwp-lab")
        self._drawn: Any = None
        self.draw()

    def turn(self) -> None:
        while self._asked:
            name, value = self._asked.pop(0)
            self.status.value = ""
            self.owner.set(**{name: value})
        self.draw()

    def fail(self, error: Exception) -> None:
        self.status.value = f"<div class='rwp-status error' role='status'>{type(error).__name__}: {error}</div>"
        self.draw()

    def draw(self) -> None:
        state = self.owner.state
        self._showing = True
        try:
            self.method.value = state.method
            for name, control in self.controls.items():
                control.show(getattr(state, name))
        finally:
            self._showing = False
        used = methods.get(state.method).parameters
        noisy = {"noise", "normal"} & set(methods.get(state.method).needs)
        shown = [self.controls[name].box for name in self.controls if name in used or name in ALWAYS]
        self.left.children = [*([self.again] if noisy else []), *shown]
        self.says.value = headed(self.owner.text)
        if self._drawn == state:
            return
        data, plan = lab.traces(state), lab.layout(state)
        with self.figure.batch_update():
            for old, new in zip(self.figure.data[1:], data[1:]):
                old.x, old.y, old.text = new["x"], new["y"], new["text"]
            self.figure.layout.annotations = plan["annotations"]
        self._drawn = state
