"""How many copies of the weights a step of each optimizer needs beyond the plain base, measured by torch's profiler."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from rwp_edu.methods import METHODS
from rwp_edu.optim import OPTIMIZERS

SIDE = 500


def _peak(step: Callable[[], object]) -> float:
    """Peak of the memory allocated within a step, in copies of the weights, after a first step that makes all state."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    events.sort(key=lambda e: e["ts"])
    before = events[0]["args"]["Total Allocated"] - events[0]["args"]["Bytes"]
    return (max(e["args"]["Total Allocated"] for e in events) - before) / (4 * SIDE**2)


def _step(method: str | None) -> Callable[[], object]:
    weight, bias, x = torch.nn.Parameter(torch.randn(SIDE, SIDE) / SIDE), torch.nn.Parameter(torch.randn(10)), torch.randn(SIDE)
    base = torch.optim.SGD([weight, bias], lr=1e-4, momentum=0.9)

    def closure() -> torch.Tensor:
        loss = (weight @ x).square().sum() + bias.square().sum()
        loss.backward()
        return loss

    def plain() -> None:
        base.zero_grad()
        closure()
        base.step()

    if method is None:
        return plain
    optimizer = OPTIMIZERS[method](base)
    return lambda: optimizer.step(closure)


def extra_copies() -> dict[str, int]:
    """Per method: copies of the weights at the peak of a step, beyond those of the base optimizer; history included."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    plain = _peak(_step(None))
    return {name: round(_peak(_step(name)) - plain) + row.history for name, row in METHODS.items()}
