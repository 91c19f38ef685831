"""Two workers with one's own clock: SGD, SAM and m-RWP on one core, on two threads, in two copies of the network, and on two processes.

    with Team() as team:
        print(team.time("m-rwp", "two workers"))

Two fixed cores do the same two gradients of SAM and of m-RWP, so nothing is gained but what two *threads* lose when they share one gradient:
the whole factor of two is against a method that leaves the second worker idle.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from rwp_edu import optim
from rwp_edu.methods import METHODS
from rwp_edu.optim import parallel
from rwp_edu.utils import cpu as machine
from rwp_edu.utils.parameters import unknown

SETTINGS: dict[str, dict[str, float]] = {"sgd": {}, "sam": {"rho": 0.05}, "m-rwp": {"sigma": 0.01}}
WAYS = {
    "one core": "one process with one thread",
    "two threads": "one process with two threads, which share every layer of one gradient",
    "two copies": "one process, in which each of two threads evaluates a point on a copy of the network of its own",
    "two workers": "two processes with one thread each, which share out the points of a round",
    "two shards": "two processes with one thread each, each with half of the batch at every point",
}
# Read by glibc: memory of the activations is kept instead of given back and asked for again, page by page, in every update.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_ARENA_MAX": "1"}
QUIET = 0.3  # cores that others may use while a measurement counts as undisturbed
PATIENCE = 120.0
ORDER = tuple((method, way) for method in SETTINGS for way in WAYS)


@dataclass(frozen=True)
class Sample:
    """One measurement: ``milliseconds`` of wall time per update; ``busiest``: milliseconds of CPU time of the process that used most, which
    is what is left on one thread if nobody is kept waiting; ``ours`` and ``others``: how many cores were busy for it, and for anything else. The
    system counts in hundredths of a second, so ``others`` of a short measurement is rough and may be below 0: :func:`others` takes several."""

    method: str
    way: str
    milliseconds: float
    busiest: float
    ours: float
    others: float

    @property
    def quiet(self) -> bool:
        """Was the machine left alone? What cannot be seen counts as quiet."""
        return not self.others > QUIET


class Disturbed(RuntimeError):
    """Others are using the cores."""


def networks() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """The two networks of the step times: how to make one, and the shape of a batch."""
    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def cnn() -> nn.Module:
        blocks = [
            m for i, o in ((3, 32), (32, 48), (48, 64)) for m in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        ]
        return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(1024, 10))

    return {"MLP of 4.8k": (mlp, (64, 64)), "CNN of 53k": (cnn, (128, 3, 32, 32))}


def lacks() -> str:
    """Why nothing can be measured here, or nothing."""
    if not dist.is_available() or not dist.is_gloo_available():
        return "this torch has no gloo"
    return "" if machine.cores() >= 2 else "needs two cores, this machine has one"


# ------------------------------------------------------------------------------------------------------------ the two processes


class Team:
    """Two processes that measure what they are asked for. They take some seconds to start; closed, they end.

    For all methods and ways alike memory is kept from update to update (``KEEP``), unless the environment says otherwise: without, two processes with
    large activations are held up by the kernel, more than one with two threads.

    Args:
        network: ``cnn`` (53k weights) or ``resnet18`` (11.2M, with a stem for small pictures; needs torchvision); pictures are 32 x 32.
        batch: pictures in a batch; an even number. By default 128 and 32.
    """

    def __init__(self, network: str = "cnn", batch: int = 0):
        if network not in NETWORKS:
            raise unknown("network", network, NETWORKS)
        self.network, self.batch = network, batch or NETWORKS[network][1]
        if self.batch < 2 or self.batch % 2:
            raise ValueError(f"batch must be an even number of pictures, for two shards; got {batch}")
        if lacking := lacks():
            raise RuntimeError(lacking)
        self.asked = 0
        self._home = tempfile.TemporaryDirectory()
        home = Path(self._home.name)
        self._errors = [open(home / f"errors{rank}", "w+") for rank in range(2)]
        root = str(Path(__file__).parents[3])
        environment = KEEP | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
        environment.pop("OMP_NUM_THREADS", None)
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "rwp_edu.optim.parallel.timing", str(rank), str(home), network, str(self.batch)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, text=True, env=environment,
            )
            for rank, errors in enumerate(self._errors)
        ]  # fmt: skip

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def ask(self, method: str, way: str, updates: int = 3) -> None:
        """Begin a measurement of ``updates`` updates; ``answer`` fetches the result. The first one for a (method, way) makes the network."""
        for what, name, known in (("method", method, SETTINGS), ("way", way, WAYS)):
            if name not in known:
                raise unknown(what, name, known)
        self.asked += 1
        for process in self._processes:
            try:
                process.stdin.write(json.dumps([self.asked, method, way, updates]) + "\n")
                process.stdin.flush()
            except (OSError, ValueError):
                self._fail()

    def answer(self) -> Sample | None:
        """The result of the latest question, or None as long as there is none."""
        if any(process.poll() is not None for process in self._processes):
            self._fail()
        path = Path(self._home.name) / f"answer{self.asked}"
        return Sample(**json.loads(path.read_text())) if path.exists() else None

    def time(self, method: str, way: str, updates: int = 3, patience: float = PATIENCE) -> Sample:
        """Measure and wait."""
        self.ask(method, way, updates)
        end = perf_counter() + patience
        while perf_counter() < end:
            if (found := self.answer()) is not None:
                return found
            sleep(0.01)
        self._fail(f"no answer within {patience:.0f} s")

    def quiet(self, method: str, way: str, updates: int = 3, tries: int = 3) -> Sample:
        """Measure until nobody disturbs; ``Disturbed`` after so many tries."""
        for _ in range(tries):
            if (found := self.time(method, way, updates)).quiet:
                return found
        raise Disturbed(f"the machine is not quiet: others use {found.others:.1f} of its cores")

    def _fail(self, why: str = "a worker ended") -> None:
        texts = []
        for file in self._errors:
            file.flush(), file.seek(0)
            texts.append(file.read().strip())
        self.close()
        raise RuntimeError(f"{why}: {' | '.join(text.splitlines()[-1] for text in texts if text) or 'without a message'}")

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            with suppress(OSError):  # what it was asked last may still lie there
                process.stdin.close()
        for file in self._errors:
            file.close()
        self._home.cleanup()


def _cnn() -> nn.Module:
    return networks()["CNN of 53k"][0]()


def _resnet18() -> nn.Module:
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {"cnn": (_cnn, 128), "resnet18": (_resnet18, 32)}


def _stepper(method: str, way: str, network: str, batch: int) -> Callable[[], Any]:
    """A function that takes one update of ``method`` on made-up pictures, the same on both ranks."""
    torch.manual_seed(0)
    model = NETWORKS[network][0]()
    optimizer = optim.OPTIMIZERS[method](torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9), **SETTINGS[method])
    data = [(torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))) for _ in range(METHODS[method].cost().slots)]
    if way in ("two workers", "two shards"):
        parallel.points(optimizer, model, shards=2 if way == "two shards" else 1)
    if way == "two copies":
        parallel.threads(optimizer, model)

    def closure(x: torch.Tensor, y: torch.Tensor, model: nn.Module = model) -> torch.Tensor:
        x, y = parallel.shard(optimizer, x, y)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    closures = [lambda model=model, x=x, y=y: closure(x, y, model) for x, y in data]
    return lambda: optimizer.step(*closures)


def _serve(rank: int, home: Path, network: str, batch: int) -> None:
    """One of the two processes. Who is not needed waits for the other, asleep."""
    dist.init_process_group("gloo", f"file://{home / 'store'}", timedelta(seconds=PATIENCE), world_size=2, rank=rank)
    kept: dict[tuple[str, str], Callable[[], Any]] = {}
    latest: tuple[str, str] | None = None
    for line in sys.stdin:
        number, method, way, updates = json.loads(line)
        here = rank == 0 or way in ("two workers", "two shards")
        torch.set_num_threads(2 if way in ("two threads", "two copies") else 1)
        if network != "cnn" and (method, way) != latest:
            kept.clear()  # a large one at a time; on both ranks, who meet when it is made
        latest = method, way
        if (method, way) not in kept and here:
            kept[method, way] = _stepper(method, way, network, batch)
            kept[method, way](), kept[method, way]()  # touches every page, and knows its modules
        dist.barrier()
        began, busy, own = perf_counter(), machine.busy(), process_time()
        for _ in range(updates if here else 0):
            kept[method, way]()
        wall, cpu = perf_counter() - began, torch.zeros(2, dtype=torch.float64)
        cpu[rank], busy = process_time() - own, machine.busy() - busy
        dist.all_reduce(cpu)
        if rank == 0:
            ours, each = cpu.sum().item() / wall, 1000 / updates
            found = Sample(method, way, each * wall, each * cpu.max().item(), ours, busy / wall - ours)
            (home / "new").write_text(json.dumps(asdict(found)))
            os.replace(home / "new", home / f"answer{number}")


# ------------------------------------------------------------------------------------------------------------------ results


def measure(
    network: str = "cnn",
    batch: int = 0,
    rounds: int = 3,
    updates: int = 3,
    order: Iterable[tuple[str, str]] = ORDER,
    told: Callable[[Sample], None] = lambda sample: None,
) -> list[Sample]:
    """``rounds`` measurements of each (method, way), in turns so that a slow moment of the machine hits all alike; ``told`` hears of each."""
    order, out = tuple(order), []
    with Team(network, batch) as team:
        for method, way in order:  # what is not counted: made, and every page touched
            team.time(method, way, 1)
        for _ in range(rounds):
            for method, way in order:
                out.append(team.time(method, way, updates))
                told(out[-1])
    return out


def times(samples: Iterable[Sample]) -> dict[tuple[str, str], list[float]]:
    """Milliseconds per (method, way), in the order of measurement."""
    out: dict[tuple[str, str], list[float]] = {}
    for s in samples:
        out.setdefault((s.method, s.way), []).append(s.milliseconds)
    return out


def ratio(found: Mapping[tuple[str, str], list[float]], a: tuple[str, str], b: tuple[str, str]) -> float:
    """The median of the ratios of measurements taken in turn; NaN where one is missing.

    >>> ratio({("sam", "one core"): [2.0, 4.0], ("sgd", "one core"): [1.0, 2.0]}, ("sam", "one core"), ("sgd", "one core"))
    2.0
    """
    pairs = list(zip(found.get(a, ()), found.get(b, ())))
    return statistics.median(x / y for x, y in pairs) if pairs else math.nan


def others(samples: Iterable[Sample]) -> float:
    """How many cores others used, on average over the time of the measurements."""
    samples = list(samples)
    time = sum(s.milliseconds for s in samples)
    return max(0.0, sum(s.others * s.milliseconds for s in samples) / time) if not any(math.isnan(s.others) for s in samples) else math.nan


def disturbed(samples: Iterable[Sample]) -> str:
    """How far to trust the clock, in a sentence."""
    samples = list(samples)
    if not samples:
        return "nothing is measured yet"
    if math.isnan(used := others(samples)):
        return "this system does not say whether others were using the cores"
    if used <= QUIET:
        return f"the machine was quiet: others used {used:.2f} of its cores"
    return f"the machine was not quiet: others used {used:.1f} of its cores, so trust no ratio of these times"


def main() -> None:
    """A table of this machine: ``python -m rwp_edu.optim.parallel.timing``, or ``... resnet18``."""
    network = sys.argv[1] if len(sys.argv) > 1 else "cnn"
    samples = measure(network, rounds=5, updates=3 if network == "cnn" else 1)
    print(f"milliseconds per update of {network}, batch {NETWORKS[network][1]}, medians of 5 measurements; {disturbed(samples)}")
    for what, title in (("milliseconds", "wall time"), ("busiest", "CPU time of the busier process: without any waiting")):
        print(f"\n{title}\n{'':8}" + "".join(f"{way:>13}" for way in WAYS))
        for method in SETTINGS:
            own = [[getattr(s, what) for s in samples if (s.method, s.way) == (method, way)] for way in WAYS]
            print(f"{method:8}" + "".join(f"{statistics.median(values):13.0f}" for values in own))


if __name__ == "__main__":
    if len(sys.argv) == 5:
        _serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main()
