"""Examples as modules take them: a tensor, or a tuple, list or dict of such."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def made(like: Any, parts: Iterable[Any]) -> Any:
    """A tuple or list of the kind of ``like``, of these parts."""
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def cut(x: Any, a: int, b: int) -> Any:
    """The examples from number ``a`` up to ``b``.

    >>> import torch
    >>> cut({"x": torch.arange(4), "more": (torch.ones(4, 2), torch.zeros(4))}, 1, 3)["x"]
    tensor([1, 2])
    """
    if isinstance(x, Tensor):
        return x[a:b]
    return {k: cut(v, a, b) for k, v in x.items()} if isinstance(x, dict) else made(x, (cut(v, a, b) for v in x))


def leaves(x: Any) -> Iterator[Tensor]:
    """All tensors, in their order."""
    if isinstance(x, Tensor):
        yield x
        return
    for part in x.values() if isinstance(x, dict) else x:
        yield from leaves(part)


def count(x: Any) -> int:
    """How many examples there are."""
    while not isinstance(x, Tensor):
        x = next(iter(x.values() if isinstance(x, dict) else x))
    return len(x)
