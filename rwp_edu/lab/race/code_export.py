"""A run of the race as plain code: the loop a student would write."""

from __future__ import annotations

from dataclasses import dataclass

from rwp_edu import methods, problems
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.training.settings import Entrant, Settings


@dataclass(frozen=True)
class Listing:
    """What the code of a problem has of its own. ``setup`` is formatted with the settings; ``data`` are the arguments of the loss,
    ``batches`` what gives them for the first and the second batch, ``axis`` is the one a batch is cut along."""

    setup: str
    parameters: str
    data: tuple[str, str]
    loss: str
    batches: tuple[str, ...]
    axis: int
    result: str


LISTINGS = {
    "digits": Listing(
        """from rwp_edu.problems.digits import Digits

problem = Digits([{seed}], train={train}, label_noise={label_noise:g}, width={width}, batch={batch})
model = problem.module()
criterion = torch.nn.CrossEntropyLoss()
""",
        "model.parameters()",
        ("images", "labels"),
        "criterion(model(images[0]), labels[0])",
        ("*problem.draw()", "*problem.draw(1)"),
        1,
        """    accuracy = (model(problem.test_x[0]).argmax(-1) == problem.test_y[0]).double().mean().item()
print(f"test accuracy {accuracy:.4f}")
""",
    ),
    "fine-tuning": Listing(
        """from rwp_edu.problems.fine_tuning import FineTuning

problem = FineTuning([{seed}], shots={shots}, label_noise={label_noise:g}, width={width}, batch={batch})
model = problem.module()  # pre-trained on the digits 0 to 4, with a new last layer
criterion = torch.nn.CrossEntropyLoss()
""",
        "model.parameters()",
        ("images", "labels"),
        "criterion(model(images[0]), labels[0])",
        ("*problem.draw()", "*problem.draw(1)"),
        1,
        """    accuracy = (model(problem.test_x[0]).argmax(-1) == problem.test_y[0]).double().mean().item()
print(f"test accuracy {accuracy:.4f}")
""",
    ),
    "images": Listing(
        """from rwp_edu.problems.datasets import pictures
from rwp_edu.problems.images import Images

problem = Images(
    [{seed}], pictures({problem!r}, {size}), batch={batch}, train={train}, shots={shots}, test={test}, label_noise={label_noise:g}, model={model!r}, norm={norm!r},
    width={width}, weights={weights!r}, crop={crop}, flip={flip_on}, cutout={cutout}, label_smoothing={label_smoothing:g},
    recalibrate={recalibrate_on}, bfloat16={bfloat16},
)
model = problem.module()
""",
        "model.parameters()",
        ("images", "labels"),
        "problem.loss(model(images), labels)",
        ("*problem.draw()", "*problem.draw(1)"),
        0,
        """    accuracy = problem.measure(model, 0)["test_accuracy"]
print(f"test accuracy {accuracy:.4f}")
""",
    ),
    "sensing": Listing(
        """from rwp_edu.problems.matrix_sensing import Sensing

problem = Sensing([{seed}], d={d}, rank={rank}, n={n}, init={init:g}, noise={noise:g})
measurements, y, truth = problem.measurements(), problem.y[0], problem.truth[0]
W = torch.nn.Parameter(problem.init().view({d}, {d}))
""",
        "[W]",
        ("measurements", "y"),
        "((measurements * (W @ W.T)).sum((1, 2)) - y).square().mean() / 4",
        ("measurements, y",),
        0,
        """    distance = (W @ W.T - truth).square().sum() / truth.square().sum()
print(f"squared distance {distance:.4g}")
""",
    ),
}


def _step(listing: Listing, row: methods.Method, k: int) -> list[str]:
    """One update: a closure for each batch or part of a batch that the method asks for."""
    cost, first = row.cost(k=k), listing.batches[0]
    if row.name == "sgd":
        return ["optimizer.zero_grad()", f"loss_on({first})()", "optimizer.step()"]
    if cost.batches > 1:
        return [f"optimizer.step({', '.join(f'loss_on({batch})' for batch in listing.batches)})"]
    if cost.slots > 1:
        x, y = listing.data
        size, lead = f"{y}.shape[{listing.axis}]", ":, " * listing.axis
        cut = f"[{lead}j * {size} // {k} : (j + 1) * {size} // {k}]"
        draw = [f"{x}, {y} = {first.removeprefix('*')}"] if first.startswith("*") else []
        return [*draw, f"optimizer.step(*(loss_on({x}{cut}, {y}{cut}) for j in range({k})))"]
    return [f"optimizer.step(loss_on({first}))"]


def code(settings: Settings, entrant: str) -> str:
    """A plain training loop with the optimizer, for the first seed: it repeats that run of the race (without sliders moved)."""
    family = problems.get(settings.problem).family
    if settings.problem in problems.OWN:
        return "# The problem is your own, and so is the loop: see the lesson Use it in your own training.\n"
    e, listing = Entrant.parse(entrant), LISTINGS[family]
    row, values = methods.get(e.method), settings.of(e)
    more = vars(settings)
    kind, momentum = ("AdamW", "") if more.get("base") == "adamw" else ("SGD", f"momentum={values['momentum']:g}, ")
    base = f"torch.optim.{kind}({listing.parameters}, lr={values['lr']:g}, {momentum}weight_decay={values['weight_decay']:g})"
    if row.name == "sgd":
        imports, optimizer = "", f"optimizer = {base}"
    else:
        name = OPTIMIZERS[row.name].__name__
        used = [key for key in row.parameters if values[key] != row.default(key) or key in row.strength]
        given = [f"{key}={values[key]!r}" for key in used]
        given += [f"seed={settings.seed}"] if {"noise", "normal"} & set(row.needs) else []
        imports = f"from rwp_edu.optim import {name}\n"
        optimizer = f"optimizer = {name}(\n    " + ",\n    ".join([base, *given]) + ",\n)"
    lines = _step(listing, row, values["k"])
    schedule = ""
    if settings.schedule == "cosine":
        schedule = f"scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={settings.steps})\n"
        lines = [*lines, "scheduler.step()"]
    elif settings.schedule != "constant":
        imports += "from rwp_edu.optim.schedules import learning_rate\n"
        factor = f"lambda update: learning_rate({settings.schedule!r}, update / {settings.steps})"
        schedule = f"scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, {factor})\n"
        lines = [*lines, "scheduler.step()"]
    moving = [name for name in ("sigma", "rho") if name in row.parameters and values["scale"] != "constant"]
    for name in moving:
        start, end = values["scale_start"] * values[name], values[name]
        ends = f"shape={values['scale']!r}, start={start:g}, end={end:g}, steps={settings.steps}"
        schedule += f'{name}_schedule = ScaleSchedule(optimizer, "{name}", {ends})\n'
        lines = [*lines, f"{name}_schedule.step()"]
    if moving:
        imports += "from rwp_edu.optim.schedules import ScaleSchedule\n"
    if more.get("clip"):
        of = "optimizer" if row.name == "sgd" else "optimizer.base"
        schedule += f"""

def clip(*_):
    torch.nn.utils.clip_grad_norm_(model.parameters(), {settings.clip:g})


{of}.register_step_pre_hook(clip)
"""
    final = ""
    if values["swa"] < 1:
        of = listing.parameters
        schedule += f"averaged, count = [p.detach().clone() for p in {of}], 0\n"
        lines = [
            *lines,
            f"if (update + 1) / {settings.steps} >= {values['swa']!r}:",
            "    count += 1",
            f"    for average, p in zip(averaged, {of}):",
            "        average.lerp_(p.detach(), 1 / count)",
        ]
        final = f"    for average, p in zip(averaged, {of}):\n        p.copy_(average)\n"
    settled = settings.to_dict() | {f"{name}_on": value == "on" for name, value in settings.to_dict().items()}
    settled["bfloat16"] = more.get("precision") == "bfloat16"
    loop = "".join(f"    {line}\n" for line in lines)
    loss = f"loss = {listing.loss}"
    if more.get("precision") == "bfloat16":
        loss = f'with torch.autocast("cpu", torch.bfloat16):\n            {loss}'
    return f"""import torch
{imports}{listing.setup.format(**settled)}{optimizer}
{schedule}

def loss_on({", ".join(listing.data)}):
    def closure():
        {loss}
        loss.backward()
        return loss

    return closure


for update in range({settings.steps}):
{loop}
with torch.no_grad():
{final}{listing.result}"""
