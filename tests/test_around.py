"""Looking around the minimum of a run."""

from __future__ import annotations

import ipywidgets
import numpy as np
import pytest
import torch

from rwp_edu import lab
from rwp_edu.curvature import loss_slices
from rwp_edu.curvature.lanczos import eigenvalues
from rwp_edu.lab.explorers import loss_landscape
from rwp_edu.lab.explorers.loss_landscape import TABLE, AroundState
from rwp_edu.plotting.plotly import round_numbers


@pytest.fixture(scope="module")
def race():
    race = lab.race(methods="sgd,sam,rwp", seeds=2, steps=60)
    race.run()
    return race


def test_the_middle_of_a_plane_is_the_run(race):
    for along in TABLE["along"].choices[:2]:
        view = race.around(entrant="rwp", run=1, along=along)
        view.finish()
        found, seed = view.found, 1
        assert found.values[20, 20] == pytest.approx(race.record.train_loss[-1, 2, seed], rel=1e-5)
        assert view.reading()["test_accuracy"] == pytest.approx(race.record.test_accuracy[-1, 2, seed])
        assert view.reading()["distance"] == 0


def test_the_cross_reads_the_plane(race):
    view = race.around(x=0.25, y=-0.1)
    view.finish()
    read, found = view.reading(), view.found
    assert view.cross == pytest.approx((0.25, -0.1))
    assert read["loss"] == pytest.approx(found.values[16, 30], rel=1e-5)
    assert read["loss"] == pytest.approx(read["train_loss"], rel=1e-5)  # two ways to the same number
    assert read["distance"] == pytest.approx(np.hypot(0.25, 0.1), rel=0.02)  # two random directions are nearly orthogonal


def test_a_click_moves_the_cross(race):
    view = race.around()
    view.finish()
    view.clicked(0.1, 0.25)
    assert (view.state.x, view.state.y) == (0.1, 0.25)
    view.clicked(9.0, -9.0)
    assert (view.state.x, view.state.y) == (0.5, -0.5)


def test_the_sharpest_direction_bends_by_the_largest_eigenvalue():
    """In matrix sensing: the second difference of a ReLU network also sees its kinks."""
    race = lab.race(problem="sensing", methods="sgd", seeds=1, steps=20, d=6, n=30)
    race.run()
    view = race.around(along="eigenvectors", reach=0.02)
    view.finish()
    value = float(eigenvalues(view.solutions.objective("sgd", 0), tol=1e-4).values[0])
    norm, row = view.solutions.weights("sgd", 0).norm().item(), view.found.values[20]
    assert (row[0] + row[-1] - 2 * row[20]) / (0.02 * norm) ** 2 == pytest.approx(value, rel=0.02)


def test_the_plane_through_three_solutions_holds_them(race):
    view = race.around(entrant="sam", along="solutions")
    view.finish()
    found = view.found
    assert found.apart == pytest.approx(0, abs=1e-3) and found.points.shape == (3, 2)
    for name, (x, y) in zip(("sam", "sgd", "rwp"), found.points):
        assert found.x[0] < x < found.x[-1] and found.y[0] < y < found.y[-1], name
    line = next(t for t in view.traces() if t["name"] == "RWP")
    ends = [np.interp(at, line["x"], line["y"]) for at in (0, 1)]
    assert ends == pytest.approx(race.record.train_loss[-1, [1, 2], 0], rel=0.02)


@pytest.mark.slow
def test_test_loss_and_other_seeds(race):
    train, test = (race.around(run=1, data=data) for data in ("train", "test"))
    for view in (train, test):
        view.finish()
    problem, w = test.solutions.problem, test.solutions.weights("sgd", 1)
    logits = problem.network.logits(w[None], problem.test_x[1:2])[0]
    loss = torch.nn.functional.cross_entropy(logits, problem.test_y[1]).item()
    assert test.found.values[20, 20] == pytest.approx(loss, rel=1e-5) != pytest.approx(train.found.values[20, 20])
    assert "seed 1" in train.text and "test loss" in test.figure.layout.annotations[0].text


def test_the_picture_is_of_a_moment():
    race = lab.race(methods="sgd,rwp", seeds=1, steps=40)
    race.run(20)
    view = race.around()
    race.run()
    assert "after 20 updates" in view.text and race.record.updates[-1] == 40


def test_matrix_sensing_too():
    race = lab.race(problem="sensing", methods="sgd,rwp,nso", seeds=1, steps=50, d=6, n=30)
    race.run()
    view = race.around(entrant="nso", along="eigenvectors")
    view.finish()
    assert view.found.values.shape == (41, 41) and "distance²" in view.text and "data" not in view.shown
    view.set(view="surface")
    assert view.figure.data[0].type == "surface"


def test_what_cannot_be(race):
    for changes, message in (
        ({"entrant": "nso"}, "unknown entrant 'nso'"),
        ({"run": 2}, "run must be a whole number from 0 to 1"),
        ({"along": "up"}, "along must be one of random, eigenvectors, solutions"),
    ):
        with pytest.raises(ValueError, match=message):
            race.around(**changes)
    with pytest.raises(ValueError, match="needs three methods in the race, it has 2"):
        lab.race(methods="sgd,rwp", seeds=1).around(along="solutions")


@pytest.mark.slow
def test_looking_again_closes_what_was_open(race):
    screen = race.screen
    screen._asked = [("look", None)]
    screen.turn()
    first, widgets = screen._around, len(ipywidgets.Widget.get_manager_state()["state"])
    screen._asked = [("look", None)]
    screen.turn()
    assert screen._around is not first and screen.around.children == (screen._around.box,)
    assert first.figure.comm is None and first.box.comm is None and screen._around.figure.comm is not None
    assert len(ipywidgets.Widget.get_manager_state()["state"]) == widgets


def test_state_round_trips():
    state = AroundState(entrant="sam", along="solutions", x=0.5)
    assert AroundState(**state.to_dict()) == state
    assert AroundState().replace(along="eigenvectors").reach == 0.1
    assert AroundState().replace(along="eigenvectors", reach=0.3).reach == 0.3


def test_a_picture_of_flatness_is_measured():
    assert lab.race(third="trace").state.flatness_every == 20
    race = lab.race(methods="sgd", seeds=2, steps=20)
    race.set(third="trace")
    race.run()
    assert np.isfinite(race.record.trace[-1]).all()


def test_this_setting_is_a_line_that_opens_it_again(race):
    for state in ({}, {"along": "eigenvectors", "reach": 0.5}, {"along": "eigenvectors"}, {"along": "solutions", "reach": 0.5, "x": 0.2}, {"reach": 0.1}):
        view = race.around(entrant="rwp", **state)
        assert eval(view.snippet, {"race": race}).state == view.state, view.snippet
    assert race.around(entrant="rwp", along="eigenvectors").snippet == "race.around(entrant='rwp', along='eigenvectors')"


def test_a_slice_comes_in_parts(race, monkeypatch, ticks):
    """Of some hundredths of a second: with a clock that goes that far at every look, a few points a turn."""
    monkeypatch.setattr(loss_landscape, "GRID", 5)
    whole = race.around(entrant="rwp")
    whole.finish()
    ticks(0.75 * loss_landscape.TURN)
    view, said = race.around(entrant="rwp"), []
    while view.found is None:
        assert view.work()
        said.append(view.text[view.text.index("Measuring") :] if view.found is None else "")
    assert said == ["Measuring the loss around it: 25 %.", "Measuring the loss around it: 50 %.", "Measuring the loss around it: 75 %.", ""]
    np.testing.assert_array_equal(view.found.values, whole.found.values)
    plane, found = view._kept[view._plane_key]
    at_once = loss_slices.evaluate(view.solutions.objective("rwp", 0), plane, found.x, found.y, plane.origin[None])
    for part, right in zip(found, at_once):
        np.testing.assert_allclose(part, right, rtol=1e-5, atol=1e-6)


def test_what_was_begun_goes_on(race, ticks):
    ticks(0.75 * loss_landscape.TURN)
    view = race.around()
    view.work()
    part = view._begun[view._plane_key].part
    view.set(reach=0.3)
    view.work()
    view.set(reach=0.5)
    assert 0 < part == view._begun[view._plane_key].part < 1


def test_the_run_itself_is_measured_once(race, monkeypatch):
    view, read = race.around(), []
    measure = view.solutions.read
    monkeypatch.setattr(view.solutions, "read", lambda *args: read.append(args) or measure(*args))
    assert view.text == view.text and len(read) == 1
    view.set(run=1)
    assert "seed 1" in view.text and len(read) == 2


@pytest.fixture(scope="module")
def diverged():
    race = lab.race(methods="sgd:lr=1e+06,rwp,sam", seeds=1, steps=60)
    race.run()
    return race


@pytest.mark.slow
def test_beside_a_diverged_run_the_others_are_seen(diverged):
    for along in TABLE["along"].choices:
        view = diverged.around(entrant="rwp", along=along)
        view.finish()
        spectra = {t["name"]: len(t["x"]) for t in view.traces() if t["name"].startswith("eigenvalues of")}
        assert list(spectra.values()) == [0, 10, 10]
        assert "tr H = " in view.text and "Of SGD (η 1e+06) there is no largest eigenvalue" in view.text, view.text
        assert "no spectrum: the loss at w is not finite." in view.text
        assert ("Of RWP there is no plane: SGD (η 1e+06) diverged." in view.text) == (along == "solutions") == ("Of RWP" in view.text)
        assert (view.found is None) == (along == "solutions")


def test_a_diverged_run_says_that_there_is_nothing(diverged):
    for along in TABLE["along"].choices:
        view = diverged.around(entrant="sgd:lr=1e+06", along=along)
        view.finish()
        assert view.layout() and view.traces() and not view.work()
        assert "no spectrum: the loss at w is not finite." in view.text and "Measuring" not in view.text and "Click" not in view.text
        assert ("The loss is nowhere finite in the plane." in view.text) != ("no plane" in view.text), view.text


def test_heights_are_those_of_the_finite_part(race):
    view = race.around()
    view.finish()
    view.found.values[:3], view.found.values[5, 5] = np.nan, np.inf
    z, low, high = view._heights()
    assert np.isfinite(z).all() and low == np.log10(np.nanmin(view.found.values)) < high and (z[:3] == high).all()
    view.found.values[:] = np.nan
    assert view.layout() and view.traces() and view.text.endswith("The loss is nowhere finite in the plane.")


def test_the_plane_of_three_solutions_leaves_out_what_diverged():
    race = lab.race(methods="sgd:lr=1e+06,rwp,sam,nso", seeds=1, steps=20)
    race.run()
    assert race.around(entrant="rwp", along="solutions")._corners == ("rwp", "sam", "nso")
    assert race.around(entrant="sgd:lr=1e+06", along="solutions")._corners == ("sgd:lr=1e+06", "rwp", "sam")


@pytest.mark.parametrize("train, first", [(150, "first 100 pictures"), (100, "")])
def test_pictures_are_the_first_hundred_and_it_says_so(train, first, monkeypatch):
    monkeypatch.setattr(loss_landscape, "GRID", 2)
    monkeypatch.setattr(loss_landscape, "ALONG", 2)
    race = lab.race(problem="images", methods="rwp", seeds=1, steps=1, model="mlp", width=4, train=train, test=101, batch=20)
    race.run()
    view = race.around(x=0.5)
    assert ("Measuring the loss around it on the first 100 pictures." in view.text) == bool(first)
    view.finish()
    head = view.layout()["annotations"][0]["text"]
    assert head == f"<b>The training loss around RWP{', ' * bool(first)}{first}</b>"
    assert ("the training loss on the first 100 pictures is" in view.text) == bool(first)
    assert view.text.count("on the first 100 pictures") == 2 * bool(first), view.text
    view.set(data="test")
    assert "first 100 pictures" in view.layout()["annotations"][0]["text"]
    objective, problem = view.solutions.objective("rwp", 0), race.problem
    x, y, _ = next(iter(problem.held(0)["train"]))
    with torch.no_grad():
        loss = problem.measured_loss(problem.at(view.solutions.weights("rwp", 0), 0).eval()(x[:100]), y[:100]).item()
    assert objective.value == pytest.approx(loss, rel=1e-5)


def test_digits_and_sensing_are_measured_on_all(race):
    assert race.around().solutions.first == {"train": "", "test": ""}
    sensing = lab.race(problem="sensing", methods="sgd", seeds=1, steps=2, d=6, n=200)
    assert sensing.around().solutions.first == {"train": ""} and "first" not in sensing.around().layout()["annotations"][0]["text"]


def test_a_spectrum_comes_in_parts(race, monkeypatch):
    whole, parts = race.around(), race.around()
    whole.finish()
    monkeypatch.setattr(loss_landscape, "TURN", 0)
    key, turns = parts._key("spectrum", "sgd"), 0
    while key not in parts._kept and turns < 1000:
        parts._go_on(key, parts._spectrum)
        turns += 1
    draws = parts._kept[key][1].draws
    assert turns > loss_landscape.STEPS + draws // loss_landscape.SOME  # a product for every probe in each of them, and then some draws of the trace
    for a, b in zip(parts._kept[key], whole._kept[key]):
        np.testing.assert_array_equal(a.nodes if hasattr(a, "nodes") else a, b.nodes if hasattr(b, "nodes") else b)
    assert not parts._begun


# What can be read in the figure


def test_ten_eigenvalues_of_every_run_can_be_counted(race):
    view = race.around()
    view.finish()
    plan, width, size = view.layout(), 340, 8  # pixels: of the panel in a narrow window, and of a dot
    (low, high), across = plan["yaxis3"]["range"], np.ptp(plan["xaxis3"]["range"])
    for name in race.record.entrants:
        (dots,) = (t for t in view.traces() if t["name"] == f"eigenvalues of {loss_landscape._label(name)}")
        right = eigenvalues(view.solutions.objective(name, 0), k=10, tol=1e-3).values.numpy()
        np.testing.assert_allclose(dots["y"], right, rtol=0.05)
        assert len(dots["x"]) == 10 and (np.diff(dots["x"]) * width / across > 2 * size).all()
        assert (np.diff(dots["y"]) <= 0).all() and all(low < np.log10(v) < high for v in dots["y"])
        assert [round(v) for v in dots["x"]] == list(range(1, 11))


def in_legend(view) -> list[str]:
    return [t["name"] for t in view.traces() if t["type"] == "scatter" and t.get("showlegend", True)]


@pytest.mark.parametrize("along", TABLE["along"].choices)
def test_the_legend_has_the_lines_that_are_on_the_axis(race, along):
    view = race.around(entrant="rwp", along=along, reach=0.05)
    assert not in_legend(view), "nothing is drawn yet"
    view.finish()
    low, high = view.layout()["yaxis2"]["range"]
    for t in view.traces():
        if t["name"] in ("SGD", "SAM", "RWP"):
            visible = len(t["y"]) > 0 and low <= np.log10(np.nanmin(t["y"])) <= high
            assert t["showlegend"] == visible
            assert visible or (along, t["name"]) == ("solutions", "RWP"), "RWP is where the lines begin"
    assert len(in_legend(view)) == 3


def test_the_legend_leaves_out_what_diverged(diverged):
    view = diverged.around(entrant="rwp")
    view.finish()
    assert in_legend(view) == ["SAM", "RWP"] or in_legend(view) == ["RWP", "SAM"]


@pytest.mark.parametrize("span", [0.004, 0.01, 0.1, 0.3, 0.7, 1.0, 2.5, 6.0])
def test_a_logarithmic_axis_has_three_ticks_or_more(span):
    for low in np.linspace(-7, 3, 101):
        ticks = round_numbers(low, low + span)
        assert 3 <= len(ticks) <= 12 and ticks == sorted(set(ticks))
        assert 10**low * (1 - 1e-9) <= ticks[0] < ticks[-1] <= 10 ** (low + span) * (1 + 1e-9)
        assert len({f"{v:.4g}" for v in ticks}) == len(ticks)


@pytest.mark.parametrize("along", TABLE["along"].choices)
def test_every_axis_has_ticks(race, along):
    view = race.around(along=along, reach=0.03)
    for _ in range(2):
        plan = view.layout()
        for axis in ("yaxis2", "yaxis3", "yaxis4"):
            (low, high), at = plan[axis]["range"], plan[axis]["tickvals"]
            assert sum(low <= (v if axis == "yaxis4" else np.log10(v)) <= high for v in at) >= 3, axis
        view.finish()


def test_minimum_of_another_run_leaves_nothing_in_the_log(race, caplog, recwarn):
    view = race.around()
    screen = view.screen
    for name in (*race.record.entrants, *race.record.entrants):
        screen.controls["entrant"].input.value = name
        view.finish()
        screen.turn()
        assert view.state.entrant == name and not screen.error and f"around {loss_landscape._label(name)}" in str(screen.figure.plot_layout["annotations"])
    assert not caplog.records and not [w for w in recwarn if "truth value" in str(w.message)]
    view.close()
