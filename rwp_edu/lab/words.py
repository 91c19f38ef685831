"""What the screen says: a sentence about the picture, and the same training as plain code."""

from __future__ import annotations

import math

from rwp_edu import methods
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.settings import PARAMETERS, Entrant, Settings
from rwp_edu.training import Record


def _percent(values) -> str:
    spread = f" ± {100 * values.std(ddof=1) / math.sqrt(len(values)):.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.1f}{spread} %"


def summary(record: Record, shown: tuple[str, ...] | None = None) -> str:
    """Who leads, at what cost, and whether the seeds agree (± is one standard error)."""
    rows = [e for e, entrant in enumerate(record.entrants) if shown is None or entrant in shown]
    last = record.rows[-1]
    if not rows:
        return "No method is shown."
    if not last["updates"]:
        return "Nothing has been trained yet: all methods of a seed start from the same weights."
    label = {e: Entrant.parse(record.entrants[e]).label for e in rows}
    accuracy, cost = last["test_accuracy"], last["gradient_evaluations"].astype(int)
    first, *others = sorted(rows, key=lambda e: -accuracy[e].mean())
    text = f"After {last['updates']} updates {label[first]} leads with {_percent(accuracy[first])} for {cost[first]} gradients"
    if others:
        second = others[0]
        text += f"; {label[second]} has {_percent(accuracy[second])} for {cost[second]}"
        gap = accuracy[first] - accuracy[second]
        if len(gap) > 1:
            error = gap.std(ddof=1) / math.sqrt(len(gap))
            text += (
                ": "
                + ("too close to call" if gap.mean() < 2.5 * error else "a clear lead")
                + f" (paired difference {_percent(gap)})"
            )
    text += "."
    text += "".join(f" {label[e]}: {_percent(accuracy[e])} for {cost[e]}." for e in others[1:] if record.entrants[e] == "sgd")
    learnt = last["wrong_labels_learnt"]
    if others and math.isfinite(learnt[first].mean()):
        most = max(rows, key=lambda e: learnt[e].mean())
        if most != first:
            text += f" {label[most]} has learnt {100 * learnt[most].mean():.0f} % of the wrong labels, {label[first]} {100 * learnt[first].mean():.0f} %."
    lost = [
        f"{label[e]} ({(record.diverged[e] >= 0).sum()} of {len(accuracy[e])})" for e in rows if (record.diverged[e] >= 0).any()
    ]
    return text + (f" Diverged and frozen: {', '.join(lost)}." if lost else "")


def _step(row: methods.Method, k: int) -> list[str]:
    """One update: a closure for each batch or part of a batch that the method asks for."""
    cost = row.cost(k=k)
    if row.name == "sgd":
        return ["optimizer.zero_grad()", "loss_on(*problem.draw())()", "optimizer.step()"]
    if cost.batches > 1:
        return ["optimizer.step(loss_on(*problem.draw()), loss_on(*problem.draw(1)))"]
    if cost.slots > 1:
        cut = f"[:, j * images.shape[1] // {k} : (j + 1) * images.shape[1] // {k}]"
        return ["images, labels = problem.draw()", f"optimizer.step(*(loss_on(images{cut}, labels{cut}) for j in range({k})))"]
    return ["optimizer.step(loss_on(*problem.draw()))"]


def code(settings: Settings, entrant: str) -> str:
    """A plain training loop with the optimizer, for the first seed: it repeats that run of the race (without sliders moved)."""
    e = Entrant.parse(entrant)
    row, values = methods.get(e.method), settings.of(e)
    base = f"torch.optim.SGD(model.parameters(), lr={values['lr']:g}, momentum={values['momentum']:g}, weight_decay={values['weight_decay']:g})"
    if row.name == "sgd":
        imports, optimizer = "", f"optimizer = {base}"
    else:
        name = OPTIMIZERS[row.name].__name__
        used = [key for key in row.parameters if values[key] != row.default(key) or key in row.strength]
        given = [f"{key}={values[key]!r}" for key in used]
        given += [f"seed={settings.seed}"] if {"noise", "normal"} & set(row.needs) else []
        imports = f"from rwp_edu.optim import {name}\n"
        optimizer = f"optimizer = {name}(\n    " + ",\n    ".join([base, *given]) + ",\n)"
    lines = _step(row, values["k"])
    schedule = ""
    if settings.schedule == "cosine":
        schedule = f"scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={settings.steps})\n"
        lines = [*lines, "scheduler.step()"]
    moving = [name for name in ("sigma", "rho") if name in row.parameters and values["scale"] != "constant"]
    for name in moving:
        start, end = values["scale_start"] * values[name], values[name]
        ends = f"shape={values['scale']!r}, start={start:g}, end={end:g}, steps={settings.steps}"
        schedule += f'{name}_schedule = ScaleSchedule(optimizer, "{name}", {ends})\n'
        lines = [*lines, f"{name}_schedule.step()"]
    if moving:
        imports += "from rwp_edu.schedules import ScaleSchedule\n"
    loop = "".join(f"    {line}\n" for line in lines)
    return f"""import torch
from rwp_edu.problems.digits import Digits
{imports}
problem = Digits([{settings.seed}], train={settings.train}, label_noise={settings.label_noise:g}, width={settings.width}, batch={settings.batch})
model = problem.module()
criterion = torch.nn.CrossEntropyLoss()
{optimizer}
{schedule}

def loss_on(images, labels):
    def closure():
        loss = criterion(model(images[0]), labels[0])
        loss.backward()
        return loss

    return closure


for update in range({settings.steps}):
{loop}
with torch.no_grad():
    accuracy = (model(problem.test_x[0]).argmax(-1) == problem.test_y[0]).double().mean().item()
print(f"test accuracy {{accuracy:.4f}}")
"""


def unused(name: str, settings: Settings) -> str:
    """Why a control has no effect now, or nothing."""
    parameter = PARAMETERS[name]
    if name not in methods.PARAMETERS:
        return ""
    users = [e for e in settings.entrants if name in methods.get(e.method).parameters]
    called = parameter.symbol or name
    if not users:
        return f"no chosen method uses {called}"
    if all(name in e.pins for e in users):
        return f"every chosen method that uses {called} has a value of its own"
    return ""
