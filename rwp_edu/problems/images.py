"""Pictures with a convolutional network: in memory, cut into batches, shifted, flipped and covered as they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from rwp_edu.methods.noise import generator
from rwp_edu.problems import models
from rwp_edu.problems.datasets import Pictures
from rwp_edu.problems.fingerprint import digest
from rwp_edu.problems.module_problem import Again, Batch, Networks
from rwp_edu.problems.noisy_labels import Batches, mislabelled

CHUNK, MEASURED = 250, 1000  # pictures at once and, of the training pictures, in all when a network is measured
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)[:, :, None, None]


class Augmentation:
    """Each picture of a batch (n, channels, size, size), with probability 1/2 ``flip``-ped, moved by up to ``crop`` pixels in both directions
    (what comes in is black), and with a square of ``cutout`` pixels, somewhere on it, black."""

    def __init__(self, crop: int = 0, flip: bool = False, cutout: int = 0):
        self.crop, self.flip, self.cutout = crop, flip, cutout

    def __call__(self, x: Tensor, g: torch.Generator) -> Tensor:
        n, _, height, width = x.shape

        def whole(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (n, 1), generator=g).to(x.device)

        rows, columns = torch.arange(height, device=x.device)[None], torch.arange(width, device=x.device)[None]
        every = torch.arange(n, device=x.device)[:, None, None]
        if self.flip:
            x = torch.where(whole(0, 2)[:, :, None, None] == 1, x.flip(-1), x)
        if self.crop:
            x = pad(x, [self.crop] * 4)
            down, right = (rows + whole(0, 2 * self.crop + 1))[:, :, None], (columns + whole(0, 2 * self.crop + 1))[:, None, :]
            x = x[every, :, down, right].permute(0, 3, 1, 2)
        if self.cutout:
            top, left = whole(0, height) - self.cutout // 2, whole(0, width) - self.cutout // 2
            covered = ((rows >= top) & (rows < top + self.cutout))[:, :, None] & ((columns >= left) & (columns < left + self.cutout))[:, None, :]
            x = x.masked_fill(covered[:, None], 0)
        return x


class Stream:
    """Mini-batches of one seed: indices without replacement within an epoch, and changes of the pictures."""

    def __init__(self, batches: Batches, g: torch.Generator, prepared: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]):
        self.batches, self.generator, self.prepared = batches, g, prepared

    def draw(self) -> tuple[Tensor, Tensor]:
        return self.prepared(self.batches.draw(), self.generator)

    def state(self) -> list[Tensor]:
        return [self.batches.generator.get_state(), self.batches.left, self.generator.get_state()]

    def restore(self, state: list[Tensor]) -> None:
        order, self.batches.left, changes = state
        self.batches.generator.set_state(order)
        self.generator.set_state(changes)


def _shots(order: Tensor, y: Tensor, shots: int, classes: Sequence[str]) -> Tensor:
    """The first ``shots`` of every class, in the given order."""
    number = torch.nn.functional.one_hot(y[order], len(classes)).cumsum(0).gather(1, y[order][:, None])[:, 0]
    chosen = order[number <= shots]
    for name, n in zip(classes, torch.bincount(y[chosen], minlength=len(classes)).tolist()):
        if n < shots:
            raise ValueError(f"shots={shots}, but there are only {n} pictures of {name!r} to train on")
    return chosen


class Images(Networks):
    """A network on ``train`` pictures (0: all that are left), or on ``shots`` of every class, of which a fraction ``label_noise`` got a random label, measured on ``test`` others (0: all).
    ``validation`` pictures of those to train on are held back, with their right labels (0: those that came for it, if any).

    Every seed has its own choice of training pictures, wrong labels, initial weights, batches and augmentation, the same for every
    method. A ``batch`` of more pictures than there are is all of them. Pictures stay uint8; a batch is normalised by the mean and standard
    deviation of the training pictures (with weights of a ResNet for large pictures: by those of ImageNet). Batch 1, for methods with two batches, is an
    independent draw.

    ``card`` says what ``rwp_edu.problems.models.trained`` needs to make such a network again, and what it expects.

    >>> from rwp_edu.problems.datasets import bundled
    >>> problem = Images([0], bundled(), train=100, batch=20, width=4)
    >>> problem.layout.size, problem.draw()[0].shape
    (5094, torch.Size([20, 1, 8, 8]))
    """

    def __init__(
        self,
        seeds: Sequence[int],
        pictures: Pictures,
        train: int = 0,
        shots: int = 0,
        test: int = 1000,
        validation: int = 0,
        label_noise: float = 0.0,
        model: str = "rescnn",
        norm: str = "group",
        width: int = 16,
        weights: str = "",
        batch: int = 50,
        crop: int = 0,
        flip: bool = False,
        cutout: int = 0,
        label_smoothing: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **how: Any,
    ):
        (x, y), (test_x, test_y) = pictures.train, pictures.test
        train, test = train or len(x) - validation, min(test or len(test_x), len(test_x))
        if not (1 <= train <= len(x) - validation and validation >= 0 and batch >= 1):
            raise ValueError(
                f"batch >= 1, train >= 1 and train + validation <= {len(x)} must hold, got batch={batch}, train={train}, validation={validation}"
            )
        if weights == models.ONLINE and x.shape[1] != 3:
            raise ValueError(f"weights of networks for colour pictures do not suit pictures with {x.shape[1]} channel")
        classes, device = len(pictures.classes), torch.device(device)
        large = models.of_large_pictures(weights)
        mean, std = IMAGENET if large else pictures.scale()
        self._mean, self._std = mean.to(device, dtype), std.to(device, dtype)
        self._x, self._test_x, self._test_y = x.to(device), test_x.to(device), test_y.to(device)
        self._given_apart = pictures.validation and tuple(t.to(device) for t in pictures.validation)
        self._augment = Augmentation(crop, flip, cutout)
        orders = [torch.randperm(len(x), generator=generator(s, "split")) for s in seeds]
        self._chosen, self._validation = [o[:train] for o in orders], [o[len(x) - validation :].to(device) for o in orders]
        if shots:
            self._chosen = [_shots(o[: len(x) - validation], y, shots, pictures.classes) for o in orders]
        self._y = y.to(device)
        clean = [y[chosen] for chosen in self._chosen]
        given = [mislabelled(own, s, label_noise, len(x), classes) for s, own in zip(seeds, clean)]
        self._given, self._wrong = ([t.to(device) for t in own] for own in (given, [g != c for g, c in zip(given, clean)]))
        self._tested = torch.randperm(len(test_x), generator=generator(0, "test split"))[:test].to(device)
        self._batch = min(batch, *map(len, self._chosen)) if self._chosen else batch
        shape = {"classes": classes, "channels": x.shape[1], "width": width, "norm": norm, "size": pictures.size}
        build = partial(models.build, model, weights, **shape)
        self.card = {"model": model, "large": large, **shape, "names": list(pictures.classes)}
        self.card |= {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
        smoothed = partial(cross_entropy, label_smoothing=label_smoothing)
        super().__init__(seeds, build, loss=smoothed, measured_loss=cross_entropy, device=device, dtype=dtype, **how)

    def examples(self, which: int) -> int:
        """How many training pictures there are."""
        return len(self._chosen[which])

    @cached_property
    def data(self) -> str:
        some = self._x[:: max(1, len(self._x) // 64)], self._test_x[:: max(1, len(self._test_x) // 64)]
        return digest((self._y, self._test_y, *some))

    def _normal(self, x: Tensor) -> Tensor:
        return (x.to(self.dtype) / 255 - self._mean) / self._std

    def stream(self, which: int, number: int) -> Stream:
        s = self.seeds[which]

        def prepared(index: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
            x = self._x[self._chosen[which][index].to(self.device)]
            return self._normal(self._augment(x, g)), self._given[which][index.to(self.device)]

        order = Batches(len(self._chosen[which]), self._batch, generator(s, "batches", str(number)))
        return Stream(order, generator(s, "augmentation", str(number)), prepared)

    def held(self, which: int) -> dict[str, Iterable[Batch]]:
        chosen = self._chosen[which][:MEASURED].to(self.device)
        train = chosen, self._given[which][: len(chosen)], self._wrong[which][: len(chosen)]
        found = {"train": self._cut(self._x, *train), "test": self._cut(self._test_x, *self._right(self._tested, self._test_y))}
        if len(kept := self._validation[which]):
            found["validation"] = self._cut(self._x, *self._right(kept, self._y))
        elif self._given_apart is not None:
            x, y = self._given_apart
            found["validation"] = self._cut(x, *self._right(torch.arange(len(y), device=self.device), y))
        return found

    def _right(self, index: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures with their right labels."""
        return index, y[index], torch.zeros(len(index), dtype=torch.bool, device=self.device)

    def _cut(self, x: Tensor, index: Tensor, y: Tensor, wrong: Tensor) -> Iterable[Batch]:
        parts = zip(*(t.tensor_split(-(-len(y) // CHUNK)) for t in (index, y, wrong)))
        return Again(lambda parts=list(parts): ((self._normal(x[i]), labels, w) for i, labels, w in parts))
