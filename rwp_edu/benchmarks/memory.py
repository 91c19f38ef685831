"""How many copies of the weights a step of each optimizer needs beyond the plain base, measured by torch's profiler.

Both start each step with ``zero_grad()``. Without it ours keeps the gradients of the former step, which a failure must bring
back: one copy more for every method.

*At the peak* is a short moment: a point is formed, the gradients are put into one tensor, two of them are combined. *While a closure
runs*, where a network whose activations are larger than its weights has its peak, there are fewer: the clean weights, a gradient or a
perturbation that is still needed, and the history, both as it was and as it will be. The table of methods states both, for the
published values; more draws (``k``) are asked one by one and hold at most one copy more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rwp_edu.methods import METHODS
from rwp_edu.optim import OPTIMIZERS

SIDE = 500


def _peak(step: Callable[[], object]) -> float:
    """Most memory that was allocated during two first steps, in copies of the weights: with all that is kept from step to step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
        step()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    first = min(events, key=lambda e: e["ts"])["args"]
    return (max(e["args"]["Total Allocated"] for e in events) - first["Total Allocated"] + first["Bytes"]) / (4 * SIDE**2)


def _step(method: str | None, activations: int, **hyper: Any) -> Callable[[], object]:
    weight, bias, x = torch.nn.Parameter(torch.randn(SIDE, SIDE) / SIDE), torch.nn.Parameter(torch.randn(10)), torch.randn(SIDE)
    base = torch.optim.SGD([weight, bias], lr=1e-4, momentum=0.9)
    optimizer = OPTIMIZERS[method](base, **hyper) if method else base

    def closure() -> torch.Tensor:
        torch.empty(activations * SIDE**2)
        loss = (weight @ x).square().sum() + bias.square().sum()
        loss.backward()
        return loss

    def step() -> None:
        optimizer.zero_grad()
        if method:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()

    return step


def extra_copies(names: Iterable[str] = METHODS, **hyper: Any) -> dict[str, tuple[int, int]]:
    """Per method: copies of the weights beyond those of the base optimizer, history included: at the peak of a step, and while a
    closure runs, measured as the peak with activations that are 20 times as large as the weights."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    plain = [_peak(_step(None, activations)) for activations in (0, 20)]
    found = {}
    for name in names:
        own = {key: value for key, value in hyper.items() if key in METHODS[name].parameters}
        peak, held = (round(_peak(_step(name, activations, **own)) - base) for activations, base in zip((0, 20), plain))
        found[name] = peak, held
    return found
