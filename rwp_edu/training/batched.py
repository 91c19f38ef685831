"""The batched engine, many runs at once: weights stacked as (R, P), all points of a round in one batched gradient call.

Groups of runs, one per entrant of a race, hold their conversations in lock-step: every round collects the points of all
groups, asks for their gradients together and hands the answers back. The methods are the very generators that drive
``rwp_edu.optim``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from rwp_edu.methods import METHODS
from rwp_edu.methods.points import At, Conversation, Layout
from rwp_edu.utils import clock

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

    def before(self) -> tuple[Any, ...]:
        """What an update moves, to be given to :meth:`restore`."""
        random = METHODS[self.method].random
        return self.work, dict(self.memory), [g.get_state() for g in self.generators] if random else []

    def restore(self, work: Fraction, memory: dict[str, Any], states: list[Tensor]) -> None:
        self.work, self.memory = work, memory
        for g, state in zip(self.generators, states):
            g.set_state(state)


def update(w: list[Tensor], groups: list[Group], layout: Layout, gradients: Gradients, measure: bool = False) -> list[Tensor]:
    """One update's combined gradients: ``w[i]`` and the i-th answer have shape ``(R, P)``."""
    talks = {i: group.start(w[i], layout) for i, group in enumerate(groups)}
    answers: dict[int, list[Tensor] | None] = dict.fromkeys(talks)
    combined: dict[int, Tensor] = {}
    largest: dict[int, Tensor] = {}
    while talks:
        asked: dict[int, list[At]] = {}
        for i, talk in list(talks.items()):
            began = clock.now()
            try:
                asked[i] = list(talk.send(answers[i]))
                if measure:
                    for at in asked[i]:
                        moved = torch.linalg.vector_norm(at.w - w[i], dim=1)
                        largest[i] = torch.maximum(largest.get(i, moved), moved)
            except StopIteration as end:
                combined[i] = end.value
                del talks[i]
            groups[i].seconds += clock.now() - began
        points = [at for i in asked for at in asked[i]]
        if not points:
            break
        began = clock.now()
        found = iter(gradients(points, [groups[i] for i in asked for _ in asked[i]]))
        share = (clock.now() - began) / float(sum(Fraction(1, at.of) for at in points))
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


class Batched:
    """A race whose runs are trained at once: E groups of S seeds, weights (E S, P). What an engine offers to a ``Run``:

    ``settle()`` after the settings of the groups changed; ``update(alive, lr_factor, progress, measure)`` for the groups that are alive, in
    pieces; ``alive`` (E S,); ``weights()`` (E, S, P), those that are measured: the average where weights are averaged;
    ``look()`` measures them, in pieces, and ``measure()`` gives what was found; ``state()`` and ``restore(state)``.
    """

    title, threads = "all runs at once", 1

    def __init__(self, problem: Any, groups: Sequence[Group]):
        self.problem, self.groups, self.seeds = problem, groups, len(problem.seeds)
        self.base = SGD(problem.init().repeat(len(groups), 1))
        self.average: Tensor | None = None
        self.averaged = torch.zeros_like(self.base.w[:, :1])

    @property
    def alive(self) -> Tensor:
        return self.base.alive

    def settle(self) -> None:
        """Hand the settings of the groups to the base optimizer, run by run."""
        self.hyper = {
            name: self.base.w.new_tensor([[g.hyper[name]] for g in self.groups for _ in range(self.seeds)])
            for name in ("lr", "momentum", "weight_decay", "swa")
        }
        self.averages = any(g.hyper["swa"] < 1 for g in self.groups)

    def update(self, alive: Sequence[int], lr_factor: float, progress: float, measure: bool) -> Iterator[None]:
        w = self.base.w.view(len(self.groups), self.seeds, -1)
        groups = [self.groups[e] for e in alive]
        before = [group.before() for group in groups]
        with torch.no_grad():
            try:
                found = update([w[e] for e in alive], groups, self.problem.layout, self.problem.gradients, measure)
            except BaseException:  # the same update is to be taken again
                for group, kept in zip(groups, before):
                    group.restore(*kept)
                raise
            g = torch.zeros_like(w)
            for e, gradient in zip(alive, found):
                g[e] = gradient
            began = clock.now()
            lr, momentum, weight_decay, swa = self.hyper.values()
            self.base.step(g.view_as(self.base.w), lr * lr_factor, momentum, weight_decay)
            if self.averages:
                self._average(progress >= swa)
        for group in groups:
            group.seconds += (clock.now() - began) / len(groups)
        return iter(())

    def _average(self, begun: Tensor) -> None:
        """The mean of the weights after every update since averaging began, for the runs (R, 1) in which it has."""
        self.averaged += begun
        average = self.base.w.clone() if self.average is None else self.average
        self.average = torch.where(begun, average + (self.base.w - average) / self.averaged.clamp(min=1), average)

    def weights(self) -> Tensor:
        w = self.base.w if self.average is None else torch.where(self.averaged > 0, self.average, self.base.w)
        return w.view(len(self.groups), self.seeds, -1)

    def look(self) -> Iterator[None]:
        return iter(())

    def measure(self) -> list[dict[str, Tensor]]:
        """For every group the metrics (S,) of its runs."""
        with torch.no_grad():
            return [self.problem.measure(w) for w in self.weights()]

    def validate(self) -> list[dict[str, Tensor]]:
        """For every group the metrics (S,) on what is held back."""
        with torch.no_grad():
            return [self.problem.validate(w) for w in self.weights()]

    def state(self) -> dict[str, Any]:
        """All that decides how the runs go on."""
        return {
            "base": {name: value.clone() for name, value in vars(self.base).items()},
            "average": self.average,
            "averaged": self.averaged.clone(),
            "groups": [{"generators": [g.get_state() for g in own.generators], "memory": dict(own.memory)} for own in self.groups],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        for name, value in state["base"].items():
            own = getattr(self.base, name)
            if own.shape != value.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, this problem needs {tuple(own.shape)}")
            own.copy_(value)
        device = self.base.w.device
        self.average = None if state["average"] is None else state["average"].to(device)
        self.averaged = state["averaged"].to(device)
        for group, kept in zip(self.groups, state["groups"], strict=True):
            for own, known in zip(group.generators, kept["generators"], strict=True):
                own.set_state(known)
            group.memory = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in kept["memory"].items()}
