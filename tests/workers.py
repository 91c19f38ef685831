"""Processes that stay and do on every rank what a test asks for: starting them is what takes long."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from waiting import PATIENCE


def _serve(rank: int, size: int, store: str, backend: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, f"file://{store}", timedelta(seconds=PATIENCE), world_size=size, rank=rank)
    while (asked := pipe.recv()) is not None:
        work, arguments = asked
        try:
            pipe.send((True, work(rank, *arguments)))
        except BaseException:  # noqa: BLE001
            pipe.send((False, traceback.format_exc()))
    dist.destroy_process_group()


@contextlib.contextmanager
def ranks(size: int, folder: Path, backend: str = "gloo") -> Iterator[Callable[..., list[Any]]]:
    """A function that calls ``work(rank, *arguments)`` in ``size`` processes of one group and gives all results."""
    context, pipes, processes = torch.multiprocessing.get_context("spawn"), [], []
    for rank in range(size):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(rank, size, str(folder / "store"), backend, theirs), daemon=True))
        processes[-1].start()
        pipes.append(ours)

    def everywhere(work: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe in pipes:
            pipe.send((work, arguments))
        found = []
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(PATIENCE), f"rank {rank} does not answer"
            found.append(pipe.recv())
        wrong = [f"rank {rank}:\n{said}" for rank, (fine, said) in enumerate(found) if not fine]
        assert not wrong, "\n".join(wrong)
        return [said for _, said in found]

    try:
        yield everywhere
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.kill()
