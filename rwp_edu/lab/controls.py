"""Controls made from rows of the tables of parameters, and the style they share with every screen."""

from __future__ import annotations

import math
from typing import Any

import ipywidgets as w

from rwp_edu.parameters import Parameter

STYLE = """<style>
.rwp-lab .main-svg text {fill: var(--jp-ui-font-color1, #7d7d7d) !important}
.rwp-lab .main-svg .xgrid, .rwp-lab .main-svg .ygrid {stroke: var(--jp-border-color2, #8885) !important}
.rwp-lab .hoverlayer text {fill: #fff !important}
.rwp-lab .modebar {display: none !important}
.rwp-lab {font-variant-numeric: tabular-nums}
.rwp-lab .rwp-head {display: flex; justify-content: space-between; line-height: 1.35; font-size: 12px; color: var(--jp-ui-font-color1)}
.rwp-lab .rwp-why {color: var(--jp-ui-font-color2); font-style: italic}
.rwp-lab .widget-readout {width: 56px; min-width: 56px; margin: 0 0 0 8px}
.rwp-lab .slider-container {margin: 0 8px}
.rwp-lab .rwp-ticks {position: relative; height: 15px; margin: -5px 72px 0 8px; font-size: 10px; color: var(--jp-ui-font-color2)}
.rwp-lab .rwp-ticks span {position: absolute; transform: translateX(-50%); white-space: nowrap; line-height: 12px}
.rwp-lab .rwp-ticks span.start {transform: none}
.rwp-lab .rwp-ticks span.end {transform: translateX(-100%)}
.rwp-lab .rwp-says {font-size: 14px; line-height: 1.4; color: var(--jp-ui-font-color1); min-height: 2.8em}
.rwp-lab .rwp-status {font-size: 12px; line-height: 1.4; color: var(--jp-ui-font-color2)}
.rwp-lab .rwp-status.error {color: var(--jp-error-color1, #d32f2f); font-weight: bold}
.rwp-lab .rwp-question {font-size: 13px; line-height: 1.4; color: var(--jp-ui-font-color1)}
.rwp-lab .rwp-counts {font-size: 12px; line-height: 30px; white-space: nowrap; color: var(--jp-ui-font-color1)}
.rwp-lab .rwp-chip {margin: 0 8px 0 0}
.rwp-lab .rwp-chip .widget-toggle-button {padding: 0 8px; opacity: 0.55}
.rwp-lab .rwp-chip .widget-toggle-button.mod-active {opacity: 1}
</style>"""


def headed(text: str) -> str:
    """A sentence under a picture."""
    return f"<div class='rwp-says'>{text}</div>"


def _ticks(row: Parameter) -> str:
    """Labels under a slider, at the places of their values."""

    def place(value: float) -> float:
        low, high = row.slider
        if row.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return 100 * (value - low) / (high - low)

    def span(value: float, text: str) -> str:
        at = place(value)
        kind = "end" if at > 85 else "start" if at < 15 else "mid"
        return f'<span class="{kind}" style="left:{at:.1f}%">{text}</span>'

    return f'<div class="rwp-ticks">{"".join(span(*tick) for tick in row.ticks)}</div>'


class Control:
    """One parameter on the screen: a head with symbol, name and, if it has no effect now, why; the input; labelled ticks."""

    def __init__(self, row: Parameter, value: Any, store):
        self.row = row
        self.head = w.HTML(layout={"margin": "2px 2px 0 2px"})
        self.input = self._input(row, value)
        self.input.observe(lambda change: store(row.name, self._plain(change["new"])), names="value")
        parts = [self.head, self.input, *([w.HTML(_ticks(row), layout={"margin": "0"})] if row.ticks else [])]
        self.box = w.VBox(parts, layout={"overflow": "hidden", "flex": "0 0 auto"})
        self.explain("")

    @staticmethod
    def _plain(value: Any) -> Any:
        """Sliders count in binary steps: 0.9000000000000001 means 0.9."""
        return float(f"{value:.4g}") if isinstance(value, float) else value

    @staticmethod
    def _input(row: Parameter, value: Any) -> w.Widget:
        common = {"value": value, "tooltip": f"{row.meaning}; {row.allowed}", "layout": {"width": "100%", "margin": "0"}}
        if row.choices:
            return w.Dropdown(options=row.choices, **common)
        if row.name == "seed":
            return w.BoundedIntText(min=0, max=2**31, **common)
        low, high = row.slider
        if row.log:
            return w.FloatLogSlider(min=math.log10(low), max=math.log10(high), step=0.05, readout_format=".3g", **common)
        if row.type is int:
            return w.IntSlider(min=int(low), max=max(int(high), value), step=int(row.step), **common)
        return w.FloatSlider(min=low, max=max(high, value), step=row.step, readout_format=".3g", **common)

    def explain(self, why: str, off: bool = False) -> None:
        """Say why the control has no effect now; one that is ``off`` is dimmed too."""
        symbol = f"<i>{self.row.symbol}</i>&nbsp; " if self.row.symbol else ""
        text = f"<span>{symbol}{self.row.title}</span><span class='rwp-why'>{why}</span>"
        if text not in self.head.value:
            self.head.value = f"<div class='rwp-head' title='{self.row.meaning}'>{text}</div>"
        self.input.disabled = off

    def show(self, value: Any) -> None:
        if isinstance(self.input, (w.IntSlider, w.FloatSlider)) and value > self.input.max:
            self.input.max = value
        if self._plain(self.input.value) != value:  # else a correction in the 16th digit would fight the hand on the slider
            self.input.value = value
