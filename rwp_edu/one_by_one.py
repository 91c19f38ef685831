"""Any torch module in the place of a network that batches over weight vectors: its weight vectors are evaluated one after another.

Convolutions do not gain from batching over runs on a CPU. With this adapter such networks have the same race, record and checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from rwp_edu.points import Layout

CHUNK = 256


class OneByOne:
    """What ``rwp_edu.problems.mlp.MLP`` offers, for the network that ``build()`` makes; ``prepare`` turns stored images into its input.

    The module must have no buffers: running statistics are not a function of the weights, so they would not be the same at all points.

    >>> OneByOne(lambda: torch.nn.Linear(3, 2)).layout.size
    8
    """

    def __init__(self, build: Callable[[], torch.nn.Module], prepare: Callable[[Tensor], Tensor] = lambda x: x):
        self._build, self._prepare = build, prepare
        self._network = self._fresh(0)
        if found := [name for name, _ in self._network.named_buffers()]:
            raise ValueError(
                f"this engine takes modules without buffers, found {', '.join(found)}: use GroupNorm instead of BatchNorm"
            )
        self.layout = Layout({name: p.shape for name, p in self._network.named_parameters()})

    def _fresh(self, seed: int) -> torch.nn.Module:
        """A new module; torch initialises from the global random state, which is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._build()

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """The module's own initial weights, flat ``(P,)``."""
        seed = int(torch.randint(2**62, (), generator=generator))
        return self.layout.flatten([p.detach() for p in self._fresh(seed).parameters()]).to(dtype)

    def module(self, flat: Tensor) -> torch.nn.Module:
        """An ordinary torch module with its own copy of the weights."""
        module = self._fresh(0).to(flat.dtype)
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), self.layout.split(flat)):
                parameter.copy_(value)
        return module

    def _apply(self, views: list[Tensor], x: Tensor) -> Tensor:
        return functional_call(self._network, dict(zip(self.layout.names, views)), (self._prepare(x).to(views[0].dtype),))

    def logits(self, w: Tensor, x: Tensor) -> Tensor:
        """``w`` (N, P) and ``x`` (N, B, ...) give (N, B, classes)."""
        with torch.no_grad():
            return torch.stack(
                [torch.cat([self._apply(self.layout.split(v), c) for c in own.split(CHUNK)]) for v, own in zip(w, x)]
            )

    def gradient(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Gradient (N, P) of the mean cross-entropy of each weight vector on its own batch; ``y`` is (N, B)."""
        found = torch.empty_like(w)
        for v, own, labels, slot in zip(w, x, y, found):
            views = [view.detach().requires_grad_() for view in self.layout.split(v)]
            with torch.enable_grad():
                loss = cross_entropy(self._apply(views, own), labels)
            self.layout.flatten(torch.autograd.grad(loss, views), out=slot)
        return found
