"""Pictures of any folder with a convolutional network: the race, one network after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rwp_edu.datasets import Pictures
from rwp_edu.models import rescnn
from rwp_edu.noise import generator
from rwp_edu.one_by_one import OneByOne
from rwp_edu.problems.labelled import Labelled, mislabelled


class Images(Labelled):
    """``rescnn`` on ``train`` pictures of which a fraction ``label_noise`` got a random label, tested on ``test`` others.

    Every seed has its own choice of pictures, labels, initial weights, batches and augmentation (a shift by up to ``shift`` pixels and
    a flip, drawn per batch); they are the same for every method. Pictures stay uint8 and are prepared batch by batch.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        pictures: Pictures,
        train: int = 1000,
        test: int = 1000,
        label_noise: float = 0.0,
        width: int = 16,
        batch: int = 50,
        shift: int = 0,
        flip: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        (x, y), (test_x, test_y) = pictures.train, pictures.test
        if not 1 <= batch <= train <= len(x):
            raise ValueError(f"1 <= batch <= train <= {len(x)} must hold, got batch={batch}, train={train}")
        if not 1 <= test <= len(test_x):
            raise ValueError(f"1 <= test <= {len(test_x)} must hold, got test={test}")
        classes = len(pictures.classes)
        chosen = [torch.randperm(len(x), generator=generator(s, "split"))[:train] for s in seeds]
        tested = torch.randperm(len(test_x), generator=generator(0, "test split"))[:test]
        clean = torch.stack([y[c] for c in chosen])
        given = torch.stack([mislabelled(own, s, label_noise, len(x), classes) for s, own in zip(seeds, clean)])
        network = OneByOne(lambda: rescnn(classes, x.shape[1], width), lambda pixels: pixels.to(dtype) / 127.5 - 1)
        held = test_x[tested].expand(len(seeds), -1, -1, -1, -1), test_y[tested].expand(len(seeds), -1)
        super().__init__(seeds, network, torch.stack([x[c] for c in chosen]), clean, given, held, batch, device)
        self.dtype, self.shift, self.flip = dtype, shift, flip
        self._changes = [[generator(s, "augmentation", str(number)) for s in seeds] for number in range(2)]

    def init(self) -> Tensor:
        """Initial weights (S, P)."""
        return torch.stack([self.network.init(generator(s, "init"), self.dtype) for s in self.seeds]).to(self.device)

    def draw(self, batch: int = 0) -> tuple[Tensor, Tensor]:
        """The next mini-batch of every seed from stream ``batch``, augmented: pictures (S, B, C, H, W) and labels (S, B)."""
        x, y = super().draw(batch)
        return torch.stack([self._changed(own, g) for own, g in zip(x, self._changes[batch])]), y

    def _changed(self, x: Tensor, g: torch.Generator) -> Tensor:
        n, _, height, width = x.shape
        if self.flip:
            x = torch.where((torch.rand(n, generator=g) < 0.5).to(x.device)[:, None, None, None], x.flip(-1), x)
        if self.shift:
            at = torch.randint(2 * self.shift + 1, (n, 2), generator=g).tolist()
            wide = torch.nn.functional.pad(x, [self.shift] * 4)
            x = torch.stack([own[:, i : i + height, j : j + width] for own, (i, j) in zip(wide, at)])
        return x

    def state(self) -> list:
        """The order of mini-batches and the generators of the augmentation."""
        return [super().state(), [[g.get_state() for g in own] for own in self._changes]]

    def restore(self, state: list) -> None:
        """Go on from what :meth:`state` gave."""
        order, changes = state
        super().restore(order)
        for own, kept in zip(self._changes, changes, strict=True):
            for g, known in zip(own, kept, strict=True):
                g.set_state(known)
