"""What is handed out: a table, a report in Markdown, and one HTML page with interactive figures that needs no network."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwp_edu import __version__
from rwp_edu.experiments.claims import CLAIMS, Result, settings_of
from rwp_edu.experiments.claims.verdicts import (
    FAILS,
    HOLDS,
    LEAST,
    NOT_SHOWN,
    PART,
    REFUTED,
    TOO_FEW,
    VERDICTS,
    Judgement,
    Statement,
    interval,
    judge,
    robust,
)
from rwp_edu.plotting import html
from rwp_edu.plotting.figures import FAINT, INK, PLAIN
from rwp_edu.problems import PROBLEMS, Metric
from rwp_edu.utils.files import whole
from rwp_edu.utils.parameters import strict_json

# Metrics that no problem has.
OWN = {
    row.name: row
    for row in (
        Metric("ratio", "ratio", "ratio", (0, 1, 1)),
        Metric("sharp", "runs that end in the sharp basin, %", "runs in the sharp basin", (0, 100, 20), 100.0, 0),
        Metric("variance", "variance, in units of SGD's", "variance", (0, 1, 1)),
        Metric("error", "standard error of the trace, relative", "standard error", (0, 1, 1)),
        Metric("milliseconds", "milliseconds per update", "milliseconds", (0, 1, 1), digits=1),
        Metric("best_sigma", "best σ", "best σ", (0, 1, 1)),
    )
}
CLASSES = {HOLDS: "good", PART: "part", FAILS: "bad", REFUTED: "bad", NOT_SHOWN: "open", TOO_FEW: "open"}
NAMES = ("report.html", "report.md", "report.json")
TITLE = "What holds, and what does not"
READING = (
    "Every claim was cut into statements that can be wrong, and each statement was tested here on the same seeds for everything it compares. A seed is a draw of "
    "the data, the wrong labels, the start, the batches and the noise.",
    "The difference is the left side of the statement minus its right side, seed by seed. The statement holds if the whole 95 % interval of the mean difference is on the "
    "right side of zero, is refuted if the whole interval is on the wrong side, and is not shown if zero is inside. \"Equals to within\" holds if the whole interval is within the margin.",
    "A claim holds if all its statements do, holds in part if some of those marked claim do, does not hold here if none of these does and one is refuted. Statements marked "
    "equal gradients or control can spoil a claim, but not carry it.",
    "Names are methods with their settings: rwp:sigma=0.15 is random weight perturbation at scale 0.15; kind=isotropic is the same scale for all weights. x2 means twice the updates, so that "
    "a method with one gradient per update gets as many gradients as one with two: that is what equal gradients stands for. A control is what a sceptic would try.",
    "\"Does not hold here\" is about these small problems. A table over larger ones is neither confirmed nor refuted by it.",
)


def metric_of(settings: Mapping[str, Any], name: str) -> Metric:
    """How a metric is shown that was found with these settings of an experiment."""
    own = PROBLEMS.get(settings.get("problem", ""))
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
        points = "" if metric.unit != 100 else " point" if s.margin == 0.01 else " points"
        return f"{metric.noun}: {s.left} equals {right} to within {s.margin * metric.unit:g}{points}"
    more = f" {'+' if s.margin > 0 else '-'} {abs(s.margin) * metric.unit:g}" if s.margin else ""
    return f"{metric.noun}: {s.left} {s.relation} {right}{more}"


def measured(judgement: Judgement, metric: Metric) -> str:
    """The mean difference (or the ratio, where logarithms are compared) and its 95 % interval."""
    j = judgement
    if not math.isfinite(j.mean):
        return "a run diverged"
    if j.statement.log:
        return f"× {10**j.mean:.2g}" + (f" ({10**j.low:.2g} to {10**j.high:.2g})" if math.isfinite(j.low) else "")
    mean, low, high = (metric.unit * v for v in (j.mean, j.low, j.high))
    form = "+,.0f" if abs(mean) >= 1000 else "+.3g" if metric.unit == 1 else "+.1f"
    return f"{mean:{form}}" + (f" ({low:{form}} to {high:{form}})" if math.isfinite(low) else "")


def averaged(metric: Metric, values: np.ndarray) -> str:
    """Mean ± standard error over the runs that did not diverge, and how many did."""
    good = values[np.isfinite(values)]
    lost = f"{len(values) - len(good)} of {len(values)} diverged" if len(good) < len(values) else ""
    return ", ".join(part for part in (metric.mean(good) if len(good) else "", lost) if part)


def figures_of(result: Result) -> list[tuple[str, str, str]]:
    """Every measured quantity that a statement is about: who, what, mean ± standard error over seeds."""
    wanted = {s.metric for s in result.claim.statements}
    rows = [(who, metric_of(result.settings, name), v) for (who, name), v in result.values.items() if name in wanted]
    return [(who, metric.noun, averaged(metric, v)) for who, metric, v in rows]


HEADS = ("claim", "verdict", "hold", "the first statement, with its difference here (95 % interval)", "published", "s (expected)")


def lines(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The summary: one line per claim."""
    out = []
    for r in results:
        (statement, _, difference, _), *_ = statements_of(r)
        hold = f"{sum(j.status == HOLDS for j in r.judgements)} of {len(r.judgements)}"
        seconds = f"{r.seconds:.0f} ({r.expected:.0f})"
        out.append((r.claim.title, r.verdict, hold, f"{statement}: {difference}", f"{r.claim.published} ({r.claim.source})", seconds))
    return out


def setting(results: Sequence[Result]) -> str:
    """Which run this was."""
    first, verdicts = results[0], [r.verdict for r in results]
    counted = ", ".join(f"{v}: {verdicts.count(v)}" for v in VERDICTS if v in verdicts)
    return (
        f"{len(results)} claims ({counted}). rwp-edu {__version__}, {'quick, ' if first.quick else ''}{first.seeds} seeds from {first.settings['first_seed']} on, "
        f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, {sum(r.seconds for r in results):.0f} s in all. Settings were chosen on other seeds."
    )


def luck(results: Sequence[Result]) -> str:
    """What testing many statements means."""
    judgements = [j for r in results for j in r.judgements]
    holding, strict = robust(judgements)
    return (
        f"{len(judgements)} statements are tested, each at 95 %: where there is no difference, one in forty comes out well by luck. {holding} hold, {strict} of them "
        "also if the 95 % are asked of all together (Bonferroni)."
    )


def markdown(results: Sequence[Result]) -> str:
    def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        cells = [[str(c).replace("|", "\\|") for c in row] for row in rows]
        return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *cells))

    parts = [f"# {TITLE}", setting(results), luck(results), table(HEADS, lines(results)), "## How to read this", *READING]
    for r in results:
        parts += [
            f"## {r.claim.title}",
            f"**{r.verdict}** · `{r.claim.name}` · {r.claim.source} · published: {r.claim.published}",
        ]
        parts += [f"To keep in mind: {r.claim.note}."] if r.claim.note else []
        parts.append(table(STATEMENT, statements_of(r)))
        parts.append(table(FIGURE, figures_of(r)))
        parts.append(f"Settings: `{json.dumps(r.settings)}`")
    return "\n\n".join(parts) + "\n"


STATEMENT, FIGURE = ("statement", "tested as", "difference (95 % interval)", "status"), ("who", "what", "mean ± standard error")


def statements_of(result: Result) -> list[tuple[str, str, str, str]]:
    out = []
    for j in result.judgements:
        metric = metric_of(result.settings, j.statement.metric)
        out.append((told(j.statement, metric), j.statement.role, measured(j, metric), j.status))
    return out


def _rows(rows: Sequence[tuple[str, np.ndarray]], title: str, log: bool, mean: str):
    """A figure with a row of dots, one per seed, for every name, and over them a mean with its 95 % interval."""
    import plotly.graph_objects as go

    fig, names = go.Figure(), [name for name, _ in rows]
    for name, v in rows:
        v = v[np.isfinite(v)]
        fig.add_scatter(x=v, y=[name] * len(v), mode="markers", marker={"color": "#2E8BC9", "opacity": 0.5, "size": 7},
                        hovertemplate="%{x:.4g}<extra>one seed</extra>")  # fmt: skip
        if not len(v):
            continue
        inner = np.log10(v) if log else v
        middle, bars = inner.mean(), None
        if len(v) >= LEAST:
            low, high = interval(float(middle), float(inner.std(ddof=1) / math.sqrt(len(v))), len(v))
            ends = (10**low, 10**middle, 10**high) if log else (low, middle, high)
            bars = {"type": "data", "symmetric": False, "array": [ends[2] - ends[1]], "arrayminus": [ends[1] - ends[0]], "thickness": 2, "width": 7}
        fig.add_scatter(x=[10**middle if log else middle], y=[name], error_x=bars, mode="markers", marker={"color": INK, "size": 9, "symbol": "diamond"},
                        hovertemplate=f"{mean} %{{x:.4g}}<extra></extra>")  # fmt: skip
    fig.update_layout(
        **PLAIN, showlegend=False, height=90 + 32 * len(rows), margin={"l": 10, "r": 10, "t": 10, "b": 40},
        xaxis={"title": {"text": title}, "type": "log" if log else "linear", "gridcolor": FAINT, "zeroline": False, "automargin": True,
               **({"exponentformat": "power"} if log else {})},
        yaxis={"categoryorder": "array", "categoryarray": names[::-1], "automargin": True, "gridcolor": FAINT},
    )  # fmt: skip
    return fig


def figure(result: Result, name: str):
    """All runs, and mean with 95 % interval, of one metric."""
    metric = metric_of(result.settings, name)
    rows = [(who, metric.unit * v) for (who, m), v in result.values.items() if m == name]
    return _rows(rows, metric.title, metric.log, "geometric mean" if metric.log else "mean")


def differences(result: Result, name: str):
    """The differences of all seeds, and their mean with its 95 % interval, of the statements about one metric; dotted where they are decided."""
    metric = metric_of(result.settings, name)
    about = [s for s in result.claim.statements if s.metric == name]
    log = about[0].log
    rows = [(told(s, metric).partition(": ")[2], (1 if log else metric.unit) * s.differences(result.values)) for s in about]
    title = f"{metric.noun}: " + ("log₁₀ of the ratio" if log else "difference" + (", points" if metric.unit == 100 else ""))
    fig = _rows(rows, title, False, "mean difference")
    for limit in {0.0 if s.relation != "=" else sign * metric.unit * s.margin for s in about for sign in (-1, 1)}:
        fig.add_vline(x=limit, line={"color": INK, "dash": "dot", "width": 1.5})
    return fig


def page(results: Sequence[Result]) -> str:
    """One self-contained HTML page."""
    body = [f"<p>{html.text(setting(results))}</p>", f"<p>{html.text(luck(results))}</p>"]
    body.append("<span id='all'></span>" + html.table(HEADS, lines(results), CLASSES, [r.claim.name for r in results]))
    body += ["<details open><summary>How to read this</summary>", *(f"<p>{html.text(line)}</p>" for line in READING), "</details>"]
    for r in results:
        c = r.claim
        body.append(f"<h2 id='{c.name}'>{html.text(c.title)}</h2><p><span class='{CLASSES[r.verdict]}'>{r.verdict}</span> · "
                    f"{source(c.source)} · published: {html.text(c.published)} · <code>{c.name}</code></p>")  # fmt: skip
        body += [f"<p>To keep in mind: {html.text(c.note)}.</p>"] if c.note else []
        body += [html.table(STATEMENT, statements_of(r), CLASSES), html.table(FIGURE, figures_of(r), {})]
        for name in dict.fromkeys(s.metric for s in c.statements):
            body.append(html.plot(differences(r, name), "Differences: every dot is a seed, the diamond their mean with its 95 % interval; dotted where the statement is decided."))
            body.append(html.plot(figure(r, name), "All runs: every dot is a seed, the diamond their mean with its 95 % interval."))
        body.append(f"<details><summary>all settings</summary><pre>{html.text(json.dumps(r.settings, indent=1))}</pre></details><p><a href='#all'>all claims</a></p>")
    return html.page(TITLE, body)


def source(name: str) -> str:
    """A source as HTML, with the address of a preprint."""
    number = name.removeprefix("arXiv:")
    return html.text(name) if number == name else f"<a href='https://arxiv.org/abs/{html.text(number)}'>{html.text(name)}</a>"


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
                "note": r.claim.note,
                "verdict": r.verdict,
                "quick": r.quick,
                "seconds": r.seconds,
                "expected_seconds": r.expected,
                "settings": r.settings,
                "statements": [
                    {"statement": told(j.statement, metric_of(r.settings, j.statement.metric)), "role": j.statement.role, "status": j.status, "mean": j.mean,
                     "standard_error": j.error, "low": j.low, "high": j.high, "seeds": j.seeds} for j in r.judgements
                ],
                "values": [{"who": who, "metric": name, "values": v.tolist()} for (who, name), v in r.values.items()],
            }
            for r in results
        ],
    }  # fmt: skip


def read(folder: str | Path) -> list[Result]:
    """What :func:`write` has left in a folder, judged anew by the present table of claims. ``ValueError`` for what is no report, or is about
    other claims."""
    path = Path(folder) / "report.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["claims"]
        out = []
        for row in rows:
            claim = CLAIMS[row["name"]]
            values = {(v["who"], v["metric"]): np.array(v["values"], dtype=float) for v in row["values"]}
            judged = tuple(judge(statement, values) for statement in claim.statements)
            out.append(Result(claim, row["settings"], values, judged, row["seconds"], row["quick"]))
        return out
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a report ({error}): make one by rwp-edu reproduce --all --out {folder}") from error


def kept(folder: Path, seeds: int | None, quick: bool) -> dict[str, Result]:
    """What a folder holds already, by claim: tested with these seeds by this version, or it is a ``ValueError``, as nothing is replaced."""
    if not (folder / "report.json").exists():
        return {}
    there = {result.claim.name: result for result in read(folder)}
    version = json.loads((folder / "report.json").read_text(encoding="utf-8")).get("version")
    for name, result in there.items():
        asked = json.loads(strict_json(settings_of(result.claim, seeds, quick=quick)))
        if version != __version__ or result.settings != asked:
            raise ValueError(f"{folder} holds a report of {name} with other seeds, or of another version: give --out another folder")
    return there


def write(results: Sequence[Result], folder: Path) -> list[Path]:
    """report.md, report.json and, where plotly is installed, report.html; each whole or not at all."""
    from importlib.util import find_spec

    texts = {"report.md": markdown(results), "report.json": strict_json(to_dict(results))}
    if find_spec("plotly"):
        texts["report.html"] = page(results)
    return [whole(folder / name, text) for name, text in texts.items()]
