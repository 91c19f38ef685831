"""SAM's radius and RWP's radius: how far noise and SAM's step go until the loss has risen equally, and how that depends on the size of
the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rwp_edu.curvature.lanczos import eigenvalues
from rwp_edu.curvature.sharpness import average_rise, radius_of_rise, worst_rise
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.plotting import figures
from rwp_edu.plotting.plotly import AXIS, LOG, dots, heads, line, titled
from rwp_edu.problems.objectives import NetworkObjective
from rwp_edu.training import Run
from rwp_edu.training.settings import Settings
from rwp_edu.training.snapshot import Solutions
from rwp_edu.utils.parameters import Parameter, Values, counted, rounded

WIDTHS = (4, 8, 16, 32, 64, 128, 256)
ACROSS, UP = (-2, 1.5), (-3, 1)  # powers of ten, of the distance and of the rise
PLACES, DRAWS, SLICE = 15, 50, 40
WAYS = {
    "sam": ("SAM's step", figures.LOOKS["sam"]),
    "noise": ("noise, on average", figures.LOOKS["rwp"]),
    "worst": ("worst point of the ball", ("#E69F00", "dot")),
}
TABLE: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("rise", "", 0.1, "by how much the training loss rises", low=1e-3, high=5, slider=(0.01, 2.0), log=True,
                  ticks=((0.01, "0.01"), (0.1, "0.1"), (1.0, "1")), title="rise of the loss"),
        Parameter("width", "H", "64", "hidden units of the network on the left", choices=tuple(map(str, WIDTHS)), title="hidden units"),
        Parameter("updates", "T", "400", "updates of SGD before the measurement", choices=("30", "100", "400"), title="trained for"),
        Parameter("data", "", "a mini-batch", "whose loss rises, and whose gradient SAM follows", choices=("a mini-batch", "all images"), title="loss on"),
        Parameter("kind", "", "isotropic", "how noise is spread over the weights", choices=("isotropic", "filter-wise"), title="kind of noise"),
    )
}  # fmt: skip


class DistancesState(Values):
    """All that the picture depends on; every field is a row of ``TABLE``."""

    TABLE = TABLE


class Distances(Explorer):
    """Distances of an equal rise, in trained networks of several widths.

    >>> lab = distances(width="8", updates="30")
    >>> lab.finish()
    >>> found = lab.radii("8")
    >>> found["worst"] <= 1.01 * found["sam"] < found["noise"]
    True
    """

    STATE, OPEN = DistancesState, "rwp_edu.lab.distances"

    def __init__(self, state: Values):
        super().__init__(state)
        self._kept: dict[tuple[Any, ...], Any] = {}
        self._run: dict[tuple[str, str], Run] = {}

    # What is computed, once each

    def _jobs(self) -> dict[tuple[Any, ...], Callable[[], Any]]:
        s, jobs = self.state, {}
        for width in (s.width, *map(str, WIDTHS)):
            net, ratio = self._net(width), self._key("radii", width, s.rise)
            jobs[net] = lambda width=width: self._train(width)
            if width == s.width:
                for way in WAYS:
                    jobs[self._key("curve", way, width)] = lambda way=way, width=width: self._curve(way, width)
            jobs[ratio] = lambda width=width: self._radii(width)
            jobs[self._key("limit", width)] = lambda width=width: self._limit(width)
        return jobs

    def _net(self, width: str) -> tuple[str, str, str]:
        return "net", width, self.state.updates

    def _key(self, what: str, *more: Any) -> tuple[Any, ...]:
        return what, *more, self.state.updates, self.state.data, self.state.kind

    def work(self) -> bool:
        todo = {key: make for key, make in self._jobs().items() if key not in self._kept}
        for key, make in todo.items():
            found = make()
            if found is not None:
                self._kept[key] = found
            break
        return len(todo) > 1

    def _train(self, width: str) -> dict[str, NetworkObjective] | None:
        """A few updates more; the objectives at the end."""
        key, updates = (width, self.state.updates), int(self.state.updates)
        if key not in self._run:
            settings = Settings(methods="sgd", seeds=1, width=int(width), steps=400, record_every=400)
            self._run[key] = Run(settings)
        run = self._run[key]
        run.advance(min(SLICE, updates - run.updates))
        if run.updates < updates:
            return None
        whole, n = Solutions(run).objective("sgd", 0), run.settings.batch
        return {"all images": whole, "a mini-batch": NetworkObjective(whole.net, whole.w, whole.x[0, :n], whole.y[0, :n])}

    def objective(self, width: str) -> NetworkObjective:
        """The loss around the weights of the network with ``width`` hidden units, once it is trained (:meth:`finish`)."""
        return self._kept[self._net(width)][self.state.data]

    def _curve(self, way: str, width: str) -> tuple[np.ndarray, np.ndarray]:
        """Distances and the rises there."""
        objective, r = self.objective(width), np.logspace(*ACROSS, PLACES)
        if way == "sam":
            slope = objective.slope
            return r, _rises(objective, torch.as_tensor(r).to(slope)[:, None] * slope / slope.norm())
        if way == "worst":
            return r, np.array([worst_rise(objective, float(at), steps=10, restarts=2).rise for at in r])
        length = objective.scale(self.state.kind).norm().item()
        found = [average_rise(objective, float(at) / length, self.state.kind, rtol=0, budget=DRAWS).value for at in r]
        return r, np.array(found)

    def _radii(self, width: str) -> dict[str, float]:
        """The distance at which the loss has risen as asked, per way; none where it nowhere does."""
        out, objective = {}, self.objective(width)
        for way in ("sam", "noise") + ("worst",) * (width == self.state.width):
            options = (
                {"kind": self.state.kind, "draws": DRAWS}
                if way == "noise"
                else {"steps": 10, "restarts": 2}
                if way == "worst"
                else {}
            )
            try:
                out[way] = radius_of_rise(objective, self.state.rise, way, tol=0.02, **options).distance
            except ValueError:
                out[way] = math.nan
        return out

    def _limit(self, width: str) -> float:
        """√(P λ₁ / tr H)."""
        objective = self.objective(width)
        trace = sum(objective.traces().values()).item()
        return math.sqrt(objective.layout.size * float(eigenvalues(objective, tol=1e-2).values[0]) / trace)

    def radii(self, width: str) -> dict[str, float]:
        """Distances of an equal rise for a width, as far as they are known."""
        return self._kept.get(self._key("radii", width, self.state.rise), {})

    def ratios(self) -> list[tuple[int, float, float]]:
        """Per width that is measured: the number of weights P, how many times as far noise goes as SAM, and √(P λ₁ / tr H)."""
        out = []
        for width in map(str, WIDTHS):
            found, limit = self.radii(width), self._kept.get(self._key("limit", width))
            if found and limit is not None:
                out.append((self.objective(width).layout.size, found["noise"] / found["sam"], limit))
        return out

    # The picture

    def traces(self) -> list[dict[str, Any]]:
        s, out = self.state, []
        found = self.radii(s.width)
        for way, (label, (colour, dash)) in WAYS.items():
            x, y = self._kept.get(self._key("curve", way, s.width), (np.zeros(0), np.zeros(0)))
            out.append(line(x, np.where(y > 0, y, np.nan), label, colour, dash))
        for way, (label, (colour, _)) in WAYS.items():
            there = [found[way]] if math.isfinite(found.get(way, math.nan)) else []
            out.append(dots(there, [s.rise] * len(there), f"{label}, at the rise", colour, size=11, showlegend=False))
        out.append(line([10.0**p for p in ACROSS], [s.rise] * 2, "equal rise", figures.INK, "dot", showlegend=False))
        p, ratio, limit = zip(*self.ratios()) if self.ratios() else ((), (), ())
        out.append(line(p, limit, "√(P λ₁ / tr H)", figures.INK, "dash", "2"))
        out.append(
            dots(
                p,
                ratio,
                "measured: noise / SAM",
                figures.LOOKS["rwp"][0],
                "diamond",
                9,
                "2",
                mode="lines+markers",
                line={"width": 1.6},
            )
        )
        return out  # fmt: skip

    def layout(self) -> dict[str, Any]:
        panels = ((f"Rise of the loss, {self.state.width} hidden units", 0), ("Noise goes so many times as far", 0.62))
        return {
            "xaxis": {**LOG, **titled("distance from the weights"), "range": list(ACROSS), "domain": [0, 0.52]},
            "yaxis": {**LOG, **titled("rise of the loss"), "range": list(UP)},
            "xaxis2": {**LOG, **titled("number of weights P"), "range": [2, 4.6], "domain": [0.62, 1], "anchor": "y2"},
            "yaxis2": {**AXIS, "anchor": "x2", "range": [0, max(100, *(1.1 * ratio for _, ratio, _ in self.ratios()), 0)], "autorange": False},
            "annotations": heads(*panels),
            "margin": {"l": 58, "r": 12, "t": 74, "b": 44}, "height": 460, "legend": {"orientation": "h", "y": 1.1, "x": 0, "yanchor": "bottom"},
        }  # fmt: skip

    @property
    def text(self) -> str:
        s, found = self.state, self.radii(self.state.width)
        if not found:
            return f"Training the network with {s.width} hidden units."
        if not all(map(math.isfinite, found.values())):
            return f"With {s.width} hidden units after {counted(int(s.updates), 'update')} the loss nowhere rises by {s.rise:.3g} in some of these ways: ask for less."
        limit = self._kept.get(self._key("limit", s.width))
        most = f"; √(P λ₁ / tr H) is {limit:.0f}" if limit else ""
        return (
            f"{self.objective(s.width).layout.size:,} weights after {s.updates} updates, loss on {s.data}: for a rise of {s.rise:.3g} SAM's step goes {rounded(found['sam'])} far, {s.kind} noise "
            f"{rounded(found['noise'])}, {found['noise'] / found['sam']:.0f} times as far{most}. The worst point of the ball is {found['worst']:.3g} away."
        )


def _rises(objective: NetworkObjective, steps: torch.Tensor) -> np.ndarray:
    return (objective.loss(objective.w + steps).double() - objective.value).numpy()


def distances(*given: Any, **changes: Any) -> Distances:
    """Open the two radii: ``distances(width="64", updates="30", rise=0.1, kind="filter-wise")``."""
    return Distances.open(*given, **changes)
