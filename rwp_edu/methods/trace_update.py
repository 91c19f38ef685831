"""One update taken apart: which points a method asks for, in which round, what it hears there, and what it makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rwp_edu import methods
from rwp_edu.methods.noise import generator
from rwp_edu.methods.points import At, Layout, drive


@dataclass(frozen=True)
class Answer:
    """A point that was asked for in ``round`` (from 1) and the gradient there, both ``(P,)``."""

    round: int
    at: At
    gradient: Tensor


@dataclass(frozen=True)
class Update:
    """``after = w - lr * g`` and all that led to the combined gradient ``g``."""

    method: str
    w: Tensor
    answers: tuple[Answer, ...]
    g: Tensor
    after: Tensor

    @property
    def rounds(self) -> int:
        return max(answer.round for answer in self.answers)


def take_apart(
    method: str,
    w: Tensor,
    gradient: Callable[[At], Tensor],
    *,
    lr: float = 0.1,
    seed: int = 0,
    layout: Layout | None = None,
    memory: dict[str, Any] | None = None,
    **hyper: Any,
) -> Update:
    """One update of ``method`` at ``w`` with plain gradient descent as base.

    ``gradient`` answers a point; ``memory`` is carried from update to update by methods with a history.

    >>> import torch
    >>> update = take_apart("sam", torch.tensor([3.0, 4.0]), lambda at: at.w, rho=1.0, lr=1.0)
    >>> [answer.at.w.tolist() for answer in update.answers], update.rounds
    ([[3.0, 4.0], [3.5999999046325684, 4.800000190734863]], 2)
    """
    row = methods.get(method)
    for name in hyper:
        if name not in methods.PARAMETERS:
            raise methods.unknown("hyper-parameter", name, methods.PARAMETERS)
    values = {name: p.parse(hyper.get(name, row.default(name))) for name, p in methods.PARAMETERS.items()}
    answers: list[Answer] = []
    layout = layout or Layout({"w": (1, *w.shape)})
    given = row.equip(layout, [generator(seed, "noise")], {} if memory is None else memory, values)

    def answer(points: list[At]) -> list[Tensor]:
        number = 1 + (answers[-1].round if answers else 0)
        found = [Answer(number, at, gradient(at)) for at in points]
        answers.extend(found)
        return [a.gradient for a in found]

    g = drive(row.start(w, **given), answer)
    return Update(method, w, tuple(answers), g, w - lr * g)
