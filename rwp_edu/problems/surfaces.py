"""Loss surfaces in two dimensions with everything in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Wells:
    """Gaussian wells in a bowl.

        f(x) = -Σᵢ aᵢ exp(-|x - cᵢ|² / (2 sᵢ²)) + q |x|² + constant

    ``wells`` are rows (depth a, width s, centre x, centre y). Points have shape ``(..., 2)``.

    >>> surface = Wells(((1.0, 0.5, 0.0, 0.0),), bowl=0.0)
    >>> surface.value(torch.zeros(2)).item(), surface.gradient(torch.zeros(2)).tolist()
    (-1.0, [0.0, 0.0])
    """

    wells: tuple[tuple[float, float, float, float], ...]
    bowl: float = 0.0
    constant: float = 0.0

    def _parts(self, x: Tensor) -> list[tuple[Tensor, Tensor, float]]:
        """Per well: its value, x - c, and s²."""
        parts = []
        for depth, width, *centre in self.wells:
            d = x - x.new_tensor(centre)
            parts.append((-depth * torch.exp(-d.square().sum(-1, keepdim=True) / (2 * width**2)), d, width**2))
        return parts

    def value(self, x: Tensor) -> Tensor:
        """f (...,)."""
        return sum(part.squeeze(-1) for part, _, _ in self._parts(x)) + self.bowl * x.square().sum(-1) + self.constant

    def gradient(self, x: Tensor) -> Tensor:
        """∇f (..., 2)."""
        return sum(-part * d / s2 for part, d, s2 in self._parts(x)) + 2 * self.bowl * x

    def hessian(self, x: Tensor) -> Tensor:
        """∇²f (..., 2, 2)."""
        eye = torch.eye(2, dtype=x.dtype, device=x.device)
        wells = sum(
            part.unsqueeze(-1) * (d.unsqueeze(-1) * d.unsqueeze(-2) / s2**2 - eye / s2) for part, d, s2 in self._parts(x)
        )
        return wells + 2 * self.bowl * eye

    def smoothed(self, sigma: float) -> Wells:
        """E_u f(x + u) for u ~ N(0, σ² I), again wells in a bowl: aᵢ sᵢ²/(sᵢ² + σ²), sᵢ² + σ², and 2 q σ² more."""
        wells = tuple(
            (depth * width**2 / (width**2 + sigma**2), (width**2 + sigma**2) ** 0.5, *centre)
            for depth, width, *centre in self.wells
        )
        return Wells(wells, self.bowl, self.constant + 2 * self.bowl * sigma**2)


SHARP_AND_WIDE = Wells(((1.0, 0.9, 0.5, 0.0), (0.8, 0.12, -0.5, 0.0)), bowl=0.025)
"""A wide well and a deeper but narrow one: minima at about (0.49, 0) with -0.994 and (-0.5, 0) with -1.333."""
