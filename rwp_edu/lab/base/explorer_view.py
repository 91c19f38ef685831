"""The screen of an explorer: controls on the left, its picture on the right, one sentence below."""

from __future__ import annotations

from threading import get_ident
from typing import Any

import ipywidgets as w

from rwp_edu.lab.base.controls import STYLE, Chips, Control, Maker, headed, toggled
from rwp_edu.lab.base.event_loop import POINTER, Live, complaint
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.lab.base.figure_view import FigureView
from rwp_edu.plotting import figures
from rwp_edu.training.run import one_thread

HAND = 0.1  # seconds of rest before long work follows a move of the hand
DRAW_EVERY = 0.1  # seconds between two pictures of work in progress, at least
WIDTH = {"width": "306px"}


class ExplorerScreen(Live):
    """Widgets of an ``Explorer``."""

    LOOKS, POINTED = ("hovered",), ("surface",)

    def __init__(self, owner: Explorer):
        super().__init__(owner)
        self._more = False
        self._works = type(owner).work is not Explorer.work
        self.make = Maker()
        make, rows = self.make, owner.rows
        self.controls: dict[str, Control] = {}
        self.choice = self._buttons(rows[owner.CHOICE]) if owner.CHOICE else None
        self.chips = Chips(self.store, make) if hasattr(owner.state, "methods") else None
        label, icon, tip = owner.AGAIN
        self.again = make.Button(description=label, icon=icon, tooltip=tip, layout=WIDTH)
        self.again.on_click(lambda _: self.store(owner.SEED, self.owner.next_seed))
        self.figure = make.widget(FigureView, self.from_page)
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

    def apply(self, name: str, value: Any) -> None:
        if name in POINTER.values():
            getattr(self.owner, name)(*value)
        elif name == "toggle":
            self.owner.set(methods=toggled(self.owner.state.methods, *value))
        else:
            self.owner.set(**{name: value})

    def turn(self) -> float | None:
        """What was asked for is shown at once; what takes long follows in later frames."""
        asked = self.obey()
        if asked:
            self._next_draw = 0.0
        with one_thread():
            more = self._works if asked and not self.figure.wait else self.owner.work()
            self.due |= asked or more or self._more
            self._more = more
            self.draw_in_time(more, DRAW_EVERY)
        if more:
            return HAND if asked else self.owner.pause
        return self.figure.wait or None

    def end(self) -> None:
        self.owner.ended()
        super().end()

    def draw(self) -> None:
        """Bring the figure, which the eye is on, and then every widget in line with the state."""
        owner, state = self.owner, self.owner.state
        self.figure.show(owner.traces(), {**figures.PLAIN, **owner.layout(), "meta": self.shown_values()})
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
        self.due = False
