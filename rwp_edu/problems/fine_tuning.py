"""Fine-tuning with few labels: a network that knows the digits 0 to 4 learns 5 to 9 from a few images of each, some mislabelled.

This is where noise stability optimization was proposed (2306.08553), in small.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from rwp_edu.methods.noise import generator
from rwp_edu.problems.digits import standardised
from rwp_edu.problems.mlp import MLP
from rwp_edu.problems.noisy_labels import Labelled, mislabelled

KNOWN, POOL, VALIDATION = (
    5,
    50,
    50,
)  # classes that are known; images of every new class to train on, and held back for validation
UPDATES, BATCH, LR, MOMENTUM = 300, 64, 0.05, 0.9  # of the pre-training


@lru_cache(maxsize=8)
def pretrained(seeds: tuple[int, ...], width: int) -> Tensor:
    """Weights (S, P), in float32, of 64-width-width-5 tanh networks that were trained on the digits 0 to 4 (all of them) by SGD."""
    network = MLP((64, width, width, KNOWN), "tanh")
    images, labels = standardised()
    images, labels = images[labels < KNOWN], labels[labels < KNOWN]
    w = torch.stack([network.init(generator(s, "init")) for s in seeds])
    streams, velocity = [generator(s, "pre-training") for s in seeds], torch.zeros_like(w)
    for _ in range(UPDATES):
        chosen = torch.stack([torch.randint(len(labels), (BATCH,), generator=g) for g in streams])
        velocity.mul_(MOMENTUM).add_(network.gradient(w, images[chosen], labels[chosen]))
        w -= LR * velocity
    return w


class FineTuning(Labelled):
    """``shots`` images of every digit from 5 to 9, a fraction ``label_noise`` of them with a random one of these five labels.

    The start is the pre-trained network with a new last layer, N(0, 1/width) and zero biases; all weights are trained. Every seed has its
    own network, images, label noise, head and order of batches, the same for every method. Of each class 50 images are there to train
    on, 50 are held back for validation, and the others test.

    >>> problem = FineTuning(seeds=[0], shots=20)
    >>> problem.train_x.shape, problem.layout.size, round(problem.measure(problem.init())["distance"].item(), 6)
    (torch.Size([1, 100, 64]), 8645, 0.0)
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shots: int = 20,
        label_noise: float = 0.3,
        width: int = 64,
        batch: int = 25,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        if not 1 <= shots <= POOL or not 1 <= batch <= shots * KNOWN:
            raise ValueError(
                f"1 <= shots <= {POOL} and 1 <= batch <= {KNOWN} * shots must hold, got shots={shots}, batch={batch}"
            )
        images, labels = standardised()
        images = images.to(dtype)
        places = [torch.nonzero(labels == KNOWN + c).flatten() for c in range(KNOWN)]
        train, test, held = [], [], []
        for s in seeds:
            g = generator(s, "split")
            mixed = [own[torch.randperm(len(own), generator=g)] for own in places]
            train.append(torch.stack([own[:shots] for own in mixed], 1).flatten())
            held.append(torch.cat([own[POOL : POOL + VALIDATION] for own in mixed]))
            test.append(torch.cat([own[POOL + VALIDATION :] for own in mixed]))
        train, test, held = torch.stack(train), torch.stack(test), torch.stack(held)
        clean = labels[train] - KNOWN
        given = torch.stack([mislabelled(own, s, label_noise, POOL * KNOWN, KNOWN) for s, own in zip(seeds, clean)])
        network = MLP((64, width, width, KNOWN), "tanh")
        tested, validation = ((images[own], labels[own] - KNOWN) for own in (test, held))
        super().__init__(seeds, network, images[train], clean, given, tested, batch, device, validation)
        self.start = self._with_new_heads(pretrained(self.seeds, width).to(dtype)).to(self.device)

    def _with_new_heads(self, w: Tensor) -> Tensor:
        w = w.clone()
        *_, weight, bias = self.layout.split(w)
        for head, s in zip(weight, self.seeds):
            head.copy_(torch.randn(head.shape, generator=generator(s, "head")) / head.shape[1] ** 0.5)
        bias.zero_()
        return w

    def init(self) -> Tensor:
        """Initial weights (S, P): pre-trained, with new heads."""
        return self.start.clone()

    def measure(self, w: Tensor) -> dict[str, Tensor]:
        """The metrics of ``Labelled``, and the distance |w - w0| (S,) from the start."""
        return super().measure(w) | {"distance": torch.linalg.vector_norm(w - self.start, dim=1)}
