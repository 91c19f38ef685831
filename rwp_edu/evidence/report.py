"""What is handed out: a table, a report in Markdown, and one HTML page with interactive figures that needs no network."""

from __future__ import annotations

import html
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwp_edu import __version__
from rwp_edu.evidence import Result
from rwp_edu.evidence.verdicts import FAILS, HOLDS, NOT_SHOWN, PART, REFUTED, TOO_FEW, Judgement, Statement
from rwp_edu.problems import PROBLEMS, Metric

# Metrics that no problem has.
OWN = {
    row.name: row
    for row in (
        Metric("ratio", "ratio", "ratio", (0, 1, 1)),
        Metric("sharp", "runs that end in the sharp basin, %", "runs in the sharp basin", (0, 100, 20), 100.0, 0),
        Metric("variance", "variance, in units of SGD's", "variance", (0, 1, 1)),
        Metric("milliseconds", "milliseconds per update", "milliseconds", (0, 1, 1), digits=1),
        Metric("best_sigma", "best σ", "best σ", (0, 1, 1)),
    )
}
COLOURS = {HOLDS: "#1b7f4b", PART: "#b07800", FAILS: "#b3261e", REFUTED: "#b3261e", NOT_SHOWN: "#666666", TOO_FEW: "#666666"}
NAMES = ("report.html", "report.md", "report.json")
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
td:first-child{min-width:14rem}h2{margin-top:2.5rem}.v{font-weight:600;white-space:nowrap}code{font-size:.85em}pre{overflow:auto;background:#f5f5f5;padding:.5rem}"""


def metric_of(result: Result, name: str) -> Metric:
    """How a metric of a result is shown."""
    own = PROBLEMS.get(result.settings.get("problem", ""))
    return {**OWN, **{m.name: m for m in (own.measured if own else ())}}[name]


def told(statement: Statement, metric: Metric) -> str:
    """A statement in words.

    >>> told(Statement("nso", "<", "sgd", "ratio", factor=0.823), OWN["ratio"])
    'ratio: nso < 0.823 × sgd'
    """
    s = statement
    right = f"{s.right:g}" if isinstance(s.right, (int, float)) else s.right
    if s.factor != 1:
        right = f"{s.factor:g} × {right}"
    if s.relation == "=":
        return f"{metric.noun}: {s.left} equals {right} to within {s.margin * metric.unit:g}"
    more = f" {'+' if s.margin > 0 else '-'} {abs(s.margin) * metric.unit:g}" if s.margin else ""
    return f"{metric.noun}: {s.left} {s.relation} {right}{more}"


def measured(judgement: Judgement, metric: Metric) -> str:
    """The mean difference (or the ratio, where logarithms are compared) and its 95 % interval."""
    j = judgement
    if j.statement.log:
        return f"× {10**j.mean:.2g}" + (f" ({10**j.low:.2g} to {10**j.high:.2g})" if math.isfinite(j.low) else "")
    mean, low, high = (metric.unit * v for v in (j.mean, j.low, j.high))
    form = "+.3g" if metric.unit == 1 else "+.1f"
    return f"{mean:{form}}" + (f" ({low:{form}} to {high:{form}})" if math.isfinite(low) else "")


def figures_of(result: Result) -> list[tuple[str, str, str]]:
    """Every measured quantity that a statement is about: who, what, mean ± standard error over seeds."""
    wanted = {s.metric for s in result.claim.statements}
    return [
        (who, metric_of(result, name).noun, metric_of(result, name).mean(v))
        for (who, name), v in result.values.items()
        if name in wanted
    ]


HEADS = (
    "claim",
    "source",
    "published",
    "here: the first statement, with its difference (95 % interval)",
    "hold",
    "verdict",
    "s",
)


def lines(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The summary: one line per claim."""
    out = []
    for r in results:
        (statement, difference, _), *_ = statements_of(r)
        hold = f"{sum(j.status == HOLDS for j in r.judgements)} of {len(r.judgements)}"
        out.append(
            (
                r.claim.title,
                r.claim.source,
                r.claim.published,
                f"{statement}: {difference}",
                hold,
                r.verdict,
                f"{r.seconds:.0f}",
            )
        )
    return out


def setting(results: Sequence[Result]) -> str:
    """Which run this was."""
    first = results[0]
    statements = sum(len(r.judgements) for r in results)
    return (
        f"rwp-edu {__version__}, {'quick, ' if first.quick else ''}{first.seeds} seeds from {first.settings['first_seed']} on, {platform.system()} on {platform.machine()}, "
        f"{os.cpu_count()} cores, {sum(r.seconds for r in results):.0f} s in all. {statements} statements are tested, each at 95 %: expect one in forty to come out "
        "too well by luck. Settings were chosen on other seeds."
    )


def markdown(results: Sequence[Result]) -> str:
    def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        cells = [[str(c).replace("|", "\\|") for c in row] for row in rows]
        return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *cells))

    parts = ["# What holds, and what does not", setting(results), table(HEADS, lines(results))]
    for r in results:
        parts += [
            f"## {r.claim.title}",
            f"**{r.verdict}** · `{r.claim.name}` · {r.claim.source} · published: {r.claim.published}",
        ]
        parts += [f"To keep in mind: {r.claim.note}."] if r.claim.note else []
        parts.append(table(("statement", "difference (95 % interval)", "status"), statements_of(r)))
        parts.append(table(("who", "what", "mean ± standard error"), figures_of(r)))
        parts.append(f"Settings: `{json.dumps(r.settings)}`")
    return "\n\n".join(parts) + "\n"


def statements_of(result: Result) -> list[tuple[str, str, str]]:
    out = []
    for j in result.judgements:
        metric = metric_of(result, j.statement.metric)
        out.append((told(j.statement, metric), measured(j, metric), j.status))
    return out


def figure(result: Result, name: str):
    """All runs, and mean with 95 % interval, of one metric."""
    import plotly.graph_objects as go

    from rwp_edu.evidence.verdicts import LEAST, t_quantile

    metric, rows = metric_of(result, name), [(who, v) for (who, m), v in result.values.items() if m == name]
    fig, names = go.Figure(), [who for who, _ in rows]
    for who, v in rows:
        v = metric.unit * v[np.isfinite(v)]
        fig.add_scatter(
            x=v,
            y=[who] * len(v),
            mode="markers",
            marker={"color": "#2E8BC9", "opacity": 0.3, "size": 7},
            hovertemplate="%{x:.4g}<extra>one seed</extra>",
        )
        if len(v) >= LEAST and not metric.log:
            reach = t_quantile(0.975, len(v) - 1) * v.std(ddof=1) / math.sqrt(len(v))
            fig.add_scatter(x=[v.mean()], y=[who], error_x={"type": "data", "array": [reach], "thickness": 2, "width": 7}, mode="markers",
                            marker={"color": "#222", "size": 8, "symbol": "diamond"}, hovertemplate="mean %{x:.4g}<extra></extra>")  # fmt: skip
        elif metric.log and len(v):
            fig.add_scatter(x=[10 ** np.log10(v).mean()], y=[who], mode="markers", marker={"color": "#222", "size": 8, "symbol": "diamond"},
                            hovertemplate="geometric mean %{x:.3g}<extra></extra>")  # fmt: skip
    fig.update_layout(
        template="plotly_white", showlegend=False, height=110 + 32 * len(rows), margin={"l": 10, "r": 10, "t": 10, "b": 40},
        xaxis={"title": {"text": metric.title}, "type": "log" if metric.log else "linear"},
        yaxis={"categoryorder": "array", "categoryarray": names[::-1], "automargin": True},
    )  # fmt: skip
    return fig


def page(results: Sequence[Result]) -> str:
    """One self-contained HTML page."""
    from plotly.io import to_html
    from plotly.offline import get_plotlyjs

    def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        def cell(text: str) -> str:
            style = f" class='v' style='color:{COLOURS[text]}'" if text in COLOURS else ""
            return f"<td{style}>{html.escape(str(text))}</td>"

        head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
        return f"<table><tr>{head}</tr>" + "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows) + "</table>"

    body = ["<h1>What holds, and what does not</h1>", f"<p>{html.escape(setting(results))}</p>"]
    linked = [(f"#{r.claim.name}", *line[1:]) for r, line in zip(results, lines(results))]
    summary = table(HEADS, linked)
    for r in results:
        summary = summary.replace(
            f"<td>#{r.claim.name}</td>", f"<td><a href='#{r.claim.name}'>{html.escape(r.claim.title)}</a></td>", 1
        )
    body.append(summary)
    for r in results:
        c = r.claim
        body.append(f"<h2 id='{c.name}'>{html.escape(c.title)}</h2><p><span class='v' style='color:{COLOURS[r.verdict]}'>{r.verdict}</span> · "
                    f"{html.escape(c.source)} · published: {html.escape(c.published)}</p>")  # fmt: skip
        body += [f"<p>To keep in mind: {html.escape(c.note)}.</p>"] if c.note else []
        body.append(table(("statement", "difference (95 % interval)", "status"), statements_of(r)))
        for name in dict.fromkeys(s.metric for s in c.statements):
            body.append(to_html(figure(r, name), full_html=False, include_plotlyjs=False, config={"displaylogo": False}))
        body.append(
            f"<details><summary>all settings</summary><pre>{html.escape(json.dumps(r.settings, indent=1))}</pre></details>"
        )
    head = f"<meta charset='utf-8'><title>What holds, and what does not</title><style>{STYLE}</style><script>{get_plotlyjs()}</script>"
    return f"<!DOCTYPE html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>"


def to_dict(results: Sequence[Result]) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        "version": __version__,
        "claims": [
            {
                "name": r.claim.name,
                "title": r.claim.title,
                "source": r.claim.source,
                "published": r.claim.published,
                "verdict": r.verdict,
                "quick": r.quick,
                "seconds": r.seconds,
                "settings": r.settings,
                "statements": [
                    {"statement": told(j.statement, metric_of(r, j.statement.metric)), "status": j.status, "mean": j.mean,
                     "standard_error": j.error, "low": j.low, "high": j.high, "seeds": j.seeds} for j in r.judgements
                ],
                "values": [{"who": who, "metric": name, "values": v.tolist()} for (who, name), v in r.values.items()],
            }
            for r in results
        ],
    }  # fmt: skip


def write(results: Sequence[Result], folder: Path) -> list[Path]:
    """report.md, report.json and, where plotly is installed, report.html; each whole or not at all."""
    from importlib.util import find_spec

    texts = {"report.md": markdown(results), "report.json": json.dumps(to_dict(results), indent=1)}
    if find_spec("plotly"):
        texts["report.html"] = page(results)
    out = []
    for name, text in texts.items():
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / name)
        out.append(folder / name)
    return out
