"""What the ranks of ``rwp_edu.optim.parallel`` send each other: one message per round, as bytes, with all that the others need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_edu.methods.points import At
from rwp_edu.optim.step_guard import random_state

OK, NOT_FINITE, FAILED = 0.0, 1.0, 2.0
ALIGNED = 16


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


class WorkerLost(RuntimeError):
    """Another rank has ended, or has not answered in time."""


class Message:
    """Bytes with named parts: ``cut(buffer)`` gives views of a buffer ``(length,)`` or ``(ranks, length)`` in their types."""

    def __init__(self, **parts: tuple[int, torch.dtype]):
        self.places, self.length = {}, 0
        for name, (count, dtype) in parts.items():
            size = count * dtype.itemsize
            self.places[name] = self.length, size, dtype
            self.length += _aligned(size)

    def cut(self, buffer: Tensor, name: str) -> Tensor:
        start, size, dtype = self.places[name]
        return buffer.narrow(-1, start, size).view(dtype)

    def cut_all(self, buffer: Tensor, names: Iterable[str]) -> list[Tensor]:
        """Neighbouring parts, read from the device at once."""
        starts = [self.places[name][0] for name in names]
        ends = [start + _aligned(self.places[name][1]) for name, start in zip(names, starts)]
        read = buffer[..., min(starts) : max(ends)].cpu()
        return [read.narrow(-1, self.places[n][0] - min(starts), self.places[n][1]).view(self.places[n][2]) for n in names]


class Shared:
    """The ranks that answer for one optimizer. ``evaluated`` counts the points that this rank has evaluated."""

    def __init__(self, optimizer: Any, model: nn.Module, group: dist.ProcessGroup | None, shards: int):
        self.optimizer, self.model, self.group, self.shards = optimizer, model, group, shards
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.workers, (self.worker, self.shard) = self.size // shards, divmod(self.rank, shards)
        self.by_cpu = dist.get_backend(group) == "gloo"
        self.evaluated = 0
        self._final: tuple[list[Tensor], Tensor] | None = None

    def closures(self, given: tuple[Callable, ...]) -> tuple[Callable, ...]:
        """The closures; on all shards but the first with random numbers of their own, the same at every point of a step."""
        return tuple(map(self._reseeded, given)) if self.shard else given

    def _reseeded(self, closure: Callable) -> Callable:
        def evaluate() -> Any:
            digest = hashlib.sha256(self._random_state().numpy()).digest()
            torch.manual_seed(int.from_bytes(digest[:7], "little") + self.shard)
            return closure()

        return evaluate

    def answer(
        self,
        points: list[At] | Iterator[At],
        gradients: Callable[[Iterator[At]], Iterable[Tensor]],
        losses: list[Tensor],
        seen: set[int],
        plan: Any,
    ) -> list[Tensor]:
        """The gradients at all points of a round, in their order; ``losses`` and ``seen`` are completed with those of the other ranks."""
        w, before, count, asked = plan.w, len(losses), 0, iter(points)

        def mine() -> Iterator[At]:
            nonlocal count
            for at in asked:
                count += 1
                if (count - 1) % self.workers == self.worker:
                    self.evaluated += 1
                    yield at

        found: list[Tensor] = []
        error: BaseException | None = None
        try:
            found.extend(gradients(mine()))
        except BaseException as raised:  # noqa: BLE001 - the others wait for an answer, whatever happened
            error = raised
            count += sum(1 for _ in asked)
        rows, p = -(-count // self.workers), len(w)
        buffers = [] if before else [b.contiguous().reshape(-1).view(torch.uint8) for b in self.model.buffers()]
        state = self._random_state()
        message = Message(
            gradients=(rows * p, w.dtype),
            losses=(rows, torch.float64),
            failed=(1, torch.float64),
            seen=(len(plan.trained), torch.uint8),
            random=(len(state), torch.uint8),
            buffers=(sum(map(len, buffers)), torch.uint8),
        )
        sent = torch.zeros(message.length, dtype=torch.uint8, device="cpu" if self.by_cpu else w.device)
        for row, g, loss in zip(message.cut(sent, "gradients").view(rows, p), found, losses[before:]):
            row.copy_(g)
        own = losses[before:] if error is None else []
        if own:
            message.cut(sent, "losses")[: len(own)] = torch.stack([loss.detach().reshape(()).double() for loss in own])
        message.cut(sent, "failed").fill_(FAILED if error else OK)
        if isinstance(error, FloatingPointError):
            message.cut(sent, "failed").fill_(NOT_FINITE)
        if seen:
            message.cut(sent, "seen")[list(seen)] = 1
        message.cut(sent, "random").copy_(state)
        if buffers:
            message.cut(sent, "buffers").copy_(torch.cat(buffers))
        got = self._gather(sent)
        told, failed, have, random = message.cut_all(got, ("losses", "failed", "seen", "random"))
        if failed.any():
            self._fail(error, failed[:, 0])
        if not before:
            self._final = message.cut(got, "buffers")[0].to(w.device), random[0]
        last = (count - 1) % self.workers * self.shards
        self._final = self._final[0], random[last]
        rows_of = message.cut(got, "gradients").view(self.size, rows, p).to(w.device)
        dtype = torch.promote_types(w.dtype, torch.float32)
        losses[before:] = [self._mean(told, j).to(dtype).to(w.device) for j in range(count)]
        seen.update(have.amax(0).nonzero()[:, 0].tolist())
        return [self._mean(rows_of, j) for j in range(count)]

    def _mean(self, rows: Tensor, j: int) -> Tensor:
        """Of point ``j``, over its shards; ``rows`` is (ranks, rows, ...)."""
        first = j % self.workers * self.shards
        if self.shards == 1:
            return rows[first, j // self.workers]
        return rows[first : first + self.shards, j // self.workers].mean(0)

    def settle(self) -> None:
        """At the end of a step: the buffers after its first point and the random state after its last one, for all."""
        if self._final is None:
            return
        (flat, state), self._final = self._final, None
        for buffer in self.model.buffers():
            size = buffer.numel() * buffer.element_size()
            buffer.copy_(flat[:size].clone().view(buffer.dtype).view(buffer.shape))
            flat = flat[size:]
        self._set_random_state(state)

    def take_over(self) -> None:
        """The random state of rank 0 for all."""
        state = self._random_state()
        state = state if self.by_cpu else state.to(self._device)
        dist.broadcast(state, 0 if self.group is None else dist.get_global_rank(self.group, 0), group=self.group)
        self._set_random_state(state.cpu())

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _random_state(self) -> Tensor:
        return random_state(self._device)

    def _set_random_state(self, state: Tensor) -> None:
        size = len(torch.get_rng_state())
        torch.set_rng_state(state[:size].clone())
        if len(state) > size:
            torch.cuda.set_rng_state(state[size:].clone(), self._device)

    def _gather(self, sent: Tensor) -> Tensor:
        """What all ranks have sent, (ranks, length)."""
        got = torch.empty(self.size, len(sent), dtype=torch.uint8, device=sent.device)
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        try:
            gather(got.view(-1), sent, group=self.group)
        except RuntimeError as error:
            raise WorkerLost(
                f"rank {self.rank} has lost another worker in the middle of a step: it ended, or took longer than the timeout of the process group; "
                f"the weights here are as before the step. Start all again from a checkpoint, as torchrun --max-restarts 1 does. ({error})"
            ) from error
        return got

    def _fail(self, error: BaseException | None, failed: Tensor) -> None:
        """Every rank raises: its own error, or one that names the ranks that failed."""
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, error and f"{type(error).__name__}: {error}", group=self.group)
        if error is not None:
            raise error
        who = "; ".join(f"rank {rank} raised {text}" for rank, text in enumerate(told) if text)
        kind = FloatingPointError if not (failed == FAILED).any() else RuntimeError
        raise kind(f"another worker failed in its closure ({who}); the weights are as before this step on all ranks")
