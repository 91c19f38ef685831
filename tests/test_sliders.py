"""Every slider of every lab: each step of it changes the state to exactly what its readout says."""

from __future__ import annotations

import re

import pytest
import torch

import rwp_edu
from rwp_edu import lab, problems
from rwp_edu.lab.base.controls import Control, Maker, _ticks, readout
from rwp_edu.lab.explorers import gradient_variance
from rwp_edu.lab.explorers.landscape import HERE
from rwp_edu.training.settings import parameters
from rwp_edu.utils.parameters import Parameter


def looked_around(**changes):
    race = lab.race(methods="sgd,sam,rwp", seeds=2, steps=10)
    race.run()
    return race.around(**changes)


LABS = {
    **{f"update {method}": lambda method=method: lab.update(method=method) for method in rwp_edu.methods.METHODS},
    **{f"landscape {surface}": lambda surface=surface: lab.landscape(surface=surface, methods="sgd,sam,nso,m-rwp") for surface in HERE},
    "smoothing": lab.smoothing,
    "two_points": lab.two_points,
    "distances": lab.distances,
    "scatter": lambda: lab.scatter(window=1.3),
    "trial": lab.trial,
    "workers": lab.workers,
    "around": looked_around,
    "around, far": lambda: looked_around(reach=3.0),
    "around, sharpest": lambda: looked_around(along="eigenvectors"),
    "around, solutions": lambda: looked_around(along="solutions"),
    "off the grid": lambda: lab.landscape(sigma=0.1234, x=-0.3333, lr=0.00011),
}


def control(row, value):
    """A control, and what it asks for."""
    asked = []
    return Control(row, value, lambda *what: asked.append(what), Maker()), asked


def label_of(made) -> str:
    """What the readout shows."""
    return made.input.options[made.input.index][0]


def pressed(made, number):
    """What a press of an arrow key does: the next label of the slider."""
    made.input.index = number
    return label_of(made)


@pytest.mark.parametrize("name", LABS)
def test_each_press_changes_the_state_to_what_the_readout_says(name):
    view, sliders = LABS[name](), 0
    for parameter in view.shown:
        row, value = view.rows[parameter], getattr(view.state, parameter)
        made, asked = control(row, value)
        if not made.places:
            continue
        sliders += 1
        assert label_of(made) == readout(value) and float(label_of(made)) == pytest.approx(value, rel=1e-6), parameter
        for number in range(len(made.places)):
            if number == made.input.index:
                continue
            label = pressed(made, number)
            assert asked.pop() == (parameter, float(label)) and not asked
            state = view.state.replace(**{parameter: float(label)})
            assert getattr(state, parameter) == float(label), parameter
            assert type(getattr(state, parameter)) is type(value)
        view.set(**{parameter: made.places[-1]})
        made.show(getattr(view.state, parameter), view.rows[parameter])
        assert float(label_of(made)) == getattr(view.state, parameter)
    assert sliders or name.startswith("update")


@pytest.mark.parametrize("problem", [*problems.PROBLEMS, "cifar10"])
def test_each_press_on_a_slider_of_the_race_too(problem):
    state = lab.RaceState(problem)
    for name, row in parameters(problem).items():
        made, asked = control(row, getattr(state, name))
        for number, value in enumerate(made.places):
            if number != made.input.index:
                label = pressed(made, number)
                assert asked.pop() == (name, value) and float(label) == value == row.parse(label)


@pytest.mark.parametrize("key, value", [("sigma", 0.2), ("sigma", 0.0123), ("lr", 0.05), ("lr", 0.3), ("lr", 5.0), ("lr", 0.0), ("weight_decay", 0.0005), ("steps", 30)])
def test_a_value_beside_the_steps_is_shown_as_it_is(key, value):
    race = lab.race(methods="sgd,rwp", seeds=1)
    made, asked = control(parameters()[key], getattr(race.state, key))
    made.show(value)
    assert made.input.value == value and float(label_of(made)) == value and asked == []
    number = made.input.index
    up = pressed(made, number + 1) if number + 1 < len(made.places) else pressed(made, number - 1)
    assert float(up) in parameters()[key].grid and asked == [(key, float(up))]


def test_the_marked_sigma_of_two_points_is_measured():
    """The slider said 0.0200, the sentence 0.018, and five presses of six changed nothing."""
    view = lab.two_points(function="quadratic")
    view.finish()
    made, _ = control(view.rows["sigma"], view.state.sigma)
    said = []
    for number in range(len(made.places)):
        label = pressed(made, number)
        view.set(sigma=float(label))
        assert view.state.sigma == gradient_variance.SIGMAS[view.state.place] == float(label)
        assert f"σ = {label}: " in view.text
        assert next(t for t in view.traces() if t["name"] == "σ")["x"] == [float(label)] * 2
        said.append(view.text)
    assert len(set(said)) == len(said) == len(gradient_variance.SIGMAS)
    assert lab.two_points(sigma=0.02).state.sigma == 0.0178


@pytest.mark.parametrize("changes", [{}, {"reach": 0.02}, {"along": "eigenvectors"}, {"along": "solutions"}])
def test_a_cross_is_where_its_sliders_say(changes):
    view = looked_around(**changes)
    view.finish()
    for axis, ends in (("x", view.found.x), ("y", view.found.y)):
        row = view.rows[axis]
        assert 20 <= len(row.grid) <= 210 and ends[0] - 1e-9 <= row.grid[0] < row.grid[-1] <= ends[-1] + 1e-9
        for value in (row.grid[1], row.grid[-1]):
            view.set(**{axis: value})
            cross = next(t for t in view.traces() if t["name"] == "cross")
            assert float(cross[axis][0]) == value == view.cross["xy".index(axis)]
    there = view.cross
    weights = view.solutions.weights(view.state.entrant, 0)
    plane = view._kept[view._plane_key][0]
    moved = plane.at(torch.tensor([there], dtype=weights.dtype))[0] - weights
    assert view.reading()["distance"] == pytest.approx((moved.norm() / weights.norm()).item(), rel=1e-5)


def test_other_planes_keep_the_cross_inside():
    view = looked_around(x=0.4, y=-0.3)
    view.set(reach=0.2)
    assert (view.state.x, view.state.y) == (0.2, -0.2)
    view.set(along="solutions")
    assert (view.state.x, view.state.y) == (0.0, 0.0)
    with pytest.raises(ValueError, match="x must be a finite number"):
        view.set(x=float("nan"))


def test_ticks_stand_at_the_places_of_their_values():
    row = Parameter("x", "", 0.0, "", slider=(0.0, 1.0), step=0.1, ticks=((0.25, "a"), (1 / 3, "b")))
    made, _ = control(row, 0.0)
    assert made.places == (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    a, b = map(float, re.findall(r"left:([\d.]+)%", made.ticks.value))
    assert a == pytest.approx(100 * 3 / 11, abs=0.1) and b == pytest.approx(100 * (4 + 1 / 3) / 11, abs=0.1)
    assert "left:25.0%" in _ticks(row)


# What ticks say

EVERYWHERE = {"clean", "published", "RWP", "preset", "never", "all but one", "all", "none"}  # holds for every problem


@pytest.fixture
def own():
    data = [(torch.randn(8, 3), torch.randint(2, (8,)))]
    yield problems.add("mine", lambda: torch.nn.Linear(3, 2), data, data).name
    problems.OWN.pop("mine")


def ticks_of(problem):
    return [(name, value, text) for name, row in parameters(problem).items() for value, text in row.ticks]


def test_a_problem_of_ones_own_has_no_hints_of_another(own):
    race = lab.race(problem=own, methods="sgd,m-rwp", seeds=1)
    shown = race.screen.controls["sigma"].ticks.value
    assert "preset" in shown and "m-RWP" not in shown and "fails" not in shown
    for name, value, text in ticks_of(own):
        assert text in EVERYWHERE or float(text) == value, (name, text)
    assert {name for name, *_ in ticks_of(own)} >= {"sigma", "rho", "lam"}
    race.close()


@pytest.mark.parametrize("problem", [*problems.PROBLEMS, *problems.PICTURES, "mine"])
def test_hints_belong_to_the_problem(problem, own):
    for name, value, text in ticks_of(problem):
        row = parameters(problem)[name]
        assert row.slider[0] <= value <= row.slider[1], (name, text)
        assert text != "preset" or value == row.default, (name, value)
        if re.fullmatch(r"[\d.]+", text):
            assert float(text) == value, (name, text)
