"""Look around a minimum: the loss over a plane and along a line through the weights of a run, and the spectrum of its Hessian."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwp_edu.curvature import Estimate, loss_slices
from rwp_edu.curvature.lanczos import Density, Eigenpairs, density, eigenvalues
from rwp_edu.curvature.loss_slices import Filling, Plane, Slice
from rwp_edu.curvature.objective import Objective
from rwp_edu.curvature.trace import Measurement, trace
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.plotting import figures
from rwp_edu.plotting.plotly import AXIS, LOG, dots, heads, line, round_numbers, titled
from rwp_edu.training.settings import Entrant
from rwp_edu.training.snapshot import Solutions
from rwp_edu.utils.incremental import go_on
from rwp_edu.utils.parameters import Parameter, Values, counted, rounded, unknown

GRID, ALONG = 41, 81  # points of an axis of the plane; of a line
DECADES = 3  # of the loss that a picture shows above its lowest point
SOME, TURN = 8, 0.04  # points of a grid, or probes, at once; seconds of them between two looks at the screen
PROBES, STEPS = 4, 40
LARGEST = 10  # eigenvalues that are drawn
FAR = 1e9
PLACES = 100  # of the cross on an axis, about
NOUNS = {"plane": "plane", "line": "line", "eigenvectors": "largest eigenvalue", "spectrum": "spectrum"}
SHADES = [[0, "rgba(46,139,201,0.03)"], [0.5, "rgba(46,139,201,0.45)"], [1, "rgba(213,94,0,0.8)"]]
DIRECTIONS = {
    "random": ("random directions", "two random directions, in every filter as long as the weights there (1712.09913)", 0.5),
    "eigenvectors": ("sharpest directions", "the eigenvectors of the two largest eigenvalues of the Hessian", 0.1),
    "solutions": ("other solutions", "the plane through this run and those of two other methods with the same seed", 1.0),
}
TABLE: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("along", "", "random", "which directions the plane has", choices=tuple(DIRECTIONS),
                  labels=tuple(title for title, _, _ in DIRECTIONS.values()), tips=tuple(meaning for _, meaning, _ in DIRECTIONS.values())),
        Parameter("run", "", 0, "which of the seeds", high=255, slider=(0, 7), step=1, title="seed number"),
        Parameter("data", "", "train", "on which data the loss is taken", choices=("train", "test"), title="loss on"),
        Parameter("reach", "", 0.5, "how far the plane goes, in lengths of the weights (or of the triangle between solutions)", low=1e-3, high=100,
                  slider=(0.01, 3.0), log=True, title="reach"),
        Parameter("x", "", 0.0, "where the cross is, across, on the axis of the plane", low=-FAR, high=FAR, slider=(-0.5, 0.5), title="cross, across"),
        Parameter("y", "", 0.0, "where the cross is, up, on the axis of the plane", low=-FAR, high=FAR, slider=(-0.5, 0.5), title="cross, up"),
        Parameter("view", "", "contour", "how the plane is drawn", choices=("contour", "surface"), title="drawn as"),
        Parameter("seed", "", 0, "of the random directions", high=2**31),
    )
}  # fmt: skip


class AroundState(Values):
    """Whose minimum, and what is drawn of it; all but ``entrant`` are rows of ``TABLE``.

    >>> AroundState().replace(along="eigenvectors").reach
    0.1
    """

    TABLE = TABLE
    entrant: str

    def __init__(self, entrant: str = "", **values: Any):
        vars(self)["entrant"] = entrant
        super().__init__(**values)

    def replace(self, **changes: Any) -> AroundState:
        """Other directions bring the reach that suits them."""
        if changes.get("along", self.along) != self.along and changes["along"] in DIRECTIONS:
            changes = {"reach": DIRECTIONS[changes["along"]][2]} | changes
        return super().replace(**changes)

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults; that of the reach belongs to the directions."""
        usual = vars(type(self)().replace(along=self.along)) | {"along": TABLE["along"].default}
        return {name: value for name, value in vars(self).items() if value != usual[name]}


class Around(Explorer):
    """A plane, lines and spectra around the runs of a race, as they were when it was opened.

    >>> from rwp_edu import lab
    >>> race = lab.race(methods="sgd,rwp,sam", seeds=1, steps=20)
    >>> race.run()
    >>> view = race.around(entrant="rwp", along="solutions")
    >>> view.finish()
    >>> view.text.startswith("RWP after 20 updates: training loss")
    True
    """

    STATE, OPEN, CHOICE = AroundState, "race.around", "along"

    def __init__(self, solutions: Solutions, state: AroundState):
        self.solutions = solutions
        self._kept: dict[tuple[Any, ...], Any] = {}
        self._begun: dict[tuple[Any, ...], Filling | Generator] = {}
        self._failed: dict[tuple[Any, ...], str] = {}  # why there is nothing
        super().__init__(AroundState())
        self.set(**vars(state))

    @property
    def rows(self) -> dict[str, Parameter]:
        s = self.solutions
        whose = Parameter("entrant", "", s.entrants[0], "whose minimum", choices=s.entrants, title="minimum of")
        which = replace(TABLE["run"], high=len(s.seeds) - 1, slider=(0, max(1, len(s.seeds) - 1)))
        cross = {name: replace(TABLE[name], slider=(part[0], part[-1]), step=part[1] - part[0], values=part) for name, part in self._places.items()}
        return {"entrant": whose, **TABLE, **cross, "run": which, "data": replace(TABLE["data"], choices=s.data)}

    @property
    def _places(self) -> dict[str, tuple[float, ...]]:
        """Where the cross can be: round numbers on both axes, among them 0."""
        out = {}
        for name, (low, high) in zip("xy", self._ends):
            step = Decimal(1).scaleb(math.floor(math.log10((high - low) / PLACES)))
            step *= next((n for n in (1, 2, 5) if (high - low) / float(n * step) <= PLACES + 1e-6), 10)
            out[name] = tuple(float(n * step) for n in range(math.ceil(low / float(step) - 1e-9), math.floor(high / float(step) + 1e-9) + 1))
        return out

    @property
    def _ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The ends of the plane, across and up; of a plane through solutions that is not there, those of the other planes."""
        key = ("ends", *self._view)
        if self.state.along == "solutions" and key not in self._kept:
            try:
                _, middle, half, _ = self._through()
                self._kept[key] = tuple((float(m - half), float(m + half)) for m in middle)
            except ValueError:
                self._kept[key] = None
        return self._kept.get(key) or ((-self.state.reach, self.state.reach),) * 2

    @property
    def shown(self) -> tuple[str, ...]:
        spare = {"run": len(self.solutions.seeds) < 2, "data": len(self.solutions.data) < 2}
        names = ("entrant", "reach", "x", "y", "run", "data", "view")
        return tuple(name for name in names if not spare.get(name))

    @property
    def noisy(self) -> bool:
        return self.state.along == "random"

    def set(self, **changes: Any) -> None:
        state, s = self.state.replace(**changes), self.solutions
        if not state.entrant:
            state = state.replace(entrant=s.entrants[0])
        if state.entrant not in s.entrants:
            raise unknown("entrant", state.entrant, s.entrants)
        for name in ("run", "data"):
            self.rows[name].parse(getattr(state, name))
        if state.along == "solutions" and len(s.entrants) < 3:
            raise ValueError(f"a plane through three solutions needs three methods in the race, it has {len(s.entrants)}")
        if state.along != self.state.along:
            state = state.replace(**{name: changes.get(name, 0.0) for name in "xy"})
        super().set(**vars(state))
        self._inside()

    def _inside(self) -> None:
        """Keep the cross in the plane."""
        if self.state.x or self.state.y:
            cut = {name: min(max(getattr(self.state, name), part[0]), part[-1]) for name, part in self._places.items()}
            self.state = self.state.replace(**cut)

    def clicked(self, x: float, y: float) -> None:
        if self.found is not None:
            x, y = (min(part, key=lambda v: abs(v - at)) for at, part in zip((x, y), self._places.values()))
            self.set(x=x, y=y)

    # What is computed, once each: a key that says all it depends on, and a function

    def _jobs(self) -> list[tuple[tuple[Any, ...], Any]]:
        s, names = self.state, tuple(dict.fromkeys((self.state.entrant, *self.solutions.entrants)))
        eigenvectors = [(self._key("eigenvectors", name), self._eigenvectors) for name in names]
        out = eigenvectors if s.along == "eigenvectors" else []
        out = [
            *out,
            (self._plane_key, self._slice),
            *((self._line_key(name), self._line) for name in names[s.along == "solutions" :]),
        ]
        return [*out, *eigenvectors, *((self._key("spectrum", name), self._spectrum) for name in names)]

    def _key(self, what: str, name: str) -> tuple[Any, ...]:
        return what, name, self.state.run

    @property
    def _view(self) -> tuple[Any, ...]:
        s = self.state
        return s.along, s.run, s.data, s.reach, s.seed * (s.along == "random"), s.entrant if s.along == "solutions" else ""

    @property
    def _plane_key(self) -> tuple[Any, ...]:
        return "plane", self.state.entrant, *self._view

    def _line_key(self, name: str) -> tuple[Any, ...]:
        return "line", name, *self._view

    def _todo(self) -> list[tuple[tuple[Any, ...], Any]]:
        return [(key, make) for key, make in self._jobs() if key not in self._kept and key not in self._failed]

    def work(self) -> bool:
        """Some points of a plane or line, or some products with a Hessian; what cannot be computed is kept as nothing."""
        for key, make in self._todo()[:1]:
            try:
                self._go_on(key, make)
            except Exception as error:  # noqa: BLE001
                self._failed[key] = str(error)
        return bool(self._todo())

    def _go_on(self, key: tuple[Any, ...], make: Any) -> None:
        if key not in self._begun:
            self._begun[key] = make(key[1])
        begun = self._begun[key]
        if isinstance(begun, Filling):
            begun.work(TURN)
            found = [(begun.plane, begun.found)] if begun.part == 1 else []
        else:
            found = go_on(begun, TURN)
        if found:
            del self._begun[key]
            self._kept[key] = found[0]

    def _objective(self, name: str, data: str = "train") -> Objective:
        return self.solutions.objective(name, self.state.run, data)

    def _weights(self, name: str) -> Tensor:
        return self.solutions.weights(name, self.state.run)

    def _eigenvectors(self, name: str) -> Generator[None, None, Eigenpairs]:
        return eigenvalues.steps(self._objective(name), k=2, tol=1e-2, budget=60)

    def _spectrum(self, name: str) -> Generator[None, None, tuple[Density, Measurement, np.ndarray]]:
        """The density, the trace, and the largest eigenvalues in descending order."""
        objective = self._objective(name)
        largest = yield from eigenvalues.steps(objective, k=min(LARGEST, objective.w.shape[-1]), tol=1e-2)
        found = yield from density.steps(objective, STEPS, PROBES)
        return found, (yield from trace.steps(objective, rtol=0.03, budget=200, at_once=SOME)), largest.values.cpu().numpy()

    def _along(self, name: str) -> Plane:
        """The plane through a run that its two directions span."""
        if self.state.along == "random":
            directions = loss_slices.random_directions(self._objective(name), 2, seed=self.state.seed)
        else:
            key = self._key("eigenvectors", name)
            if key in self._failed:
                raise ValueError(self._failed[key])
            directions = self._kept[key].vectors * self._weights(name).norm()
        return loss_slices.plane_along(self._objective(name), directions)

    @property
    def _corners(self) -> tuple[str, ...]:
        """The three solutions of the plane: this one and the first two others, of those that did not diverge if there are two."""
        others = [name for name in self.solutions.entrants if name != self.state.entrant]
        return (self.state.entrant, *sorted(others, key=lambda name: not self.solutions.lives(name, self.state.run)))[:3]

    def _through(self) -> tuple[Plane, np.ndarray, float, Tensor]:
        """The plane through three solutions, its middle, half of its side, and the solutions."""
        for corner in self._corners:
            if not self.solutions.lives(corner, self.state.run):
                raise ValueError(f"{_label(corner)} diverged")
        points = torch.stack([self._weights(corner) for corner in self._corners])
        plane = loss_slices.plane_through(*points)
        at, _ = plane.coordinates(points)
        return plane, (at.min(0) + at.max(0)) / 2, 0.8 * self.state.reach * float(np.ptp(at, axis=0).max()), points

    def _slice(self, name: str) -> Filling:
        if self.state.along == "solutions":
            plane, middle, half, points = self._through()
        else:
            plane, middle, half, points = self._along(name), np.zeros(2), self.state.reach, self._weights(name)[None]
        x, y = (np.linspace(m - half, m + half, GRID) for m in middle)
        return Filling(self._objective(name, self.state.data), plane, x, y, points, SOME)

    def _line(self, name: str) -> Filling:
        """Along the first direction of a run; or from the run that is looked at to another."""
        s, objective = self.state, self._objective(name, self.state.data)
        if s.along == "solutions":
            plane, x = loss_slices.line(self._weights(s.entrant), self._weights(name)), np.linspace(-0.5, 1.5, ALONG)
        else:
            whole = self._along(name)
            plane, x = Plane(whole.origin, whole.axes[:1]), np.linspace(-s.reach, s.reach, ALONG)
        return Filling(objective, plane, x, some=SOME)

    @property
    def found(self) -> Slice | None:
        """The loss over the plane, once it is computed."""
        return self._kept.get(self._plane_key, (None, None))[1]

    @property
    def cross(self) -> tuple[float, float]:
        """Where the cross is, in the coordinates of the plane."""
        return self.state.x, self.state.y

    def reading(self) -> dict[str, float]:
        """Every metric of the problem at the cross, the loss that is drawn, and the distance from the run in lengths of its weights."""
        s, w = self.state, self._weights(self.state.entrant)
        at = self._kept[self._plane_key][0].at(torch.tensor([self.cross], dtype=w.dtype))[0]
        value = self._objective(s.entrant, s.data).loss(at[None]).item()
        return self.solutions.read(at, s.run) | {"loss": value, "distance": ((at - w).norm() / w.norm()).item()}

    @property
    def _here(self) -> dict[str, float]:
        """Every metric of the run itself, measured once."""
        key = self._key("metrics", self.state.entrant)
        if key not in self._kept:
            self._kept[key] = self.solutions.read(self._weights(self.state.entrant), self.state.run)
        return self._kept[key]

    # The sentence

    @property
    def text(self) -> str:
        s, metrics = self.state, self.solutions.row.metrics
        here = self._here
        score, loss = metrics[:2]
        seed = f", seed {self.solutions.seeds[s.run]}" if len(self.solutions.seeds) > 1 else ""
        on = {data: f" on the {first}" * bool(first) for data, first in self.solutions.first.items()}
        told = f"{_label(s.entrant)}{seed} after {counted(self.solutions.updates, 'update')}: {loss.noun} {loss.shown(here[loss.name])}, {score.noun} {score.shown(here[score.name])}"
        spectrum, pairs = (self._kept.get(self._key(what, s.entrant)) for what in ("spectrum", "eigenvectors"))
        if spectrum and pairs:
            mass = spectrum[0].mean(lambda v: v < -0.01 * float(pairs.values[0]))
            told += f"; tr H = {Estimate(*spectrum[1][:2])}, largest eigenvalue {rounded(float(pairs.values[0]))}{on['train']}"
            told += f", {100 * mass.value:.0f} % of the eigenvalues clearly negative" * (mass.value > 0.005)
        told = f"{told}. {self._missing}"
        if self._plane_key in self._failed:
            return told.rstrip()
        if self.found is None:
            begun = self._begun.get(self._plane_key)
            return f"{told}Measuring the loss around it{on[s.data]}{f': {100 * begun.part:.0f} %' if begun else ''}."
        if not np.isfinite(self.found.values).any():
            return f"{told}The loss is nowhere finite in the plane."
        if not s.x and not s.y:
            return f"{told}Click into the plane, or move the cross, to read other weights."
        there = self.reading()
        return f"{told}At the cross, {there['distance']:.2g} ‖w‖ away, the {_of(s.data)} loss{on[s.data]} is {rounded(there['loss'])}, the {score.noun} {score.shown(there[score.name])}."

    @property
    def _missing(self) -> str:
        """What there is not, of which run, and why."""
        gone: dict[tuple[str, str], list[str]] = {}
        for key in dict.fromkeys(key for key, _ in self._jobs() if key in self._failed):
            gone.setdefault((key[1], self._failed[key].partition(":")[0]), []).append(f"no {NOUNS[key[0]]}")
        return "".join(f"Of {_label(name)} there is {', '.join(what)}: {why}. " for (name, why), what in gone.items())

    # The picture

    def _heights(self) -> tuple[np.ndarray, float, float]:
        """log₁₀ of the loss over the plane, cut where it is too high, and its range."""
        if self.found is None or not np.isfinite(self.found.values).any():
            return np.zeros((GRID, GRID)), 0.0, 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.log10(np.maximum(np.where(np.isfinite(self.found.values), self.found.values, np.inf), 1e-30))
        low = float(z.min())
        high = min(max(float(np.max(z, initial=low, where=np.isfinite(z))), low + 0.1), low + DECADES)
        return np.clip(z, low, high), low, high

    def traces(self) -> list[dict[str, Any]]:
        out = [self._surface(*self._heights())]
        if self.state.view == "contour":
            out += [*self._marks(), self._scale(*self._heights()[1:])]
        return out + self._lines() + self._spectra()

    def _surface(self, z: np.ndarray, low: float, high: float) -> dict[str, Any]:
        found = self.found
        x, y = (np.linspace(-1, 1, GRID),) * 2 if found is None else (found.x, found.y)
        common = {"x": x, "y": y, "z": z, "name": "surface", "showscale": False, "showlegend": False}
        if self.state.view == "surface":
            return {**common, "type": "surface", "colorscale": "Viridis", "cmin": low, "cmax": high, "hovertemplate": "%{customdata:.3g}<extra></extra>",
                    "customdata": 10**z, "scene": "scene"}  # fmt: skip
        return {**common, "type": "contour", "colorscale": SHADES, "zmin": low, "zmax": high, "contours": {"start": low, "end": high, "size": (high - low) / 18}, "line": {"width": 0.7, "color": "rgba(128,128,128,0.6)"},
                "hovertemplate": "loss %{customdata:.3g}<extra></extra>", "customdata": 10**z}  # fmt: skip

    def _scale(self, low: float, high: float) -> dict[str, Any]:
        """The colours of the plane with their losses: those of plotly's own scale would not be transparent."""
        at = np.linspace(low, high, 60)
        return {"type": "heatmap", "x": [0], "y": at, "z": at[:, None], "zmin": low, "zmax": high, "colorscale": SHADES, "showscale": False, "hoverinfo": "skip",
                "name": "scale", "xaxis": "x4", "yaxis": "y4"}  # fmt: skip

    def _marks(self) -> list[dict[str, Any]]:
        """The runs in the plane, and the cross."""
        found = self.found
        points = np.zeros((0, 2)) if found is None else found.points
        names = self._corners if self.state.along == "solutions" else (self.state.entrant,)
        stars = {
            "symbol": "star",
            "size": 15,
            "color": [figures.look(name, self.solutions.entrants)[0] for name in names],
            "line": {"width": 1.2, "color": "#fff"},
        }
        cross = {"symbol": "cross-thin", "size": 16, "line": {"width": 2.5, "color": figures.INK}}
        x, y = ([], []) if found is None or not (self.state.x or self.state.y) else ([v] for v in self.cross)
        common = {"type": "scatter", "showlegend": False, "hoverinfo": "skip"}
        return [
            {**common, "mode": "markers+text", "x": points[:, 0], "y": points[:, 1], "text": [_label(name) for name in names], "name": "runs",
             "textposition": "top center", "marker": stars},
            {**common, "mode": "markers", "x": x, "y": y, "name": "cross", "marker": cross},
        ]  # fmt: skip

    def _cuts(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The lines that are known, with their losses."""
        found = {name: self._kept.get(self._line_key(name), (None, None))[1] for name in self.solutions.entrants}
        return {name: (cut.x, np.where(np.isfinite(cut.values) & (cut.values > 0), cut.values, np.nan)) for name, cut in found.items() if cut is not None}

    def _rise(self) -> tuple[float, float, set[str]]:
        """Ends of the axis of the lines, in powers of ten, and whose lines are on it: all, save what is far above the others."""
        _, low, high = self._heights()
        lowest = {name: float(np.log10(np.nanmin(y))) for name, (_, y) in self._cuts().items() if np.isfinite(y).any()}
        if self.found is None and lowest:
            low = high = min(lowest.values())
        shown = {name for name, least in lowest.items() if least <= min(low, *lowest.values()) + 2 * DECADES}
        return min([low, *(lowest[name] for name in shown)]) - 0.05, max([high, *(lowest[name] + 0.5 for name in shown)]), shown

    def _lines(self) -> list[dict[str, Any]]:
        s, out, cuts, shown, looks = self.state, [], self._cuts(), self._rise()[2], figures.looks(self.solutions.entrants)
        for name, (colour, dash) in looks.items():
            x, y = cuts.get(name, ([], []))
            look = {"color": colour, "width": 3.5 if name == s.entrant else 1.8, "dash": dash}
            out.append(line(x, y, _label(name), colour, panel="2", legendgroup=name, showlegend=name in shown) | {"line": look})
        return out

    def _largest(self) -> dict[str, np.ndarray]:
        """The largest eigenvalues of every run that are known and positive, in descending order."""
        found = {name: self._kept.get(self._key("spectrum", name)) for name in self.solutions.entrants}
        return {name: kept[2][kept[2] > 0] for name, kept in found.items() if kept is not None}

    def _spectra(self) -> list[dict[str, Any]]:
        """A dot for each of the largest eigenvalues, the runs beside each other at every number."""
        s, out, known, lines = self.state, [], self._largest(), self._rise()[2]
        looks, n = figures.looks(self.solutions.entrants), len(self.solutions.entrants)
        for place, (name, (colour, dash)) in enumerate(looks.items()):
            values = known.get(name, np.zeros(0))
            x = 1 + np.arange(len(values)) + 0.6 * ((place + 0.5) / n - 0.5)
            chosen, group = name == s.entrant, {"legendgroup": name, "showlegend": bool(len(values)) and name not in lines}
            trace = dots(x, values, f"eigenvalues of {_label(name)}", colour, size=8 if chosen else 6, panel="3", **group)
            out.append(trace | {"mode": "lines+markers", "line": {"color": colour, "width": 1.5 if chosen else 0.7, "dash": dash}, "hovertemplate": f"{_label(name)}: %{{y:.3g}}<extra></extra>"})
        return out

    def layout(self) -> dict[str, Any]:
        s, first = self.state, self.solutions.first[self.state.data]
        _, bottom, top = self._heights()
        low, high, _ = self._rise()
        values = [np.log10(v) for v in self._largest().values() if len(v)]
        least, most = min((v.min() for v in values), default=-1.0) - 0.1, max((v.max() for v in values), default=1.0) + 0.1
        length = {
            "random": "along two random directions, in ‖w‖",
            "eigenvectors": "along the two sharpest directions, in ‖w‖",
            "solutions": "distance in the plane",
        }[s.along]
        cut = {
            "random": "Along the first random direction",
            "eigenvectors": "Along each run's sharpest direction",
            "solutions": f"From {_label(s.entrant)} (0) to the others (1)",
        }[s.along]
        panels = (
            (f"The {_of(s.data)} loss around {_label(s.entrant)}{f', {first}' * bool(first)}", 0, 1),
            (cut, 0.6, 1),
            (f"The {LARGEST} largest eigenvalues of the Hessian", 0.6, 0.42),
        )
        across = {"range": [self.found.x[0], self.found.x[-1]]} if self.found is not None else {}
        up = {"range": [self.found.y[0], self.found.y[-1]]} if self.found is not None else {}
        out = {
            "xaxis2": {**AXIS, "domain": [0.6, 1], "anchor": "y2", "range": [-0.5, 1.5] if s.along == "solutions" else [-s.reach, s.reach]},
            "yaxis2": {**LOG, "domain": [0.58, 1], "anchor": "x2", "range": [low, high], **_ticks(low, high, lambda v: v)},
            "xaxis3": {**AXIS, **titled("number of the eigenvalue"), "domain": [0.6, 1], "anchor": "y3", "range": [0.5, LARGEST + 0.5], "dtick": 1},
            "yaxis3": {**LOG, "domain": [0, 0.42], "anchor": "x3", "range": [least, most], **_ticks(least, most, lambda v: v)},
            "annotations": heads(*panels),
            "margin": {"l": 50, "r": 12, "t": 64, "b": 44}, "height": 520, "legend": {"orientation": "h", "y": 1.07, "x": 0, "yanchor": "bottom"},
        }  # fmt: skip
        if s.view == "surface":
            bar = {"gridcolor": figures.FAINT, "showbackground": False, "zeroline": False, "title": {"text": ""}}
            out["scene"] = {"domain": {"x": [0, 0.48], "y": [0, 1]}, "xaxis": bar, "yaxis": bar, "uirevision": "scene", "bgcolor": "rgba(0,0,0,0)", "aspectmode": "cube", "camera": {"eye": {"x": 1.3, "y": 1.3, "z": 0.9}},
                            "zaxis": {**bar, **_ticks(bottom, top, math.log10)}}  # fmt: skip
        else:
            out["xaxis"] = {**AXIS, **titled(length), "domain": [0, 0.48], "showgrid": False, **across}
            out["yaxis"] = {**AXIS, "showgrid": False, **up}
            out["xaxis4"] = {"domain": [0.49, 0.5], "anchor": "y4", "visible": False, "fixedrange": True}
            out["yaxis4"] = {
                "domain": [0, 1],
                "anchor": "x4",
                "side": "right",
                "fixedrange": True,
                "showgrid": False,
                "range": [bottom, top],
                **_ticks(bottom, top, math.log10),
            }
        return out


def _ticks(low: float, high: float, place: Any) -> dict[str, Any]:
    """Round numbers between two powers of ten, as ticks of an axis on which a number is at its ``place``."""
    values = round_numbers(low, high)
    return {"tickvals": [place(v) for v in values], "ticktext": [f"{v:.4g}" for v in values], "dtick": None}


def _label(entrant: str) -> str:
    return Entrant.parse(entrant).label


def _of(data: str) -> str:
    return {"train": "training"}.get(data, data)
