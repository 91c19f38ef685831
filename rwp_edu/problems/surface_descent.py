"""Thousands of trajectories of one method on a surface in two dimensions, advanced as one tensor, slice by slice.

    w ← w - lr * g,    g the method's combined gradient (``rwp_edu.methods``), base optimizer: plain gradient descent

Every gradient is that of the surface plus N(0, gradient_noise²) per coordinate, which stands for the mini-batch: points of one
update on the same batch share it, different batches have independent noise, and a part, one of k of a batch, √k times the noise.
The same seed gives every method the same noise of batch 0 (common random numbers). The points of a round of all trajectories are
answered by one call of ``surface.gradient``. The streams of ``rwp_edu.methods.noise.generator`` are ``seed/noise`` and
``seed/gradient noise/batch/part``, each drawn for all trajectories at once.

In float32, the faster type, 1,000 updates of 1,000 trajectories of RWP take about 0.1 s on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rwp_edu import methods
from rwp_edu.methods.noise import generator
from rwp_edu.methods.points import At, Layout, drive
from rwp_edu.utils.parameters import Parameter, unknown

LAYOUT = Layout({"w": (1, 2)})
FAR = 1e6
OWN: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("lr", "lr", 0.01, "learning rate of plain gradient descent"),
        Parameter("gradient_noise", "", 0.0, "standard deviation, per coordinate, of the noise in the gradient of a batch"),
    )
}
PARAMETERS: dict[str, Parameter] = {**OWN, **methods.PARAMETERS}


class HasGradient(Protocol):
    def gradient(self, x: Tensor) -> Tensor: ...


def _plus(x: Tensor, y: Tensor, factor: float | Tensor) -> Tensor:
    """x + factor * y."""
    return torch.add(x, y, alpha=factor) if isinstance(factor, float) else torch.addcmul(x, y, factor)


class Descent:
    """N trajectories from ``starts`` (N, 2), whose type and place they keep: lists become float32.

    ``settings`` are ``lr``, ``gradient_noise`` and any hyper-parameter of ``rwp_edu.methods`` (default: the method's
    own; note that RWP's published noise is filter-wise, here σ‖w‖; those that do not act on the method are ignored). Each is
    one value for all or, for real numbers, a tensor ``(N, 1)``, one per trajectory. ``watch`` are the indices of trajectories
    whose ``path`` is recorded, at the start and every ``record_every`` updates.

    A trajectory that would go beyond ``FAR`` in a coordinate, or to a number that is not finite, is frozen where it was;
    ``left`` (N,) is the update in which that happened, -1 for those that go on.

    >>> from rwp_edu.problems.surfaces import quadratic
    >>> descent = Descent(quadratic(1.0, 2.0), "sgd", [[4.0, 4.0]], lr=0.5, watch=[0])
    >>> descent.advance(2)
    >>> descent.w.tolist(), descent.path.shape
    ([[1.0, 0.0]], torch.Size([3, 1, 2]))
    """

    def __init__(
        self,
        surface: HasGradient,
        method: str,
        starts: Tensor | Sequence[Sequence[float]],
        *,
        seed: int = 0,
        watch: Sequence[int] | Tensor = (),
        record_every: int = 1,
        **settings: Any,
    ):
        self.surface, self.method, self.updates = surface, methods.get(method), 0
        self.w = self._checked(starts)
        self.left = torch.full((len(self.w),), -1, device=self.w.device)
        self.memory: dict[str, Any] = {}
        self.seed = seed
        self._noise = generator(seed, "noise", device=self.w.device)
        self._batches: dict[tuple[int, int], torch.Generator] = {}
        self._drawn: dict[tuple[int, int], Tensor] = {}
        self._alive: Tensor | None = None
        self.settings: dict[str, Any] = {}
        usual = {name: row.default for name, row in OWN.items()} | {n: self.method.default(n) for n in methods.PARAMETERS}
        self.set(**{**usual, **settings})
        self.watch = torch.as_tensor(watch, dtype=torch.long, device=self.w.device)
        if self.watch.dim() != 1 or ((self.watch < 0) | (self.watch >= len(self.w))).any():
            raise ValueError(f"watch must list trajectories from 0 to {len(self.w) - 1}, got {watch!r}")
        self.record_every = Parameter("record_every", "", 1, "", low=1).parse(record_every)
        self._path = [self.w[self.watch]]

    @staticmethod
    def _checked(starts: Any) -> Tensor:
        w = torch.as_tensor(starts).detach().clone()
        w = w if w.is_floating_point() else w.to(torch.get_default_dtype())
        if w.dim() != 2 or w.shape[1] != 2 or not len(w):
            raise ValueError(f"starts must have shape (N, 2) with N >= 1, got {tuple(w.shape)}")
        if not (w.abs() < FAR).all():
            raise ValueError(f"starts must be finite numbers within ±{FAR:g}")
        return w

    def set(self, **changes: Any) -> None:
        """Change ``lr``, ``gradient_noise`` or hyper-parameters from the next update on."""
        for name in changes:
            if name not in PARAMETERS:
                raise unknown("setting", name, PARAMETERS)
        self.settings |= {name: self._parsed(PARAMETERS[name], value) for name, value in changes.items()}
        self._given = self.method.equip(LAYOUT, [self._noise], self.memory, self.settings)

    def _parsed(self, row: Parameter, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0:
            return row.parse(value)
        if row.type is not float or value.shape != (len(self.w), 1):
            each = f", or a tensor ({len(self.w)}, 1) of such numbers" if row.type is float else ""
            raise ValueError(f"{row.name} must be {row.allowed}{each}, got a tensor {tuple(value.shape)}")
        if not (torch.isfinite(value) & (value >= row.low) & (value <= row.high)).all():
            raise ValueError(f"{row.name} must be {row.allowed} everywhere, got values from {value.min():g} to {value.max():g}")
        return value.to(self.w).expand(-1, 2)

    @property
    def path(self) -> Tensor:
        """The recorded points (T, len(watch), 2)."""
        return torch.stack(self._path)

    @property
    def recorded(self) -> Tensor:
        """The numbers of updates after which the path was recorded (T,)."""
        return torch.arange(len(self._path)) * self.record_every

    def advance(self, updates: int) -> None:
        """Take so many updates."""
        for _ in range(Parameter("updates", "", 0, "").parse(updates)):
            self._step()

    def _step(self) -> None:
        self._drawn.clear()
        g = drive(self.method.start(self.w, **self._given), self._answer)
        w = _plus(self.w, g, -self.settings["lr"])
        if self._alive is not None:
            w = torch.where(self._alive, w, self.w)
        self.updates += 1
        flat = w.reshape(-1)
        if not torch.dot(flat, flat).item() < FAR**2:
            w = self._freeze(w)
        self.w = w
        if self.watch.numel() and self.updates % self.record_every == 0:
            self._path.append(w.index_select(0, self.watch))

    def _freeze(self, w: Tensor) -> Tensor:
        stays = (w.abs() < FAR).all(1, keepdim=True)
        self.left[~stays[:, 0]] = self.updates
        self._alive = self.left[:, None] < 0
        return torch.where(stays, w, self.w)

    def _answer(self, points: list[At]) -> list[Tensor]:
        if len(points) == 1:
            gradients = [self.surface.gradient(points[0].w)]
        else:
            gradients = list(self.surface.gradient(torch.cat([at.w for at in points])).split(len(self.w)))
        scale = self.settings["gradient_noise"]
        if isinstance(scale, float) and scale == 0:
            return gradients
        return [_plus(g, self._batch(at), scale * at.of**0.5) for g, at in zip(gradients, points)]

    def _batch(self, at: At) -> Tensor:
        """The noise of this update in the gradients of the point's batch, standard normal."""
        key = at.batch, at.part
        if key not in self._drawn:
            if key not in self._batches:
                self._batches[key] = generator(self.seed, "gradient noise", *map(str, key), device=self.w.device)
            self._drawn[key] = torch.empty_like(self.w).normal_(generator=self._batches[key])
        return self._drawn[key]


def descend(
    surface: HasGradient, method: str, starts: Tensor | Sequence[Sequence[float]], *, steps: int, **settings: Any
) -> Descent:
    """A :class:`Descent` after ``steps`` updates.

    >>> from rwp_edu.problems.surfaces import SHARP_AND_WIDE
    >>> descend(SHARP_AND_WIDE, "nso", [[-0.5, 0.0]], steps=1000, sigma=0.3).w[0, 0] > 0
    tensor(True)
    """
    descent = Descent(surface, method, starts, **settings)
    descent.advance(steps)
    return descent
