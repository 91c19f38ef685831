"""What the screen says about the picture, in a sentence or two, and why a control has no effect."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rwp_edu import methods
from rwp_edu.optim.schedules import scale
from rwp_edu.problems import Metric
from rwp_edu.training import Record
from rwp_edu.training.settings import COMMON, Entrant, Settings
from rwp_edu.utils.parameters import counted, rounded

NOTHING = "nothing"
SCALED = ("sigma", "rho")  # what a schedule of the scale acts on
METHODS = tuple(f"{row.formula}: {row.meaning}" for row in methods.METHODS.values())


def _lead(better: np.ndarray, worse: np.ndarray, metric: Metric) -> str:
    """Is the difference, paired by seed, more than two and a half of its standard errors?"""
    gap = np.log10(worse) - np.log10(better) if metric.log else better - worse
    if len(gap) < 2:
        return ""
    clear = gap.any() and abs(gap.mean()) >= 2.5 * gap.std(ddof=1) / math.sqrt(len(gap))
    size = f"{rounded(10 ** gap.mean(), 2)} times lower" if metric.log else f"paired difference {metric.mean(gap)}"
    return f": {'a clear lead' if clear else 'too close to call'} ({size})"


def _of_digits(label: dict[int, str], last: dict[str, np.ndarray], first: int) -> str:
    if "wrong_labels_learnt" not in last:
        return ""
    learnt = last["wrong_labels_learnt"]
    most = max(label, key=lambda e: learnt[e].mean())
    if most == first or not math.isfinite(learnt[first].mean()):
        return ""
    return f" {label[most]} has learnt {100 * learnt[most].mean():.0f} % of the wrong labels, {label[first]} {100 * learnt[first].mean():.0f} %."


def _of_sensing(label: dict[int, str], last: dict[str, np.ndarray], first: int) -> str:
    fits = min(label, key=lambda e: last["train_error"][e].mean())
    far = 10 ** np.log10(last["distance"][fits]).mean()
    if fits == first or not math.isfinite(far):
        return ""
    return f" {label[fits]} fits its measurements best (training error {last['train_error'][fits].mean():.1g}), yet its distance² is {rounded(far, 2)}; WWᵀ = 0 has 1."


REMARKS = {"digits": _of_digits, "fine-tuning": _of_digits, "images": _of_digits, "sensing": _of_sensing}


def summary(record: Record, shown: tuple[str, ...] | None = None) -> str:
    """Who leads, at what cost, and whether the seeds agree (± is one standard error)."""
    rows = [e for e, entrant in enumerate(record.entrants) if shown is None or entrant in shown]
    last, score = record.rows[-1], record.problem.score
    if not rows:
        return "No method is shown."
    if not last["updates"]:
        return "Nothing has been trained yet: all methods of a seed start from the same weights."
    label = {e: Entrant.parse(record.entrants[e]).label for e in rows}
    values, cost = last[score.name], last["gradient_evaluations"].astype(int)
    lost = [f"{label[e]} ({(record.diverged[e] >= 0).sum()} of {len(values[e])})" for e in rows if (record.diverged[e] >= 0).any()]
    lost = f" Diverged and frozen: {', '.join(lost)}." if lost else ""
    standing = [e for e in rows if (record.diverged[e] < 0).any() and np.isfinite(values[e]).all()]
    if not standing:
        return f"After {counted(int(last['updates']), 'update')} no method is left: try a smaller learning rate, or less perturbation.{lost}"
    first, *others = sorted(standing, key=lambda e: values[e].mean(), reverse=score.high_is_good)
    said = {e: f"{score.mean(values[e])}{' ' + score.noun if e == first else ''} for {cost[e]}" for e in standing}
    text = f"After {counted(int(last['updates']), 'update')} {label[first]} leads with {said[first]} {'gradient' if cost[first] == 1 else 'gradients'}"
    if others:
        text += f"; {label[others[0]]} has {said[others[0]]}{_lead(values[first], values[others[0]], score)}"
    text += "."
    text += "".join(f" {label[e]}: {said[e]}." for e in others[1:] if record.entrants[e] == "sgd")
    if others and record.problem.family in REMARKS:
        text += REMARKS[record.problem.family]({e: label[e] for e in standing}, last, first)
    return text + lost


def said(prediction: Any) -> str:
    """Return a prediction as it was filled in: one value, or some by name.

    >>> print(said({"SAM": 0.3, "RWP": ...}))
    you said: SAM 0.3; RWP nothing
    """
    if isinstance(prediction, dict):
        text = "; ".join(f"{name} {given(value)}" for name, value in prediction.items())
        empty = all(given(value) == NOTHING for value in prediction.values())
    else:
        text, empty = given(prediction), given(prediction) == NOTHING
    return "you said nothing yet: write your prediction above, and run both cells" if empty else f"you said: {text}"


def given(value: Any) -> str:
    """Return a part of a prediction as text, "nothing" where it was not filled in."""
    return NOTHING if value is ... or value is None or str(value).strip() in ("", "...") else str(value)


def unused(name: str, settings: Settings) -> str:
    """Why a control has no effect now, or nothing."""
    if name not in COMMON:
        return ""
    needs = SCALED if name in ("scale", "scale_start") else (name,) if name in methods.PARAMETERS else ()
    users = [e for e in settings.entrants if not needs or {*needs} & {*methods.get(e.method).parameters}]
    if not users:
        return f"no chosen method uses {' or '.join(COMMON[need].symbol or need for need in needs)}"
    if all(name in settings.pins(e) for e in users):
        return f"every chosen method that uses {COMMON[name].symbol or name} has a value of its own"
    if name == "scale_start" and all(scale(settings.of(e)["scale"], 0.0, 1.0, 0.0) == scale(settings.of(e)["scale"], 1.0, 1.0, 0.0) for e in users):
        return "the schedule of the scale does not grow"
    return ""
