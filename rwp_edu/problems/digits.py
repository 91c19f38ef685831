"""Real handwritten digits, few and partly mislabelled: an MLP for S seeds at once.

Data: the UCI optical digits bundled with the project (CC BY 4.0, doi:10.24432/C50P49). Pixels are divided by 16 and
standardised by the mean and standard deviation of all images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rwp_edu.batched import Group
from rwp_edu.noise import generator
from rwp_edu.points import At
from rwp_edu.problems.mlp import MLP

FILE = "optdigits.npz"
SHA256 = "b2dab7b501728c22e9119ad76740b2e17c77a231e42d1e592380d90886f1a05e"
FOLDERS = (Path(__file__).parents[1] / "_data", Path(__file__).parents[2] / "data")
TEST, VALIDATION, POOL = 997, 300, 500


def read(path: Path | None = None) -> tuple[Tensor, Tensor]:
    """Images ``(1797, 64)`` with values 0 to 16 and labels ``(1797,)``, after the checksum was compared."""
    looked = [path] if path else [folder / FILE for folder in FOLDERS]
    found = next((p for p in looked if p.is_file()), None)
    remedy = "restore it with `git checkout data/` in a clone, or reinstall rwp_edu"
    if found is None:
        raise FileNotFoundError(f"the digits are missing (looked for {', '.join(map(str, looked))}): {remedy}")
    if hashlib.sha256(found.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{found} is damaged (its SHA-256 is not {SHA256[:12]}...): {remedy}")
    with np.load(found) as data:
        return torch.from_numpy(data["images"].reshape(-1, 64).astype(np.float32)), torch.from_numpy(
            data["labels"].astype(np.int64)
        )


@cache
def _standardised() -> tuple[Tensor, Tensor]:
    images, labels = read()
    images = images / 16
    return (images - images.mean()) / images.std(), labels


class _Batches:
    """Indices of mini-batches: without replacement within an epoch, a leftover smaller than a batch is skipped."""

    def __init__(self, n: int, size: int, g: torch.Generator):
        self.n, self.size, self.generator, self.left = n, size, g, torch.empty(0, dtype=torch.long)

    def draw(self) -> Tensor:
        if len(self.left) < self.size:
            self.left = torch.randperm(self.n, generator=self.generator)
        taken, self.left = self.left[: self.size], self.left[self.size :]
        return taken


class Digits:
    """A 64-``width``-10 ReLU network on ``train`` digits of which a fraction ``label_noise`` got a random label.

    A label replaced by a uniformly random class is still right one time in ten: 30 % noise is 27 % wrong labels.

    Every seed has its own split (``train`` from a pool of 500, 300 for validation, 997 for testing), label noise, initial
    weights and order of batches; they are the same for every method. Batch 1, asked for by methods with two batches, is an
    independent draw from the same training images. All tensors have the S seeds in front.

    >>> problem = Digits(seeds=[0, 1])
    >>> problem.init().shape, problem.layout.size
    (torch.Size([2, 4810]), 4810)
    """

    name = "digits"
    metrics = ("train_loss", "test_accuracy", "wrong_labels_learnt")

    def __init__(
        self,
        seeds: Sequence[int],
        train: int = 300,
        label_noise: float = 0.3,
        width: int = 64,
        batch: int = 30,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        if not 1 <= batch <= train <= POOL:
            raise ValueError(f"1 <= batch <= train <= {POOL} must hold, got batch={batch}, train={train}")
        self.seeds, self.device, self.dtype = tuple(seeds), torch.device(device), dtype
        self.network = MLP((64, width, 10))
        self.layout = self.network.layout
        images, labels = _standardised()
        images = images.to(dtype)
        order = [torch.randperm(len(labels), generator=generator(s, "split")) for s in self.seeds]
        chosen = [o[-POOL:][:train] for o in order]
        clean = torch.stack([labels[c] for c in chosen])
        coin = torch.stack([torch.rand(POOL, generator=generator(s, "label noise"))[:train] for s in self.seeds])
        other = torch.stack([torch.randint(10, (POOL,), generator=generator(s, "noisy labels"))[:train] for s in self.seeds])
        given = torch.where(coin < label_noise, other, clean)
        self.train_x = torch.stack([images[c] for c in chosen]).to(self.device)
        self.train_y, self.wrong = given.to(self.device), (given != clean).to(self.device)
        self.test_x = torch.stack([images[o[:TEST]] for o in order]).to(self.device)
        self.test_y = torch.stack([labels[o[:TEST]] for o in order]).to(self.device)
        self._streams = [
            [_Batches(train, batch, generator(s, "batches", str(number))) for s in self.seeds] for number in range(2)
        ]
        self._current: dict[int, tuple[Tensor, Tensor]] = {}

    def init(self) -> Tensor:
        """Initial weights (S, P)."""
        return torch.stack([self.network.init(generator(s, "init"), self.dtype) for s in self.seeds]).to(self.device)

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
