"""A problem of your own: any torch module with any data, in the race, on the command line of a script, in checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rwp_edu.methods.noise import generator
from rwp_edu.problems.module_problem import Again, Batch, Networks, logits, seeded
from rwp_edu.utils.pytree import cut, leaves, made

MEASURED = 1000  # examples, of the training data
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)  # labels that losses do not take


@contextmanager
def drawing(loader: Any, begin: int | list[Tensor]) -> Iterator[Callable[[], list[Tensor]]]:
    """Torch's global generator and those of a loader begin at a seed, or at the states that the function which is given told before; afterwards
    all are as they were."""
    sampler, cutter = (getattr(loader, name, None) for name in ("sampler", "batch_sampler"))
    own = (getattr(place, "generator", None) for place in (loader, sampler, cutter, getattr(cutter, "sampler", None)))
    generators = list({id(g): g for g in (torch.default_generator, *own) if isinstance(g, torch.Generator)}.values())
    before = [g.get_state() for g in generators]
    try:
        for i, g in enumerate(generators):
            g.manual_seed(begin) if isinstance(begin, int) else g.set_state(begin[i])
        yield lambda: [g.get_state() for g in generators]
    finally:
        for g, state in zip(generators, before):
            g.set_state(state)


def anew(loader: Any) -> Iterator[Any]:
    """A loader's batches from its beginning. One with ``persistent_workers`` has a single iterator, which ``iter`` would take away from whoever
    else goes through it."""
    return loader._get_iterator() if getattr(loader, "persistent_workers", False) else iter(loader)


class Loader:
    """Batches (x, y) of a loader, epoch after epoch. Whatever it draws, an order or an augmentation, from torch's global random state or from its
    own ``generator`` is drawn from a state of its own, so that a checkpoint continues with the very next batch (by going through the epoch up to there)."""

    def __init__(self, loader: Iterable[Any], seed: int, place: Callable[[Any], tuple[Any, Tensor]]):
        self.loader, self.place, self.batches, self.taken = loader, place, None, 0
        with drawing(loader, seed) as states:
            self.random = self.begun = states()

    def draw(self) -> tuple[Any, Tensor]:
        with drawing(self.loader, self.random) as states:
            found = next(self.batches, None) if self.batches is not None else None
            if found is None:
                self.begun, self.taken, self.batches = states(), 0, anew(self.loader)
                found = next(self.batches)
            self.random, self.taken = states(), self.taken + 1
        return self.place(found)

    def state(self) -> list[Any]:
        return [self.begun, self.taken]

    def restore(self, state: list[Any]) -> None:
        self.begun, taken = state
        self.random, self.batches = self.begun, None
        for _ in range(taken):
            self.draw()


def fresh(build: Callable[[], nn.Module] | nn.Module) -> Callable[[], nn.Module]:
    """``build``, if it makes another module whenever it is called; of a module it makes copies."""
    if isinstance(build, nn.Module):
        return partial(copy.deepcopy, build)
    one, two = seeded(build, 0), seeded(build, 0)
    if not isinstance(one, nn.Module):
        raise TypeError(f"build() must give a torch module, got {type(one).__name__}")
    if {id(p) for p in one.parameters()} & {id(p) for p in two.parameters()}:
        raise TypeError("build() gives the same module again, which all runs would train: make a new one in it, or give the module itself, to be copied")
    return build


class Own(Networks):
    """``build()`` makes a module (from torch's random state: every seed starts from other weights); ``train``, ``test`` and perhaps ``validation`` are loaders, or
    lists, of batches (x, y). x may be a tensor, or a tuple or dict of tensors for a module that takes one. For methods with two
    batches the second is drawn by going through ``train`` on its own."""

    def __init__(
        self,
        seeds: Sequence[int],
        build: Callable[[], nn.Module],
        train: Iterable[Any],
        test: Iterable[Any],
        validation: Iterable[Any] | None = None,
        **how: Any,
    ):
        given = {"train": train, "test": test, "validation": validation}
        self._data = {name: data for name, data in given.items() if data is not None}
        for name, data in self._data.items():
            if isinstance(data, Iterator):
                raise TypeError(f"{name} must give its batches again and again (a DataLoader or a list of (x, y)), got an iterator")
        super().__init__(seeds, build, **how)

    @property
    def classes(self) -> bool:
        """Are y class numbers (n,), for a module that gives (n, C) logits with C >= 2? Numbers with a fraction are none."""
        with drawing(self._data["train"], 0):
            x, y = next(map(self._placed, anew(self._data["train"])), (None, torch.zeros(0, dtype=torch.long)))
        if not len(y):
            return True  # measuring tells that there is no batch
        if y.is_floating_point() or y.dim() > 1:
            return False
        with torch.no_grad():
            return logits(seeded(self.build, 0).to(self.device, self.dtype).eval()(cut(x, 0, 2)))

    def begin(self, seed: int) -> Iterator[Tensor]:
        """The tensors of the first batch of every part of the data."""
        for data in self._data.values():
            with drawing(data, seed):
                for x, y in map(self._placed, anew(data)):
                    yield from (*leaves(x), y)
                    break

    def stream(self, which: int, number: int) -> Loader:
        return Loader(self._data["train"], generator(self.seeds[which], "batches", str(number)).initial_seed(), self._placed)

    def _placed(self, batch: Any) -> tuple[Any, Tensor]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"a batch must be a pair (x, y), got {type(batch).__name__}")
        if not isinstance(batch[1], Tensor) or not batch[1].dim():
            raise TypeError(f"y must be a tensor with an entry per example, got {batch[1]!r:.60}: give batches, as a DataLoader of a dataset does")
        y = batch[1].to(self.device)
        return self._moved(batch[0]), y.long() if y.dtype in INTEGERS else y

    def _moved(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.to(self.device, self.dtype if x.is_floating_point() else x.dtype)
        return {k: self._moved(v) for k, v in x.items()} if isinstance(x, dict) else made(x, map(self._moved, x))

    def examples(self, which: int) -> int:
        data = self._data["train"]
        try:
            return len(data.dataset)
        except (AttributeError, TypeError):  # a list, or a dataset that only gives one example after another
            with drawing(data, 0):
                return sum(len(y) for _, y in data)

    def held(self, which: int) -> dict[str, Iterable[Batch]]:
        return {part: Again(partial(self._unseen, part, MEASURED if part == "train" else math.inf)) for part in self._data}

    def _unseen(self, part: str, most: float) -> Iterator[Batch]:
        """Batches of the data in an order that is always the same, until there are ``most`` examples; nobody's random state moves."""
        n = 0
        with drawing(self._data[part], 0):
            for x, y in map(self._placed, anew(self._data[part])):
                yield x, y, torch.zeros(len(y), dtype=torch.bool, device=self.device)
                n += len(y)
                if n >= most:
                    return
