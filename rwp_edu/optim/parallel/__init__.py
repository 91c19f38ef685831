"""The points of a round at once: m-RWP's two gradients in the time of one.

In one process, on two threads:

    rwp_edu.optim.parallel.threads(optimizer, model)

    def closure(model):                            # the model it is to evaluate: yours, or a copy
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)

Or shared out over worker processes, one for each GPU or on several machines:

    with rwp_edu.optim.parallel.workers():               # in a script started by torchrun --nproc-per-node 2 script.py
        torch.manual_seed(0)                       # the same weights and the same batches everywhere
        model = Net()
        optimizer = MRWP(torch.optim.SGD(model.parameters(), lr=0.1), sigma=0.01)
        rwp_edu.optim.parallel.points(optimizer, model)
        ...
        optimizer.step(closure, other_closure)     # each worker evaluates its share

The points of one round are independent of each other, so of W workers number i evaluates points i, i + W, ... and one collective per round
exchanges the answers. Every rank draws the same noise, combines the same numbers in the same order and steps its own base optimizer: weights
stay equal bit for bit without being sent, and equal to those of one process that evaluates all points itself.

What is gained is work over waiting, the points of an update over its rounds: m-RWP has two points in one round; SAM has two rounds of one
point, so a second worker idles (arXiv:2211.11489 names this as an advantage of RWP over SAM). Where there are more ranks than points, let
``shards`` of them share a point: each takes a part of the batch, and their gradients are averaged,

    g(w + e_j) = 1/S sum_s grad L(w + e_j ; shard s of the batch),

to rounding the gradient of the whole batch. With a single worker of S shards this is ordinary data parallelism, for SAM with a
*synchronised* perturbation: the ascent follows the gradient of the whole batch. ``per_rank`` gives SAM the other choice.

- *Buffers*, such as BatchNorm statistics, are moved by the first point of a step alone, as on one worker; rank 0's are taken over by all at
  the end of the step. With shards they are those of the first shard, and each shard is normalised by itself, as usual in data parallelism.
- *Random numbers*: dropout has one mask at all points of a step, another one for every shard. After a step all ranks have the random state
  that one process would have, so what is drawn between steps (a permutation, say) is the same everywhere.
- *A closure that raises* on one rank undoes the step on all: that rank raises its own error, the others a ``RuntimeError`` that names it
  (a ``FloatingPointError`` if that is what was raised, so that all can skip the batch alike).
- *A rank that dies*, or does not answer within the timeout of the process group, ends the step on the others with a ``WorkerLost``. Let torchrun
  start all again (``--max-restarts``) from a checkpoint with the ``state_dict`` of model and optimizer, loaded on every rank.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_edu.optim.optimizer import PerturbedOptimizer
from rwp_edu.optim.parallel.ranks import Shared, WorkerLost
from rwp_edu.optim.parallel.thread_pool import Together
from rwp_edu.utils.pytree import count, cut

__all__ = ["Place", "WorkerLost", "alone", "check", "per_rank", "place", "points", "shard", "threads", "workers"]
LAST_GRADIENT = ("sam", "usam", "asam", "rsam")  # methods that return the gradient of their last round as it is


@contextlib.contextmanager
def workers(timeout: float = 300.0) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` has started, until the block is left; gives the device that this one is to use.

    NCCL and one GPU each if there are enough of them, else gloo and the CPU. ``timeout``: seconds that a rank waits for the slowest one before
    it gives up, so more than a closure and the saving of a checkpoint take.
    """
    if not dist.is_torchelastic_launched():
        raise RuntimeError("start the script by torchrun: torchrun --nproc-per-node 2 script.py")
    local, count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    device = torch.device("cuda", local) if torch.cuda.device_count() >= count and dist.is_nccl_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    patience = timedelta(seconds=timeout)
    store, rank, size = next(dist.rendezvous("env://", timeout=patience))
    store = dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # or a restart would find the addresses of the dead
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience, store=store, rank=rank, world_size=size)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def points(
    optimizer: PerturbedOptimizer, model: nn.Module, group: dist.ProcessGroup | None = None, *, shards: int = 1
) -> PerturbedOptimizer:
    """Share out the points of every round of ``optimizer`` over the ranks of ``group`` (default: all); returns the optimizer.

    Called on every rank, once for each optimizer; the closures get the same batches everywhere. ``shards``: ranks that share a point; a divisor of the number of ranks, and the
    closures cut their batch with :func:`shard`. The optimizer may load a ``state_dict`` afterwards, the same on all ranks; a copy
    or a pickle of it is not shared.

    Weights, buffers, method, hyper-parameters, noise and the state of the base optimizer must be the same on all ranks: if not, a ``ValueError``
    on every rank says which rank differs, and in what. All ranks take over the random state of rank 0.
    """
    _check_optimizer(optimizer)
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "start the script by torchrun --nproc-per-node 2 and call this within `with rwp_edu.optim.parallel.workers():`, or after "
            "torch.distributed.init_process_group()"
        )
    size = dist.get_world_size(group)
    if shards < 1 or size % shards:
        raise ValueError(f"shards must divide the number of ranks, which is {size}; got {shards}")
    shared = Shared(optimizer, model, group, shards)
    before, optimizer._shared = optimizer._shared, shared
    try:
        check(optimizer)
    except BaseException:
        optimizer._shared = before
        raise
    shared.take_over()
    return optimizer


def threads(optimizer: PerturbedOptimizer, model: nn.Module, workers: int = 2) -> PerturbedOptimizer:
    """Evaluate up to ``workers`` points of every round at once, in threads of this process; returns the optimizer.

    Closures take the model that they are to evaluate: the first point of a round is evaluated on ``model`` itself, the others on copies of
    it, which cost memory for weights, gradients and activations each, and on a GPU have a stream each. The threads share the cores that torch
    uses (``torch.get_num_threads``). An update has the numbers that it has without threads, bit for bit if that uses as many cores for a point. For networks whose
    gradient takes some milliseconds: Python itself runs on one core.

    The copies follow the model in weights that are not trained, buffers and ``training``; buffers are those before the step at all points but the first.
    Where other things of the model have changed (a module replaced, a rate of dropout), call this again. A copy has none of the hooks on parameters. Where closures draw random numbers, as dropout does, points are evaluated one after
    another, with a warning, since at once they could not all see the same mask. A failure at any point undoes the step, as ever.

    Raises:
        TypeError: for an optimizer that is not of ``rwp_edu.optim``, a model that cannot be copied, or (at a step) for a closure that takes no model.
        ValueError: for fewer than one worker, or where the optimizer trains parameters that the model does not have.
    """
    _check_optimizer(optimizer)
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers must be a whole number >= 1, got {workers!r}")
    own = set(model.parameters())
    if foreign := sum(p not in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(f"the optimizer trains {foreign} parameters that are not in this model: give the module that holds all of them")
    optimizer._shared = Together(optimizer, model, workers)
    return optimizer


def _check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, PerturbedOptimizer):
        raise TypeError(
            f"points are shared out for an optimizer of rwp_edu.optim, such as MRWP(base); got {type(optimizer).__name__}"
        )


def alone(optimizer: PerturbedOptimizer) -> PerturbedOptimizer:
    """Undo :func:`points` or :func:`threads`: this process evaluates all points itself, one after another."""
    optimizer._shared = None
    return optimizer


@dataclass(frozen=True)
class Place:
    """Which ``worker`` (of ``workers``, among which points are shared out) and which ``shard`` of the batch (of ``shards``) a rank is."""

    worker: int = 0
    workers: int = 1
    shard: int = 0
    shards: int = 1


def place(optimizer: PerturbedOptimizer) -> Place:
    """The place of this rank: rank = worker * shards + shard.

    >>> from rwp_edu.optim.optimizer import RWP
    >>> place(RWP(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)))
    Place(worker=0, workers=1, shard=0, shards=1)
    """
    s = optimizer._shared
    return Place() if not isinstance(s, Shared) else Place(s.worker, s.workers, s.shard, s.shards)


def shard(optimizer: PerturbedOptimizer, *tensors: Any) -> Any:
    """This rank's part of a batch: of tensors ``(B, ...)`` the views ``(B/S, ...)``, all of them without shards; one tensor gives one.
    A tuple or dict of tensors is cut likewise.

    To be called in a closure whose loss is a *mean* over the batch. B has to be a multiple of S, or the mean of the parts would not be
    the mean of the batch: ``ValueError``.

    >>> from rwp_edu.optim.optimizer import RWP
    >>> shard(RWP(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)), torch.arange(4))
    tensor([0, 1, 2, 3])
    """
    here = place(optimizer)
    for tensor in tensors:
        if (n := count(tensor)) % here.shards:
            raise ValueError(
                f"a batch of {n} cannot be cut into {here.shards} equal shards: use DataLoader(..., drop_last=True) "
                f"and a batch size that is a multiple of {here.shards}"
            )
    each = [count(t) // here.shards for t in tensors]
    parts = tuple(cut(t, n * here.shard, n * (here.shard + 1)) for t, n in zip(tensors, each))
    return parts[0] if len(parts) == 1 else parts


def per_rank(optimizer: PerturbedOptimizer, model: nn.Module, closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A closure for one step of SAM around a ``DistributedDataParallel`` model that perturbs every rank by its *own* gradient.

        optimizer.step(closure)                                          # synchronised: all climb the gradient of the whole batch
        optimizer.step(parallel.per_rank(optimizer, model, closure))     # every rank climbs that of its own part

    The first is SAM on the whole batch. The second averages over ranks s only at the end,

        g = 1/S sum_s grad L_s(w + rho g_s/||g_s||),  g_s = grad L_s(w),

    which is m-sharpness with m = B/S, the usual practice of SAM on several devices (arXiv:2010.01412, 2206.06232); it also
    sends half as much. All but the last gradient are computed under ``no_sync``. Only for methods that return their last gradient as it is
    (SAM, USAM, ASAM, R-SAM): with others, such as GSAM, replicas would part.
    """
    if optimizer.method not in LAST_GRADIENT:
        raise ValueError(f"a perturbation per rank is possible with {', '.join(LAST_GRADIENT)}; replicas of {optimizer.method} would part")
    if not isinstance(model, nn.parallel.DistributedDataParallel):
        raise TypeError(f"per_rank is for a model in DistributedDataParallel, got {type(model).__name__}")
    calls = 0

    def evaluate() -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise RuntimeError("per_rank makes a closure for one step: make another for the next")
        with model.no_sync() if calls == 1 else contextlib.nullcontext():
            return closure()

    return evaluate


def check(optimizer: PerturbedOptimizer) -> None:
    """A ``ValueError`` on all ranks, with what differs where, unless an optimizer that shares its points stands alike on all of them.

    Weights are compared bit for bit, by their hashes; this costs about as much as reading them once. :func:`points` calls it; so may you, after a checkpoint is loaded.
    """
    s = optimizer._shared
    if not isinstance(s, Shared):
        raise RuntimeError("this optimizer shares nothing with other processes: call rwp_edu.optim.parallel.points(optimizer, model) first")
    hyper = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    said = {
        "another method": optimizer.method,
        "other hyper-parameters": str(hyper),
        "another seed of the noise": str(optimizer.seed),
        "another state of the noise": _hash([optimizer._generator.get_state()] if optimizer._generator else []),
        "other weights (call torch.manual_seed before the model is made, or load the same file everywhere)": _hash(trained),
        "other buffers": _hash(s.model.buffers()),
        "another state of the base optimizer": _hash(_tensors([optimizer.state.get(p, {}) for p in trained])),
        "another memory of the method": _hash(_tensors(optimizer.memory)),
        "another number of shards": str(s.shards),
    }
    told: list[Any] = [None] * s.size
    dist.all_gather_object(told, said, group=s.group)
    for rank, theirs in enumerate(told):
        for what, value in theirs.items():
            if value != told[0][what]:
                raise ValueError(f"all ranks must be alike, but rank {rank} has {what} than rank 0")


def _tensors(tree: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists, in their order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (dict, list, tuple)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(part)


def _hash(tensors: Any) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{flat.dtype}{tuple(flat.shape)}".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
