"""The screen of an explorer: controls on the left, its picture on the right, one sentence below."""

from __future__ import annotations

from threading import get_ident
from typing import Any

import ipywidgets as w
import numpy as np

from rwp_edu import clock, figures
from rwp_edu.lab.controls import STYLE, Chips, Control, Maker, headed, toggled
from rwp_edu.lab.explorer import Explorer
from rwp_edu.lab.live import Live, complaint
from rwp_edu.lab.plot import Plot
from rwp_edu.training import one_thread

STAYS = ("type", "name")  # what does not change in a trace
WIDTH = {"width": "306px"}


class ExplorerScreen(Live):
    """Widgets of an ``Explorer``."""

    LOOKS = ("hovered",)

    def __init__(self, owner: Explorer):
        super().__init__(owner)
        self.make = Maker()
        make, rows = self.make, owner.rows
        self.controls: dict[str, Control] = {}
        self.choice = self._buttons(rows[owner.CHOICE]) if owner.CHOICE else None
        self.chips = Chips(self.store, make) if hasattr(owner.state, "methods") else None
        label, icon, tip = owner.AGAIN
        self.again = make.Button(description=label, icon=icon, tooltip=tip, layout=WIDTH)
        self.again.on_click(lambda _: self.store(owner.SEED, self.owner.next_seed))
        self._data, self._plan = owner.traces(), {**figures.PLAIN, **owner.layout()}
        self.figure = Plot(data=self._data, layout={**self._plan, "autosize": True})
        self.figure._config = {**self.figure._config, "responsive": True, "displayModeBar": False}
        self.figure.observe(self.answered, names="_js2py_traceDeltas")
        self._drawn_at = 0.0
        self._listen()
        self.says, self.status, self.setting = (make.HTML() for _ in range(3))
        # One column beside the picture; where the window is too narrow for that, two above it.
        self.left = make.HBox(layout={"flex": "1 1 310px", "flex_flow": "row wrap", "align_content": "flex-start"})
        right = [self.figure, self.says, self.setting, self.status]
        right = make.VBox(right, layout={"flex": "1000 1 560px", "min_width": "480px"})
        body = make.HBox([self.left, right], layout={"flex_flow": "row wrap", "align_items": "flex-start"})
        above = [*([self.choice] if self.choice else []), *([self.chips.box] if self.chips else [])]
        self.box = make.VBox([make.HTML(STYLE), *above, body])
        self.box.add_class("rwp-lab")
        self.draw()

    def _buttons(self, row: Any) -> w.ToggleButtons:
        tips = list(row.tips or [row.meaning] * len(row.choices))
        buttons = self.make.ToggleButtons(options=row.options, tooltips=tips, style={"button_width": "auto"})
        buttons.observe(lambda change: self.store(row.name, change["new"]), names="value")
        return buttons

    def _listen(self) -> None:
        def told(what: str) -> Any:
            return lambda trace, points, state: points.xs and self.store(what, (points.xs[0], points.ys[0]))

        for trace in self.figure.data:
            if trace.name == "surface":
                trace.on_click(told("clicked"))
                trace.on_hover(told("hovered"))

    def apply(self, name: str, value: Any) -> None:
        if name in ("clicked", "hovered"):
            getattr(self.owner, name)(*value)
        elif name == "toggle":
            self.owner.set(methods=toggled(self.owner.state.methods, *value))
        else:
            self.owner.set(**{name: value})

    def turn(self) -> float | None:
        self.obey()
        with one_thread():
            more = self.owner.work()
            late = self._answers and clock.now() < self._drawn_at + self.patience
            self.draw(picture=not late)
        return self.owner.pause if more else 0.05 if late else None

    def end(self) -> None:
        self.owner.ended()
        super().end()

    def draw(self, picture: bool = True) -> None:
        owner, state = self.owner, self.owner.state
        self._showing = get_ident()
        try:
            if self.choice:
                self.choice.value = getattr(state, owner.CHOICE)
            if self.chips and not self.asked("toggle"):
                self.chips.show(state)
            rows = owner.rows
            for name in owner.shown:
                if name not in self.controls:
                    self.controls[name] = Control(rows[name], getattr(state, name), self.store, self.make, **WIDTH)
            for name, control in self.controls.items():
                control.show(control.value if self.asked(name) else getattr(state, name), rows[name])
        finally:
            self._showing = None
        shown = tuple([self.again] if owner.noisy else []) + tuple(self.controls[name].box for name in owner.shown)
        if self.left.children != shown:
            self.left.children = shown
        said, setting = headed(owner.text), f"<div class='rwp-status'>this setting: <code>{owner.snippet}</code></div>"
        self.status.value = complaint(self.error) if self.error else ""
        if self.says.value != said:
            self.says.value = said
        if self.setting.value != setting:
            self.setting.value = setting
        if picture:
            self._draw_picture()

    def _draw_picture(self) -> None:
        data, plan, drawn = self.owner.traces(), {**figures.PLAIN, **self.owner.layout()}, False
        with self.figure.batch_update():
            if [[t[key] for key in STAYS] for t in data] != [[t[key] for key in STAYS] for t in self._data]:
                self.figure.data = []
                self.figure.add_traces(data)
                self._listen()
                self._data = data
            for trace, before, new in zip(self.figure.data, self._data, data):
                moved = {key: value for key, value in new.items() if key not in STAYS and not _same(before.get(key), value)}
                if moved:
                    trace.update(moved, overwrite=True)
                    drawn = True
            changed = {key: value for key, value in plan.items() if not _same(self._plan.get(key), value)}
            if changed:
                self.figure.update_layout(changed, overwrite=True)
        self._data, self._plan = data, plan
        self._unanswered += drawn
        self._drawn_at = clock.now()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return a is b or np.array_equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return a == b
