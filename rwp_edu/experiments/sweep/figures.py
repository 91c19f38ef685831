"""Pictures of a sweep: a heat map over two parameters, curves along one, and parallel coordinates of all settings."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from rwp_edu import problems
from rwp_edu.experiments.sweep.results import Look, Row, Sweep, mean_of
from rwp_edu.methods import PARAMETERS as METHOD_PARAMETERS
from rwp_edu.plotting import figures, html
from rwp_edu.plotting.figures import FAINT, PLAIN
from rwp_edu.utils.parameters import unknown


def score_of(look: Look, row: Row) -> float:
    """The mean of a look over its seeds, as it is shown (a decimal logarithm where the metric is logarithmic)."""
    return (1 if look.metric.log else look.metric.unit) * mean_of(look.metric, look.at(row))


def _title(look: Look) -> str:
    return f"log₁₀ {look.title}" if look.metric.log else f"{look.title}{', %' if look.metric.unit == 100 else ''}"


def _scale(look: Look) -> list[list[Any]]:
    """What is good is dark."""
    ends = ("#e6edf3", "#7fb3d9", "#08306b")[:: 1 if look.metric.high_is_good else -1]
    return [[k / 2, colour] for k, colour in enumerate(ends)]


def table(found: Sweep, method: str, across: str, up: str) -> tuple[list[Any], list[Any], np.ndarray]:
    """Values across and up, and of a method what chooses (up, across), each the best over what else is in the grid; NaN where nothing is finished."""
    rows = [row for row in found.finished if row.point.method == method]
    for name in (across, up):
        if not any(name in dict(row.point.values) for row in rows):
            raise unknown(
                "parameter of this method in the grid", name, {n for row in rows for n, _ in row.point.values} or {"-"}
            )
    x, y = found.grid[across], found.grid[up]
    look, _ = found.looks
    sign = 1 if look.metric.high_is_good else -1
    z = np.full((len(y), len(x)), np.nan)
    for row in rows:
        values, score = dict(row.point.values), score_of(look, row)
        at = y.index(values[up]), x.index(values[across])
        if math.isfinite(score) and not sign * score <= sign * z[at]:
            z[at] = score
    return x, y, z


def heat_map(found: Sweep, method: str, across: str, up: str):
    """What chooses over two parameters of a method, as a plotly figure; a frame marks the setting that is chosen."""
    import plotly.graph_objects as go

    x, y, z = table(found, method, across, up)
    look, _ = found.looks
    text = [["" if math.isnan(v) else (f"{v:.2f}" if look.metric.log else f"{v:.{look.metric.digits}f}") for v in line] for line in z]
    names = [str(v) for v in x], [str(v) for v in y]
    fig = go.Figure(go.Heatmap(x=names[0], y=names[1], z=z, text=text, texttemplate="%{text}", colorscale=_scale(look), xgap=2, ygap=2,
                               colorbar={"title": {"text": _title(look), "side": "right"}}, hovertemplate=f"{across} %{{x}}, {up} %{{y}}: %{{z:.4g}}<extra></extra>"))  # fmt: skip
    chosen = found.chosen().get(method)
    if chosen is not None:
        at = dict(chosen.point.values)
        i, j = x.index(at[across]), y.index(at[up])
        fig.add_shape(type="rect", x0=i - 0.5, x1=i + 0.5, y0=j - 0.5, y1=j + 0.5, line={"color": "#D55E00", "width": 4})
    fig.update_layout(**PLAIN, height=150 + 60 * len(y), margin={"l": 10, "r": 10, "t": 20, "b": 10},
                      xaxis={"title": {"text": named(across)}, "type": "category", "automargin": True, "showgrid": False},
                      yaxis={"title": {"text": named(up)}, "type": "category", "automargin": True, "showgrid": False})  # fmt: skip
    return fig


def curves(found: Sweep, name: str):
    """What chooses against one parameter, a line per method: mean ± standard error over seeds of the best over what else is in the grid;
    methods without it are level lines."""
    import plotly.graph_objects as go

    look, _ = found.looks
    sign = 1 if look.metric.high_is_good else -1
    values = found.grid[name]
    names = tuple(dict.fromkeys(row.point.method for row in found.finished))
    numbers = all(isinstance(v, (int, float)) for v in values)
    order = sorted(values) if numbers else values
    fig = go.Figure()
    for method in names:
        best: dict[Any, tuple[float, Row]] = {}
        for row in found.finished:
            score = score_of(look, row)
            if row.point.method == method and math.isfinite(score):
                at = dict(row.point.values).get(name)
                best[at] = max(best.get(at, (-math.inf, row)), (sign * score, row), key=lambda pair: pair[0])
        if not best:
            continue
        x = order if None in best else [v for v in order if v in best]
        seen = [best[None if None in best else v] for v in x]
        mean = [sign * score for score, _ in seen]
        spread = [_error(look, row) for _, row in seen]
        colour, dash = figures.look(method, names)
        fig.add_scatter(x=x if numbers else [str(v) for v in x], y=mean, name=method, mode="lines" + "+markers" * (None not in best),
                        line={"color": colour, "dash": dash}, error_y={"type": "data", "array": spread, "visible": None not in best})  # fmt: skip
    fig.update_layout(**PLAIN, height=400, margin={"l": 10, "r": 10, "t": 20, "b": 10}, showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
                      xaxis={"title": {"text": named(name)}, "gridcolor": FAINT, "automargin": True, "zeroline": False},
                      yaxis={"title": {"text": _title(look)}, "gridcolor": FAINT, "automargin": True, "zeroline": False})  # fmt: skip
    return fig


def _error(look: Look, row: Row) -> float | None:
    """The standard error over seeds, in the units of ``score_of``."""
    values = look.at(row)
    values = np.log10(values) if look.metric.log else look.metric.unit * values
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def parallel(found: Sweep):
    """All finished settings as lines through the methods, their parameters, what chooses and what reports. A method that lacks a
    parameter passes below its axis."""
    import plotly.graph_objects as go

    rows = [row for row in found.finished if math.isfinite(score_of(found.looks[0], row))]
    methods = list(dict.fromkeys(row.point.method for row in rows))
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
            {"label": named(name), "values": at, "tickvals": ticks, "ticktext": ["-" if t < 0 else str(values[t]) for t in ticks]}
        )
    looks = [look for look in found.looks if look.seeds.stop > look.seeds.start]
    dimensions += [{"label": _title(look), "values": [score_of(look, row) for row in rows]} for look in looks]
    best = 1 if looks[-1].metric.high_is_good else -1
    line = {"color": [best * v for v in dimensions[-1]["values"]], "colorscale": "Viridis", "showscale": False}
    fig = go.Figure(go.Parcoords(dimensions=dimensions, line=line))
    fig.update_layout(**PLAIN, height=420, margin={"l": 70, "r": 70, "t": 60, "b": 30})
    return fig


def named(parameter: str) -> str:
    """A parameter with its symbol.

    >>> named("sigma"), named("label_noise")
    ('σ (sigma)', 'p (label_noise)')
    """
    rows = {**METHOD_PARAMETERS, **{row.name: row for problem in problems.PROBLEMS.values() for row in problem.parameters}}
    symbol = rows[parameter].symbol if parameter in rows else ""
    return f"{symbol} ({parameter})" if symbol and symbol != parameter else parameter


def page(found: Sweep) -> str:
    """What was chosen and all pictures on one HTML page that needs no network."""
    choose, report = found.looks
    done = f"{len(found.finished)} of {len(found.rows)} settings are finished; best settings are {found.rule}."
    parts = [f"<p>{html.text(done)}</p>"]
    best = list(found.chosen().values())
    cells = [[r.point.method, *(str(dict(r.point.values).get(n, "-")) for n in found.grid), *(look.metric.mean(look.at(r)) for look in (choose, report))] for r in best]  # fmt: skip
    if cells:
        parts += ["<h2>Chosen</h2>", html.table(("method", *map(named, found.grid), choose.title, report.title), cells, {})]
    several = [name for name, values in found.grid.items() if len(values) > 1]
    if found.finished:
        parts += ["<h2>All settings</h2>", html.plot(parallel(found), "Every line is a setting; drag along an axis to select some. Bright is good.", roomy=True)]
        for name in several:
            parts += [f"<h2>Along {html.text(named(name))}</h2>", html.plot(curves(found, name), "Mean ± standard error over seeds, at the best of what else is in the grid.")]  # fmt: skip
    for method in dict.fromkeys(row.point.method for row in found.finished):
        own = {name for row in found.finished if row.point.method == method for name, _ in row.point.values}
        names = [name for name in several if name in own]
        for across, up in itertools.combinations(names, 2):
            parts += [f"<h2>{html.text(method)}: {html.text(named(across))} and {html.text(named(up))}</h2>",
                      html.plot(heat_map(found, method, across, up), f"{_title(choose)}; dark is good; the frame marks what is chosen; what diverged or is not finished is empty.")]  # fmt: skip
    return html.page(f"Sweep on {found.problem}", parts)
