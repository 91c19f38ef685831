"""The points of a round shared out over workers: m-RWP's two gradients in the time of one.

    torch.manual_seed(0)                       # the same weights everywhere
    model = Net()
    optimizer = MRWP(torch.optim.SGD(model.parameters(), lr=0.1), sigma=0.01)
    rwp_edu.parallel.points(optimizer, model)
    ...
    optimizer.step(closure, other_closure)     # the same batches are given everywhere; each rank evaluates its share

under ``torchrun --nproc-per-node 2 script.py``, after ``torch.distributed.init_process_group``. The points of one round are independent of each
other, so rank r of W evaluates points r, r + W, ... and one collective per round exchanges the answers. Every rank draws the same noise, combines
the same numbers in the same order, and steps its own base optimizer: weights stay equal bit for bit, without being sent.

What is gained is the number of points over the number of rounds, the work over the waiting: m-RWP has two points in one round, SAM two
rounds of one point each, so a second worker idles (arXiv:2211.11489 names this as the advantage of RWP over SAM). With more ranks than
points some idle too: give them parts of the data by ``torch.nn.parallel`` instead.

BatchNorm statistics are those of the first point, as on one worker, sent by rank 0 after the step along with its random state. If a closure
raises on one rank, the step is undone on all: that rank raises its own error, the others a RuntimeError that names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_edu.optim import PerturbedOptimizer
from rwp_edu.points import At


def points(optimizer: PerturbedOptimizer, model: nn.Module, group: dist.ProcessGroup | None = None) -> PerturbedOptimizer:
    """Share out the points of every round of ``optimizer`` over the ranks of ``group`` (default: all); returns the optimizer.

    Called on every rank. Weights, buffers, method, seed and hyper-parameters must be the same on all: if not, a ``ValueError`` on every
    rank says which rank differs, and in what. All ranks take over the random state of rank 0.
    """
    if not isinstance(optimizer, PerturbedOptimizer):
        raise TypeError(
            f"points are shared out for an optimizer of rwp_edu.optim, such as MRWP(base); got {type(optimizer).__name__}"
        )
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "call torch.distributed.init_process_group() first, in a script started by torchrun --nproc-per-node 2"
        )
    shared = Shared(optimizer, model, group)
    shared.compare()
    shared.settle()
    optimizer._shared = shared
    return optimizer


def alone(optimizer: PerturbedOptimizer) -> PerturbedOptimizer:
    """Undo :func:`points`: every rank evaluates all points itself."""
    optimizer._shared = None
    return optimizer


class Shared:
    """The ranks that answer for one optimizer. ``evaluated`` counts the points that this rank has evaluated."""

    def __init__(self, optimizer: PerturbedOptimizer, model: nn.Module, group: dist.ProcessGroup | None):
        self.optimizer, self.model, self.group = optimizer, model, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.first = dist.get_global_rank(group, 0) if group is not None else 0
        self.evaluated = 0

    def answer(
        self,
        asked: list[At],
        gradients: Callable[[Iterator[At]], Iterable[Tensor]],
        losses: list[Tensor],
        seen: set[int],
        w: Tensor,
        parameters: int,
    ) -> list[Tensor]:
        """The gradients at all points of a round, in their order; ``losses`` and ``seen`` are completed with those of the other ranks.

        A row of what is sent: the gradient (P), which parameters have one, the loss, and whether anything failed.
        """
        mine, before, p = asked[self.rank :: self.size], len(losses), len(w)
        sent = w.new_zeros(-(-len(asked) // self.size), p + parameters + 2)
        error: BaseException | None = None
        try:
            for row, g in zip(sent, gradients(iter(mine))):
                row[:p], row[-2] = g, losses[-1]
                self.evaluated += 1
        except BaseException as raised:  # noqa: BLE001 - the others wait for an answer, whatever happened
            error = raised
            sent[:, -1] = 1
        sent[:, [p + i for i in seen]] = 1
        got = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(got, sent, group=self.group)
        if any(bool(part[0, -1]) for part in got):
            self._fail(error)
        rows = [got[j % self.size][j // self.size] for j in range(len(asked))]
        losses[before:] = [row[-2] for row in rows]
        have = torch.stack([part[:, p:-2].amax(0) for part in got]).amax(0)
        seen.update(have.nonzero()[:, 0].tolist())
        return [row[:p] for row in rows]

    def _fail(self, error: BaseException | None) -> None:
        """Every rank raises: its own error, or one that names the ranks that failed."""
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, error and f"{type(error).__name__}: {error}", group=self.group)
        if error is not None:
            raise error
        who = "; ".join(f"rank {rank} raised {text}" for rank, text in enumerate(told) if text)
        raise RuntimeError(f"another worker failed in its closure ({who}); the weights are as before this step on all ranks")

    def settle(self) -> None:
        """Buffers and the random state of rank 0 for all."""
        device = next(self.model.parameters()).device
        for buffer in self.model.buffers():
            dist.broadcast(buffer, self.first, group=self.group)
        state = torch.get_rng_state().to(device)
        dist.broadcast(state, self.first, group=self.group)
        torch.set_rng_state(state.cpu())
        if device.type == "cuda":
            state = torch.cuda.get_rng_state(device).to(device)
            dist.broadcast(state, self.first, group=self.group)
            torch.cuda.set_rng_state(state.cpu(), device)

    def compare(self) -> None:
        """An error on all ranks if they do not start alike."""
        own = self.optimizer
        trained = [p for group in own.param_groups for p in group["params"]]
        hyper = [{key: value for key, value in group.items() if key != "params"} for group in own.param_groups]
        said = {
            "another method": own.method,
            "other hyper-parameters": str(hyper),
            "another seed of the noise": str(own.seed),
            "another state of the noise": _hash([own._generator.get_state()] if own._generator else []),
            "other weights (call torch.manual_seed before the model is made, or load the same file everywhere)": _hash(trained),
            "other buffers": _hash(list(self.model.buffers())),
        }
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, said, group=self.group)
        for rank, theirs in enumerate(told):
            for what, value in theirs.items():
                if value != told[0][what]:
                    raise ValueError(f"all ranks must start alike, but rank {rank} has {what} than rank 0")


def _hash(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{flat.dtype}{tuple(flat.shape)}".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
