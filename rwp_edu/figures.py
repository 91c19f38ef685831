"""Records to plotly figures: pure functions, no widgets.

A picture is plain dictionaries (``traces``, ``layout``): a live screen updates its arrays, ``race`` makes a figure of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rwp_edu import methods
from rwp_edu.settings import PARAMETERS, Entrant
from rwp_edu.training import Mark, Record

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

X_AXES = {"updates": "updates", "gradients": "gradient evaluations per run", "seconds": "seconds (share of the race)"}
PANELS = (
    ("test_accuracy", "test accuracy, %", 100.0),
    ("train_loss", "training loss (given labels)", 1.0),
    ("wrong_labels_learnt", "wrong labels learnt, %", 100.0),
    ("perturbation", "size of the perturbation, ‖e‖ / ‖w‖", 1.0),
)
# At first: low, high, and the step in which a range grows.
FIRST_RANGES = {
    "test_accuracy": (60, 95, 5),
    "train_loss": (0, 2, 0.5),
    "wrong_labels_learnt": (0, 100, 20),
    "perturbation": (0, 0.5, 0.25),
}
INK, FAINT = "#7d7d7d", "rgba(128,128,128,0.22)"


def look(name: str, entrants: tuple[str, ...]) -> tuple[str, str]:
    """Colour and dash of an entrant: the colour of its method everywhere, another dash for each further variant."""
    method = Entrant.parse(name).method
    colour, dash = LOOKS.get(method, SPARE)
    variant = [other for other in entrants if Entrant.parse(other).method == method].index(name) if name in entrants else 0
    return colour, DASHES[(DASHES.index(dash) + variant) % len(DASHES)]


def swatch(name: str, entrants: tuple[str, ...]) -> str:
    """The line of an entrant as a small SVG."""
    colour, dash = look(name, entrants)
    gaps = {"solid": "", "dash": "7 4", "dot": "2 4", "dashdot": "7 3 2 3", "longdash": "11 4", "longdashdot": "11 3 2 3"}[dash]
    return (
        f'<svg width="26" height="10" aria-hidden="true"><line x1="0" y1="5" x2="26" y2="5" stroke="{colour}" '
        f'stroke-width="3.5" stroke-dasharray="{gaps}"/></svg>'
    )


def _rgba(colour: str, alpha: float) -> str:
    return f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:], 16)},{alpha})"


def smooth(y: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average over records (axis 0), started at the first value that exists."""
    if not weight:
        return y
    out, last = y.copy(), None
    for t in range(len(y)):
        value = y[t]
        last = value if last is None or not np.isfinite(last).all() else weight * last + (1 - weight) * value
        out[t] = last
    return out


def _x(record: Record, axis: str, e: int) -> np.ndarray:
    return {
        "updates": record.updates,
        "gradients": record.gradient_evaluations[:, e],
        "seconds": record.seconds[:, e],
    }[axis].astype(float)


def _band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over seeds (last axis)."""
    return values.mean(-1), values.std(-1, ddof=1) if values.shape[-1] > 1 else np.zeros(values.shape[:-1])


def merged(marks: list[Mark], within: float) -> list[Mark]:
    """One mark for a slider that was dragged: changes of one setting less than ``within`` updates apart."""
    out: list[Mark] = []
    for mark in marks:
        index = next((i for i, m in enumerate(out) if m.name == mark.name and mark.update - m.update <= within), None)
        if index is None:
            out.append(mark)
        else:
            out[index] = Mark(mark.update, mark.name, out[index].old, mark.new)
    return [mark for mark in out if mark.old != mark.new]


def mark_text(mark: Mark) -> str:
    def short(value: Any) -> str:
        return f"{value:g}" if isinstance(value, (int, float)) else str(value)

    return f"{PARAMETERS[mark.name].symbol or mark.name} {short(mark.old)} → {short(mark.new)}"


def _acts_on(mark: Mark, entrant: Entrant) -> bool:
    training = mark.name not in methods.PARAMETERS
    return (training or mark.name in methods.get(entrant.method).parameters) and mark.name not in entrant.pins


def traces(
    record: Record,
    x: str = "updates",
    smoothing: float = 0.0,
    shown: tuple[str, ...] | None = None,
    ghost: Record | None = None,
) -> list[dict]:
    """Per panel: for each entrant its former run (faint), the band of one standard deviation over seeds and the mean, then
    marks. The number and order of traces depend on the entrants only, so a live screen may update the arrays in place."""
    shown = record.entrants if shown is None else shown
    marks = merged(record.marks, 0.03 * record.settings.steps)
    out = []
    for number, (name, _, unit) in enumerate(PANELS, 1):
        axes = {"xaxis": f"x{number}", "yaxis": f"y{number}"} if number > 1 else {}
        values = getattr(record, name) * unit
        points: dict[str, list] = {"x": [], "y": [], "symbol": [], "color": [], "text": []}
        for e, entrant in enumerate(record.entrants):
            colour, dash = look(entrant, record.entrants)
            label = Entrant.parse(entrant).label
            common = {"type": "scatter", "mode": "lines", "legendgroup": entrant, "visible": entrant in shown, **axes}
            former: dict[str, Any] = {"x": [], "y": []}
            if ghost is not None and entrant in ghost.entrants:
                g = ghost.entrants.index(entrant)
                former = {"x": _x(ghost, x, g), "y": smooth(_band(getattr(ghost, name)[:, g] * unit)[0], smoothing)}
            mean, spread = (smooth(part, smoothing) for part in _band(values[:, e]))
            across = _x(record, x, e)
            there = np.isfinite(mean)
            across, mean, spread = across[there], mean[there], spread[there]
            out += [
                {**common, **former, "line": {"color": _rgba(colour, 0.45), "width": 1.2, "dash": "dot"},
                 "name": f"{label}, former run", "showlegend": False, "hoverinfo": "skip"},
                {**common, "x": np.concatenate([across, across[::-1]]), "y": np.concatenate([mean + spread, (mean - spread)[::-1]]),
                 "fill": "toself", "fillcolor": _rgba(colour, 0.13), "line": {"width": 0}, "name": f"{label}, ±1 sd",
                 "showlegend": False, "hoverinfo": "skip"},
                {**common, "x": across, "y": mean, "line": {"color": colour, "width": 2.2, "dash": dash}, "name": label,
                 "showlegend": number == 1},
            ]  # fmt: skip
            if entrant in shown and len(across):
                where = [(m.update, "diamond-open", mark_text(m)) for m in marks if _acts_on(m, Entrant.parse(entrant))]
                ended = record.diverged[e][record.diverged[e] >= 0]
                where += (
                    [(ended.max(), "x", f"{label}: {len(ended)} of {record.settings.seeds} runs diverged")]
                    if len(ended)
                    else []
                )
                for update, symbol, text in where:
                    at = np.interp(update, record.updates[there], across)
                    points["x"].append(at)
                    points["y"].append(np.interp(at, across, mean))
                    points["symbol"].append(symbol)
                    points["color"].append(colour)
                    points["text"].append(text)
        out.append(
            {"type": "scatter", "mode": "markers", "x": points["x"], "y": points["y"], "text": points["text"], "hoverinfo": "text",
             "marker": {"symbol": points["symbol"], "color": points["color"], "size": 9, "line": {"width": 2}},
             "showlegend": False, "name": "changes", **axes}
        )  # fmt: skip
    return out


def _range(record: Record, name: str, unit: float, shown: tuple[str, ...], ghost: Record | None) -> list[float]:
    """A range that only grows: it starts wide enough for the usual run and takes in what the curves need after the first
    tenth of the run (the fall from the untrained network would flatten everything else)."""
    low, high, step = FIRST_RANGES[name]
    for rec in (record, ghost):
        if rec is None:
            continue
        rows = [e for e, entrant in enumerate(rec.entrants) if entrant in shown]
        values = (getattr(rec, name) * unit)[rec.updates >= 0.1 * rec.settings.steps][:, rows]
        if values.size:
            mean, spread = _band(values)
            low = np.nanmin([low, np.nanmin(mean - spread, initial=low)])
            high = np.nanmax([high, np.nanmax(mean + spread, initial=high)])
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    return [max(low, 0.0), min(high, 100.0) if unit == 100 else min(high, 10 * FIRST_RANGES[name][1])]


def layout(
    record: Record, x: str = "updates", shown: tuple[str, ...] | None = None, ghost: Record | None = None, height: int = 560
) -> dict:
    """Four panels with ranges that never jump, readable on light and dark."""
    shown = record.entrants if shown is None else shown
    rows = [e for e, entrant in enumerate(record.entrants) if entrant in shown] or [0]
    if x == "seconds":
        end = max(float(record.seconds[-1, rows].max()), 0.05)
        far = 2.0 ** math.ceil(math.log2(end))
    else:
        far = record.settings.steps
        if x == "gradients":
            far *= max(_points_per_update(record, e) for e in rows)
    out: dict[str, Any] = {
        "height": height,
        "margin": {"l": 44, "r": 14, "t": 30, "b": 42},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 12},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.12, "x": 0},
        "uirevision": x,
        "annotations": [],
        "shapes": [],
    }
    for number, (name, title, unit) in enumerate(PANELS, 1):
        suffix = str(number) if number > 1 else ""
        left, top = number % 2 == 1, number <= 2
        line = {"gridcolor": FAINT, "zeroline": False, "linecolor": FAINT, "showline": True}
        out[f"xaxis{suffix}"] = {
            **line, "domain": [0, 0.47] if left else [0.53, 1], "anchor": f"y{suffix}", "range": [0, far],
            **({} if top else {"title": {"text": X_AXES[x], "standoff": 6}}),
        }  # fmt: skip
        out[f"yaxis{suffix}"] = {
            **line, "domain": [0.56, 1] if top else [0, 0.44], "anchor": f"x{suffix}",
            "range": _range(record, name, unit, shown, ghost),
        }  # fmt: skip
        out["annotations"].append(
            {"text": f"<b>{title}</b>", "showarrow": False, "xref": "paper", "yref": "paper", "x": 0 if left else 0.53,
             "y": 1.0 if top else 0.44, "xanchor": "left", "yanchor": "bottom", "font": {"size": 13}}
        )  # fmt: skip
    if x == "updates":
        for i, mark in enumerate(merged(record.marks, 0.03 * record.settings.steps)):
            for number in range(1, 5):
                suffix = str(number) if number > 1 else ""
                out["shapes"].append(
                    {"type": "line", "xref": f"x{suffix}", "yref": f"y{suffix} domain", "x0": mark.update, "x1": mark.update,
                     "y0": 0, "y1": 1, "line": {"color": INK, "width": 1, "dash": "dot"}}
                )  # fmt: skip
            out["annotations"].append(
                {"text": mark_text(mark), "showarrow": False, "x": mark.update, "xref": "x", "yref": "y domain",
                 "y": 0.02 + 0.09 * (i % 5), "xanchor": "left" if mark.update < 0.7 * far else "right", "yanchor": "bottom",
                 "font": {"size": 11}}
            )  # fmt: skip
    return out


def _points_per_update(record: Record, e: int) -> float:
    done = record.updates[-1]
    if done:
        return float(record.gradient_evaluations[-1, e] / done)
    entrant = Entrant.parse(record.entrants[e])
    return methods.get(entrant.method).cost(k=record.settings.of(entrant)["k"]).work


def race(record: Record, **options: Any):
    """The four panels of a race as a plotly figure; options are those of ``traces`` and ``layout``."""
    import plotly.graph_objects as go

    of_layout = {key: value for key, value in options.items() if key in ("x", "shown", "ghost", "height")}
    of_traces = {key: value for key, value in options.items() if key != "height"}
    return go.Figure(data=traces(record, **of_traces), layout=layout(record, **of_layout))
