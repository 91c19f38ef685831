"""The experiments behind the claims: settings in, one value per seed and measured quantity out.

An experiment is a function of ``(seeds, first, **settings)`` that returns ``{(who, metric): values (S,)}``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from time import process_time
from typing import Any

import numpy as np
import torch

from rwp_edu.training import Run
from rwp_edu.training.run import one_thread
from rwp_edu.training.settings import Settings

Found = dict[tuple[str, str], np.ndarray]
TIMES = " x"  # "sgd x2": the same entrant with twice the updates


def longer(who: str) -> tuple[str, int]:
    """An entrant and how many times the updates it gets.

    >>> longer("sgd x2"), longer("nso:k=4")
    (('sgd', 2), ('nso:k=4', 1))
    """
    name, _, factor = who.partition(TIMES)
    return name, int(factor or 1)


def race(seeds: int, first: int, problem: str, methods: Sequence[str], flatness: bool = False, **settings: Any) -> Found:
    """The last record of a race; ``sgd x2`` gets twice the updates, for comparisons at equal gradient evaluations. NaN where a run diverged."""
    common = {"problem": problem, "seeds": seeds, "seed": first} | settings
    steps = Settings(**common).steps
    out: Found = {}
    for factor in dict.fromkeys(longer(who)[1] for who in methods):
        same = [who for who in methods if longer(who)[1] == factor]
        names = [longer(who)[0] for who in same]
        wanted = Settings(**common | {"methods": names, "steps": factor * steps, "record_every": 10_000})
        run = Run(wanted.replace(flatness_every=10_000) if flatness else wanted)
        run.advance(factor * steps)
        run.write()
        last, row = run.record.rows[-1], run.record.problem
        for number, who in enumerate(same):
            bad = run.record.diverged[number] >= 0
            for metric in (*row.metrics, *row.held_back, *(row.flatness if flatness else ())):
                out[who, metric.name] = np.where(bad, np.nan, last[metric.name][number])
    return {(who, name): out[who, name] for who in methods for other, name in out if other == who}


def optimum(
    seeds: int,
    first: int,
    methods: Sequence[str],
    grid: Sequence[float],
    choose: str = "validation_accuracy",
    score: str = "test_accuracy",
    **settings: Any,
) -> Found:
    """Per seed the scale of the noise that is best on images held back, for every method, and the score there on test images."""

    def named(who: str, sigma: float) -> str:
        method, factor = longer(who)
        return f"{method}:sigma={sigma}" + (f"{TIMES}{factor}" if factor > 1 else "")

    found = race(seeds, first, methods=[named(who, sigma) for who in methods for sigma in grid], **settings)
    out: Found = {}
    for who in methods:
        chooses, scores = (np.array([found[named(who, sigma), name] for sigma in grid]) for name in (choose, score))
        best = np.where(np.isfinite(chooses), chooses, -np.inf).argmax(0)
        out[who, "best_sigma"] = np.array(grid)[best]
        out[who, score] = scores[best, np.arange(seeds)]
    return out


def surface(seeds: int, first: int, methods: Sequence[str], radius: float, steps: int = 600) -> Found:
    """The fraction of 81 runs per seed, started around the sharp minimum of the surface *sharp and wide*, that end in its basin.

    All seeds are advanced as one tensor and share a stream of noise, which is the same for every method.
    """
    from rwp_edu.problems.basins import basin_of, minima
    from rwp_edu.problems.surface_descent import Descent
    from rwp_edu.problems.surfaces import SHARP_AND_WIDE

    x, y = torch.meshgrid(torch.linspace(-0.9, -0.1, 9), torch.linspace(-0.4, 0.4, 9), indexing="ij")
    starts = torch.stack((x.flatten(), y.flatten()), 1)
    sharp = int(minima(SHARP_AND_WIDE)[:, 0].argmin())
    out: Found = {}
    for who in methods:
        name, factor = longer(who)
        own = {"rho": radius} if name == "sam" else {} if name == "sgd" else {"sigma": radius, "kind": "isotropic"}
        run = Descent(SHARP_AND_WIDE, name, starts.repeat(seeds, 1), lr=0.01, gradient_noise=1.0, seed=first, **own)
        with one_thread():
            run.advance(factor * steps)
        out[who, "sharp"] = (basin_of(SHARP_AND_WIDE, run.w) == sharp).view(seeds, -1).double().mean(1).numpy()
    return out


def _trained(seeds: int, first: int, methods: Sequence[str] = ("sgd",), steps: int | None = None, **settings: Any):
    """A run that is done, and its solutions."""
    from rwp_edu.training.snapshot import Solutions

    run = Run(Settings(**{"methods": list(methods), "seeds": seeds, "seed": first, "record_every": 10_000} | settings))
    run.advance(steps or run.settings.steps)
    return run, Solutions(run)


def radius(seeds: int, first: int, widths: Sequence[int], rise: float, steps: int = 400) -> Found:
    """How many times as far isotropic noise goes as SAM's step until the loss of a mini-batch has risen by ``rise``."""
    from rwp_edu.curvature.sharpness import radius_of_rise
    from rwp_edu.problems.objectives import NetworkObjective

    out: Found = {}
    for width in widths:
        run, solutions = _trained(seeds, first, problem="digits", width=width, steps=steps)
        ratios, n = [], run.settings.batch
        for which in range(seeds):
            whole = solutions.objective("sgd", which)
            part = NetworkObjective(whole.net, whole.w, whole.x[0, :n], whole.y[0, :n])
            with one_thread():
                sam, noise = (radius_of_rise(part, rise, how, tol=0.02) for how in ("sam", "noise"))
            ratios.append(noise.distance / sam.distance)
        out[f"{run.problem.layout.size} weights", "ratio"] = np.array(ratios)
    return out


def noise_as_trace(seeds: int, first: int, sigma: float, draws: int, **settings: Any) -> Found:
    """The trace of the Hessian of networks trained by SGD, over the exact one: 2/sigma^2 times the mean rise under noise, in opposite
    pairs and one-sided, and by Hutchinson's products; ``error``: the standard error of that ratio after ``draws``."""
    from rwp_edu.curvature.sharpness import average_rise
    from rwp_edu.curvature.trace import trace

    out: Found = {}
    ways = {
        "noise": lambda objective, seed: average_rise(objective, sigma, rtol=0, budget=draws, seed=seed),
        "one-sided noise": lambda objective, seed: average_rise(objective, sigma, rtol=0, budget=draws, seed=seed, antithetic=False),
        "Hutchinson": lambda objective, seed: trace(objective, rtol=0, budget=draws, seed=seed),
    }
    for problem, name in (("fine-tuning", "tanh"), ("digits", "ReLU")):
        _, solutions = _trained(seeds, first, problem=problem, **settings)
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for which in range(seeds):
            objective = solutions.objective("sgd", which)
            with one_thread():
                exact = sum(t.item() for t in objective.traces().values())
                for way, measure in ways.items():
                    unit = exact * (1 if way == "Hutchinson" else sigma**2 / 2)
                    got = measure(objective, which)
                    found[way].append((got.value / unit, got.error / abs(unit)))
        for way, pairs in found.items():
            out[f"{way}, {name}", "ratio"], out[f"{way}, {name}", "error"] = np.array(pairs).T
    return out


def two_points(seeds: int, first: int, sigmas: Sequence[float], functions: Sequence[str] = ("tanh", "relu")) -> Found:
    """The variance of the mean of two gradients at independent noise, over that of a pair u, -u; per seed from 64 pairs."""
    from rwp_edu.experiments.variance_functions import subject

    out: Found = {}
    for name in functions:
        made = subject(name)
        for sigma in sigmas:
            ratios = []
            for seed in range(first, first + seeds):
                g = torch.Generator().manual_seed(seed)
                u = sigma * torch.randn(128, made.w.numel(), generator=g, dtype=made.w.dtype)
                with one_thread():
                    plus, minus = (torch.cat([made.gradient(made.w + v) for v in (s * u).split(8)]) for s in (1, -1))
                one, two = (plus[0::2] + plus[1::2]) / 2, (plus + minus)[0::2] / 2
                ratios.append((one.var(0).sum() / two.var(0).sum()).item())
            out[f"{name}, σ = {sigma}", "ratio"] = np.array(ratios)
    return out


def update_variance(seeds: int, first: int, methods: Sequence[str], draws: int, after: Sequence[int], **settings: Any) -> Found:
    """The variance of a method's combined gradient over batches and noise, over that of the first method, at weights that SGD has
    trained for ``after`` updates of 400."""
    from rwp_edu.methods.noise import generator
    from rwp_edu.training.batched import Group, update

    run = Run(Settings(problem="digits", methods=[methods[0]], seeds=seeds, seed=first, record_every=10_000, **settings))
    out: Found = {}
    for stage in after:
        run.advance(stage - run.updates)
        w, total = run.base.w.clone(), {}
        state = copy.deepcopy(run.problem.state())
        for name in methods:
            chosen = Settings(problem="digits", methods=[name], seeds=seeds, seed=first, **settings)
            group = Group(chosen.entrants[0].method, {}, [generator(seed, "noise") for seed in range(first, first + seeds)])
            group.settings = group.hyper = chosen.of(chosen.entrants[0])
            seen, square = torch.zeros_like(w), torch.zeros(len(w))
            with torch.no_grad(), one_thread():
                for _ in range(draws):
                    run.problem.next(2)
                    (g,) = update([w], [group], run.problem.layout, run.problem.gradients, False)
                    seen += g
                    square += g.square().sum(1)
            total[name] = (square / draws - (seen / draws).square().sum(1)) * draws / (draws - 1)
        run.problem.restore(state)
        for name in methods:
            out[f"{name} after {stage}", "variance"] = (total[name] / total[methods[0]]).double().numpy()
    return out


def clock(seeds: int, first: int, updates: int) -> Found:
    """CPU milliseconds of an update of a convolutional network (30k weights, 128 images) on one thread, method after method in every repetition."""
    from torch import nn

    from rwp_edu import optim

    torch.manual_seed(first)
    x, y = torch.randn(128, 3, 16, 16), torch.randint(10, (128,))
    layers = (
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 10),
    )
    model = nn.Sequential(*layers)

    def closure() -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    base = partial(torch.optim.SGD, list(model.parameters()), lr=1e-4)
    made = {"sgd": (optim.OPTIMIZERS["sgd"](base()), 1), "rwp": (optim.RWP(base(), sigma=0.01), 1), "sam": (optim.SAM(base(), rho=0.05), 1),
            "m-rwp": (optim.MRWP(base(), sigma=0.01), 2)}  # fmt: skip
    out: dict[str, list[float]] = {name: [] for name in made}
    with one_thread():
        for repetition in range(seeds + 1):
            for name, (optimizer, closures) in made.items():
                began = process_time()
                for _ in range(updates):
                    optimizer.zero_grad()
                    optimizer.step(*[closure] * closures)
                if repetition:
                    out[name].append(1000 * (process_time() - began) / updates)
    return {(name, "milliseconds"): np.array(found) for name, found in out.items()}


def side_by_side(seeds: int, first: int, batch: int, updates: int, order: Sequence[tuple[str, str]]) -> Found:
    """Milliseconds of an update of a convolutional network (53k weights) on one core, two threads and two processes; one value per repetition,
    all ways in turn. A repetition in which others used the cores too does not count and is made up for, up to ``SPARE_TRIES`` times; what is
    then missing has no value, and nothing has one on a machine with a single core."""
    from rwp_edu.optim.parallel.timing import QUIET, Team, lacks, others

    out = {(f"{method}, {way}", "milliseconds"): np.full(seeds, np.nan) for method, way in order}
    if lacks():
        return out
    with Team("cnn", batch) as team:
        for method, way in order:
            team.time(method, way, 1)
        done = missed = 0
        while done < seeds and missed <= SPARE_TRIES:
            samples = [team.time(method, way, updates) for method, way in order]
            if others(samples) > QUIET:
                missed += 1
                continue
            for sample in samples:
                out[f"{sample.method}, {sample.way}", "milliseconds"][done] = sample.milliseconds
            done += 1
    return out


SPARE_TRIES = 4  # repetitions that may be disturbed
EXPERIMENTS: dict[str, Callable[..., Found]] = {
    "race": race,
    "optimum": optimum,
    "surface": surface,
    "radius": radius,
    "noise_as_trace": noise_as_trace,
    "two_points": two_points,
    "update_variance": update_variance,
    "clock": clock,
    "side_by_side": side_by_side,
}
