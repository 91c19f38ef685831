"""Who does the work of a sweep: this process, several processes, or a Ray cluster.

A task is the settings of one run as JSON text, an answer what :func:`work` makes of it. All engines are given the same tasks, and a
task is always done by the same code on one thread, so that the answers are the same bit for bit on machines of one kind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from typing import Any

from rwp_edu.utils.cpu import cores
from rwp_edu.utils.parameters import unknown

Answers = Iterator[tuple[int, dict[str, Any]]]
Heard = Callable[[float], None]


def work(task: str, heard: Heard = lambda part: None) -> dict[str, Any]:
    """The record of a run as plain values, or ``{"failed": ...}`` with what went wrong; ``heard`` is told which part is done.

    >>> sorted(work('{"problem": "digits", "seeds": 1, "steps": 1, "methods": ["sgd"]}'))[:2]
    ['diverged', 'gradient_evaluations']
    >>> work('{"problem": "digits", "seeds": 1, "steps": 1, "batch": 2, "methods": ["lpf-sgd:k=3"]}')
    {'failed': 'ValueError: a batch of 2 images cannot be cut into 3 parts: choose batch >= k'}
    """
    from rwp_edu.training import Run
    from rwp_edu.training.run import keep_freed_memory
    from rwp_edu.training.settings import Settings

    keep_freed_memory()
    try:
        settings = Settings.from_json(task)
        run = Run(settings, threads_of=1)  # a worker has a core
        while not run.finished:
            run.advance(max(1, run.settings.steps // 50))
            heard(run.updates / run.settings.steps)
        if not run.record.rows or run.record.rows[-1]["updates"] != run.updates:
            run.write()
        return run.record.to_dict()
    except Exception as error:  # noqa: BLE001 - whatever one setting does must not end the sweep
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _worker(parent: int) -> None:
    """In a worker: Ctrl-C is for the process that waits, and who has lost it, by ``kill -9`` for example, ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def batched(tasks: Sequence[str], workers: int, address: str | None, heard: Heard) -> Answers:
    """One task after another, here; ``heard`` is told which part of the present one is done."""
    for i, task in enumerate(tasks):
        yield i, work(task, heard)


def processes(tasks: Sequence[str], workers: int, address: str | None, heard: Heard) -> Answers:
    """As many processes as ``workers``, by joblib (loky); where one is killed what had no answer yet has failed."""
    from joblib import Parallel, delayed

    own = {"initializer": _worker, "initargs": (os.getpid(),)}
    pool = Parallel(workers, backend="loky", batch_size=1, pre_dispatch="all", return_as="generator_unordered", **own)
    found = pool(delayed(_numbered)(i, task) for i, task in enumerate(tasks))
    waiting = set(range(len(tasks)))
    try:
        for i, answer in found:
            waiting.remove(i)
            yield i, answer
    except BrokenProcessPool:
        for i in sorted(waiting):
            yield i, {"failed": "a worker process was killed, perhaps for memory: try again with fewer --workers"}
    finally:
        found.close()


def _numbered(i: int, task: str) -> tuple[int, dict[str, Any]]:
    return i, work(task)


def _reach(address: str) -> None:
    """``OSError`` at once if nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _start(ray: Any, options: dict[str, Any], attempts: int = 3) -> None:
    """Join a cluster or begin one. Ray gives a machine half a minute for that, which a busy one may need more than once."""
    for attempt in range(attempts):
        try:
            ray.init(**options, log_to_driver=False, logging_level="error")
            return
        except Exception as error:  # Ray has no class of its own for it
            if "timed out during startup" not in str(error) or attempt == attempts - 1:
                raise
            ray.shutdown()


def on_ray(tasks: Sequence[str], workers: int, address: str | None, heard: Heard) -> Answers:
    """The cluster at ``address``, where rwp_edu must be installed too; without one a local cluster of ``workers`` processes, whose files
    are gone when it is."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    mine, short = not ray.is_initialized(), "/tmp" if os.path.isdir("/tmp") else None  # paths of sockets must be short
    folder = tempfile.mkdtemp(prefix="rwp_ray_", dir=short)
    try:
        if mine:
            try:
                _reach(address or "")
                _start(ray, {"address": address} if address else {"num_cpus": workers, "include_dashboard": False, "_temp_dir": folder})
            except OSError as error:
                raise ValueError(f"no Ray cluster answers at {address}: give the address that `ray start --head` printed") from error
        remote = ray.remote(num_cpus=1)(work)
        waiting = {remote.remote(task): i for i, task in enumerate(tasks)}
        try:
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                i = waiting.pop(ready)
                try:
                    answer = ray.get(ready)
                except ray.exceptions.RayError as error:
                    answer = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
                yield i, answer
        finally:
            for left in waiting:
                ray.cancel(left, force=True)
    finally:
        if mine:
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


ENGINES: dict[str, Callable[[Sequence[str], int, str | None, Heard], Answers]] = {
    "batched": batched,
    "processes": processes,
    "ray": on_ray,
}
NEEDS = {"processes": ("joblib", "sweep"), "ray": ("ray", "ray")}


def checked(engine: str, workers: int | None, address: str | None) -> int:
    """How many workers; ``ValueError`` for an engine that does not exist or is not installed."""
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if address and engine != "ray":
        raise ValueError(f"an address is for the engine ray, not for {engine}")
    if engine in NEEDS and find_spec(NEEDS[engine][0]) is None:
        package, extra = NEEDS[engine]
        raise ValueError(f"the engine {engine} needs {package}, which is not installed: pip install 'rwp_edu[{extra}]'")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers must be a whole number >= 1, got {workers!r}")
    return workers or cores()


def tasks_of(settings: Sequence[Any]) -> list[str]:
    return [json.dumps(s.to_dict()) for s in settings]
