"""Lines, dots, error bars and axes as plain dictionaries for plotly, shared by explorers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rwp_edu.curvature import Estimate
from rwp_edu.plotting import figures

AXIS = {"gridcolor": figures.FAINT, "zeroline": False, "fixedrange": True, "showline": True, "linecolor": figures.FAINT}
LOG = {**AXIS, "type": "log", "exponentformat": "power", "dtick": 1, "tickfont": {"size": 10}}  # powers get a quarter larger


def round_numbers(low: float, high: float, least: int = 3) -> list[float]:
    """Return round numbers between 10^low and 10^high for the ticks of a logarithmic axis, ``least`` or more: powers of ten, also 2 and
    5 times these, more digits; where the axis spans less, evenly spaced ones.

    >>> round_numbers(-2, 0), round_numbers(-0.1, 0.1)
    ([0.01, 0.1, 1.0], [0.8, 0.9, 1.0])
    >>> round_numbers(-0.92, -0.9)
    [0.121, 0.122, 0.123, 0.124, 0.125]
    """
    powers, ends = range(math.floor(low), math.ceil(high) + 1), (10.0**low, 10.0**high)
    for leads in ((1,), (1, 2, 5), (1, 2, 3, 5, 7), range(1, 10)):
        found = [float(f"{lead}e{power}") for power in powers for lead in leads]
        found = [v for v in found if ends[0] <= v <= ends[1]]
        if len(found) >= least:
            return found
    power = math.ceil(math.log10(ends[1] - ends[0]))
    for step in (float(f"{lead}e{power - down}") for down in range(1, 5) for lead in (5, 2, 1)):
        count = math.floor(ends[1] / step) - math.ceil(ends[0] / step) + 1
        if count >= least:
            break
    return [float(f"{step * n:.12g}") for n in range(math.ceil(ends[0] / step), math.floor(ends[1] / step) + 1)]


def titled(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 4}}


def heads(*rows: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Titles of panels as annotations: a text, where it begins across and, if that is not the top, above which height it stands."""
    return [
        {"text": f"<b>{text}</b>", "showarrow": False, "xref": "paper", "yref": "paper", "x": x, "y": y[0] if y else 1, "xanchor": "left",
         "yanchor": "bottom", "font": {"size": 13}} for text, x, *y in rows
    ]  # fmt: skip


def line(x: Any, y: Any, name: str, colour: str, dash: str = "solid", panel: str = "", **more: Any) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": {"color": colour, "width": 2.2, "dash": dash},
        "hoverinfo": "name", "xaxis": f"x{panel}", "yaxis": f"y{panel}", **more,
    }  # fmt: skip


def dots(
    x: Any, y: Any, name: str, colour: str, symbol: Any = "circle", size: int = 9, panel: str = "", **more: Any
) -> dict[str, Any]:
    marker = {"symbol": symbol, "color": colour, "size": size, "line": {"width": 2, "color": colour}}
    return {
        "type": "scatter", "mode": "markers", "x": x, "y": y, "name": name, "marker": marker, "hoverinfo": "name+x+y",
        "xaxis": f"x{panel}", "yaxis": f"y{panel}", **more,
    }  # fmt: skip


def bars(x: Sequence[float], estimates: Sequence[Estimate], colour: str, floor: float, panel: str = "") -> dict[str, Any]:
    """Sizes of estimates with two standard errors up and down, as one line with gaps: a live screen can move it, and a logarithmic
    axis can show it, as nothing falls below ``floor``."""
    across = [part for s in x for part in (s, s, None)]
    ends = [sign * 2 * e.error + abs(e.value) if sign else None for e in estimates for sign in (-1, 1, 0)]
    up = [end if end is None else max(end, floor) for end in ends]
    return {**line(across, up, "± 2 s.e.", colour, panel=panel), "line": {"color": colour, "width": 1.4}, "showlegend": False,
            "hoverinfo": "skip"}  # fmt: skip
