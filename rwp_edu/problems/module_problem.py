"""Problems whose networks are trained one after another: what ``rwp_edu.training.sequential`` asks of one, for any module and any data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rwp_edu.methods.noise import generator
from rwp_edu.methods.points import Layout

BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.001, weight_decay=0.01),
}
Batch = tuple[Any, Tensor, Tensor]
NORMS = nn.modules.batchnorm._BatchNorm


class Again:
    """Something that can be gone through several times: ``make()`` begins anew."""

    def __init__(self, make: Callable[[], Iterator[Any]]):
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return self._make()


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What ``make()`` gives with the global random state set to ``seed``, which is afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()


def logits(output: Any) -> bool:
    """Is what a module gives (n, C), with two classes or more?"""
    return isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1


class Networks:
    """S seeds, each with initial weights of its own. A subclass gives ``stream(which, number)``, an object whose ``draw()`` gives batches
    (x, y) and that has ``state()`` and ``restore(state)``, and ``held(which)``: batches (x, y, wrong) of training and of test data to measure on, and of
    ``validation`` data where some are held back.

    ``build()`` makes the module, ``loss(output, y)`` is the mean over a batch, ``measured_loss`` what is recorded where that differs. ``clip`` is the largest norm of the combined gradient
    (0: none), ``bfloat16`` evaluates the closures under autocast, ``recalibrate`` measures with BatchNorm statistics found afresh at the measured weights,
    ``workers`` points of a round are evaluated at once (``rwp_edu.optim.parallel.threads``), on ``threads`` cores in all (0: all but one).
    """

    def __init__(
        self,
        seeds: Sequence[int],
        build: Callable[[], nn.Module],
        *,
        loss: Callable[[Any, Tensor], Tensor] = nn.functional.cross_entropy,
        measured_loss: Callable[[Any, Tensor], Tensor] | None = None,
        base: str = "sgd",
        clip: float = 0.0,
        bfloat16: bool = False,
        recalibrate: bool = True,
        workers: int = 1,
        threads: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.seeds, self.device, self.dtype = tuple(seeds), torch.device(device), dtype
        self.build, self.loss, self.clip, self.bfloat16, self.recalibrate = build, loss, clip, bfloat16, recalibrate
        self.measured_loss, self.workers, self.threads = measured_loss or loss, workers, threads
        self.base = BASES[base]
        self._starts = [seeded(build, generator(s, "init").initial_seed()).to(self.device, dtype) for s in self.seeds]
        self._streams = [[self.stream(which, number) for which in range(len(self.seeds))] for number in range(2)]
        self._current: list[list[tuple[Any, Tensor]]] = []

    @property
    def layout(self) -> Layout:
        """Where every parameter that is trained lies in flat weights."""
        return Layout({name: p.shape for name, p in self._starts[0].named_parameters() if p.requires_grad})

    def stream(self, which: int, number: int) -> Any:
        raise NotImplementedError

    def held(self, which: int) -> dict[str, Iterable[Batch]]:
        raise NotImplementedError

    def module(self, which: int = 0) -> nn.Module:
        """The network of seed number ``which`` with its initial weights."""
        model = seeded(self.build, 0).to(self.device, self.dtype)
        model.load_state_dict(self._starts[which].state_dict())
        return model

    def start(self, which: int) -> Tensor:
        """Those weights, flat (P,)."""
        return torch.cat([p.detach().flatten() for p in self._starts[which].parameters() if p.requires_grad])

    def at(self, w: Tensor, which: int = 0) -> nn.Module:
        """That network with weights (P,)."""
        model = self.module(which)
        with torch.no_grad():
            for p, view in zip((p for p in model.parameters() if p.requires_grad), self.layout.split(w)):
                p.copy_(view)
        return model

    def precision(self) -> Any:
        """The context in which outputs and losses are computed."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()

    @property
    def data(self) -> str:
        """A hash of the data, where they could be others when a run goes on; else nothing."""
        return ""

    # Batches

    def draw(self, batch: int = 0, which: int = 0) -> tuple[Any, Tensor]:
        """The next mini-batch of seed number ``which`` from stream ``batch``."""
        return self._streams[batch][which].draw()

    def next(self, batches: int) -> None:
        """Move on to the next update, in which methods ask for up to ``batches`` different batches."""
        self._current = [[self.draw(number, which) for which in range(len(self.seeds))] for number in range(batches)]

    def batch(self, which: int, number: int = 0) -> tuple[Any, Tensor]:
        """The batch of this update."""
        return self._current[number][which]

    def state(self) -> list[list[Any]]:
        """Where the order of mini-batches is."""
        return [[stream.state() for stream in own] for own in self._streams]

    def restore(self, state: list[list[Any]]) -> None:
        """Go on from what :meth:`state` gave."""
        for own, kept in zip(self._streams, state, strict=True):
            for stream, known in zip(own, kept, strict=True):
                stream.restore(known)

    # Measuring

    def measure(self, model: nn.Module, which: int) -> dict[str, float]:
        """Losses in nats on training data (as labelled) and test data, accuracies, the fraction of wrong labels learnt, and |w - w0|."""
        train, test = self._looked(model, which, "train", "test")
        w = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
        return {
            "test_accuracy": test["right"] / test["n"],
            "train_loss": train["loss"] / train["n"],
            "test_loss": test["loss"] / test["n"],
            "train_accuracy": train["right"] / train["n"],
            "wrong_labels_learnt": train["learnt"] / train["wrong"] if train["wrong"] else float("nan"),
            "distance": float(torch.linalg.vector_norm(w - self.start(which))),
        }

    def validate(self, model: nn.Module, which: int) -> dict[str, float]:
        """Accuracy and loss on data that neither train nor test: settings are chosen by them. NaN if there are none."""
        if "validation" not in self.held(which):
            return dict.fromkeys(("validation_accuracy", "validation_loss"), float("nan"))
        (found,) = self._looked(model, which, "validation")
        return {"validation_accuracy": found["right"] / found["n"], "validation_loss": found["loss"] / found["n"]}

    def _looked(self, model: nn.Module, which: int, *parts: str) -> list[dict[str, float]]:
        """What the network says of parts of the data, in evaluation mode."""
        held, training = self.held(which), model.training
        model.eval()
        try:
            with torch.no_grad(), self.recalibrated(model, held["train"]):
                return [self._sums(model, held[part], part) for part in parts]
        finally:
            model.train(training)

    def _sums(self, model: nn.Module, batches: Iterable[Batch], part: str) -> dict[str, float]:
        total = torch.zeros(5, dtype=torch.float64, device=self.device)
        for x, y, wrong in batches:
            with self.precision():
                output = model(x)
            output, n = output.float() if self.bfloat16 and isinstance(output, Tensor) else output, len(y)
            labels = not y.is_floating_point() and y.dim() == 1 and logits(output)
            hit = output.argmax(-1) == y if labels else torch.full((n,), float("nan"), device=self.device)
            parts = self.measured_loss(output, y) * n, hit.sum(), (hit * wrong).sum(), wrong.sum(), torch.tensor(n)
            total = total + torch.stack([part.to(self.device, torch.float64) for part in parts])
        if not total[-1]:
            raise ValueError(f"the {part} data gave no batch: give a loader, or a list, of batches (x, y) that can be gone through again and again")
        return dict(zip(("loss", "right", "learnt", "wrong", "n"), total.tolist()))

    @contextmanager
    def recalibrated(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[None]:
        """BatchNorm statistics as the mean over batches, weighted by their size, at these weights; those of the training are there again afterwards.

        Statistics gathered at perturbed weights do not belong to the weights that are measured; nor do those of single weights to an
        average of weights, for which 1803.05407 recalibrates likewise.
        """
        layers = [m for m in model.modules() if isinstance(m, NORMS) and m.track_running_stats] if self.recalibrate else []
        kept = [({name: b.clone() for name, b in m.named_buffers()}, m.momentum) for m in layers]
        try:
            for m in layers:
                m.reset_running_stats()
                m.train()
            if layers:
                seen = 0
                for x, y, _ in batches:
                    if len(y) == 1 and seen:  # has no variance
                        continue
                    seen += len(y)
                    for m in layers:
                        m.momentum = len(y) / seen
                    with self.precision():
                        model(x)
            for m in layers:
                m.eval()
            yield
        finally:
            for m, (buffers, momentum) in zip(layers, kept):
                m.momentum = momentum
                for name, buffer in buffers.items():
                    m.get_buffer(name).copy_(buffer)
