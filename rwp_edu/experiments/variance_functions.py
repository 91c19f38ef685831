"""Functions whose gradients are perturbed: two with closed forms, two small networks trained on digits."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rwp_edu.curvature import Estimate, hessian_change, squared_hessian_trace
from rwp_edu.curvature.smoothing import Function, joined
from rwp_edu.problems.digits import Digits
from rwp_edu.problems.mlp import MLP
from rwp_edu.utils.parameters import unknown

UPDATES, RATE, BATCH = 600, 0.1, 30
SIZE = 20  # weights of the closed forms
# E z⁴ - 3 of the laws: how the square of one entry varies.
KURTOSIS = {"gaussian": 0.0, "uniform": -1.2, "laplace": 3.0, "rademacher": -2.0}


@dataclass(frozen=True)
class Subject:
    """Batched loss and gradient, weights to stand at, ‖H‖² and Σᵢ‖∂ᵢH‖² there, the variance of a mini-batch gradient (``BATCH`` of
    the training images without replacement; None where there are no data), and how many draws are measured at a time.

    ``own`` is the share of ∂ᵢHᵢⱼ with i = j: the part of the two-point variance that depends on the law beyond its variance. Of
    a network it is small and taken as 0."""

    loss: Function
    gradient: Function
    w: Tensor
    slope: float
    change: float
    batch: float | None = None
    draws: int = 400
    own: float = 0.0

    def theory(self, sigma: float, k: int, law: str) -> tuple[float, float]:
        """Leading variance of the one-point gradient with 2k draws and of the two-point gradient with k pairs."""
        two = sigma**4 / 2 * self.change * (1 + self.own * KURTOSIS[law] / 2)
        return sigma**2 * self.slope / (2 * k), two / k


Making = Generator[str, None, Subject]


def _quadratic() -> Making:
    """½ Σ aᵢ wᵢ²."""
    yield ""
    a = torch.logspace(-1, 1, SIZE, dtype=torch.float64)
    w = torch.ones_like(a)
    return Subject(lambda v: (a * v.square()).sum(-1) / 2, lambda v: a * v, w, a.square().sum().item(), 0.0)


def _quartic() -> Making:
    """¼ Σ wᵢ⁴ at w = (1, ..., 1): H = 3, ∂ᵢHᵢᵢ = 6."""
    yield ""
    w = torch.ones(SIZE, dtype=torch.float64)
    return Subject(lambda v: v.pow(4).sum(-1) / 4, lambda v: v**3, w, 9.0 * SIZE, 36.0 * SIZE, own=1.0)


def _network(activation: str) -> Callable[[], Making]:
    def make() -> Making:
        data = Digits([0], width=32, batch=BATCH, dtype=torch.float64)
        network, x, y = MLP((64, 32, 10), activation), data.train_x, data.train_y

        def loss(v: Tensor) -> Tensor:
            return network.loss(v, x.expand(len(v), -1, -1), y.expand(len(v), -1))

        def gradient(v: Tensor) -> Tensor:
            return network.gradient(v, x.expand(len(v), -1, -1), y.expand(len(v), -1))

        w = data.init()
        for update in range(UPDATES):
            if update % 50 == 0:
                yield f"training the network: update {update} of {UPDATES}"
            w = w - RATE * gradient(w)
        n, w = x.shape[1], w[0]
        single = network.gradient(w.repeat(n, 1), x[0][:, None], y[0][:, None])
        spread = (single - single.mean(0)).square().sum(1).mean().item()
        found: list[list[Estimate]] = [[], []]
        for seed in range(8):
            for kept, probe in zip(found, (squared_hessian_trace, hessian_change)):
                yield "probing its second and third derivatives"
                kept.append(probe(loss, w, 20, seed=seed))
        slope, change = (joined(kept).value for kept in found)
        return Subject(loss, gradient, w, slope, change, spread / BATCH * (n - BATCH) / (n - 1), draws=8)

    return make


class Row(NamedTuple):
    title: str
    meaning: str
    make: Callable[[], Making]
    remark: str = ""


SUBJECTS: dict[str, Row] = {
    "quadratic": Row("quadratic", f"½ Σ aᵢ wᵢ² with {SIZE} weights: the Hessian is the same everywhere", _quadratic),
    "quartic": Row("quartic", f"¼ Σ wᵢ⁴ with {SIZE} weights, at w = (1, ..., 1)", _quartic),
    "tanh": Row("tanh network", f"64-32-10 with tanh after {UPDATES} full-batch updates on 300 digits, 30 % random labels", _network("tanh")),
    "relu": Row("ReLU network", "the same with ReLU: its slope jumps at kinks, where it has no second derivative", _network("relu"),
                remark=" (the jumps of the slope are not in them)"),
}  # fmt: skip
_MADE: dict[str, Subject] = {}


def making(name: str) -> Making:
    """Make a subject in small steps that say what is done; one that was made before is there at once."""
    if name not in SUBJECTS:
        raise unknown("function", name, SUBJECTS)
    if name not in _MADE:
        _MADE[name] = yield from SUBJECTS[name].make()
    return _MADE[name]


def subject(name: str) -> Subject:
    """A subject, made if need be (a network takes about a second)."""
    steps = making(name)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
