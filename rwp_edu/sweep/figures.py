"""Two pictures of a sweep: a heat map over two parameters, and parallel coordinates of all settings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rwp_edu import problems
from rwp_edu.parameters import unknown
from rwp_edu.sweep.results import Row, Sweep


def score_of(found: Sweep, row: Row) -> float:
    """The mean score over all seeds, as it is shown (its decimal logarithm where the metric is logarithmic)."""
    metric = problems.get(found.problem).score
    values = row.last(metric.name)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log10(values).mean() if metric.log else metric.unit * values.mean())


def _title(found: Sweep) -> str:
    metric = problems.get(found.problem).score
    return f"log₁₀ {metric.noun}" if metric.log else metric.title


def _scale(found: Sweep) -> list[list[Any]]:
    """What is good is dark."""
    ends = ("#e6edf3", "#7fb3d9", "#08306b")[:: 1 if problems.get(found.problem).score.high_is_good else -1]
    return [[k / 2, colour] for k, colour in enumerate(ends)]


def table(found: Sweep, method: str, across: str, up: str) -> tuple[list[Any], list[Any], np.ndarray]:
    """Values across and up, and the scores (up, across) of a method, each the best over what else is in the grid; NaN where nothing is finished."""
    rows = [row for row in found.finished if row.point.method == method]
    for name in (across, up):
        if not any(name in dict(row.point.values) for row in rows):
            raise unknown(
                "parameter of this method in the grid", name, {n for row in rows for n, _ in row.point.values} or {"-"}
            )
    x, y = found.grid[across], found.grid[up]
    sign = 1 if problems.get(found.problem).score.high_is_good else -1
    z = np.full((len(y), len(x)), np.nan)
    for row in rows:
        values, score = dict(row.point.values), score_of(found, row)
        at = y.index(values[up]), x.index(values[across])
        if math.isfinite(score) and not sign * score <= sign * z[at]:
            z[at] = score
    return x, y, z


def heat_map(found: Sweep, method: str, across: str, up: str):
    """Score over two parameters of a method, as a plotly figure; a ring marks the setting that is chosen."""
    import plotly.graph_objects as go

    x, y, z = table(found, method, across, up)
    text = [["" if math.isnan(v) else f"{v:.3g}" for v in line] for line in z]
    names, heads = ([str(v) for v in x], [str(v) for v in y]), (across, up)
    fig = go.Figure(go.Heatmap(x=names[0], y=names[1], z=z, text=text, texttemplate="%{text}", colorscale=_scale(found),
                               colorbar={"title": {"text": _title(found), "side": "right"}}, hovertemplate=f"{across} %{{x}}, {up} %{{y}}: %{{z:.4g}}<extra></extra>"))  # fmt: skip
    chosen = found.chosen().get(method)
    if chosen is not None:
        at = dict(chosen.point.values)
        fig.add_scatter(x=[str(at[across])], y=[str(at[up])], mode="markers", marker={"symbol": "square-open", "size": 44, "color": "#D55E00", "line": {"width": 3}},
                        hovertemplate="chosen<extra></extra>")  # fmt: skip
    fig.update_layout(title={"text": f"{method}: {_title(found)}"}, template="plotly_white", height=420,
                      xaxis={"title": {"text": heads[0]}, "type": "category"}, yaxis={"title": {"text": heads[1]}, "type": "category"})  # fmt: skip
    return fig


def parallel(found: Sweep):
    """All finished settings as lines through the methods, their parameters and the score. A method that lacks a parameter passes below its axis."""
    import plotly.graph_objects as go

    rows = found.finished
    methods = list(dict.fromkeys(row.point.method for row in rows))
    scores = [score_of(found, row) for row in rows]
    dimensions: list[dict[str, Any]] = [
        {
            "label": "method",
            "values": [methods.index(row.point.method) for row in rows],
            "tickvals": list(range(len(methods))),
            "ticktext": methods,
        }
    ]
    for name, values in found.grid.items():
        own = [dict(row.point.values).get(name) for row in rows]
        at = [-1 if value is None else values.index(value) for value in own]
        ticks = [-1] * (None in own) + list(range(len(values)))
        dimensions.append(
            {"label": name, "values": at, "tickvals": ticks, "ticktext": ["-" if t < 0 else str(values[t]) for t in ticks]}
        )
    dimensions.append({"label": _title(found), "values": scores})
    line = {"color": scores, "colorscale": _scale(found), "showscale": True}
    fig = go.Figure(go.Parcoords(dimensions=dimensions, line=line))
    fig.update_layout(template="plotly_white", height=460, margin={"l": 70, "r": 40, "t": 60, "b": 30})
    return fig


def page(found: Sweep) -> str:
    """Both kinds of pictures on one HTML page that needs no network."""
    from plotly.io import to_html
    from plotly.offline import get_plotlyjs

    figs = [parallel(found)] if found.finished else []
    for method in dict.fromkeys(row.point.method for row in found.finished):
        names = [
            n
            for n in found.grid
            if len(found.grid[n]) > 1 and any(n in dict(r.point.values) for r in found.finished if r.point.method == method)
        ]
        if len(names) >= 2:
            figs.append(heat_map(found, method, *names[:2]))
    parts = "".join(to_html(fig, full_html=False, include_plotlyjs=False, config={"displaylogo": False}) for fig in figs)
    style = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;background:#fff;color:#222}"
    head = f"<meta charset='utf-8'><title>sweep: {found.problem}</title><style>{style}</style><script>{get_plotlyjs()}</script>"
    done = f"{len(found.finished)} of {len(found.rows)} settings are finished; best settings are {found.rule}."
    return f"<!DOCTYPE html><html lang='en'><head>{head}</head><body><h1>Sweep on {found.problem}</h1><p>{done}</p>{parts}</body></html>"
