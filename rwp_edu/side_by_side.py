"""Two workers with one's own clock: SGD, SAM and m-RWP on one core, on two threads, and with their points shared out over two processes."""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist
from torch import nn

from rwp_edu import optim, parallel

METHODS = {"sgd": {}, "sam": {"rho": 0.05}, "m-rwp": {"sigma": 0.01}}
WAYS = ("one core", "two threads", "two workers")


def network() -> nn.Module:
    """A convolutional network of 53k weights for pictures of 32 x 32."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip


def _made(method: str, model: nn.Module, batch: int) -> Callable[[], None]:
    """A function that takes one update of ``method`` on made-up pictures."""
    g = torch.Generator().manual_seed(1)
    optimizer = optim.OPTIMIZERS[method](torch.optim.SGD(model.parameters(), lr=1e-3), **METHODS[method])
    slots = 2 if method == "m-rwp" else 1
    data = [(torch.randn(batch, 3, 32, 32, generator=g), torch.randint(10, (batch,), generator=g)) for _ in range(slots)]

    def closure(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    closures = [lambda x=x, y=y: closure(x, y) for x, y in data]
    return lambda: optimizer.step(*closures), optimizer


def _work(rank: int, port: int, batch: int, rounds: int, updates: int, out: str) -> None:
    """One of two processes. Who is not needed waits, asleep, for the other."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        times: dict[str, list[float]] = {f"{method}, {way}": [] for method in METHODS for way in WAYS}
        for repetition in range(rounds + 1):
            for method in METHODS:
                for way in WAYS:
                    model = network()
                    step, optimizer = _made(method, model, batch)
                    torch.set_num_threads(2 if way == "two threads" else 1)
                    if way == "two workers":
                        parallel.points(optimizer, model)
                    if way == "two workers" or rank == 0:
                        step()
                        began = perf_counter()
                        for _ in range(updates):
                            step()
                        if repetition:
                            times[f"{method}, {way}"].append(1000 * (perf_counter() - began) / updates)
                    dist.barrier()
        if rank == 0:
            Path(out).write_text(json.dumps(times))
    finally:
        dist.destroy_process_group()


def measure(batch: int = 128, rounds: int = 3, updates: int = 5) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of an update, ``rounds`` measurements for each (method, way), taken in turn so that a slow moment of the machine hits all alike.

    Starts two processes, which take some seconds to begin.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "times.json")
        torch.multiprocessing.start_processes(_work, (port, batch, rounds, updates, out), nprocs=2, start_method="spawn")
        found = json.loads(Path(out).read_text())
    return {(method, way): found[f"{method}, {way}"] for method in METHODS for way in WAYS}


def ratios(times: dict[tuple[str, str], list[float]]) -> dict[str, float]:
    """What the second worker is worth: medians of the ratios of measurements taken in turn."""

    def ratio(a: tuple[str, str], b: tuple[str, str]) -> float:
        return statistics.median(x / y for x, y in zip(times[a], times[b]))

    mixed = ("m-rwp", "two workers")
    return {
        "m-RWP on two workers over SAM on two threads": ratio(mixed, ("sam", "two threads")),
        "m-RWP on two workers over SAM on one core": ratio(mixed, ("sam", "one core")),
        "m-RWP on two workers over SGD on one core": ratio(mixed, ("sgd", "one core")),
        "SAM on two workers over SAM on one core": ratio(("sam", "two workers"), ("sam", "one core")),
    }
