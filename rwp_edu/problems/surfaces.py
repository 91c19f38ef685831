"""Loss surfaces in two dimensions with everything in closed form: value, gradient, Hessian, and the mean under Gaussian noise.

Points have shape ``(..., 2)``, in float32 or float64. ``smoothed(sigma)`` is the surface E_u f(x + u), u ~ N(0, σ² I): what random
weight perturbation with isotropic noise descends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from rwp_edu.utils.parameters import Parameter

View = tuple[tuple[float, float], tuple[float, float]]
_SIGMA = Parameter("sigma", "σ", 0.1, "standard deviation of the noise")


def grid(view: View, across: int, up: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The points of a grid, row by row from below: ``(up * across, 2)``, the edges of the view among them.

    >>> grid(((0, 1), (0, 3)), 2, 2).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [1.0, 3.0]]
    """
    (left, right), (bottom, top) = view
    x, y = torch.linspace(left, right, across, dtype=dtype), torch.linspace(bottom, top, up, dtype=dtype)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)


def _coordinates(x: Tensor) -> Tensor:
    """The points as columns: contiguous ``(2, M)``."""
    if x.shape[-1:] != (2,) or not x.is_floating_point():
        raise ValueError(f"points must be floating point with shape (..., 2), got {x.dtype} {tuple(x.shape)}")
    return x.reshape(-1, 2).T.contiguous()


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What all surfaces have: a name, one line of meaning, and the part of the plane ((x range), (y range)) worth a picture."""

    name: str = ""
    meaning: str = ""
    view: View = ((-1.25, 1.25), (-0.95, 0.95))

    def value(self, x: Tensor) -> Tensor:
        """f (...,)."""
        raise NotImplementedError

    def gradient(self, x: Tensor) -> Tensor:
        """∇f (..., 2)."""
        raise NotImplementedError

    def hessian(self, x: Tensor) -> Tensor:
        """∇²f (..., 2, 2)."""
        raise NotImplementedError

    def smoothed(self, sigma: float) -> Self:
        """E_u f(x + u) for u ~ N(0, σ² I), a surface of the same kind."""
        raise NotImplementedError

    def _constants(self) -> tuple[Any, ...]:
        raise NotImplementedError

    @cached_property
    def _made(self) -> dict[Any, tuple[Tensor, ...]]:
        return {}

    def _tensors(self, x: Tensor) -> tuple[Tensor, ...]:
        """The constants as tensors in the type and place of ``x``, made once."""
        key = x.dtype, x.device
        if key not in self._made:
            self._made[key] = tuple(torch.tensor(c, dtype=x.dtype, device=x.device) for c in self._constants())
        return self._made[key]


@dataclass(frozen=True)
class Wells(Surface):
    """Gaussian wells in a bowl.

        f(x) = -Σᵢ aᵢ exp(-|x - cᵢ|² / (2 sᵢ²)) + q |x|² + constant

    ``wells`` are rows (depth a, width s, centre x, centre y). Smoothing keeps the form: aᵢ sᵢ²/(sᵢ² + σ²) for aᵢ, sᵢ² + σ² for
    sᵢ², and 2 q σ² more.

    >>> surface = Wells(((1.0, 0.5, 0.0, 0.0),), bowl=0.0)
    >>> surface.value(torch.zeros(2)).item(), surface.gradient(torch.zeros(2)).tolist()
    (-1.0, [0.0, 0.0])
    """

    wells: tuple[tuple[float, float, float, float], ...]
    bowl: float = 0.0
    constant: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "wells", tuple(map(tuple, self.wells)))
        if not self.wells or any(len(well) != 4 or not all(map(math.isfinite, well)) or well[1] <= 0 for well in self.wells):
            raise ValueError(f"wells must be rows (depth, width > 0, centre x, centre y) of finite numbers, got {self.wells}")

    def _constants(self) -> tuple[Any, ...]:
        """Centres (2, W, 1); the factor of |x - c|² in the exponent of 2, a, a/s² and a/s⁴, each (W, 1)."""
        centres = [[[well[i]] for well in self.wells] for i in (2, 3)]
        rows = [(-0.5 / s**2 / math.log(2), a, a / s**2, a / s**4) for a, s, *_ in self.wells]
        return centres, *([[value] for value in column] for column in zip(*rows))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """x (2, M), x - c (2, W, M), exp(-|x - c|²/(2s²)) (W, M), as a power of 2, which is fast where it underflows."""
        centres, scale, *factors = self._tensors(x)
        y = _coordinates(x)
        d = y.unsqueeze(1) - centres
        return y, d, torch.exp2(d.square().sum(0) * scale), factors

    def value(self, x: Tensor) -> Tensor:
        y, _, e, (depth, *_) = self._parts(x)
        return (self.bowl * y.square().sum(0) + self.constant - (depth * e).sum(0)).view(x.shape[:-1])

    def gradient(self, x: Tensor) -> Tensor:
        y, d, e, (_, pull, _) = self._parts(x)
        return torch.add((d * (e * pull)).sum(1), y, alpha=2 * self.bowl).T.contiguous().view(x.shape)

    def hessian(self, x: Tensor) -> Tensor:
        _, d, e, (_, pull, bend) = self._parts(x)
        round_part = (2 * self.bowl + (pull * e).sum(0))[:, None, None] * torch.eye(2, dtype=x.dtype, device=x.device)
        return (round_part - ((bend * e * d).unsqueeze(1) * d).sum(2).permute(2, 0, 1)).view(*x.shape, 2)

    def smoothed(self, sigma: float) -> Self:
        v = _SIGMA.parse(sigma) ** 2
        wells = tuple((a * s**2 / (s**2 + v), math.hypot(s, v**0.5), *centre) for a, s, *centre in self.wells)
        return replace(self, wells=wells, constant=self.constant + 2 * self.bowl * v)


@dataclass(frozen=True)
class Polynomial(Surface):
    """f(x, y) = Σ c_ij xⁱ yʲ, with ``terms`` {(i, j): c_ij}.

    Smoothing puts Σₘ (i over 2m) (2m-1)!! σ²ᵐ xⁱ⁻²ᵐ, the mean of (x + σz)ⁱ, in the place of xⁱ.

    >>> fourth = Polynomial({(4, 0): 1.0})
    >>> fourth.gradient(torch.tensor([2.0, 0.0])).tolist(), fourth.smoothed(1.0).terms
    ([32.0, 0.0], {(4, 0): 1.0, (2, 0): 6.0, (0, 0): 3.0})
    """

    terms: Mapping[tuple[int, int], float] = field(hash=False)

    def __post_init__(self) -> None:
        for powers, c in self.terms.items():
            if not (len(powers) == 2 and all(isinstance(p, int) and p >= 0 for p in powers) and math.isfinite(c)):
                raise ValueError(f"terms must be {{(i, j): a finite number}} with whole i, j >= 0, got {{{powers}: {c}}}")

    def derivative(self, along: int) -> dict[tuple[int, int], float]:
        """The terms of ∂f/∂x (0) or ∂f/∂y (1)."""
        return {(i - (along == 0), j - (along == 1)): c * (i, j)[along] for (i, j), c in self.terms.items() if (i, j)[along]}

    def _constants(self) -> tuple[Any, ...]:
        """Matrices [i][j] of coefficients: of f (1), its gradient (2), its Hessian (4)."""
        first = [replace(self, terms=self.derivative(k)) for k in (0, 1)]
        second = [p.derivative(k) for p in first for k in (0, 1)]
        size = range(1 + max((max(powers) for powers in self.terms), default=0))
        return tuple(
            [[[terms.get((i, j), 0.0) for j in size] for i in size] for terms in group]
            for group in ([self.terms], [p.terms for p in first], second)
        )

    def _evaluate(self, which: int, x: Tensor) -> Tensor:
        matrices = self._tensors(x)[which]
        base = _coordinates(x)
        powers = [torch.ones_like(base), base]
        while len(powers) < matrices.shape[-1]:
            powers.append(powers[-1] * base)
        table = torch.stack(powers[: matrices.shape[-1]], 1)
        return (matrices @ table[1] * table[0]).sum(1).T.contiguous()

    def value(self, x: Tensor) -> Tensor:
        return self._evaluate(0, x).view(x.shape[:-1])

    def gradient(self, x: Tensor) -> Tensor:
        return self._evaluate(1, x).view(x.shape)

    def hessian(self, x: Tensor) -> Tensor:
        return self._evaluate(2, x).view(*x.shape, 2)

    def smoothed(self, sigma: float) -> Self:
        v = _SIGMA.parse(sigma) ** 2
        terms: dict[tuple[int, int], float] = {}
        for (i, j), c in self.terms.items():
            for p, weight in _moments(i, v):
                for q, other in _moments(j, v):
                    terms[p, q] = terms.get((p, q), 0.0) + c * weight * other
        return replace(self, terms={powers: c for powers, c in terms.items() if c})


def _moments(power: int, variance: float) -> list[tuple[int, float]]:
    """E (x + u)^power as (power of x, coefficient)."""
    return [
        (power - 2 * m, math.comb(power, 2 * m) * math.prod(range(1, 2 * m, 2)) * variance**m) for m in range(power // 2 + 1)
    ]


def quadratic(a: float, b: float, angle: float = 0.0, **about: Any) -> Polynomial:
    """½ (a u² + b v²) with u, v the coordinates turned by ``angle`` (radians): smoothing adds σ²/2 tr H = σ²(a + b)/2, exactly.

    >>> quadratic(3.0, 1.0).smoothed(0.5).terms
    {(2, 0): 1.5, (0, 0): 0.5, (0, 2): 0.5}
    """
    c, s = math.cos(angle), math.sin(angle)
    terms = {(2, 0): (a * c * c + b * s * s) / 2, (1, 1): (a - b) * c * s, (0, 2): (a * s * s + b * c * c) / 2}
    return Polynomial({powers: value for powers, value in terms.items() if value}, **about)


SHARP_AND_WIDE = Wells(
    ((1.0, 0.9, 0.5, 0.0), (0.8, 0.12, -0.5, 0.0)),
    bowl=0.025,
    name="sharp and wide",
    meaning="a wide well and a deeper but narrow one: smoothing makes the wide one the lower, and then the only one",
)
"""Minima at about (-0.487, 0) with -1.337 and (0.481, 0) with -0.994."""

RESCALING = Polynomial(
    {(2, 2): 0.5, (1, 1): -1.0, (0, 0): 0.5},
    name="rescaling",
    meaning="½(xy - 1)²: all of xy = 1 is one and the same linear network w₂w₁ without loss, yet its sharpness is x² + y²",
    view=((-0.5, 4.0), (-0.5, 4.0)),
)
"""Two layers of one weight each. On xy = 1 the Hessian has the eigenvalues 0 and x² + y²: multiplying one layer by α and dividing the
other by it changes the sharpness and not the function. 1703.04933 makes the argument for ReLU networks. The smoothed surface
is ½(xy - 1)² + σ²/2 (x² + y²) + σ⁴/2, exactly weight decay; for σ < 1 its minima are the balanced x = y = ±√(1 - σ²)."""

SURFACES: dict[str, Surface] = {
    surface.name: surface
    for surface in (
        SHARP_AND_WIDE,
        quadratic(1.0, 10.0, math.pi / 6, name="quadratic", meaning="curvatures 1 and 10, turned by 30°: smoothing only lifts it"),
        Polynomial({(4, 0): 1.0, (2, 0): -2.0, (0, 0): 1.0, (0, 2): 1.0}, name="double well",
                   meaning="(x² - 1)² + y²: minima at (±1, 0), a saddle between, one minimum alone from σ = 1/√3",
                   view=((-1.8, 1.8), (-1.4, 1.4))),
        Polynomial({(0, 0): 1.0, (1, 0): -2.0, (2, 0): 1.0, (0, 2): 100.0, (2, 1): -200.0, (4, 0): 100.0}, name="rosenbrock",
                   meaning="(1 - x)² + 100 (y - x²)²: a curved valley, minimum at (1, 1)", view=((-1.8, 1.8), (-0.8, 2.6))),
        Polynomial({(4, 0): 1.0, (0, 4): 1.0, (2, 1): 2.0, (1, 2): 2.0, (2, 0): -21.0, (0, 2): -13.0, (1, 0): -14.0,
                    (0, 1): -22.0, (0, 0): 170.0}, name="himmelblau",
                   meaning="(x² + y - 11)² + (x + y² - 7)²: four minima of value 0 and different sharpness",
                   view=((-5.5, 5.5), (-5.5, 5.5))),
        RESCALING,
    )
}  # fmt: skip
