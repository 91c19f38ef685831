"""A loss smoothed by noise: a cut through a surface with a sharp and a wide well, and how much the loss rises at one place."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from rwp_edu.curvature import Estimate, expected_rise
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.methods.noise import LAWS
from rwp_edu.plotting import figures
from rwp_edu.plotting.plotly import AXIS, LOG, bars, dots, heads, line, titled
from rwp_edu.problems.surfaces import SHARP_AND_WIDE, Surface
from rwp_edu.utils.parameters import Parameter, Values

SURFACE = SHARP_AND_WIDE
ACROSS, UP = (-1.25, 1.25), (-1.5, 0.3)  # the left panel
RISES, SCALES = (-4, 1), (-2, 0)  # the right panel, powers of ten
MEASURED = tuple(float(s) for s in np.logspace(*SCALES, 9))
PLACES = torch.linspace(*ACROSS, 501, dtype=torch.float64)
DRAWS = 500
COLOURS = {"f": figures.INK, "F": "#2E8BC9", "second": "#E69F00", "sharp": "#D55E00", "wide": "#009E73", "place": "#9A7BD9"}


def _on_line(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x, torch.zeros_like(x)], -1)


def minima(surface: Surface) -> list[float]:
    """Where the surface has minima on the line through the wells."""
    x = PLACES
    slope = surface.gradient(_on_line(x))[:, 0]
    starts = torch.nonzero((slope[:-1] < 0) & (slope[1:] >= 0)).flatten()
    found = []
    for left, right in ((x[i].item(), x[i + 1].item()) for i in starts):
        for _ in range(40):
            middle = (left + right) / 2
            down = surface.gradient(torch.tensor([middle, 0.0], dtype=torch.float64))[0] < 0
            left, right = (middle, right) if down else (left, middle)
        found.append((left + right) / 2)
    return found


def _height(surface: Surface, x: float) -> float:
    return surface.value(torch.tensor([x, 0.0], dtype=torch.float64)).item()


@cache
def scales() -> tuple[float, float]:
    """The σ at which both minima of the smoothed surface are level, and the σ from which only the wide one exists."""

    def first(holds: Any) -> float:
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if holds(minima(SURFACE.smoothed(middle)), middle) else (middle, high)
        return high

    def level(x: list[float], sigma: float) -> bool:
        smoothed = SURFACE.smoothed(sigma)
        return len(x) < 2 or _height(smoothed, x[0]) >= _height(smoothed, x[1])

    return first(level), first(lambda x, sigma: len(x) < 2)


PARAMETERS: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("sigma", "σ", 0.05, "standard deviation of the noise, and how far F looks around", high=1.0, slider=(0.0, 0.3), step=0.005,
                  title="scale of the noise"),
        Parameter("x", "w", -0.5, "the place whose rise is on the right", low=-1.2, high=1.2, slider=(-1.2, 1.2), step=0.02, title="place"),
        Parameter("law", "", "gaussian", "of the noise in the dots; F is exact for gaussian noise", choices=tuple(LAWS), title="law"),
        Parameter("seed", "", 0, "of the noise", high=2**31, title="draw of the noise"),
    )
}  # fmt: skip


class SmoothingState(Values):
    """All that the picture depends on; every field is a row of ``PARAMETERS``."""

    TABLE = PARAMETERS

    @property
    def place(self) -> torch.Tensor:
        return torch.tensor([self.x, 0.0], dtype=torch.float64)

    @property
    def trace(self) -> float:
        """tr H at the place."""
        return SURFACE.hessian(self.place).diagonal().sum().item()

    def exact(self, sigma: float) -> float:
        """F - f at the place."""
        return _height(SURFACE.smoothed(sigma), self.x) - _height(SURFACE, self.x)

    def measured(self, sigma: float) -> Estimate:
        return _measured(self.x, sigma, self.law, self.seed)


@lru_cache(64)
def _curve(x: float) -> tuple[np.ndarray, np.ndarray]:
    """Scales, and the exact rise there."""
    sigma = np.logspace(*SCALES, 121)
    state = SmoothingState(x=x)
    return sigma, np.array([state.exact(s) for s in sigma])


@lru_cache(1024)
def _measured(x: float, sigma: float, law: str, seed: int) -> Estimate:
    return expected_rise(SURFACE.value, SmoothingState(x=x).place, sigma, law, DRAWS, seed=seed)


def sentence(state: SmoothingState) -> str:
    """The picture in words."""
    level, gone = scales()
    if not state.sigma:
        return f"Without noise F is f: the sharp minimum is the deeper one, and the wide one gets level at σ = {level:.3f}."
    smoothed = SURFACE.smoothed(state.sigma)
    x = minima(smoothed)
    if len(x) > 1:
        lower = "the sharp one is still the deeper" if state.sigma < level else "the wide one is now the deeper"
        told = f"the smoothed loss is {_height(smoothed, x[0]):.3f} in the sharp minimum and {_height(smoothed, x[1]):.3f} in the wide one: {lower}."
    else:
        told = f"the sharp minimum is gone (since σ = {gone:.3f}); the wide one has {_height(smoothed, x[0]):.3f}."
    exact, second = state.exact(state.sigma), state.sigma**2 / 2 * state.trace
    off = abs(second / exact - 1) if exact else math.inf
    verdict = (
        f"{100 * off:.0f} % off"
        if off < 1
        else f"{second / exact:.1f} times the truth"
        if second * exact > 0
        else "of the wrong sign"
    )
    measured = state.measured(state.sigma)
    spread = str(measured) if measured.error > 1e-9 else f"{measured.value:.4g}, the same in every draw"
    return (
        f"At σ = {state.sigma:g} {told} At w = {state.x:g} noise raises the loss by {exact:.3g}; measured with {state.law} noise "
        f"{spread}; σ²/2 tr H says {second:.3g}, {verdict}."
    )


def _cut(state: SmoothingState) -> list[dict[str, Any]]:
    at, smoothed = _on_line(PLACES), SURFACE.smoothed(state.sigma)
    f = SURFACE.value(at)
    second = f + state.sigma**2 / 2 * SURFACE.hessian(at).diagonal(dim1=-2, dim2=-1).sum(-1)
    x, (*sharp, wide) = PLACES.numpy(), minima(smoothed)
    out = [
        line(x, f.numpy(), "loss f", COLOURS["f"]),
        line(x, smoothed.value(at).numpy(), "smoothed loss F", COLOURS["F"]),
        line(x, second.numpy(), "f + σ²/2 tr H", COLOURS["second"], "dash"),
    ]
    for name, v in (("sharp", sharp[0] if sharp else None), ("wide", wide)):
        height = _height(smoothed, v) if v is not None else None  # None is not drawn, and keeps its place in the legend
        out.append(dots([v], [height], f"{name} minimum", COLOURS[name], size=12))
    ends = [_height(SURFACE, state.x), _height(smoothed, state.x)]
    look = {"mode": "lines+markers", "line": {"color": COLOURS["place"], "width": 3}, "showlegend": False}
    out.append(dots([state.x] * 2, ends, "w", COLOURS["place"], ["circle-open", "circle"], 8, **look))
    return out


def _rise(state: SmoothingState) -> list[dict[str, Any]]:
    sigma, exact = _curve(state.x)
    measured = [state.measured(s) for s in MEASURED]
    here = [state.measured(state.sigma)] if state.sigma >= MEASURED[0] else []
    symbols = ["circle" if e.value >= 0 else "circle-open" for e in measured]
    marked = [state.sigma] * len(here)
    own = {"panel": "2", "showlegend": False}
    colour = COLOURS["place"]
    return [
        line(sigma, np.maximum(exact, 0.0), "F - f, exact", COLOURS["F"], **own),
        line(sigma, np.maximum(-exact, 0.0), "f - F, where noise lowers the loss", COLOURS["F"], "dot", **own),
        line(sigma, np.abs(sigma**2 / 2 * state.trace), "σ²/2 tr H", COLOURS["second"], "dash", **own),
        bars(MEASURED, measured, colour, 10.0 ** (RISES[0] - 1), "2"),
        dots(MEASURED, [abs(e.value) for e in measured], "measured ± 2 s.e.", colour, symbols, 7, "2"),
        line(marked * 2, [10.0**r for r in RISES[: 2 * len(here)]], "σ", figures.INK, "dot", **own),
        dots(marked, [abs(e.value) for e in here], "measured at σ", colour, "circle-open", 15, **own),
    ]


def traces(state: SmoothingState) -> list[dict[str, Any]]:
    """Left: f, its approximation, F and its minima, and the place. Right: the rise there against σ."""
    return _cut(state) + _rise(state)


def layout() -> dict[str, Any]:
    return {
        "xaxis": {**AXIS, **titled("w₁ (w₂ = 0)"), "range": list(ACROSS), "domain": [0, 0.48]},
        "yaxis": {**AXIS, **titled("loss"), "range": list(UP)},
        "xaxis2": {**LOG, **titled("σ"), "range": list(SCALES), "domain": [0.58, 1], "anchor": "y2"},
        "yaxis2": {**LOG, **titled("|E f(w+u) - f(w)|"), "range": list(RISES), "anchor": "x2"},
        "annotations": heads(("A cut through both wells", 0), ("Rise at w (open, dotted: a fall)", 0.58)), "margin": {"l": 50, "r": 12, "t": 74, "b": 44}, "height": 460,
        "legend": {"orientation": "h", "y": 1.1, "x": 0, "yanchor": "bottom"},
    }  # fmt: skip


class SmoothingLab(Explorer):
    """A loss, smoothed as far as a slider says.

    >>> lab = smoothing(sigma=0.2)
    >>> "the sharp minimum is gone" in lab.text
    True
    """

    STATE, OPEN = SmoothingState, "rwp_edu.lab.smoothing"

    def traces(self) -> list[dict[str, Any]]:
        return traces(self.state)

    def layout(self) -> dict[str, Any]:
        return layout()

    @property
    def rows(self) -> dict[str, Parameter]:
        return _rows()

    @property
    def text(self) -> str:
        return sentence(self.state)


@cache
def _rows() -> dict[str, Parameter]:
    level, gone = scales()
    ticks = ((level, f"level {level:.2f}"), (gone, f"gone {gone:.2f}"))
    return {**PARAMETERS, "sigma": replace(PARAMETERS["sigma"], ticks=ticks)}


def smoothing(*given: Any, **changes: Any) -> SmoothingLab:
    """Open a loss and its smoothed self: ``smoothing(sigma=0.1, x=-0.5, law="uniform")``."""
    return SmoothingLab.open(*given, **changes)
