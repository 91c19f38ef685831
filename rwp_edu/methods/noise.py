"""Noise: a law (mean 0, variance 1) times a scale, drawn from explicit generators.

    u = sigma * s(w) * z,     z_i ~ law, independent

``isotropic``:   s = 1.
``layer-wise``:  s = ||W||_2 for every entry of a parameter W, norm of the whole parameter.
``filter-wise``: s = ||w_j||_2 for every entry of filter j; a bias or norm vector is one filter. So the standard
                 deviation *per entry* is sigma * ||w_j||, and the filter moves by about sigma * sqrt(d) of its own norm
                 (d entries), as in the released code of LPF-SGD (2201.08025) and RWP (2211.11489, 2404.00357).
                 A filter of zeros gets no noise.

``perturb="matrices"`` leaves out parameters with fewer than two dimensions (biases, norm gains); the released code perturbs all.

The global random state is never touched: every run owns its generators (:func:`generator`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rwp_edu.methods.points import FEW, Layout, wide


def generator(seed: int, *stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """An independent, reproducible random stream: the same seed and names give the same numbers.

    >>> a, b = generator(0, "noise"), generator(0, "batches")
    >>> bool(torch.randn(1, generator=a) == torch.randn(1, generator=b))
    False
    """
    digest = hashlib.sha256("/".join((str(int(seed)), *stream)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _gaussian(z: Tensor, g: torch.Generator) -> Tensor:
    return z.normal_(generator=g)


def _uniform(z: Tensor, g: torch.Generator) -> Tensor:
    return z.uniform_(-(3**0.5), 3**0.5, generator=g)


def _rademacher(z: Tensor, g: torch.Generator) -> Tensor:
    return z.random_(0, 2, generator=g).mul_(2).sub_(1)


def _laplace(z: Tensor, g: torch.Generator) -> Tensor:
    """The difference of two independent exponentials has variance 2."""
    z.exponential_(generator=g)
    return z.sub_(torch.empty_like(z).exponential_(generator=g)).mul_(0.5**0.5)


LAWS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "laplace": _laplace,
    "rademacher": _rademacher,
}


def _filter_wise(z: Tensor, w: Tensor, layout: Layout) -> Tensor:
    if w.dim() == 1 and layout.size < FEW:
        return z.mul_(layout.by_filter(wide(w).square(), torch.sqrt))
    for z_rows, w_rows in zip(layout.filters(z), layout.filters(w)):
        z_rows.mul_(torch.linalg.vector_norm(w_rows, dim=-1, keepdim=True))
    return z


def _matrices_only(z: Tensor, layout: Layout) -> None:
    for view, shape in zip(layout.split(z), layout.shapes):
        if len(shape) < 2:
            view.zero_()


def _layer_wise(z: Tensor, w: Tensor, layout: Layout) -> Tensor:
    for z_rows, w_rows in zip(layout.filters(z), layout.filters(w)):
        z_rows.mul_(torch.linalg.vector_norm(w_rows, dim=(-2, -1), keepdim=True))
    return z


KINDS: dict[str, Callable[[Tensor, Tensor, Layout], Tensor]] = {
    "isotropic": lambda z, w, layout: z,
    "layer-wise": _layer_wise,
    "filter-wise": _filter_wise,
}


class Noise:
    """``noise(w)`` draws ``sigma * s(w) * z`` in the shape of ``w``: ``(P,)``, or ``(R, P)`` with one generator per row, or one for
    all rows where they need not be repeated one by one."""

    def __init__(
        self,
        layout: Layout,
        generators: Sequence[torch.Generator],
        sigma: float | Tensor = 1.0,
        kind: str = "isotropic",
        law: str = "gaussian",
        perturb: str = "all",
    ):
        self.layout, self.generators, self.sigma, self.perturb = layout, generators, sigma, perturb
        self.scale, self.draw = KINDS[kind], LAWS[law]

    def __call__(self, w: Tensor) -> Tensor:
        z = torch.empty_like(w, memory_format=torch.contiguous_format)
        rows = z if z.dim() > 1 and len(self.generators) > 1 else [z]
        if len(rows) != len(self.generators):
            raise ValueError(f"{len(rows)} rows of weights need as many generators (or one for all), got {len(self.generators)}")
        for row, g in zip(rows, self.generators):
            self.draw(row, g)
        if self.perturb == "matrices":
            _matrices_only(z, self.layout)
        return self.scale(z, w, self.layout).mul_(self.sigma)
