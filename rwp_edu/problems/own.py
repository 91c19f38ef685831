"""A problem of your own: any torch module with any data, in the race, on the command line of a script, in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rwp_edu.noise import generator
from rwp_edu.problems.networks import Again, Batch, Networks

MEASURED = 1000  # examples, of the training data


class Loader:
    """Batches (x, y) of a loader, epoch after epoch. Whatever it draws from torch's global random state, an order or an augmentation, is
    drawn from a state of its own, so that a checkpoint continues with the very next batch (by going through the epoch up to there)."""

    def __init__(self, loader: Iterable[Any], seed: int, place: Callable[[Any], tuple[Any, Tensor]]):
        self.loader, self.place, self.batches, self.taken = loader, place, None, 0
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.random = self.begun = torch.get_rng_state()

    def draw(self) -> tuple[Any, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random)
            found = next(self.batches, None) if self.batches is not None else None
            if found is None:
                self.begun, self.taken, self.batches = torch.get_rng_state(), 0, iter(self.loader)
                found = next(self.batches)
            self.random, self.taken = torch.get_rng_state(), self.taken + 1
        return self.place(found)

    def state(self) -> list[Any]:
        return [self.begun, self.taken]

    def restore(self, state: list[Any]) -> None:
        self.begun, taken = state
        self.random, self.batches = self.begun, None
        for _ in range(taken):
            self.draw()


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

    def stream(self, which: int, number: int) -> Loader:
        return Loader(self._data["train"], generator(self.seeds[which], "batches", str(number)).initial_seed(), self._placed)

    def _placed(self, batch: Any) -> tuple[Any, Tensor]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"a batch must be a pair (x, y), got {type(batch).__name__}")
        return self._moved(batch[0]), batch[1].to(self.device)

    def _moved(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.to(self.device, self.dtype if x.is_floating_point() else x.dtype)
        return {k: self._moved(v) for k, v in x.items()} if isinstance(x, dict) else type(x)(self._moved(v) for v in x)

    def examples(self, which: int) -> int:
        data = self._data["train"]
        return len(data.dataset) if hasattr(data, "dataset") else sum(len(y) for _, y in data)

    def held(self, which: int) -> dict[str, Iterable[Batch]]:
        return {part: Again(partial(self._unseen, part, MEASURED if part == "train" else math.inf)) for part in self._data}

    def _unseen(self, part: str, most: float) -> Iterator[Batch]:
        """Batches of the data in an order that is always the same, until there are ``most`` examples; nobody's random state moves."""
        n = 0
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            for x, y in map(self._placed, self._data[part]):
                yield x, y, torch.zeros(len(y), dtype=torch.bool, device=self.device)
                n += len(y)
                if n >= most:
                    return
