"""Sharp and wide minima: a surface beside its smoothed twin, trajectories of the methods, and the basins in which they end."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwp_edu import methods
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.plotting import figures
from rwp_edu.problems.basins import basin_of, critical_scales, minima
from rwp_edu.problems.surface_descent import Descent
from rwp_edu.problems.surfaces import SHARP_AND_WIDE, SURFACES, Surface, grid
from rwp_edu.training.settings import Entrant, entrants
from rwp_edu.utils import clock
from rwp_edu.utils.parameters import Parameter, Values, counted, rounded

SIDE, SEEDS, WATCHED = 9, 4, (0, 8, 40, 72, 80)
SLICE, SLICES = 0.02, 50  # seconds of work between two looks; slices after which unfinished runs are drawn
# Where and how the runs start on each surface, and the largest scale a slider offers.
HERE: dict[str, dict[str, Any]] = {
    "sharp and wide": {"reach": 0.4, "x": -0.5, "y": 0.0, "spread": 0.4, "lr": 0.01, "gradient_noise": 1.0},
    "quadratic": {"reach": 0.4, "x": -0.6, "y": 0.5, "spread": 0.2, "lr": 0.02, "gradient_noise": 1.0},
    "double well": {"reach": 1.0, "x": -0.3, "y": 0.0, "spread": 0.5, "lr": 0.01, "gradient_noise": 2.0},
    "rosenbrock": {"reach": 1.0, "x": -1.0, "y": 1.5, "spread": 0.3, "lr": 0.0005, "gradient_noise": 2.0},
    "himmelblau": {"reach": 3.0, "x": 0.0, "y": 0.0, "spread": 3.0, "lr": 0.003, "gradient_noise": 5.0},
    "rescaling": {"reach": 1.5, "x": 3.0, "y": 0.6, "spread": 0.4, "lr": 0.01, "gradient_noise": 1.0},
}
OWN = (
    Parameter("surface", "", "sharp and wide", "the loss", choices=tuple(SURFACES), title="surface"),
    Parameter("x", "w₁", -0.5, "centre of the box of starts, across", low=-10, high=10, slider=(-1.2, 1.2), step=0.05, title="start, across"),
    Parameter("y", "w₂", 0.0, "centre of the box of starts, up", low=-10, high=10, slider=(-0.9, 0.9), step=0.05, title="start, up"),
    Parameter("spread", "", 0.4, "half the side of the box of starts", high=10, slider=(0.0, 1.0), step=0.05, title="spread of the starts"),
    Parameter("lr", "lr", 0.01, "learning rate of plain gradient descent", slider=(0.0, 0.05), step=0.0005, title="learning rate"),
    Parameter("gradient_noise", "", 1.0, "standard deviation of the gradient's own noise, per coordinate", slider=(0.0, 5.0), step=0.1,
              title="noise of the mini-batch"),
    Parameter("steps", "T", 600, "updates", low=1, high=10_000, slider=(100, 2000), step=100, title="updates"),
    Parameter("seed", "", 0, "of all noise", high=2**31),
)  # fmt: skip
SCALES: dict[str, dict[str, Any]] = {
    "kind": {"default": "isotropic"},
    "sigma": {"slider": (0.0, 0.4)},
    "rho": {"default": 0.2, "slider": (0.0, 0.4)},
    "examples": {"default": 20},
}
HYPER = {name: dataclasses.replace(row, **SCALES.get(name, {})) for name, row in methods.PARAMETERS.items()}
PARAMETERS: dict[str, Parameter] = {**HYPER, **{row.name: row for row in OWN}}
BROUGHT = ("x", "y", "spread", "lr", "gradient_noise")  # by a surface
ORDER = ("surface", "sigma", "rho", "lam", "k", "gradient_noise", "x", "y", "spread", "lr", "steps")
BASINS, ELSEWHERE = ("#D55E00", "#009E73", "#2E8BC9", "#CC79A7"), "#8a8a8a"


class LandscapeState(Values):
    """The surface, the methods (entrants as in a race), where they start, and all hyper-parameters.

    >>> LandscapeState(sigma=0.3).replace(surface="rosenbrock").lr
    0.0005
    """

    TABLE = PARAMETERS
    methods: tuple[str, ...]

    def __init__(self, methods: Any = ("sgd", "sam", "rwp", "nso", "m-rwp"), surface: str = SHARP_AND_WIDE.name, **values: Any):
        vars(self)["methods"] = entrants(methods)
        PARAMETERS["surface"].parse(surface)
        super().__init__(surface=surface, **({name: HERE[surface][name] for name in BROUGHT} | values))

    def replace(self, **changes: Any) -> LandscapeState:
        """Another surface brings its own starts, learning rate and gradient noise."""
        kept = {name: value for name, value in vars(self).items() if "surface" not in changes or name not in BROUGHT}
        return type(self)(**(kept | changes))

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults, which are those of the surface."""
        usual = vars(type(self)(surface=self.surface)) | {"surface": SHARP_AND_WIDE.name}
        return {name: value for name, value in vars(self).items() if value != usual[name]}

    def of(self, name: str) -> dict[str, Any]:
        """The hyper-parameters of an entrant."""
        entrant = Entrant.parse(name)
        common = {key: getattr(self, key) for key in (*methods.get(entrant.method).parameters, "lr", "gradient_noise")}
        return common | {key: value for key, value in entrant.own if key in common}


@lru_cache(maxsize=64)
def _heights(surface: Surface, across: int = 101, up: int = 77) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = (np.linspace(*ends, n) for ends, n in zip(surface.view, (across, up)))
    return x, y, surface.value(grid(surface.view, across, up, torch.float64)).view(up, across).numpy()


@lru_cache(maxsize=16)
def _ticks(surface: str) -> tuple[tuple[float, str], ...]:
    """The critical scales of smoothing, where there are any."""
    try:
        scales = critical_scales(SURFACES[surface])
    except ValueError:
        return ()
    found = ((scales.lower, "wide lower"), (scales.gone, "sharp gone")) if scales.lower else ((scales.gone, "one left"),)
    return tuple((scale, text) for scale, text in found if 0 < scale < HERE[surface]["reach"])


@lru_cache(maxsize=256)
def _lows(surface: Surface) -> Tensor:
    return minima(surface)


def _trace(surface: Surface, x: Tensor) -> Tensor:
    return torch.diagonal(surface.hessian(x), dim1=-2, dim2=-1).sum(-1)


def _place(point: Tensor) -> str:
    x, y = point.tolist()
    return f"({x:z.2f}, {y:z.2f})".replace("-", "−")


class Landscape(Explorer):
    """Trajectories on a surface and on its smoothed twin.

    >>> lab = landscape(methods="sgd,nso", sigma=0.25)
    >>> lab.finish()
    >>> lab.fractions["nso"][0] < 0.05 < lab.fractions["sgd"][0]  # in the deeper, sharp well
    True
    """

    STATE, OPEN, FIRST = LandscapeState, "rwp_edu.lab.landscape", "surface"

    def __init__(self, state: LandscapeState):
        super().__init__(state)
        self._made_for: LandscapeState | None = None
        self._runs: dict[str, Descent] = {}
        self._former: dict[str, Descent] = {}  # drawn until the new ones are worth a look
        self._slices = 0
        self.cursor: tuple[float, float] | None = None
        self._found: dict[str, list[float]] = {}
        self.fractions: dict[str, list[float]] = {}  # of the latest runs that ended

    @property
    def surface(self) -> Surface:
        return SURFACES[self.state.surface]

    @property
    def smoothed(self) -> Surface:
        return self.surface.smoothed(self.state.sigma)

    @property
    def shown(self) -> tuple[str, ...]:
        used = {key for name in self.state.methods for key in methods.get(Entrant.parse(name).method).parameters}
        return tuple(name for name in ORDER if name not in HYPER or name in used or name == "sigma")

    @property
    def rows(self) -> dict[str, Parameter]:
        (left, right), (bottom, top) = self.surface.view
        reach = HERE[self.state.surface]["reach"]
        moved = {
            "sigma": {"ticks": _ticks(self.state.surface), "slider": (0.0, reach)},
            "rho": {"slider": (0.0, reach)},
            "x": {"slider": (left, right)},
            "y": {"slider": (bottom, top)},
            "spread": {"slider": (0.0, (right - left) / 2)},
        }
        return {name: dataclasses.replace(row, **moved.get(name, {})) for name, row in PARAMETERS.items()}

    # The runs

    def _begin(self) -> None:
        state = self.state
        box = (state.x - state.spread, state.x + state.spread), (state.y - state.spread, state.y + state.spread)
        starts = grid(box, SIDE, SIDE).repeat(SEEDS, 1)
        stays = self._made_for is not None and self._made_for.surface == state.surface
        self._former = {name: self._drawn(name) for name in self._runs} if stays else {}
        self._runs = {
            name: Descent(
                self.surface, Entrant.parse(name).method, starts, seed=state.seed, watch=WATCHED,
                record_every=max(1, state.steps // 150), **state.of(name),
            )
            for name in state.methods
        }  # fmt: skip
        if not stays:
            self.fractions = {}
        self._made_for, self._found, self._slices = state, {}, 0

    def _drawn(self, name: str) -> Descent:
        """The former runs of a method until the new ones have ended or have gone on for a while."""
        new = self._runs[name]
        return new if self._slices >= SLICES or new.updates == self._made_for.steps else self._former.get(name, new)

    @property
    def _ended(self) -> bool:
        return self._made_for == self.state and len(self._found) == len(self._runs)

    def work(self) -> bool:
        """Advance every method a little; at the end find the basins, method by method."""
        if self.state != self._made_for:
            self._begin()
        self._slices += 1
        end = clock.now() + SLICE
        left = [run for run in self._runs.values() if run.updates < self.state.steps]
        while left:
            for run in left:
                run.advance(min(20, self.state.steps - run.updates))
            left = [run for run in left if run.updates < self.state.steps]
            if clock.now() > end:
                break
        if not left and not self._ended:
            name = self.state.methods[len(self._found)]
            basins = basin_of(self.surface, self._runs[name].w).tolist()
            self._found[name] = [basins.count(k) / len(basins) for k in (*range(len(_lows(self.surface))), -1)]
            if self._ended:
                self.fractions = self._found
        return not self._ended

    def clicked(self, x: float, y: float) -> None:
        self.set(x=round(float(x), 3), y=round(float(y), 3))

    def hovered(self, x: float, y: float) -> None:
        self.cursor = float(x), float(y)

    # The picture

    def _height(self, value: Any) -> Any:
        """Heights as they are drawn: logarithmic above the lowest point where a surface grows without bound."""
        lowest = _heights(self.surface)[2].min()
        span = _heights(self.surface)[2].max() - lowest
        return value if span < 5 else np.log10(np.maximum(value - lowest, 0) + span / 3000)

    def _contour(self, surface: Surface, number: int) -> dict[str, Any]:
        x, y, z = _heights(surface)
        heights = self._height(_heights(self.surface)[2])
        low, high = float(heights.min()), float(heights.max())
        return {
            "type": "contour", "x": x, "y": y, "z": self._height(z), "zmin": low, "zmax": high, "showscale": False, "name": "surface",
            "contours": {"coloring": "lines", "start": low, "end": high, "size": (high - low) / 16}, "line": {"width": 1.2},
            "colorscale": [[0, "rgba(60,110,170,1)"], [0.5, "rgba(90,130,160,0.8)"], [1, "rgba(140,140,140,0.35)"]],
            "hoverinfo": "none", "xaxis": f"x{number}", "yaxis": f"y{number}", "showlegend": False,
        }  # fmt: skip

    def _dots(
        self, number: int, points: Any, name: str, marker: dict[str, Any], text: list[str] | None = None
    ) -> dict[str, Any]:
        points = np.asarray(points, dtype=float).reshape(-1, 2)
        return {
            "type": "scatter", "mode": "markers+text" if text else "markers", "x": points[:, 0], "y": points[:, 1], "name": name,
            "marker": marker, "text": text or [], "textposition": "top center", "hoverinfo": "skip", "showlegend": False,
            "xaxis": f"x{number}", "yaxis": f"y{number}",
        }  # fmt: skip

    def traces(self) -> list[dict[str, Any]]:
        if self.state != self._made_for:
            self._begin()
        state, pair = self.state, ((1, self.surface), (2, self.smoothed))
        out = [self._contour(surface, number) for number, surface in pair]
        s, (x, y) = state.spread, (state.x, state.y)
        out.append({"type": "scatter", "mode": "lines", "x": [x - s, x + s, x + s, x - s, x - s], "y": [y - s, y - s, y + s, y + s, y - s],
                    "line": {"color": figures.INK, "width": 1, "dash": "dot"}, "name": "starts", "hoverinfo": "skip", "showlegend": False})  # fmt: skip
        for name in self._runs:
            run = self._drawn(name)
            colour, dash = figures.look(name, state.methods)
            path = run.path.double().numpy()
            gaps = np.concatenate([path, np.full((1, *path.shape[1:]), np.nan)]).swapaxes(0, 1).reshape(-1, 2)
            out.append({"type": "scatter", "mode": "lines", "x": gaps[:, 0], "y": gaps[:, 1], "name": Entrant.parse(name).label,
                        "line": {"color": colour, "width": 1.3, "dash": dash}, "hoverinfo": "skip"})  # fmt: skip
            out.append(
                self._dots(2, run.w[: SIDE * SIDE], f"{name} now", {"size": 4, "color": colour, "opacity": 0.7})
            )
        star = {"symbol": "star", "size": 12, "line": {"width": 1, "color": "#fff"}}
        cross = {"symbol": "cross-thin", "size": 14, "line": {"width": 1.5, "color": figures.INK}}
        beside = "bottom" if self.cursor and self.cursor[1] > np.mean(self.surface.view[1]) else "top"
        for number, surface in pair:
            cursor = np.array([self.cursor] if self.cursor else []).reshape(-1, 2)
            says = [f"{'F' if number == 2 else 'f'} = {rounded(v)}" for v in surface.value(torch.from_numpy(cursor)).tolist()]
            out += [
                self._dots(number, _lows(surface), "minima", {**star, "color": [*BASINS] if number == 1 else "#E69F00"}),
                self._dots(number, cursor, "cursor", cross, says or [""]) | {"textposition": f"{beside} center"},
            ]
        return out + self._bars()

    def _basins(self) -> list[tuple[str, str]]:
        """The names of the basins, one for each minimum and one for what is in none of them; and their colours."""
        lows = _lows(self.surface)
        traces = _trace(self.surface, lows).tolist()
        names = [_place(x) + f", tr H = {rounded(t, 4)}" * (len(lows) < 3) for x, t in zip(lows, traces)]
        return [*zip(names, BASINS), ("elsewhere" if names else "no isolated minimum", ELSEWHERE)]

    def _bars(self) -> list[dict[str, Any]]:
        labels = [Entrant.parse(name).label for name in self.state.methods][::-1]
        out = []
        for k, (basin, colour) in enumerate(self._basins()):
            values = [100 * (self.fractions.get(name, ())[k : k + 1] or [0.0])[0] for name in self.state.methods][::-1]
            text = [f"{v:.0f} %" if v >= 5 else "" for v in values]
            out.append({"type": "bar", "orientation": "h", "x": values, "y": labels, "name": basin, "marker": {"color": colour}, "text": text,
                        "textposition": "inside", "insidetextanchor": "middle", "hoverinfo": "name", "xaxis": "x3", "yaxis": "y3",
                        "showlegend": False})  # fmt: skip
        return out

    def layout(self) -> dict[str, Any]:
        (left, right), (bottom, top) = (list(ends) for ends in self.surface.view)
        axis = {"gridcolor": figures.FAINT, "zeroline": False, "fixedrange": True}
        plane = {**axis, "showgrid": False}
        used = [any(found[k : k + 1] != [0.0] for found in self.fractions.values()) for k in range(len(self._basins()))]
        basins = [basin for basin, seen in zip(self._basins(), used) if seen or basin[1] != ELSEWHERE]
        legend = " · ".join(f"<span style='color:{colour}'>■</span> {basin}" for basin, colour in basins)
        heads = [(0, 1.0, f"<b>loss f</b> ({self.state.surface})"), (0.52, 1.0, f"<b>smoothed loss F</b>, σ = {self.state.sigma:g}"),
                 (0, 0.285, f"<b>basins in which {SIDE * SIDE * SEEDS} runs from the box end</b>, %<br>{legend}")]  # fmt: skip
        return {
            "xaxis": {**plane, "domain": [0, 0.48], "range": [left, right], "anchor": "y"},
            "yaxis": {**plane, "domain": [0.43, 1], "range": [bottom, top], "anchor": "x"},
            "xaxis2": {**plane, "domain": [0.52, 1], "range": [left, right], "anchor": "y2"},
            "yaxis2": {**plane, "domain": [0.43, 1], "range": [bottom, top], "anchor": "x2", "showticklabels": False},
            "xaxis3": {**axis, "domain": [0, 1], "range": [0, 100], "anchor": "y3"},
            "yaxis3": {**axis, "domain": [0, 0.28], "anchor": "x3", "automargin": True},
            "barmode": "stack", "bargap": 0.25, "height": 560, "showlegend": False, "hovermode": "closest",
            "margin": {"l": 44, "r": 18, "t": 28, "b": 26},
            "annotations": [{"text": text, "showarrow": False, "xref": "paper", "yref": "paper", "x": x, "y": y, "xanchor": "left", "align": "left",
                             "yanchor": "bottom", "font": {"size": 13}} for x, y, text in heads],
        }  # fmt: skip

    @property
    def text(self) -> str:
        state, ticks = self.state, _ticks(self.state.surface)
        lows, count = _lows(self.surface), len(_lows(self.smoothed))
        said = f"σ = {state.sigma:g}: the smoothed loss has {counted(count, 'minimum', 'minima') if count else 'no isolated minima'}"
        said += "".join(f"; {name} from σ = {scale:.3f} on" for scale, name in ticks) + "."
        if not self._ended:
            return said
        if len(lows) > 1:
            trace, sharp = map(torch.Tensor.item, _trace(self.surface, lows).max(0))
            head = f"In the basin of {_place(lows[sharp])}, tr H = {rounded(trace, 4)}, end"
            ends = [f"{100 * found[sharp]:.0f} %" for found in self.fractions.values()]
        else:
            head = "Mean loss f (and tr H) at the end"
            ends = [
                f"{rounded(self.surface.value(run.w).mean().item())} ({rounded(_trace(self.surface, run.w).mean().item())})"
                for run in self._runs.values()
            ]
        return f"{said} {head}: " + ", ".join(f"{Entrant.parse(n).label} {end}" for n, end in zip(self._runs, ends)) + "."


def landscape(*given: Any, **changes: Any) -> Landscape:
    """Open a surface beside its smoothed twin: ``landscape(sigma=0.2, methods="sgd,sam,rwp")``."""
    return Landscape.open(*given, **changes)
