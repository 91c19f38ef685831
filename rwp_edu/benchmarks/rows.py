"""The speed this project promises, as ratios measured in one run: A and B in turns, medians of the paired ratios."""

from __future__ import annotations

import operator
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import torch

from rwp_edu.benchmarks import baselines, browser_rows
from rwp_edu.methods import METHODS, PARAMETERS
from rwp_edu.methods.noise import generator
from rwp_edu.methods.points import At
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.optim.parallel import timing
from rwp_edu.optim.parallel.timing import networks
from rwp_edu.problems import models
from rwp_edu.problems.digits import Digits
from rwp_edu.problems.matrix_sensing import Sensing
from rwp_edu.problems.surface_descent import Descent
from rwp_edu.problems.surfaces import SHARP_AND_WIDE, grid
from rwp_edu.training import Run
from rwp_edu.training import checkpoint as checkpoints
from rwp_edu.training.batched import Group, update
from rwp_edu.training.run import one_thread
from rwp_edu.training.settings import Entrant, Settings
from rwp_edu.utils.cpu import cores, others

UPDATES = 25
COMPARE = {"<=": operator.le, ">=": operator.ge}
QUIET = 0.2  # cores
Measurement = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """A figure: ``prepare`` gives two functions that measure A and B, ``what`` in ``unit``; the goal is for the ratio A / B, as in
    ``"<= 1.1"``, or for the 95th percentile of A, as in ``"p95 <= 120"``.

    What it opens goes onto the stack; ``lacks`` says why it cannot be measured here, or nothing.
    """

    name: str
    a: str
    b: str
    unit: str
    what: str
    goal: str
    pairs: int
    prepare: Callable[[ExitStack], tuple[Measurement, Measurement]]
    lacks: Callable[[], str] = str
    wall: bool = False  # wall time, which says something on a quiet machine only


def noise() -> str:
    """Why wall time would say nothing now, or nothing."""
    busy = others()
    return f"wall time, and others keep {busy:.1f} of {cores()} cores busy" if busy > QUIET else ""


def seconds_of(work: Callable[[], None]) -> float:
    """CPU seconds of this process, on one thread."""
    with one_thread():
        began = process_time()
        work()
        return process_time() - began


def race() -> Measurement:
    """CPU microseconds per run and update of a race of the default methods and seeds, without any measuring of metrics."""
    run = Run(Settings(steps=1_000_000, record_every=10_000))
    runs = len(run.settings.methods) * run.settings.seeds
    return lambda: seconds_of(lambda: run.advance(UPDATES)) * 1e6 / (UPDATES * runs)


class Loop:
    """An ordinary training loop of one seed of the race: a module, a torch optimizer, mini-batches."""

    def __init__(self, seed: int, method: str | None = None):
        s = Settings()
        problem = Digits([seed])
        self.x, self.y, self.size = problem.train_x[0], problem.train_y[0], s.batch
        self.model, self.criterion = problem.module(), torch.nn.CrossEntropyLoss()
        values = s.of(Entrant.parse(method or "sgd"))
        base = {name: values[name] for name in ("lr", "momentum", "weight_decay")}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **base)
        self.left: list[torch.Tensor] = []
        if method:
            hyper = {name: values[name] for name in METHODS[method].parameters}
            self.optimizer = OPTIMIZERS[method](self.optimizer, seed=seed, **hyper)
            self.slots = METHODS[method].cost(k=values["k"]).slots

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.left = self.left or list(torch.randperm(len(self.x)).split(self.size))
        index = self.left.pop()
        return self.x[index], self.y[index]

    def closure(self) -> Callable[[], torch.Tensor]:
        x, y = self.batch()

        def evaluate() -> torch.Tensor:
            loss = self.criterion(self.model(x), y)
            loss.backward()
            return loss

        return evaluate

    def plain(self) -> None:
        for _ in range(UPDATES):
            self.optimizer.zero_grad()
            self.closure()()
            self.optimizer.step()

    def perturbed(self) -> None:
        for _ in range(UPDATES):
            self.optimizer.step(*(self.closure() for _ in range(self.slots)))


def one_by_one(loops: list[Loop], work: Callable[[Loop], None]) -> Measurement:
    """CPU microseconds per run and update of loops that run one after another."""

    def all_loops() -> None:
        for loop in loops:
            work(loop)

    return lambda: seconds_of(all_loops) * 1e6 / (UPDATES * len(loops))


def step_of(network: str, steps: int, wrap: Callable[[torch.nn.Module], tuple[torch.optim.Optimizer, bool]]) -> Measurement:
    """CPU microseconds per step of an optimizer; ``wrap`` also tells whether it steps with a closure."""
    make, shape = networks()[network]
    torch.manual_seed(0)
    model, x, y = make(), torch.randn(shape), torch.randint(10, shape[:1])
    criterion = torch.nn.CrossEntropyLoss()
    optimizer, closed = wrap(model)

    def closure() -> torch.Tensor:
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    def work() -> None:
        for _ in range(steps):
            if closed:
                optimizer.step(closure)
            else:
                optimizer.zero_grad()
                closure()
                optimizer.step()

    return lambda: seconds_of(work) * 1e6 / steps


def base_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)


class _TheirSam:
    """``pytorch_optimizer.SAM`` for a loop with a closure: its own step wants the first gradient already there."""

    def __init__(self, model: torch.nn.Module):
        from pytorch_optimizer import SAM

        self.sam = SAM(model.parameters(), base_optimizer=torch.optim.SGD, lr=0.001, momentum=0.9)

    def step(self, closure: Callable[[], torch.Tensor]) -> None:
        closure()
        self.sam.first_step(zero_grad=True)
        closure()
        self.sam.second_step(zero_grad=True)


def step_row(method: str, network: str, goal: str) -> Row:
    label, steps, pairs = METHODS[method].label, *((40, 20) if network.startswith("MLP") else (2, 7))
    return Row(
        f"a step of {label}, {network}",
        f"{label} around torch.optim.SGD, both closures on the same batch",
        "torch.optim.SGD alone",
        "µs",
        "CPU time per step, on one thread",
        goal,
        pairs,
        lambda _: (
            step_of(network, steps, lambda model: (OPTIMIZERS[method](base_of(model)), True)),
            step_of(network, steps, lambda model: (base_of(model), False)),
        ),
    )


STEP_GOALS = {
    "MLP of 4.8k": {"rwp": "<= 1.1", "arwp": "<= 1.5", "sam": "<= 2.1", "nso": "<= 2.1"},
    "CNN of 53k": {"rwp": "<= 1.02", "arwp": "<= 1.02", "sam": "<= 2.02", "nso": "<= 2.02", "m-rwp": "<= 2.02"},
}


def kept(stack: ExitStack) -> tuple[Measurement, Measurement]:
    """CPU milliseconds of 100 updates of a residual CNN by SGD and m-RWP, with a checkpoint, the record and the networks written at their end, and
    without."""
    folder = Path(stack.enter_context(TemporaryDirectory()))

    def trained(save: bool) -> None:
        run = Run(Settings("images", methods="sgd,m-rwp", seeds=1, steps=100, record_every=50))
        run.advance(100)
        if save:
            checkpoints.save(run, folder)
            run.record.save(folder / "record.json")
            checkpoints.save_networks(run, folder)

    return tuple(lambda save=save: seconds_of(lambda: trained(save)) * 1e3 for save in (True, False))


def trajectories() -> tuple[Measurement, Measurement]:
    """CPU microseconds per update of 1,000 trajectories of RWP on a surface: by autograd in a plain loop, and by ``Descent``."""
    starts, scale, lr = grid(SHARP_AND_WIDE.view, 40, 25), 0.2, 0.01
    wells = [(depth, width, torch.tensor(centre)) for depth, width, *centre in SHARP_AND_WIDE.wells]
    descent = Descent(SHARP_AND_WIDE, "rwp", starts, lr=lr, sigma=scale, kind="isotropic")

    def value(x: torch.Tensor) -> torch.Tensor:
        inside = sum(a * torch.exp(-((x - c) ** 2).sum(-1) / (2 * s**2)) for a, s, c in wells)
        return SHARP_AND_WIDE.bowl * (x**2).sum(-1) - inside

    def by_autograd() -> None:
        w, noise = starts, torch.Generator().manual_seed(0)
        for _ in range(UPDATES):
            x = (w + scale * torch.randn(w.shape, generator=noise)).requires_grad_()
            (g,) = torch.autograd.grad(value(x).sum(), x)
            w = w - lr * g

    return (lambda: seconds_of(by_autograd) * 1e6 / UPDATES), (
        lambda: seconds_of(lambda: descent.advance(UPDATES)) * 1e6 / UPDATES
    )


def sensing_gradients() -> tuple[Measurement, Measurement]:
    """CPU milliseconds of a gradient of matrix sensing: by the products that the released code of 2306.08553 forms, and by ours.

    Theirs weighs the measurements by a diagonal matrix (n, n) and sums the result, all in float64.
    """
    problem = Sensing([0], d=100, rank=5, n=500)
    w, a, y = problem.init(), problem.measurements().flatten(1).double(), problem.y[0].double()
    dense = w.view(100, 100).double()

    def theirs() -> None:
        residuals = a @ (dense @ dense.T).flatten() - y
        (torch.diag(residuals) @ a).mean(0).view(100, 100) @ dense

    def ours() -> None:
        for _ in range(UPDATES):
            problem.gradient(w)

    return (lambda: seconds_of(theirs) * 1e3), (lambda: seconds_of(ours) * 1e3 / UPDATES)


def sensing_points(points: int) -> tuple[Measurement, Measurement]:
    """CPU milliseconds per gradient of matrix sensing at many points: one by one, and at once."""
    problem = Sensing([0], d=100, rank=5, n=2500)
    asked = [At(problem.init()) for _ in range(points)]

    def alone() -> None:
        for at in asked:
            problem.gradients([at])

    def together() -> None:
        problem.gradients(asked)

    return (lambda: seconds_of(alone) * 1e3 / points), (lambda: seconds_of(together) * 1e3 / points)


def sensing_figure(updates: int) -> tuple[Measurement, Measurement]:
    """CPU seconds of the 5,000 updates in the figure of 2306.08553, from ``updates``: SGD, RWP and NSO one by one, and at once."""
    problem = Sensing([0], d=100, rank=5, n=2500)
    groups = []
    for name in ("sgd", "rwp", "nso"):
        hyper = {key: METHODS[name].default(key) for key in PARAMETERS} | {"kind": "isotropic", "sigma": 0.08}
        groups.append(Group(name, hyper, [generator(0, "noise")]))

    def train(some: list[Group]) -> None:
        w = [problem.init() for _ in some]
        for _ in range(updates):
            w = [v - 0.0025 * g for v, g in zip(w, update(w, some, problem.layout, problem.gradients))]

    def alone() -> None:
        for group in groups:
            train([group])

    return (lambda: seconds_of(alone) * 5000 / updates), (lambda: seconds_of(lambda: train(groups)) * 5000 / updates)


def flatness_row(name: str, a: str, b: str, goal: str, pairs: int, make: Callable[[], baselines.Pair]) -> Row:
    def prepare(_: ExitStack) -> tuple[Measurement, Measurement]:
        plain, ours = make()
        return (lambda: seconds_of(plain) * 1e3), (lambda: seconds_of(ours) * 1e3)

    return Row(name, a, b, "ms", "CPU time, on one thread", goal, pairs, prepare)


def convolutions() -> baselines.Pair:
    make, (_, *image) = networks()["CNN of 53k"]
    torch.manual_seed(0)
    return baselines.convolutions(make(), torch.randn(32, *image))


PLAIN = "one product with the Hessian after another, through a graph that is kept"
FLATNESS = (
    ("trace of the Hessian, MLP of 4.8k", f"{PLAIN}: 100 probes, 300 images", "rwp_edu.curvature.trace.trace", ">= 3", 20, baselines.trace),
    ("top eigenvalue, MLP of 4.8k", f"{PLAIN}: power iteration to 2e-4", "rwp_edu.curvature.lanczos.eigenvalues to 1e-4", ">= 1.7", 20, baselines.top),
    ("spectral density, MLP of 4.8k", f"{PLAIN}: 4 probes of 50 steps", "rwp_edu.curvature.lanczos.density", ">= 2.5", 7, baselines.density),
    ("trace of the Hessian, CNN of 53k", f"{PLAIN}: 16 probes, 32 images", "rwp_edu.curvature.trace.trace", ">= 0.9", 5, convolutions),
    ("41 x 41 slice, MLP of 4.8k", "a loop of forward passes, 64 images", "rwp_edu.curvature.loss_slices.evaluate", ">= 3.5", 7, baselines.plane),
    ("trace and top eigenvalue of 40 runs", "one run after another, 300 images each", "all at once", "", 7, baselines.many_runs),
)  # fmt: skip


def workers(network: str, ours: str, way: str) -> Callable[[ExitStack], tuple[Measurement, Measurement]]:
    """Wall milliseconds of an update of m-RWP in one way, and of SAM in another."""

    def prepare(stack: ExitStack) -> tuple[Measurement, Measurement]:
        team = stack.enter_context(timing.Team(network))
        return tuple(lambda ask=ask: team.quiet(*ask).milliseconds for ask in (("m-rwp", ours), ("sam", way)))

    return prepare


def no_workers(network: str) -> str:
    if network == "resnet18" and find_spec("torchvision") is None:
        return "needs torchvision"
    if (lacking := timing.lacks()) or not (busy := others(0.5)) > timing.QUIET:
        return lacking
    return f"needs a quiet machine: others use {busy:.1f} of its cores"


def workers_row(network: str, label: str, ours: str, way: str, against: str, goal: str) -> Row:
    return Row(
        f"m-RWP on two {SHARED[ours]} over SAM {against}, {label}",
        f"m-RWP, its two points on two {SHARED[ours]}",
        f"SAM, {timing.WAYS[way]}",
        "ms",
        "wall time per update, while nobody else uses the cores",
        goal,
        7 if network == "cnn" else 3,
        workers(network, ours, way),
        lambda: no_workers(network),
    )


SHARED = {"two workers": "processes of one thread", "two copies": "threads of a process"}
WORKERS = tuple(
    (network, label, ours, way, against, goal)
    for ours in SHARED
    for network, label in (("cnn", "CNN at batch 128"), ("resnet18", "ResNet-18 at batch 32"))
    for way, against, goal in (("two threads", "on the same two cores", "<= 0.90"), ("one core", "on one of them", "<= 0.62"))
)


def no_gpu() -> str:
    return "" if torch.cuda.is_available() else "needs a GPU for CUDA"


def wall_seconds(work: Callable[[], None], device: str) -> float:
    """Wall seconds until the device has done it."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    began = perf_counter()
    work()
    wait()
    return perf_counter() - began


def images_of(method: str, device: str = "cuda", batch: int = 128, steps: int = 20) -> Measurement:
    """Updates times ``batch`` per second of ResNet-18 on pictures of 32 x 32. (m-RWP looks at two batches in an update; one is counted.)"""
    model = models.build("resnet18", classes=10, norm="batch").to(device)
    row, base = METHODS[method], base_of(model)
    optimizer = base if method == "sgd" else OPTIMIZERS[method](base)
    data = [(torch.randn(batch, 3, 32, 32, device=device), torch.randint(10, (batch,), device=device)) for _ in range(row.cost(k=1).batches)]

    def closure_of(x: torch.Tensor, y: torch.Tensor) -> Callable[[], torch.Tensor]:
        def closure() -> torch.Tensor:
            base.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        return closure

    closures = [closure_of(x, y) for x, y in data]

    def work() -> None:
        for _ in range(steps):
            optimizer.step(*closures)

    return lambda: steps * batch / wall_seconds(work, device)


def updates_of(method: str, device: str = "cuda", updates: int = 50) -> Measurement:
    """Wall microseconds per update of one small network, whose points of a round are evaluated in one batched call."""
    run = Run(Settings(methods=method, seeds=1, steps=1_000_000, record_every=10_000), device)
    return lambda: wall_seconds(lambda: run.advance(updates), device) * 1e6 / updates


def gpu_row(method: str, goal: str) -> Row:
    label = METHODS[method].label
    return Row(
        f"{label} on a GPU, ResNet-18",
        label,
        "SGD",
        "images/s",
        "pictures of 32 x 32 in batches of 128; a picture counts once an update, wall time",
        goal,
        7,
        lambda _: (images_of(method), images_of("sgd")),
        no_gpu,
        wall=True,
    )


def no_peer() -> str:
    try:
        from pytorch_optimizer import SAM
    except ImportError as error:
        return f"needs pip install 'rwp_edu[bench]' ({error})"
    return "" if hasattr(SAM, "first_step") else "this version of pytorch_optimizer has no SAM in two steps"


def importing(modules: str) -> Measurement:
    """CPU milliseconds of an import in a fresh process."""
    code = f"import time; began = time.process_time(); import {modules}; print(time.process_time() - began)"
    return lambda: 1e3 * float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


BARE = "plotly alone draws the same figure again, in the same page"


def hand(name: str, source: str, control: str, goal: str, training: bool = False) -> Row:
    """A slider of a lab in a browser."""
    return Row(
        name,
        f"a key press on the slider {control} of {source}, to changed pixels",
        BARE,
        "ms",
        "wall time in a page of JupyterLab in Chromium, on the same machine",
        goal,
        20,
        browser_rows.presses(source, control, training),
        browser_rows.no_browser,
        wall=True,
    )


def flood(name: str, source: str, control: str) -> Row:
    return Row(
        f"{browser_rows.MESSAGES} messages of a slider at once: {name}",
        f"until the kernel answers, the slider {control} of {source}",
        "the same for a slider that nothing listens to",
        "ms",
        "wall time in a page of JupyterLab in Chromium, on the same machine",
        "p95 <= 500",
        5,
        browser_rows.floods(source, control),
        browser_rows.no_browser,
        wall=True,
    )


ROWS = (
    Row(
        "checkpoints and records",
        "100 updates of a residual CNN by two methods, then a checkpoint, the record and the networks on the disk",
        "the same, kept in memory",
        "ms",
        "CPU time, on one thread",
        "<= 1.02",
        7,
        kept,
    ),
    Row(
        "40 runs at once, against plain SGD",
        "torch.optim.SGD, one run after another: one gradient per update",
        "the five methods x 8 seeds in one Run: 1.6 gradients per update on average",
        "µs",
        "CPU time per run and update, on one thread",
        ">= 2",
        20,
        lambda _: (one_by_one([Loop(seed) for seed in range(8)], Loop.plain), race()),
    ),
    Row(
        "40 runs at once, against the same runs",
        "the five methods around torch.optim.SGD, one run after another",
        "the five methods x 8 seeds in one Run",
        "µs",
        "CPU time per run and update, on one thread",
        ">= 5",
        20,
        lambda _: (one_by_one([Loop(0, method) for method in Settings().methods], Loop.perturbed), race()),
    ),
    Row(
        "1,000 trajectories on a surface",
        "RWP in a loop with torch.autograd, all trajectories as one tensor",
        "the same by rwp_edu.problems.surface_descent, with gradients written by hand",
        "µs",
        "CPU time per update, on one thread",
        ">= 3",
        20,
        lambda _: trajectories(),
    ),
    Row(
        "a gradient of matrix sensing",
        "the products of the released code of 2306.08553, dense and in float64",
        "rwp_edu.problems.matrix_sensing, in float32; d = 100, n = 500 in both",
        "ms",
        "CPU time per gradient, on one thread",
        ">= 50",
        7,
        lambda _: sensing_gradients(),
    ),
    Row(
        "64 points of matrix sensing at once",
        "one by one, by the same code",
        "all at once; d = 100, n = 2500",
        "ms",
        "CPU time per gradient, on one thread",
        ">= 4",
        7,
        lambda _: sensing_points(64),
    ),
    Row(
        "the figure of 2306.08553",
        "SGD, RWP and NSO one after another, at the published size: d = 100, n = 2500",
        "the three at once",
        "s",
        "CPU time of all 5,000 updates, from 20, on one thread",
        "",
        5,
        lambda _: sensing_figure(20),
    ),
    *(flatness_row(*row) for row in FLATNESS),
    Row(
        "import",
        "import rwp_edu, rwp_edu.optim, rwp_edu.training",
        "import torch",
        "ms",
        "CPU time in a fresh process",
        "<= 1.1",
        7,
        lambda _: (importing("rwp_edu, rwp_edu.optim, rwp_edu.training"), importing("torch")),
    ),
    *(step_row(method, network, goal) for network, goals in STEP_GOALS.items() for method, goal in goals.items()),
    Row(
        "our SAM against pytorch_optimizer's, MLP of 4.8k",
        "rwp_edu.optim.SAM around torch.optim.SGD",
        "pytorch_optimizer.SAM with torch.optim.SGD as base",
        "µs",
        "CPU time per step, on one thread",
        "<= 1",
        20,
        lambda _: (
            step_of("MLP of 4.8k", 40, lambda model: (OPTIMIZERS["sam"](base_of(model)), True)),
            step_of("MLP of 4.8k", 40, lambda model: (_TheirSam(model), True)),
        ),
        no_peer,
    ),
    *(workers_row(*row) for row in WORKERS),
    *(gpu_row(method, goal) for method, goal in (("rwp", ">= 0.95"), ("m-rwp", ">= 0.45"), ("sam", ">= 0.45"))),
    Row(
        "an update of m-RWP on a GPU, MLP of 4.8k",
        "m-RWP, both points in one batched call",
        "SGD",
        "µs",
        "wall time per update of one network",
        "<= 1.3",
        11,
        lambda _: (updates_of("m-rwp"), updates_of("sgd")),
        no_gpu,
        wall=True,
    ),
    Row(
        "live race with the screen open",
        "live in JupyterLab as fast as it goes, watched in Chromium on the same machine",
        "headless in the same kernel",
        "/s",
        "updates of 40 runs per second, wall time",
        ">= 0.75",
        5,
        browser_rows.live,
        browser_rows.no_browser,
        wall=True,
    ),
    *(hand(f"slider to figure: {name}", *lab, "p95 <= 120") for name, lab in browser_rows.LABS.items()),
    hand("slider to mark: race, 40 runs train", browser_rows.RACE, "sigma", "p95 <= 200", training=True),
    Row(
        "Start to the first line of a race",
        f"Start of {browser_rows.RACE}, to changed pixels",
        BARE,
        "ms",
        "wall time in a page of JupyterLab in Chromium, on the same machine",
        "p95 <= 400",
        10,
        browser_rows.starts,
        browser_rows.no_browser,
        wall=True,
    ),
    flood("race", browser_rows.RACE, "sigma"),
    flood("smoothing", *browser_rows.LABS["smoothing"]),
    flood("landscape", *browser_rows.LABS["landscape"]),
    Row(
        "widgets of a cell with the race",
        "made before a fold is opened",
        "one slider",
        "",
        "widgets",
        "p95 <= 150",
        3,
        browser_rows.widgets,
        browser_rows.no_browser,
    ),
    Row(
        "a page with three labs is loaded again",
        "through the connection to the kernel",
        "plotly.js, packed",
        "MB",
        "megabytes",
        "p95 <= 2",
        3,
        browser_rows.reloads,
        browser_rows.no_browser,
    ),
)


def measure(
    rows: tuple[Row, ...] = ROWS, quick: bool = False, told: Callable[[int, int], None] = lambda done, of: None
) -> list[dict[str, Any]]:
    """Every row: medians of A and B, the median and quartiles of the paired ratios A / B, and whether the goal is met; or why it was
    skipped: something is not installed, or, where it is wall time, the machine was not quiet before and after."""
    out = []
    for row in rows:
        told(len(out), len(rows))
        out.append(measure_row(row, 3 if quick else row.pairs))
    told(len(out), len(rows))
    return out


def measure_row(row: Row, pairs: int) -> dict[str, Any]:
    described = {
        "name": row.name,
        "what_a": row.a,
        "what_b": row.b,
        "what": row.what,
        "unit": row.unit,
        "goal": row.goal or None,
    }
    if lacking := row.lacks() or (row.wall and noise()):
        return {**described, "skipped": lacking}
    with ExitStack() as stack:
        measure_a, measure_b = row.prepare(stack)
        try:
            measure_a(), measure_b()
            measured = [(measure_a(), measure_b()) for _ in range(pairs)]
        except RuntimeError as why:  # disturbed, or it failed: the other rows are measured all the same
            return {**described, "skipped": str(why)}
    if row.wall and (loud := noise()):
        return {**described, "skipped": loud}
    p95 = statistics.quantiles((a for a, _ in measured), n=20, method="inclusive")[-1]
    first, ratio, third = statistics.quantiles((a / b for a, b in measured), n=4, method="inclusive")
    *of, sign, bound = row.goal.split() or ("", "")
    return {
        **described,
        "skipped": None,
        "a": statistics.median(a for a, _ in measured),
        "b": statistics.median(b for _, b in measured),
        "ratio": ratio,
        "quartiles": [first, third],
        "a_p95": p95,
        "pairs": pairs,
        "met": COMPARE[sign](p95 if of else ratio, float(bound)) if sign else None,
    }
