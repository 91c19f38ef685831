"""Networks for S seeds at once on images whose labels are partly wrong; what is trained on is up to the subclass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rwp_edu.methods.noise import generator
from rwp_edu.methods.points import At
from rwp_edu.problems.mlp import MLP

if TYPE_CHECKING:
    from rwp_edu.training.batched import Group


class Batches:
    """Indices of mini-batches: without replacement within an epoch, a leftover smaller than a batch is skipped."""

    def __init__(self, n: int, size: int, g: torch.Generator):
        self.n, self.size, self.generator, self.left = n, size, g, torch.empty(0, dtype=torch.long)

    def draw(self) -> Tensor:
        if len(self.left) < self.size:
            self.left = torch.randperm(self.n, generator=self.generator)
        taken, self.left = self.left[: self.size], self.left[self.size :]
        return taken


def mislabelled(labels: Tensor, seed: int, fraction: float, most: int, classes: int) -> Tensor:
    """Labels (n,) of which each is replaced by a uniformly random class with probability ``fraction``; drawn for ``most`` labels, so that
    more images of one seed keep the labels of fewer."""
    n = len(labels)
    coin = torch.rand(most, generator=generator(seed, "label noise"))[:n]
    other = torch.randint(classes, (most,), generator=generator(seed, "noisy labels"))[:n]
    return torch.where(coin < fraction, other, labels)


class Labelled:
    """Training and test images (S, n, d) with labels (S, n), ``wrong`` (S, n) where a training label was made wrong, and mini-batches.

    Batch 1, asked for by methods with two batches, is an independent draw from the same training images.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        network: MLP,
        images: Tensor,
        clean: Tensor,
        given: Tensor,
        test: tuple[Tensor, Tensor],
        batch: int,
        device: torch.device | str,
        validation: tuple[Tensor, Tensor] | None = None,
    ):
        self.seeds, self.device, self.dtype = tuple(seeds), torch.device(device), images.dtype
        self.network, self.layout = network, network.layout
        self.train_x, self.train_y, self.wrong = (t.to(self.device) for t in (images, given, given != clean))
        self.test_x, self.test_y = (t.to(self.device) for t in test)
        self.validation_x, self.validation_y = (t.to(self.device) for t in validation or (images[:, :0], given[:, :0]))
        n = images.shape[1]
        self._streams = [[Batches(n, batch, generator(s, "batches", str(number))) for s in self.seeds] for number in range(2)]
        self._current: dict[int, tuple[Tensor, Tensor]] = {}

    def init(self) -> Tensor:
        """Initial weights (S, P)."""
        raise NotImplementedError

    def module(self, which: int = 0) -> torch.nn.Module:
        """The network of seed number ``which`` as an ordinary torch module with the same initial weights."""
        return self.network.module(self.init()[which]).to(self.device)

    def draw(self, batch: int = 0) -> tuple[Tensor, Tensor]:
        """The next mini-batch of every seed from stream ``batch``: images (S, B, 64) and labels (S, B)."""
        index = torch.stack([stream.draw() for stream in self._streams[batch]]).to(self.device)
        row = torch.arange(len(self.seeds), device=self.device)[:, None]
        return self.train_x[row, index], self.train_y[row, index]

    def next(self, batches: int) -> None:
        """Move on to the next update, in which methods ask for up to ``batches`` different batches."""
        self._current = {number: self.draw(number) for number in range(batches)}

    def gradients(self, points: list[At], groups: list[Group]) -> list[Tensor]:
        """Gradients (S, P) at every point, on the current mini-batches."""
        images, labels = zip(*(self._part(at) for at in points))
        found: list[Tensor] = [None] * len(points)
        for size in {x.shape[1] for x in images}:
            same = [i for i, x in enumerate(images) if x.shape[1] == size]
            w, x, y = (torch.cat([parts[i] for i in same]) for parts in ([at.w for at in points], images, labels))
            for i, gradient in zip(same, self.network.gradient(w, x, y).split(len(self.seeds))):
                found[i] = gradient
        return found

    def _part(self, at: At) -> tuple[Tensor, Tensor]:
        x, y = self._current[at.batch]
        size = x.shape[1]
        if at.of > size:
            raise ValueError(f"a batch of {size} images cannot be cut into {at.of} parts: choose batch >= k")
        part = slice(at.part * size // at.of, (at.part + 1) * size // at.of)
        return x[:, part], y[:, part]

    def state(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Where the order of mini-batches is: for every stream and seed the generator and what is left of the epoch."""
        return [[(stream.generator.get_state(), stream.left) for stream in streams] for streams in self._streams]

    def restore(self, state: list[list[tuple[Tensor, Tensor]]]) -> None:
        """Go on from what :meth:`state` gave."""
        for streams, kept in zip(self._streams, state, strict=True):
            for stream, (known, left) in zip(streams, kept, strict=True):
                stream.generator.set_state(known)
                stream.left = left

    def validate(self, w: Tensor) -> dict[str, Tensor]:
        """The accuracy (S,) at weights (S, P) on images that neither train nor test: settings are chosen by it. NaN if there are none."""
        correct = self.network.logits(w, self.validation_x).argmax(-1) == self.validation_y
        return {"validation_accuracy": correct.to(self.dtype).mean(1)}

    def measure(self, w: Tensor) -> dict[str, Tensor]:
        """Metrics (S,) at weights (S, P): mean training loss (nats, with the given labels), accuracy on the test images
        and the fraction of the wrongly labelled training images for which the network now says the wrong label."""
        logits = self.network.logits(w, self.train_x)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.train_y.flatten(), reduction="none")
        learnt = ((logits.argmax(-1) == self.train_y) & self.wrong).sum(1) / self.wrong.sum(1)
        correct = self.network.logits(w, self.test_x).argmax(-1) == self.test_y
        return {
            "train_loss": loss.view_as(self.train_y).mean(1),
            "test_accuracy": correct.to(self.dtype).mean(1),
            "wrong_labels_learnt": learnt.to(self.dtype),
        }
