"""Controls made from rows of the tables of parameters, and the style they share with every screen."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakSet

import ipywidgets as w
import numpy as np

from rwp_edu import methods
from rwp_edu.plotting import figures
from rwp_edu.training.settings import Entrant
from rwp_edu.utils.parameters import Parameter

STYLE = """<style>
.rwp-lab .main-svg text {fill: var(--jp-ui-font-color1, #7d7d7d) !important}
.rwp-lab .main-svg .gridlayer path {stroke: var(--jp-border-color2, #8885) !important; stroke-opacity: 1 !important}
.rwp-lab .hoverlayer text {fill: #fff !important}
.rwp-lab .modebar {display: none !important}
.rwp-lab {font-variant-numeric: tabular-nums}
.rwp-lab .rwp-head {display: flex; justify-content: space-between; line-height: 1.35; font-size: 12px; color: var(--jp-ui-font-color1)}
.rwp-lab .rwp-why {color: var(--jp-ui-font-color2); font-style: italic}
.rwp-lab .widget-readout {width: 64px; min-width: 64px; margin: 0 0 0 8px}
.rwp-lab .slider-container {margin: 0 8px}
.rwp-lab .rwp-ticks {position: relative; height: 15px; margin: -5px 80px 0 8px; font-size: 10px; color: var(--jp-ui-font-color2)}
.rwp-lab .rwp-ticks.tall {height: 27px}
.rwp-lab .rwp-ticks span {position: absolute; transform: translateX(-50%); white-space: nowrap; line-height: 12px}
.rwp-lab .rwp-ticks span.start {transform: none}
.rwp-lab .rwp-ticks span.end {transform: translateX(-100%)}
.rwp-lab .rwp-says {font-size: 14px; line-height: 1.4; color: var(--jp-ui-font-color1); min-height: 2.8em}
.rwp-lab .rwp-status {font-size: 12px; line-height: 1.4; color: var(--jp-ui-font-color2)}
.rwp-lab .rwp-status.error {color: var(--jp-error-color1, #d32f2f); font-weight: bold}
.rwp-lab .rwp-question {font-size: 13px; line-height: 1.4; color: var(--jp-ui-font-color1)}
.rwp-lab .rwp-counts {font-size: 12px; line-height: 30px; white-space: nowrap; color: var(--jp-ui-font-color1)}
.rwp-lab .rwp-chip {margin: 0 8px 0 0}
.rwp-lab .rwp-chip .widget-toggle-button {padding: 0 8px; opacity: 0.65}
.rwp-lab .rwp-chip .widget-toggle-button.mod-active {opacity: 1}
.rwp-lab .jupyter-widgets-disconnected::before {content: none}
.rwp-lab.jupyter-widgets-disconnected::before {content: "No kernel answers this lab: run this cell again."; display: block; padding: 8px;
  font: bold 14px var(--jp-ui-font-family); color: var(--jp-ui-font-color1); background: var(--jp-warn-color3, #ffe0b2); width: auto; height: auto}
</style>"""


class Maker:
    """Makes the widgets of one screen, ``make.HTML(...)``; those that look alike share their layout and their style.

    Each of these is a model of its own, and a page that is loaded again gives the kernel four seconds to tell of all of them.
    A widget whose layout will change gets one of its own: ``layout=w.Layout(...)``.
    """

    def __init__(self) -> None:
        self._shared: dict[tuple, w.Widget] = {}
        self._made: WeakSet[w.Widget] = WeakSet()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._make, getattr(w, name))

    def widget(self, kind: type[w.DOMWidget], *content: Any, **traits: Any) -> w.DOMWidget:
        """A widget that is not one of ipywidgets."""
        return self._make(kind, *content, **traits)

    def _make(self, kind: type[w.DOMWidget], *content: Any, layout: Any = None, style: Any = None, **traits: Any) -> w.DOMWidget:
        if isinstance(layout, w.Layout):
            self._made.add(layout)
        else:
            layout = self._share(w.Layout, layout or {})
        if hasattr(kind, "style"):
            traits["style"] = self._share(kind.style.klass, style or {})
        widget = kind(*content, layout=layout, **traits)
        self._made.add(widget)
        return widget

    def _share(self, kind: type[w.Widget], values: dict[str, str]) -> w.Widget:
        key = kind, *sorted(values.items())
        if key not in self._shared:
            self._shared[key] = kind(**values)
        return self._shared[key]

    def close(self) -> None:
        """Give all of them back."""
        for widget in (*self._made, *self._shared.values()):
            widget.close()


def headed(text: str) -> str:
    """A sentence under a picture."""
    return f"<div class='rwp-says'>{text}</div>"


LETTER = 2.75  # per cent of a narrow slider that a letter of a label takes


def _ticks(row: Parameter, values: Sequence[float] = ()) -> str:
    """Labels under a slider at the places of their values, in two lines where one is too short; the slider has as much room between any
    two neighbours of ``values``."""
    values = values or row.grid
    taken, spans = [-math.inf, -math.inf], []  # how far each of the two lines is written
    for value, text in sorted(row.ticks):
        at = 100 * float(np.interp(value, values, range(len(values)))) / max(1, len(values) - 1)
        width = LETTER * len(text)
        kind, left = ("start", at) if at < width / 2 else ("end", at - width) if at > 100 - width / 2 else ("mid", at - width / 2)
        line = int(left < taken[0])
        taken[line] = left + width
        spans.append(f'<span class="{kind}" style="left:{at:.1f}%;top:{12 * line}px">{text}</span>')
    tall = " tall" * (taken[1] > -math.inf)
    return f'<div class="rwp-ticks{tall}">{"".join(spans)}</div>'


def plain(value: Any) -> Any:
    """Sliders count in binary steps: 0.9000000000000001 means 0.9."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def toggled(chosen: tuple[str, ...], name: str, on: bool) -> tuple[str, ...]:
    """With or without ``name``, which comes last."""
    return tuple(other for other in chosen if other != name) + ((name,) if on else ())


def readout(value: float) -> str:
    """What a slider shows of a value: all of its digits, up to seven."""
    return f"{value:.7g}"


def _places(row: Parameter, value: float) -> tuple[float, ...]:
    """The values of a slider that shows ``value``: those of the row, its ticks that are short decimals, and this one."""
    (low, high), kind = row.slider, row.type
    ticks = {kind(tick) for tick, _ in row.ticks if low <= tick <= high and float(f"{tick:.3g}") == tick}
    return tuple(sorted({*row.grid, *ticks, value}))


class Control:
    """One parameter on the screen: a head with symbol, name and, if it has no effect now, why; the input; labelled ticks."""

    def __init__(self, row: Parameter, value: Any, store: Any, make: Maker, **layout: str):
        self.store, self.make = store, make
        self.head = make.HTML(layout={"margin": "2px 2px 0 2px"})
        self.ticks: w.HTML | None = None
        self.box = make.VBox(layout={"overflow": "hidden", "flex": "0 0 auto", **layout})
        self._build(row, value)
        self.explain("")

    def _build(self, row: Parameter, value: Any) -> None:
        self.row, self.value, self.places = row, value, ()
        self.input = self._input(row, value)
        self.input.observe(lambda change: self._moved(change["new"]), names="value")
        self._tick()

    def _input(self, row: Parameter, value: Any) -> w.Widget:
        common = {"value": value, "tooltip": f"{row.meaning}; {row.allowed}", "layout": {"width": "100%", "margin": "0"}}
        make = self.make
        if row.choices:
            return make.Dropdown(options=row.options, **common)
        if row.type is str:
            return make.Text(continuous_update=False, placeholder="none", **common)
        if row.name == "seed":
            return make.BoundedIntText(min=0, max=2**31, **common)
        self.places = _places(row, value)
        return make.SelectionSlider(options=[(readout(v), v) for v in self.places], **common)

    def _moved(self, value: Any) -> None:
        if value != self.value:
            self.value = value
            self.store(self.row.name, value)

    def explain(self, why: str, off: bool = False) -> None:
        """Say why the control has no effect now; one that is ``off`` is dimmed too."""
        symbol = f"<i>{self.row.symbol}</i>&nbsp; " if self.row.symbol else ""
        text = f"<span>{symbol}{self.row.title}</span><span class='rwp-why'>{why}</span>"
        if text not in self.head.value:
            self.head.value = f"<div class='rwp-head' title='{html.escape(self.row.meaning)}'>{text}</div>"
        self.input.disabled = off

    def _tick(self) -> None:
        row = self.row
        if row.ticks and self.ticks is None:
            self.ticks = self.make.HTML(layout={"margin": "0"})
        if self.ticks is not None:
            self.ticks.value = _ticks(row, self.places) if row.ticks else ""
        shown = (self.head, self.input, *([self.ticks] if row.ticks else []))
        if self.box.children != shown:
            self.box.children = shown

    def show(self, value: Any, row: Parameter | None = None) -> None:
        """Show a value and, with a ``row``, the bounds and ticks that have moved with the rest of the figure.

        Other values need another slider: a front end answers new options with the old place.
        """
        row, before, changed = row or self.row, self.row, value != self.value
        other = (row.options, row.slider, row.step, row.values) != (before.options, before.slider, before.step, before.values)
        if other or self.places and value not in self.places:
            former = self.input
            former.unobserve_all()
            self._build(row, value)
            former.close()
            return
        self.row, self.value = row, value
        if changed or self.input.value != value:
            self.input.value = value
        if row.ticks != before.ticks:
            self._tick()


class Chip:
    """A toggle for an entrant, with its line and its cost."""

    def __init__(self, name: str, store: Any, make: Maker):
        self.entrant = Entrant.parse(name)
        self.toggle, self.line = make.ToggleButton(layout={"width": "auto"}), make.HTML(layout={"margin": "2px 0 2px 6px"})
        self.box = make.HBox([self.line, self.toggle], layout={"align_items": "center"})
        self.box.add_class("rwp-chip")
        self.toggle.observe(lambda change: store("toggle", (name, change["new"])), names="value")

    def tell(self, look: tuple[str, str], k: int) -> None:
        """Show the line, the label and the cost."""
        row = methods.get(self.entrant.method)
        cost = row.cost(k=self.entrant.pins.get("k", k))
        together = " at once" if cost.rounds == 1 and cost.points > 1 else " one after another" if cost.rounds > 1 else ""
        self.toggle.tooltip = f"{row.formula}: {cost.work} gradient{'s' * (cost.work > 1)} per update{together}"
        self.toggle.description = f"{self.entrant.label}  {cost}"
        self.line.value = figures.swatch(look)


class Chips:
    """A chip per method of the table and per entrant with values of its own; a chip is kept, so that a click leaves the focus where it is."""

    def __init__(self, store: Any, make: Maker):
        self.store, self.make = store, make
        self.box = make.HBox(layout={"flex_flow": "row wrap", "margin": "0"})
        self._kept: dict[str, Chip] = {}
        self._told: tuple | None = None

    def show(self, state: Any, also: tuple[str, ...] = ()) -> None:
        """``state`` has the chosen ``methods`` and k; entrants in ``also`` have a chip too, and the first looks, as those of a record
        have in its figure."""
        names = tuple(dict.fromkeys((*methods.METHODS, *state.methods, *also)))
        looks = figures.looks((*also, *state.methods, *methods.METHODS))
        if (names, looks, state.k) != self._told:
            self._told = names, looks, state.k
            for name in names:
                if name not in self._kept:
                    self._kept[name] = Chip(name, self.store, self.make)
                self._kept[name].tell(looks[name], state.k)
            self.box.children = [self._kept[name].box for name in names]
        for name in names:
            self._kept[name].toggle.value = name in state.methods
