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

from rwp_edu.methods.noise import generator
from rwp_edu.problems.mlp import MLP
from rwp_edu.problems.noisy_labels import Labelled, mislabelled

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
def standardised() -> tuple[Tensor, Tensor]:
    images, labels = read()
    images = images / 16
    return (images - images.mean()) / images.std(), labels


class Digits(Labelled):
    """A 64-``width``-10 ReLU network on ``train`` digits of which a fraction ``label_noise`` got a random label.

    A label replaced by a uniformly random class is still right one time in ten: 30 % noise is 27 % wrong labels.

    Every seed has its own split (``train`` from a pool of 500, 300 for validation, 997 for testing), label noise, initial
    weights and order of batches; they are the same for every method. Batch 1, asked for by methods with two batches, is an
    independent draw from the same training images. All tensors have the S seeds in front.

    >>> problem = Digits(seeds=[0, 1])
    >>> problem.init().shape, problem.layout.size
    (torch.Size([2, 4810]), 4810)
    """

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
        images, labels = standardised()
        images = images.to(dtype)
        order = [torch.randperm(len(labels), generator=generator(s, "split")) for s in seeds]
        chosen, tested = [o[-POOL:][:train] for o in order], [o[:TEST] for o in order]
        clean = torch.stack([labels[c] for c in chosen])
        given = torch.stack([mislabelled(own, s, label_noise, POOL, 10) for s, own in zip(seeds, clean)])
        held = [o[TEST : TEST + VALIDATION] for o in order]
        test, validation = ((torch.stack([images[o] for o in own]), torch.stack([labels[o] for o in own])) for own in (tested, held))
        x = torch.stack([images[c] for c in chosen])
        super().__init__(seeds, MLP((64, width, 10)), x, clean, given, test, batch, device, validation)

    def init(self) -> Tensor:
        """Initial weights (S, P)."""
        return torch.stack([self.network.init(generator(s, "init"), self.dtype) for s in self.seeds]).to(self.device)
