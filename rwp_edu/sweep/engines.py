"""Who does the work of a sweep: this process, several processes, or a Ray cluster.

A task is the settings of one run as JSON text, an answer what :func:`work` makes of it. All engines are given the same tasks, and a
task is always done by the same code on one thread, so that the answers are the same bit for bit on machines of one kind.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from rwp_edu.parameters import unknown

Answers = Iterator[tuple[int, dict[str, Any]]]


def work(task: str) -> dict[str, Any]:
    """The record of a run as plain values, or ``{"failed": ...}`` with what went wrong.

    >>> sorted(work('{"problem": "digits", "seeds": 1, "steps": 1, "methods": ["sgd"]}'))[:2]
    ['diverged', 'gradient_evaluations']
    >>> work('{"problem": "digits", "seeds": 1, "steps": 1, "batch": 2, "methods": ["lpf-sgd:k=3"]}')
    {'failed': 'ValueError: a batch of 2 images cannot be cut into 3 parts: choose batch >= k'}
    """
    from rwp_edu.settings import Settings
    from rwp_edu.training import Run, keep_freed_memory

    keep_freed_memory()
    try:
        run = Run(Settings.from_json(task))
        run.advance(run.settings.steps)
        if not run.record.rows or run.record.rows[-1]["updates"] != run.updates:
            run.write()
        return run.record.to_dict()
    except Exception as error:  # noqa: BLE001 - whatever one setting does must not end the sweep
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _alone() -> None:
    """In a worker: Ctrl-C is for the process that waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batched(tasks: Sequence[str], workers: int, address: str | None) -> Answers:
    """One task after another, here."""
    for i, task in enumerate(tasks):
        yield i, work(task)


def processes(tasks: Sequence[str], workers: int, address: str | None) -> Answers:
    """As many processes as ``workers``, by joblib (loky)."""
    from joblib import Parallel, delayed

    pool = Parallel(
        workers, backend="loky", initializer=_alone, batch_size=1, pre_dispatch="all", return_as="generator_unordered"
    )
    found = pool(delayed(_numbered)(i, task) for i, task in enumerate(tasks))
    try:
        yield from found
    finally:
        found.close()


def _numbered(i: int, task: str) -> tuple[int, dict[str, Any]]:
    return i, work(task)


def on_ray(tasks: Sequence[str], workers: int, address: str | None) -> Answers:
    """The cluster at ``address``, where rwp_edu must be installed too; without one a local cluster of ``workers`` processes."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    mine = not ray.is_initialized()
    if mine:
        where = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
        ray.init(**where, log_to_driver=False, logging_level="error")
    try:
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


ENGINES: dict[str, Callable[[Sequence[str], int, str | None], Answers]] = {
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
    return workers or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def tasks_of(settings: Sequence[Any]) -> list[str]:
    return [json.dumps(s.to_dict()) for s in settings]
