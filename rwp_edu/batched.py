"""Many runs at once: weights stacked as (R, P), all points of a round in one batched gradient call.

Groups of runs, one per entrant of a race, hold their conversations in lock-step: every round collects the points of all
groups, asks for their gradients together and hands the answers back. The methods are the very generators that drive
``rwp_edu.optim``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from rwp_edu.methods import METHODS
from rwp_edu.points import At, Conversation, Layout

Gradients = Callable[[list[At], list["Group"]], list[Tensor]]


@dataclass(eq=False)
class Group:
    """Runs of one entrant, one per seed: a method, its hyper-parameters, its noise generators and its memory.

    ``work`` and ``seconds`` count what the group has asked for (gradients of a whole batch, of one run) and how long it
    took: its own work plus its share of the batched gradient calls. ``displacement`` is ‖e‖/‖w‖ of the farthest
    point of the latest update (shape ``(R,)``), kept when ``update`` is told to measure. ``hyper`` are the values of this update,
    ``settings`` those from which a schedule makes them.
    """

    method: str
    hyper: dict[str, Any]
    generators: list[torch.Generator]
    memory: dict[str, Any] = field(default_factory=dict)
    work: Fraction = Fraction(0)
    seconds: float = 0.0
    displacement: Tensor | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def start(self, w: Tensor, layout: Layout) -> Conversation:
        row = METHODS[self.method]
        return row.start(w, **row.equip(layout, self.generators, self.memory, self.hyper))


def update(w: list[Tensor], groups: list[Group], layout: Layout, gradients: Gradients, measure: bool = False) -> list[Tensor]:
    """One update's combined gradients: ``w[i]`` and the i-th answer have shape ``(R, P)``."""
    talks = {i: group.start(w[i], layout) for i, group in enumerate(groups)}
    answers: dict[int, list[Tensor] | None] = dict.fromkeys(talks)
    combined: dict[int, Tensor] = {}
    largest: dict[int, Tensor] = {}
    while talks:
        asked: dict[int, list[At]] = {}
        for i, talk in list(talks.items()):
            began = perf_counter()
            try:
                asked[i] = list(talk.send(answers[i]))
                if measure:
                    for at in asked[i]:
                        moved = torch.linalg.vector_norm(at.w - w[i], dim=1)
                        largest[i] = torch.maximum(largest.get(i, moved), moved)
            except StopIteration as end:
                combined[i] = end.value
                del talks[i]
            groups[i].seconds += perf_counter() - began
        points = [at for i in asked for at in asked[i]]
        if not points:
            break
        began = perf_counter()
        found = iter(gradients(points, [groups[i] for i in asked for _ in asked[i]]))
        share = (perf_counter() - began) / float(sum(Fraction(1, at.of) for at in points))
        for i, own in asked.items():
            answers[i] = [next(found) for _ in own]
            work = sum(Fraction(1, at.of) for at in own)
            groups[i].work += work
            groups[i].seconds += share * float(work)
    for i, moved in largest.items():
        groups[i].displacement = moved / torch.linalg.vector_norm(w[i], dim=1)
    return [combined[i] for i in range(len(groups))]


class SGD:
    """``torch.optim.SGD`` for R runs at once, each with its own lr, momentum and weight decay (tensors ``(R, 1)``).

        d = g + weight_decay * w;   b <- momentum * b + d;   w <- w - lr * b

    A run whose next weights are not finite is frozen where it was: ``alive`` (R,) tells which runs go on.
    """

    def __init__(self, w: Tensor):
        self.w = w
        self.buffer = torch.zeros_like(w)
        self.alive = torch.ones(len(w), dtype=torch.bool, device=w.device)

    def step(self, g: Tensor, lr: Tensor, momentum: Tensor, weight_decay: Tensor) -> None:
        self.buffer.mul_(momentum).add_(torch.addcmul(g, weight_decay, self.w))
        w = self.w - lr * self.buffer
        self.alive &= torch.isfinite(w.sum(1))
        torch.where(self.alive[:, None], w, self.w, out=self.w)
