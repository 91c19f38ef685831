"""Records to plotly figures: pure functions, no widgets.

A picture is plain dictionaries (``traces``, ``layout``): a live screen updates its arrays, ``race`` makes a figure of them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from rwp_edu import methods
from rwp_edu.problems import Metric
from rwp_edu.training import Mark, Record
from rwp_edu.training.settings import COMMON, Entrant, Settings

# Okabe and Ito's colours (legible with colour-blindness), lightened where a dark background asks for it.
LOOKS: dict[str, tuple[str, str]] = {
    "sgd": ("#8a8a8a", "solid"),
    "sam": ("#D55E00", "dash"),
    "rwp": ("#2E8BC9", "solid"),
    "m-rwp": ("#009E73", "dashdot"),
    "nso": ("#CC79A7", "dot"),
    "arwp": ("#56B4E9", "dash"),
    "m-arwp": ("#44AA99", "dot"),
    "a-rwp": ("#9A7BD9", "solid"),
    "lpf-sgd": ("#6699CC", "dot"),
    "usam": ("#D55E00", "dot"),
    "asam": ("#E69F00", "solid"),
    "fsam": ("#E69F00", "dash"),
    "gsam": ("#B58900", "dashdot"),
    "rsam": ("#C2554D", "solid"),
    "bsam": ("#A05195", "dash"),
}
SPARE = ("#8a8a8a", "longdash")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

X_AXES = {
    "updates": "updates",
    "gradients": "gradient evaluations per run",
    "seconds": "seconds (share of the race)",
    "loss": "training loss",
}
FALL = 6  # powers of ten that a logarithmic range may grow by
ROW, ROWS, LETTER = 0.09, 10, 0.03  # labels of marks: height of a row, rows, and width of a letter in a narrow panel, as parts of a panel
INK, FAINT = "#7d7d7d", "rgba(128,128,128,0.22)"
# What every figure has, readable on light and dark.
TEMPLATE = {"layout": {"xaxis": {"automargin": True}, "yaxis": {"automargin": True}, "hoverlabel": {"align": "left"}}}
PLAIN: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": INK, "size": 12},
    "template": TEMPLATE,
}


def looks(entrants: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Return colour and dash of every entrant: the colour of its method, and the next dash that no earlier entrant of that colour has.

    The looks of the first entrants do not depend on those that follow.
    """
    given: dict[str, tuple[str, str]] = {}
    for name in entrants:
        colour, first = LOOKS.get(Entrant.parse(name).method, SPARE)
        turn = DASHES.index(first)
        order = [(colour, dash) for dash in (*DASHES[turn:], *DASHES[:turn])]
        given.setdefault(name, next((look for look in order if look not in given.values()), order[0]))
    return given


def look(name: str, entrants: tuple[str, ...]) -> tuple[str, str]:
    """Return colour and dash of an entrant beside ``entrants``; one that is not among them comes after them."""
    return looks((*entrants, name))[name]


def swatch(look: tuple[str, str]) -> str:
    """Return a line with this colour and dash as a small SVG."""
    colour, dash = look
    gaps = {"solid": "", "dash": "7 4", "dot": "2 4", "dashdot": "7 3 2 3", "longdash": "11 4", "longdashdot": "11 3 2 3"}[dash]
    return (
        f'<svg width="26" height="10" aria-hidden="true"><line x1="0" y1="5" x2="26" y2="5" stroke="{colour}" '
        f'stroke-width="3.5" stroke-dasharray="{gaps}"/></svg>'
    )


def _rgba(colour: str, alpha: float) -> str:
    return f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:], 16)},{alpha})"


def smooth(y: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average over records (axis 0), started at the first."""
    if not weight:
        return y
    out = y.copy()
    for t in range(1, len(y)):
        out[t] = weight * out[t - 1] + (1 - weight) * y[t]
    return out


def _x(record: Record, axis: str, e: int) -> np.ndarray:
    return {
        "updates": record.updates,
        "gradients": record.gradient_evaluations[:, e],
        "seconds": record.seconds[:, e],
        "loss": getattr(record, record.problem.metrics[1].name)[:, e].mean(-1),
    }[axis].astype(float)


def _band(values: np.ndarray, metric: Metric, smoothing: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds (axis 1 of ``values``, records or places on axis 0), and one standard deviation below and above it; of the
    logarithms where the axis is logarithmic."""
    if metric.log:
        values = np.log10(np.maximum(values, 10.0 ** (metric.first[0] - FALL - 1)))
    mean = values.mean(1)
    spread = values.std(1, ddof=1) if values.shape[1] > 1 else np.zeros_like(mean)
    mean, spread = smooth(mean, smoothing), smooth(spread, smoothing)
    band = mean, mean - spread, mean + spread
    return tuple(10**part for part in band) if metric.log else band


def _curve(record: Record, metric: Metric, e: int, x: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of entrant ``e``: the places (N,) on the horizontal axis, the values (N, S) there and the updates (N,), where all seeds have a value."""
    if metric.across:
        values = record.profiles[metric.name][e].T * metric.unit
        across = updates = np.arange(1, len(values) + 1)
    else:
        values, across, updates = getattr(record, metric.name)[:, e] * metric.unit, _x(record, x, e), record.updates
    there = np.isfinite(values).all(1)
    return across[there], values[there], updates[there]


def merged(marks: list[Mark]) -> list[Mark]:
    """Return one mark for every gesture, at the update of its last change; a gesture that ends where it began leaves none."""
    out: dict[Any, Mark] = {}
    for number, mark in enumerate(marks):
        key = ("alone", number) if mark.gesture is None else (mark.name, mark.gesture)
        out[key] = dataclasses.replace(mark, old=out.get(key, mark).old)
    return [mark for mark in out.values() if mark.old != mark.new]


def mark_text(mark: Mark) -> str:
    def short(value: Any) -> str:
        return f"{value:g}" if isinstance(value, (int, float)) else str(value)

    return f"{COMMON[mark.name].symbol or mark.name} {short(mark.old)} → {short(mark.new)}"


def mark_labels(marks: list[Mark], far: float) -> list[tuple[str, int, int, str]]:
    """Return text, update, row and anchor of the labels of marks on an axis from 0 to ``far``. Each is in the lowest row in which it
    is free; where no row is free a mark has no label (its markers tell on hover)."""
    taken: list[list[tuple[float, float]]] = [[] for _ in range(ROWS)]
    out = []
    for mark in marks:
        text = mark_text(mark)
        width = LETTER * far * (len(text) + 1)
        left = mark.update if mark.update + width <= far or mark.update < far / 2 else mark.update - width
        free = (row for row, spans in enumerate(taken) if all(left >= end or left + width <= begin for begin, end in spans))
        row = next(free, None)
        if row is not None:
            taken[row].append((left, left + width))
            out.append((text, mark.update, row, "left" if left == mark.update else "right"))
    return out


def _acts_on(mark: Mark, entrant: Entrant, settings: Settings) -> bool:
    training = mark.name not in methods.PARAMETERS
    return (training or mark.name in methods.get(entrant.method).parameters) and mark.name not in settings.pins(entrant)


def panels(record: Record, third: str = "") -> list[Metric]:
    """What the four panels show; ``third`` may be a metric of flatness, where the problem has one of that name."""
    names = list(record.problem.panels)
    if third in {metric.name for metric in record.problem.flatness}:
        names[2] = third
    return [record.problem.metric(name) for name in names]


def traces(
    record: Record,
    x: str = "updates",
    smoothing: float = 0.0,
    shown: tuple[str, ...] | None = None,
    ghost: Record | None = None,
    third: str = "",
) -> list[dict]:
    """Per panel: for each entrant its former run (faint), the band of one standard deviation over seeds and the mean, then
    marks. The number and order of traces depend on the entrants only, so a live screen may update the arrays in place."""
    shown = record.entrants if shown is None else shown
    marks, lines = merged(record.marks), looks(record.entrants)
    out = []
    for number, metric in enumerate(panels(record, third), 1):
        axes = {"xaxis": f"x{number}", "yaxis": f"y{number}"} if number > 1 else {}
        points: dict[str, list] = {"x": [], "y": [], "symbol": [], "color": [], "text": []}
        for e, entrant in enumerate(record.entrants):
            colour, dash = lines[entrant]
            label = Entrant.parse(entrant).label
            common = {"type": "scatter", "mode": "lines", "legendgroup": entrant, "visible": entrant in shown, **axes}
            former: dict[str, Any] = {"x": [], "y": []}
            if ghost is not None and entrant in ghost.entrants:
                before, values, _ = _curve(ghost, metric, ghost.entrants.index(entrant), x)
                former = {"x": before, "y": _band(values, metric, smoothing)[0]}
            across, values, updates = _curve(record, metric, e, x)
            mean, low, high = _band(values, metric, smoothing)
            out += [
                {**common, **former, "line": {"color": _rgba(colour, 0.45), "width": 1.2, "dash": "dot"},
                 "name": f"{label}, former run", "showlegend": False, "hoverinfo": "skip"},
                {**common, "x": np.concatenate([across, across[::-1]]), "y": np.concatenate([high, low[::-1]]),
                 "fill": "toself", "fillcolor": _rgba(colour, 0.13), "line": {"width": 0}, "name": f"{label}, ±1 sd",
                 "showlegend": False, "hoverinfo": "skip"},
                {**common, "x": across, "y": mean, "line": {"color": colour, "width": 2.2, "dash": dash}, "name": label,
                 "showlegend": number == 1},
            ]  # fmt: skip
            if entrant in shown and len(across) and not metric.across:
                where = [
                    (m.update, "diamond-open", mark_text(m))
                    for m in marks
                    if _acts_on(m, Entrant.parse(entrant), record.settings)
                ]
                ended = record.diverged[e][record.diverged[e] >= 0]
                where += (
                    [(ended.max(), "x", f"{label}: {len(ended)} of {record.settings.seeds} runs diverged")]
                    if len(ended)
                    else []
                )
                for update, symbol, text in where:
                    points["x"].append(np.interp(update, updates, across))
                    points["y"].append(np.interp(update, updates, mean))
                    points["symbol"].append(symbol)
                    points["color"].append(colour)
                    points["text"].append(text)
        out += [_truth(record, metric, axes), {
            "type": "scatter", "mode": "markers", "x": points["x"], "y": points["y"], "text": points["text"], "hoverinfo": "text",
            "marker": {"symbol": points["symbol"], "color": points["color"], "size": 9, "line": {"width": 2}},
            "showlegend": False, "name": "changes", **axes,
        }]  # fmt: skip
    return out


def _truth(record: Record, metric: Metric, axes: dict[str, str]) -> dict:
    """A grey line at what the truth has, the mean over seeds; empty where there is none."""
    x, y = [], []
    if metric.name in record.reference:
        y = metric.unit * record.reference[metric.name].mean(0)
        x = np.arange(1, len(y) + 1) if metric.across else np.array([0.0, 1e9])
        y = np.broadcast_to(y, x.shape)
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": {"color": INK, "width": 1.2, "dash": "dash"}, "name": "truth",
            "hoverinfo": "name", "showlegend": False, **axes}  # fmt: skip


def _range(record: Record, metric: Metric, shown: tuple[str, ...], ghost: Record | None) -> list[float]:
    """A range that only grows: it starts wide enough for the usual run and takes in what the curves need after the first
    tenth of the run (the fall from the untrained network would flatten everything else)."""
    low, high, step = metric.first
    if metric.across:
        return [low, high]
    for rec in (record, ghost):
        for e, entrant in enumerate(rec.entrants if rec else ()):
            across, values, _ = _curve(rec, metric, e, "updates")
            late = values[across >= 0.1 * rec.settings.steps]
            if entrant in shown and late.size:
                _, below, above = (np.log10(part) if metric.log else part for part in _band(late, metric))
                low = np.nanmin([low, np.nanmin(below, initial=low)])
                high = np.nanmax([high, np.nanmax(above, initial=high)])
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    if metric.log:
        return [max(low, metric.first[0] - FALL), min(high, metric.first[1] + FALL)]
    return [max(low, 0.0), min(high, 100.0) if metric.unit == 100 else min(high, 10 * metric.first[1])]


def layout(
    record: Record,
    x: str = "updates",
    shown: tuple[str, ...] | None = None,
    ghost: Record | None = None,
    third: str = "",
    height: int = 560,
) -> dict:
    """Four panels with ranges that never jump, readable on light and dark."""
    shown = record.entrants if shown is None else shown
    rows = [e for e, entrant in enumerate(record.entrants) if entrant in shown] or [0]
    if x == "seconds":
        end = max(float(record.seconds[-1, rows].max()), 0.05)
        far = 2.0 ** math.ceil(math.log2(end))
    elif x == "loss":
        losses = getattr(record, record.problem.metrics[1].name)[:, rows].mean(-1)
        far = math.ceil(4 * float(np.nanmax(losses))) / 4
    else:
        far = record.settings.steps
        if x == "gradients":
            far = max(_gradients_in_all(record, e) for e in rows)
    out: dict[str, Any] = {
        "height": height,
        "margin": {"l": 44, "r": 14, "t": 30, "b": 42},
        **PLAIN,
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.12, "x": 0},
        "uirevision": x,
        "annotations": [],
        "shapes": [],
    }
    metrics = panels(record, third)
    for number, metric in enumerate(metrics, 1):
        suffix = str(number) if number > 1 else ""
        left, top = number % 2 == 1, number <= 2
        line = {"gridcolor": FAINT, "zeroline": False, "linecolor": FAINT, "showline": True}
        title = metric.across or ("" if top else record.problem.metrics[1].title if x == "loss" else X_AXES[x])
        last = len(record.profiles[metric.name][0, 0]) if metric.across else far
        out[f"xaxis{suffix}"] = {
            **line, "domain": [0, 0.47] if left else [0.53, 1], "anchor": f"y{suffix}",
            "range": [0.5, last + 0.5] if metric.across else [0, last], **({"title": {"text": title, "standoff": 6}} if title else {}),
        }  # fmt: skip
        out[f"yaxis{suffix}"] = {
            **line, "domain": [0.56, 1] if top else [0, 0.44], "anchor": f"x{suffix}",
            "range": _range(record, metric, shown, ghost), **({"type": "log", "exponentformat": "power", "dtick": 1} if metric.log else {}),
        }  # fmt: skip
        out["annotations"].append(
            {"text": f"<b>{metric.title}</b>{' (dashed: the truth)' * (metric.name in record.reference)}", "showarrow": False, "xref": "paper", "yref": "paper", "x": 0 if left else 0.53,
             "y": 1.0 if top else 0.44, "xanchor": "left", "yanchor": "bottom", "font": {"size": 13}}
        )  # fmt: skip
    if x == "updates":
        over_time = [str(number) if number > 1 else "" for number, metric in enumerate(metrics, 1) if not metric.across]
        marks = merged(record.marks)
        for mark in marks:
            for suffix in over_time:
                out["shapes"].append(
                    {"type": "line", "xref": f"x{suffix}", "yref": f"y{suffix} domain", "x0": mark.update, "x1": mark.update,
                     "y0": 0, "y1": 1, "line": {"color": INK, "width": 1, "dash": "dot"}}
                )  # fmt: skip
        for text, at, row, anchor in mark_labels(marks, far):
            out["annotations"].append(
                {"text": text, "showarrow": False, "x": at, "xref": "x", "yref": "y domain", "y": 0.02 + ROW * row, "xanchor": anchor,
                 "yanchor": "bottom", "font": {"size": 11}}
            )  # fmt: skip
    return out


def _gradients_in_all(record: Record, e: int) -> float:
    """Of entrant ``e`` at the end of the run, if it goes on as it does now; of one that has diverged, if it had gone on."""
    entrant, ended = Entrant.parse(record.entrants[e]), record.diverged[e]
    moved = [mark.new for mark in record.marks if mark.name == "k" and "k" not in record.settings.pins(entrant)]
    per_update = methods.get(entrant.method).cost(k=(moved or [record.settings.of(entrant)["k"]])[-1]).work
    done = ended.max() if (ended >= 0).all() else record.updates[-1]
    return float(record.gradient_evaluations[-1, e] + (record.settings.steps - done) * per_update)


def race(record: Record, **options: Any):
    """The four panels of a race as a plotly figure; options are those of ``traces`` and ``layout``."""
    import plotly.graph_objects as go

    of_layout = {key: value for key, value in options.items() if key in ("x", "shown", "ghost", "third", "height")}
    of_traces = {key: value for key, value in options.items() if key != "height"}
    return go.Figure(data=traces(record, **of_traces), layout=layout(record, **of_layout))
