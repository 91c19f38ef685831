"""How noisy is a gradient at perturbed weights? Two independent draws against one pair u, -u, at the same cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rwp_edu.curvature import Estimate, gradient_variance
from rwp_edu.curvature.smoothing import joined
from rwp_edu.experiments.variance_functions import BATCH, SUBJECTS, Making, Subject, making
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.methods.noise import LAWS
from rwp_edu.plotting import figures
from rwp_edu.plotting.plotly import LOG, bars, dots, line, titled
from rwp_edu.utils.parameters import Parameter, Values, counted, rounded

ACROSS, UP = (-3.5, -0.5), (-14, 2)  # powers of ten
SIGMAS = tuple(float(f"{s:.3g}") for s in np.logspace(*ACROSS, 13))
ROUNDS = 6
POINTS = {"one": "one-point", "two": "two-point"}
COLOURS = {"one": figures.LOOKS["rwp"][0], "two": figures.LOOKS["nso"][0], "batch": "#E69F00"}
EXACT = 1e-20  # times the one-point variance: nothing but rounding is that small

PARAMETERS: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("function", "", "tanh", "whose gradient", choices=tuple(SUBJECTS), title="function",
                  labels=tuple(row.title for row in SUBJECTS.values()), tips=tuple(row.meaning for row in SUBJECTS.values())),
        Parameter("sigma", "σ", 0.01, "the standard deviation of the noise that the sentence is about", low=3e-4, high=0.32,
                  slider=(SIGMAS[0], SIGMAS[-1]), log=True, values=SIGMAS, title="scale of the noise"),
        Parameter("k", "k", 1, "2k gradients for each: 2k draws, or k pairs", low=1, high=8, slider=(1, 8), step=1, title="pairs"),
        Parameter("law", "", "gaussian", "of the noise", choices=tuple(LAWS), title="law"),
        Parameter("seed", "", 0, "of the noise", high=2**31, title="draw of the noise"),
    )
}  # fmt: skip


class TwoPointsState(Values):
    """All that the figure depends on; every field is a row of ``PARAMETERS``. σ becomes the nearest of those that are measured.

    >>> TwoPointsState(sigma=0.02).sigma
    0.0178
    """

    TABLE = PARAMETERS

    def __init__(self, **values: Any):
        super().__init__(**values)
        vars(self)["sigma"] = min(SIGMAS, key=lambda s: abs(math.log(s / self.sigma)))

    @property
    def place(self) -> int:
        """The number of the marked σ."""
        return SIGMAS.index(self.sigma)

    @property
    def run(self) -> tuple[Any, ...]:
        """What the measurements depend on."""
        return self.function, self.law, self.k, self.seed


Found = dict[str, list[list[Estimate]]]  # per estimator and σ, one estimate per round


def ratio(one: Estimate, two: Estimate) -> Estimate:
    """one / two, with the error to first order."""
    value = one.value / two.value
    return Estimate(value, value * math.hypot(one.error / one.value, two.error / two.value))


def _plain(e: Estimate) -> str:
    """As many digits as the error has one of."""
    digits = -math.floor(math.log10(e.error)) if e.error else 0
    value, error = (f"{round(part, digits):,.{max(digits, 0)}f}" for part in e)
    return f"{value} ± {error}"


def _gone(one: Estimate, two: Estimate) -> bool:
    return two.value <= EXACT * one.value


def sentence(state: TwoPointsState, subject: Subject, found: Found) -> str:
    """The variances at the marked σ in words."""
    i, gradients, row = state.place, 2 * state.k, SUBJECTS[state.function]
    if not all(found[name][i] for name in POINTS):
        return "measuring"
    one, two = (joined(found[name][i]) for name in POINTS)
    text = (
        f"The {row.title}, {gradients} gradients each, {state.law} noise with σ = {SIGMAS[i]:.3g}: "
        f"{gradients} independent draws have variance {one}, "
    )
    pairs = f"{state.k} pair{'s' * (state.k > 1)}"
    if _gone(one, two):
        return (
            text
            + f"{pairs} exactly 0: its errors cancel, up to a part that is the same in every draw. A logarithmic axis cannot show that."
        )
    text += f"{pairs} {two}: {_plain(ratio(one, two))} times less."
    expected = subject.theory(SIGMAS[i], state.k, state.law)
    text += f" The derivatives at w predict {rounded(expected[0], 2)} and {rounded(expected[1], 2)}{row.remark}."
    if subject.batch is None:
        return text
    gain, batch = one.value - two.value, subject.batch
    verdict = (
        f"is only {100 * gain / batch:.2g} % of it: in training it would be hidden" if gain < batch / 4
        else f"is {rounded(gain / batch, 2)} times that: it would be felt in training"
    )  # fmt: skip
    return text + f" Mini-batches of {BATCH} have variance {rounded(batch, 2)}; what the pair saves {verdict}."


def traces(state: TwoPointsState, subject: Subject | None, found: Found) -> list[dict[str, Any]]:
    """Theory as dashed lines, the mini-batch as a level, measurements as dots."""
    out, gradients = [], 2 * state.k
    labels = {"one": f"one-point, {counted(gradients, 'draw')}", "two": f"two-point, {state.k} pair{'s' * (state.k > 1)}"}
    laws = {"one": "σ²‖H‖²", "two": "σ⁴/2 Σ‖∂ᵢH‖²"}
    for number, name in enumerate(POINTS):
        y = [subject.theory(s, state.k, state.law)[number] for s in SIGMAS] if subject else []
        drawn = any(y)
        out.append(line(SIGMAS if drawn else [], y if drawn else [], f"leading term {laws[name]}", COLOURS[name], "dash"))
    level = [subject.batch] * 2 if subject and subject.batch else []
    out.append(line([SIGMAS[0], SIGMAS[-1]] if level else [], level, f"mini-batches of {BATCH}", COLOURS["batch"], "longdash"))
    done = [i for i in range(len(SIGMAS)) if all(found[name][i] for name in POINTS)]
    measured = {name: [joined(found[name][i]) for i in done] for name in POINTS}
    kept = {"one": done, "two": [i for i, *pair in zip(done, *measured.values()) if not _gone(*pair)]}
    for name, estimates in measured.items():
        shown = [e for i, e in zip(done, estimates) if i in kept[name]]
        x = [SIGMAS[i] for i in kept[name]]
        out.append(bars(x, shown, COLOURS[name], 10.0 ** (UP[0] - 2)))
        symbol = "circle" if name == "one" else "diamond"
        out.append(dots(x, [e.value for e in shown], labels[name], COLOURS[name], symbol, mode="lines+markers", line={"width": 1.6, "color": COLOURS[name]}))  # fmt: skip
    here = SIGMAS[state.place]
    out.append(line([here, here], [10.0 ** UP[0], 10.0 ** UP[1]], "σ", figures.INK, "dot", showlegend=False))
    return out


def layout() -> dict[str, Any]:
    return {
        "xaxis": {**LOG, **titled("σ, standard deviation of the noise in every weight"), "range": [ACROSS[0] - 0.1, ACROSS[1] + 0.1]},
        "yaxis": {**LOG, **titled("variance of the gradient, all weights together"), "range": list(UP), "dtick": 2},
        "margin": {"l": 62, "r": 12, "t": 74, "b": 44}, "height": 500, "legend": {"orientation": "h", "y": 1.02, "x": 0, "yanchor": "bottom"},
    }  # fmt: skip


class TwoPointsLab(Explorer):
    """Variances of one-point and two-point gradients, measured σ by σ.

    >>> lab = two_points(function="quadratic")
    >>> lab.finish()
    >>> "1 pair exactly 0" in lab.text
    True
    """

    STATE, OPEN, CHOICE = TwoPointsState, "rwp_edu.lab.two_points", "function"

    def __init__(self, state: Values):
        super().__init__(state)
        self._subjects: dict[str, Subject] = {}
        self._makings: dict[str, Making] = {}
        self._doing = "getting ready"
        self._found: dict[tuple[Any, ...], Found] = {}

    @property
    def subject(self) -> Subject | None:
        """The function with its weights, once it is made."""
        return self._subjects.get(self.state.function)

    @property
    def found(self) -> Found:
        empty = {name: [[] for _ in SIGMAS] for name in POINTS}
        return self._found.setdefault(self.state.run, empty)

    def work(self) -> bool:
        if self.subject is None:
            self._make(self.state.function)
            return True
        found, state = self.found, self.state
        todo = [(len(done), i) for i, done in enumerate(found["two"]) if len(done) < ROUNDS]
        if not todo:
            return False
        number, i = min(todo)
        for offset, (name, points) in enumerate(POINTS.items()):
            found[name][i].append(
                gradient_variance(
                    self.subject.gradient,
                    self.subject.w,
                    SIGMAS[i],
                    points,
                    k=state.k * (2 if name == "one" else 1),
                    law=state.law,
                    draws=max(2, self.subject.draws // state.k),
                    seed=2 * (ROUNDS * state.seed + number) + offset,
                )
            )
        return len(todo) > 1 or number + 1 < ROUNDS

    def _make(self, name: str) -> None:
        steps = self._makings.pop(name, None) or making(name)
        try:
            self._doing = next(steps)
            self._makings[name] = steps
        except StopIteration as end:
            self._subjects[name] = end.value

    def traces(self) -> list[dict[str, Any]]:
        return traces(self.state, self.subject, self.found)

    def layout(self) -> dict[str, Any]:
        return layout()

    @property
    def text(self) -> str:
        return sentence(self.state, self.subject, self.found) if self.subject else self._doing


def two_points(*given: Any, **changes: Any) -> TwoPointsLab:
    """Open the noise of one- and two-point gradients: ``two_points(function="relu", sigma=0.03, law="rademacher")``."""
    return TwoPointsLab.open(*given, **changes)
