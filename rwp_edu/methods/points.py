"""Points: what a method asks about, and the layout of the flat weights it asks with.

A training method is a conversation. It is a generator that *yields* the points of one round (all that are
independent of each other), *receives* the gradients there, and *returns* the combined gradient:

    g = sum_j c_j * grad L(w + e_j ; batch_j)

A list of points is answered by a list, and an engine that asks one after another takes the points out of it. A method with many points may yield a generator of them instead and go through the answers
once: then an engine that asks one after another never has more than one of its points and one of its gradients at a time.

Weights are flat: shape ``(P,)`` for one run, ``(R, P)`` for R runs at once. Whoever drives the generator decides how
a round is answered: one closure call after another (``rwp_edu.optim``) or one batched call (``rwp_edu.training.batched``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class At:
    """One question: the gradient at weights ``w``, shape ``(P,)`` or ``(R, P)``, on mini-batch number ``batch``, or on part
    number ``part`` of that batch cut into ``of`` parts."""

    w: Tensor
    batch: int = 0
    part: int = 0
    of: int = 1


Conversation = Generator[list[At] | Iterator[At], Iterable[Tensor], Tensor]


def drive(conversation: Conversation, answer: Callable[[Any], Iterable[Tensor]], lazy: bool = False) -> Tensor:
    """Hold a conversation to its end: ``answer`` maps the points of a round to their gradients.

    It gets a list of points; only if it is ``lazy`` it gets them as the method has yielded them, list or generator.

    >>> def halfway(w):
    ...     (g,) = yield [At(w / 2)]
    ...     return g
    >>> drive(halfway(torch.tensor([4.0])), lambda points: [3 * point.w for point in points])
    tensor([6.])
    """
    try:
        points = next(conversation)
        while True:
            points = conversation.send(answer(points if lazy else list(points)))
    except StopIteration as end:
        return end.value
    finally:
        conversation.close()


def wide(x: Tensor) -> Tensor:
    """``x`` in at least float32: histories in shorter types would stand still."""
    return x if x.element_size() >= 4 else x.float()


FEW = 20_000  # weights: below, a call costs more than a pass over them


class Layout:
    """Where every parameter lies in the flat weights.

    A *filter* is a slice along dimension 0 of a parameter with two or more dimensions (an output channel of
    ``Linear`` and ``Conv``); a parameter with fewer dimensions (bias, norm gain) is one filter as a whole.

    >>> layout = Layout({"weight": (2, 3), "bias": (2,)})
    >>> layout.size
    8
    >>> [tuple(f.shape) for f in layout.filters(torch.zeros(5, 8))]
    [(5, 2, 3), (5, 1, 2)]
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]):
        self.names = tuple(shapes)
        self.shapes = tuple(tuple(shape) for shape in shapes.values())
        self.sizes = tuple(prod(shape) for shape in self.shapes)
        self.size = sum(self.sizes)
        self._rows = tuple(
            (shape[0], size // shape[0]) if len(shape) > 1 and size else (1, size)
            for shape, size in zip(self.shapes, self.sizes)
        )
        self._segments: dict[tuple[torch.device, bool], tuple[Tensor, Tensor]] = {}

    def __repr__(self) -> str:
        return f"Layout({dict(zip(self.names, self.shapes))})"

    def _views(self, flat: Tensor, shapes: Iterable[tuple[int, ...]]) -> list[Tensor]:
        if flat.shape[-1] != self.size:
            raise ValueError(f"flat weights must end in {self.size} entries for this layout, got shape {tuple(flat.shape)}")
        lead = flat.shape[:-1]
        return [piece.view(lead + tuple(shape)) for piece, shape in zip(flat.split(self.sizes, -1), shapes)]

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of ``flat`` ``(..., P)`` in the parameters' own shapes ``(..., *shape)``."""
        return self._views(flat, self.shapes)

    def filters(self, flat: Tensor) -> list[Tensor]:
        """Views of ``flat`` ``(..., P)`` as ``(..., filters, entries per filter)``, one per parameter."""
        return self._views(flat, self._rows)

    def by_filter(self, flat: Tensor, function: Callable[[Tensor], Tensor], cut_vectors: bool = False) -> Tensor:
        """``function`` of the sum over a filter, at every entry of that filter, for flat ``(P,)``: a few calls in all, however many
        parameters there are. With ``cut_vectors`` every entry of a parameter with fewer than two dimensions is a filter of its own.

        >>> Layout({"weight": (2, 2), "bias": (2,)}).by_filter(torch.tensor([1.0, 2, 3, 4, 5, 6]), torch.square)
        tensor([  9.,   9.,  49.,  49., 121., 121.])
        """
        if (flat.device, cut_vectors) not in self._segments:
            rows = [(n, 1) if cut_vectors and len(shape) < 2 else row for row, n, shape in zip(self._rows, self.sizes, self.shapes)]
            lengths = torch.tensor([columns for count, columns in rows for _ in range(count)])
            starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
            filters = torch.repeat_interleave(torch.arange(len(lengths)), lengths, output_size=self.size)
            self._segments[flat.device, cut_vectors] = starts.to(flat.device), filters.to(flat.device)
        starts, filters = self._segments[flat.device, cut_vectors]
        return function(torch.segment_reduce(flat, "sum", offsets=starts, unsafe=True)).index_select(0, filters)

    def flatten(self, tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """Copy parameters (in order) into one flat tensor ``(P,)``."""
        if out is None:
            dtype = tensors[0].dtype
            for tensor in tensors[1:]:
                dtype = torch.promote_types(dtype, tensor.dtype)
            out = torch.empty(self.size, dtype=dtype, device=tensors[0].device)
        with torch.no_grad():
            torch._foreach_copy_(self.split(out), list(tensors))
        return out
