"""Objectives whose derivatives are written by hand: many networks at once, each on its own examples, and matrix sensing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from rwp_edu.curvature.objective import Objective
from rwp_edu.problems.matrix_sensing import Sensing
from rwp_edu.problems.mlp import MLP

BENDS: dict[type[torch.nn.Module], Callable[[Tensor], Tensor] | None] = {
    torch.nn.ReLU: None,
    torch.nn.Tanh: lambda a: 2 * a * (a.square() - 1),
}
"""The second derivative of an activation from the value it had; None where it is zero."""
NUMBERS = 2**18  # in the widest activation of all that goes through the networks at once: what fits a cache


class _Pass(NamedTuple):
    """What a forward and a backward pass leave of every layer: its matrix w, its input a, s = σ'(z) and b = σ''(z) ∂L/∂a there (none of the first),
    δ = ∂L/∂z above it; and the probabilities p on top."""

    w: list[Tensor]
    a: list[Tensor]
    s: list[Tensor | None]
    b: list[Tensor | None]
    delta: list[Tensor]
    p: Tensor


def _some(field: Tensor | list[Tensor | None], runs: slice) -> Tensor | list[Tensor | None]:
    return field[runs] if isinstance(field, Tensor) else [t if t is None else t[runs] for t in field]


class NetworkObjective(Objective):
    """The mean cross-entropy of networks of one form, each at its own weights and on its own examples.

    ``w`` (P,) with ``x`` (B, d) and ``y`` (B,); or (R, P) with (R, B, d) and (R, B) for R runs, or without R if all share them.

    H v is a forward and a backward pass of derivatives (Pearlmutter 1994): with R{·} the derivative along v = (V, c), s = σ'(z)
    and δ = ∂L/∂z, for K vectors of R runs in the same few matrix products,

        R{z} = R{a} Wᵀ + a Vᵀ + c          R{a} = s R{z}
        R{δ} = (diag p - ppᵀ) R{z} / B     on top, and below  s (R{δ} W + δ V) + σ''(z) (δ W) R{z}
        H v  = R{δ}ᵀ a + δᵀ R{a}           and Σ R{δ} for the bias.

    What this needs at ``w`` is computed once, by the first product, and kept.
    """

    def __init__(self, net: MLP, w: Tensor, x: Tensor, y: Tensor):
        if x.dim() < 2 or x.shape[-1] != net.widths[0] or x.shape[-2:-1] != y.shape[-1:] or not y.shape[-1]:
            wanted = f"x must be (..., B, {net.widths[0]}) and y (..., B) with one B >= 1"
            raise ValueError(f"{wanted}, got {tuple(x.shape)} and {tuple(y.shape)}")
        self.net, self._passed = net, None
        self._place(w, net.layout, None)
        runs = w.shape[0] if w.dim() > 1 else 1
        self.x, self.y = x.to(w).expand(runs, *x.shape[-2:]), y.to(w.device).expand(runs, *y.shape[-1:])

    def at(self, w: Tensor) -> Self:
        """The same networks and examples at other weights."""
        if w.shape != self.w.shape:
            raise ValueError(
                f"w must have shape {tuple(self.w.shape)}, as every run has its own examples; got {tuple(w.shape)}"
            )
        other = copy.copy(self)
        other._passed = None
        other._place(w, self.layout, None)
        return other

    def loss(self, points: Tensor) -> Tensor:
        def loss(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return _cross_entropy(self.net.logits(w, x), y)

        return self._in_blocks(points, points.new_empty(points.shape[:-1]), loss)

    def gradient(self, points: Tensor) -> Tensor:
        return self._in_blocks(points, torch.empty_like(points), self.net.gradient)

    def _in_blocks(self, points: Tensor, out: Tensor, what: Callable[..., Tensor]) -> Tensor:
        """Fills ``out`` with ``what(w, x, y)`` of the rows of (R, N, P)."""
        rows, filled = (t.reshape(len(self.x), -1, *t.shape[self.w.dim() :]) for t in (self._checked(points), out))
        for runs, some in self._blocks(rows.shape[1]):
            w, x, y = rows[runs, some], self.x[runs, None], self.y[runs, None]
            n = w.shape[1]
            found = what(w.flatten(0, 1), x.expand(-1, n, -1, -1).flatten(0, 1), y.expand(-1, n, -1).flatten(0, 1))
            filled[runs, some] = found.view(w.shape[:2] + found.shape[1:])
        return filled.view_as(out)

    def _blocks(self, vectors: int) -> Iterator[tuple[slice, slice]]:
        """Runs and vectors that go through the networks together."""
        rows = max(1, NUMBERS // (self.x.shape[1] * max(self.net.widths[1:])))
        several = max(1, rows // max(1, vectors))
        rows = -(-vectors // max(1, -(-vectors // rows))) or 1  # about as many in every block
        for i in range(0, len(self.x), several):
            for k in range(0, vectors, rows):
                yield slice(i, i + several), slice(k, k + rows)

    @property
    def _pass(self) -> _Pass:
        if self._passed is None:
            w = self.w.view(-1, self.layout.size)
            weights, activation = self.layout.split(w)[::2], self.net.activation
            *a, logits = self.net._forward(w, self.x)
            p = torch.softmax(logits.mT.contiguous(), 1).mT.contiguous()  # several times faster than over the last axis
            delta = [(p - torch.nn.functional.one_hot(self.y, p.shape[-1])).div_(self.y.shape[1])]
            bend, s, b = BENDS[activation.module], [None] * len(a), [None] * len(a)
            for i in range(len(a) - 1, 0, -1):
                back, s[i] = torch.bmm(delta[0], weights[i]), activation.slope(a[i]).to(w.dtype)
                b[i] = bend and bend(a[i]).mul_(back)
                delta.insert(0, back * s[i])
            self._passed = _Pass(weights, a, s, b, delta, self._finite(p, "loss at w"))
        return self._passed

    def product(self, vectors: Tensor) -> Tensor:
        rows = self._checked(vectors).reshape(len(self.x), -1, self.layout.size)
        out = torch.empty_like(rows)
        for runs, some in self._blocks(rows.shape[1]):
            self._multiply(runs, self.layout.split(rows[runs, some]), self.layout.split(out[runs, some]))
        return out.view(vectors.shape)

    def curvatures(self, vectors: Tensor) -> Tensor:
        rows = self._checked(vectors).reshape(len(self.x), -1, self.layout.size)
        out = rows.new_empty(rows.shape[:2], dtype=torch.float64)
        for runs, some in self._blocks(rows.shape[1]):
            out[runs, some] = self._bent(runs, self.layout.split(rows[runs, some])).double()
        return out.view(vectors.shape[:-1])

    def _forward(self, runs: slice, along: list[Tensor]) -> tuple[_Pass, list[Tensor], list[Tensor]]:
        """What is known at w, R{z} of every layer and R{a} that enters every one but the first, for vectors (r, k, P).

        They are (r, B, k, width), so that both W and V meet them as matrices. Where σ'' = 0, R{z} below the top is R{a}.
        """
        at = self._pass if self.w.dim() == 1 else _Pass(*(_some(field, runs) for field in self._pass))
        r, k, n = *along[0].shape[:2], self.x.shape[1]
        z: list[Tensor] = []
        a: list[Tensor] = []
        for i, (w, v, c) in enumerate(zip(at.w, along[::2], along[1::2])):
            if i:
                slope = at.s[i].unsqueeze(2)
                a.append(z[-1].mul_(slope) if at.b[i] is None else z[-1] * slope)
            z.append(torch.baddbmm(c.reshape(r, 1, -1), at.a[i], v.reshape(r, -1, w.shape[2]).mT).view(r, n, k, -1))
            if i:
                z[-1].view(r, n * k, -1).baddbmm_(a[-1].view(r, n * k, -1), w.mT)
        return at, z, a

    def _bent(self, runs: slice, along: list[Tensor]) -> Tensor:
        """vᵀH v (r, k): forward only, as Σ R{z} (diag p - ppᵀ) R{z} / B on top, and 2 δ V R{a} + σ''(z) (δ W) R{z}² below."""
        at, z, a = self._forward(runs, along)
        top, p = z.pop(), at.p.unsqueeze(2)
        found = ((top.square() * p).sum(3) - (top * p).sum(3).square()).mean(1)
        for i in range(1, len(at.w)):
            heard = torch.bmm(at.delta[i].mT, a[i - 1].flatten(2)).unflatten(2, a[i - 1].shape[2:])
            found += 2 * (heard * along[2 * i].transpose(1, 2)).sum((1, 3))
            if at.b[i] is not None:
                found += (z[i - 1].square_() * at.b[i].unsqueeze(2)).sum((1, 3))
        return found

    def _multiply(self, runs: slice, along: list[Tensor], out: list[Tensor]) -> None:
        """H v into ``out``."""
        at, z, a = self._forward(runs, along)
        r, n, k, _ = z[-1].shape
        p, top = at.p.unsqueeze(2), z.pop()
        delta = top.sub_((top * p).sum(-1, keepdim=True)).mul_(p).div_(n)
        for i in range(len(at.w) - 1, -1, -1):
            w, v = at.w[i], along[2 * i]
            product = torch.bmm(delta.view(r, n, -1).mT, at.a[i]).view_as(v)
            out[2 * i + 1].copy_(delta.sum(1))
            if i:
                product += torch.bmm(at.delta[i].mT, a.pop().view(r, n, -1)).view(r, -1, k, w.shape[2]).transpose(1, 2)
                below = torch.bmm(delta.view(r, n * k, -1), w).view(r, n, -1)
                below.baddbmm_(at.delta[i], v.transpose(1, 2).reshape(r, w.shape[1], -1))
                delta = below.view(r, n, k, -1).mul_(at.s[i].unsqueeze(2))
                moved = z.pop()
                if at.b[i] is not None:
                    delta.addcmul_(at.b[i].unsqueeze(2), moved)
            out[2 * i].copy_(product)

    def traces(self) -> dict[str, Tensor]:
        """tr H of every parameter, (R,) or (), exactly: their sum is tr H.

        With the Hessian of an example's loss in z as Σ ± f fᵀ, the trace in W is the mean over examples of |a|² Σ ± |f|². On top
        f = √p (e - p), for every class; below, f becomes s Wᵀ f and σ'' ∂L/∂a adds itself on the diagonal, unless it is zero:
        for ReLU all of this costs less than one product.

        >>> objective = NetworkObjective(MLP((2, 3)), torch.zeros(9), torch.ones(1, 2), torch.tensor([0]))
        >>> {name: round(trace.item(), 4) for name, trace in objective.traces().items()}  # p (1 - p) for 3 classes, |a|² = 2
        {'0.weight': 1.3333, '0.bias': 0.6667}
        """
        at, n, classes = self._pass, self.x.shape[1], self.net.widths[-1]
        found = self.w.new_empty(len(self.x), len(self.layout.names), dtype=torch.float64)
        several = max(1, NUMBERS // (n * classes * max(self.net.widths[1:])))
        for first in range(0, len(self.x), several):
            runs = slice(first, first + several)
            p = at.p[runs]
            f = ((torch.eye(classes, dtype=p.dtype, device=p.device) - p.unsqueeze(2)) * p.sqrt().unsqueeze(3)).div_(n**0.5)
            sign = p.new_ones(f.shape[:3])
            for i in range(len(at.w) - 1, -1, -1):
                mass = (f.square().sum(3) * sign).sum(2).double()
                found[runs, 2 * i] = (mass * at.a[i][runs].square().sum(2)).sum(1)
                found[runs, 2 * i + 1] = mass.sum(1)
                if i:
                    f = torch.matmul(f, at.w[i][runs, None]).mul_(at.s[i][runs].unsqueeze(2))
                    if at.b[i] is not None:
                        b = at.b[i][runs]
                        f = torch.cat([f, torch.diag_embed(b.abs().sqrt())], 2)
                        sign = torch.cat([sign, b.sign()], 2)
        return dict(zip(self.layout.names, found.unbind(1) if self.w.dim() > 1 else found[0]))

    def combined(self, points: Tensor, coefficients: Tensor) -> Tensor:
        """The loss (N,) at combinations (N, M) of points (M, P): what enters the first activation is combined, not computed again."""
        if self.w.dim() > 1:
            raise ValueError("combinations are for one run: make its objective from its own w, x and y")
        width, n, found = self.net.widths[1], self.x.shape[1], []
        first, bias = self.layout.split(points)[:2]
        z = (torch.matmul(self.x, first.mT) + bias.unsqueeze(1)).flatten(1)
        above = MLP(self.net.widths[1:])
        above.activation = self.net.activation
        rest = points[:, points.shape[1] - above.layout.size :]
        for c in coefficients.split(max(1, NUMBERS // (n * max(self.net.widths[1:])))):
            logits = (c @ z).view(-1, n, width)
            if rest.shape[1]:
                logits = above.logits(c @ rest, above.activation.apply(logits))
            found.append(_cross_entropy(logits, self.y.expand(len(c), -1)))
        return torch.cat(found)


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean (N,) over examples of logits (N, B, C); with the classes before the examples it is several times faster."""
    return torch.nn.functional.cross_entropy(logits.mT, y, reduction="none").mean(1)


def of_sensing(problem: Sensing, w: Tensor, which: int = 0) -> Objective:
    """Matrix sensing of seed number ``which`` at weights (P,).

        ∇L(W) = M(r) W,    H V = M(r) V + 2 M(q) W,    M(r) = 1/n Σᵢ rᵢ Aᵢ,    qᵢ = <Aᵢ, WVᵀ>

    as the Aᵢ are symmetric. All of A is unpacked, n d² numbers.

    >>> one = Sensing(A=[[[2.0]]], y=[4.0], w0=[[3.0]])  # L = (2w² - 4)²/4 = (w² - 2)²
    >>> of_sensing(one, one.init()[0]).product(torch.ones(1, 1))
    tensor([[100.]])
    """
    a, y, shape = problem.measurements(which).flatten(1), problem.y[which], (-1, problem.d, problem.p)

    def residuals(points: Tensor) -> Tensor:
        return torch.bmm(points, points.mT).flatten(1) @ a.T - y

    def mixed(r: Tensor) -> Tensor:
        return (r @ a).view(-1, problem.d, problem.d) / len(a)

    def loss(w: Tensor) -> Tensor:
        return residuals(w.reshape(shape)).square().mean(1) / 4

    def gradient(w: Tensor) -> Tensor:
        points = w.reshape(shape)
        return torch.bmm(mixed(residuals(points)), points).view_as(w)

    def product(w: Tensor, vectors: Tensor) -> Tensor:
        (point,), v = w.reshape(shape), vectors.reshape(shape)
        (still,) = mixed(residuals(point[None]))
        along = (point @ v.mT).flatten(1) @ a.T
        return (still @ v + 2 * mixed(along) @ point).view_as(vectors)

    return Objective(loss, w, problem.layout, gradient, product)
