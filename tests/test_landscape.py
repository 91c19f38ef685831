"""The lab of a surface beside its smoothed twin, without a browser; its exercise."""

from __future__ import annotations

import asyncio
import math
import re

import numpy as np
import pytest
import torch
from waiting import rest

import rwp_edu
from rwp_edu.lab import LandscapeState, exercises, landscape
from rwp_edu.lab.base.controls import Control, Maker
from rwp_edu.lab.explorers import landscape as terrain
from rwp_edu.problems.basins import basin_of, minima
from rwp_edu.problems.surface_descent import descend
from rwp_edu.problems.surfaces import SHARP_AND_WIDE, SURFACES, grid
from rwp_edu.utils.parameters import Parameter


@pytest.fixture(scope="module")
def lab():
    """The opening picture at σ = ρ = 0.2, finished; nobody changes it."""
    lab = landscape(sigma=0.2)
    lab.finish()
    return lab


def named(lab, name):
    return [trace for trace in lab.traces() if trace["name"] == name]


# The state


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sigma": 0.123, "methods": "sgd,nso:k=2"},
        {"surface": "himmelblau"},
        {"surface": "rosenbrock", "x": -0.5, "y": 0.0, "spread": 0.4, "lr": 0.01, "gradient_noise": 1.0},
        {"surface": "rescaling", "steps": 700, "seed": 3, "lam": 0.25},
    ],
)
def test_the_line_of_python_opens_the_same_picture(changes):
    lab = landscape(**changes)
    again = eval(lab.snippet, {"rwp_edu": rwp_edu})
    assert again.state == lab.state and all(getattr(lab.state, n) == v for n, v in changes.items() if n != "methods")
    assert LandscapeState(**lab.state.to_dict()) == lab.state and hash(again.state) == hash(lab.state)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"methods": "sgd,smam"}, "unknown method 'smam'; did you mean"),
        ({"methods": ()}, "at least one"),
        ({"surface": "himmelbau"}, "surface must be one of sharp and wide, .*himmelblau.*, got 'himmelbau'"),
        ({"sigma": -0.1}, "sigma must be a finite number >= 0, got -0.1"),
        ({"steps": 1.5}, "steps must be a whole number from 1 to 10000, got 1.5"),
        ({"sigam": 0.1}, "unknown setting 'sigam'; did you mean 'sigma'"),
    ],
)
def test_impossible_states_are_refused_and_change_nothing(changes, says):
    lab = landscape(sigma=0.3)
    with pytest.raises(ValueError, match=says):
        lab.set(**changes)
    assert lab.state == LandscapeState(sigma=0.3)
    with pytest.raises(ValueError, match=says):
        landscape(**changes)


def test_a_surface_brings_its_start_and_learning_rate_and_nothing_else():
    state = LandscapeState(sigma=0.3, methods="sgd,rwp", steps=50, lr=0.02).replace(surface="rosenbrock")
    assert (state.x, state.y, state.lr) == (-1.0, 1.5, 0.0005) and (state.sigma, state.steps) == (0.3, 50)
    assert state.methods == ("sgd", "rwp")
    assert state.replace(surface="rosenbrock", x=0.3).x == 0.3 and state.replace(sigma=0.1).lr == 0.0005
    assert state.replace(surface="sharp and wide").lr == LandscapeState().lr


@pytest.mark.slow
@pytest.mark.parametrize("surface", SURFACES)
def test_the_starts_lie_in_the_picture_and_the_runs_stay_finite(surface):
    lab = landscape(surface=surface, steps=60)
    (box,) = named(lab, "starts")
    for axis, ends in zip("xy", lab.surface.view):
        assert ends[0] <= min(box[axis]) <= max(box[axis]) <= ends[1]
    lab.finish()
    assert all(torch.isfinite(run.w).all() and (run.left < 0).all() for run in lab._runs.values())


# The picture


def _height(x, y, sigma=0.0):
    """Sharp and wide, smoothed, in NumPy."""
    v, total = sigma**2, 0.025 * (x**2 + y**2 + 2 * sigma**2)
    for a, s, c in ((1.0, 0.9, 0.5), (0.8, 0.12, -0.5)):
        total = total - a * s**2 / (s**2 + v) * np.exp(-((x - c) ** 2 + y**2) / 2 / (s**2 + v))
    return total


def test_the_contours_are_those_of_the_surface_and_of_its_smoothed_twin(lab):
    left, right = named(lab, "surface")
    x, y = np.meshgrid(left["x"], left["y"])
    np.testing.assert_allclose(left["z"], _height(x, y), atol=1e-12)
    np.testing.assert_allclose(right["z"], _height(x, y, 0.2), atol=1e-12)
    assert (left["xaxis"], right["xaxis"], left["yaxis"], right["yaxis"]) == ("x1", "x2", "y1", "y2")
    assert left["contours"] == right["contours"] and left["zmin"] == right["zmin"]  # one scale of heights


@pytest.mark.parametrize("surface", ["himmelblau", "rosenbrock", "rescaling"])
def test_high_surfaces_are_drawn_by_their_logarithm(surface):
    lab = landscape(surface=surface, sigma=0.3)
    for trace, shown in zip(named(lab, "surface"), (lab.surface, lab.smoothed)):
        x, y = np.meshgrid(trace["x"], trace["y"])
        offset = 10 ** trace["z"] - shown.value(torch.from_numpy(np.stack([x, y], -1))).numpy()
        assert np.ptp(offset) < 1e-9 * np.abs(offset).max() + 1e-9


@pytest.mark.parametrize("surface", SURFACES)
def test_stars_are_minima(surface):
    lab = landscape(surface=surface, sigma=0.15, steps=1)
    for star, shown in zip(named(lab, "minima"), (lab.surface, lab.smoothed)):
        at = torch.from_numpy(np.stack([star["x"], star["y"]], -1))
        assert torch.linalg.vector_norm(shown.gradient(at), dim=-1).sum() < 1e-6
        assert (torch.linalg.eigvalsh(shown.hessian(at)) > 0).all()
        assert len(at) == len(minima(shown))


def test_the_paths_start_in_the_box_and_end_where_the_runs_are(lab):
    (box,) = named(lab, "starts")
    left, right, low, high = min(box["x"]), max(box["x"]), min(box["y"]), max(box["y"])
    assert (left, right, low, high) == pytest.approx((-0.9, -0.1, -0.4, 0.4))
    for method, label in (("rwp", "RWP"), ("m-rwp", "m-RWP")):
        (line,), (dots,) = named(lab, label), named(lab, f"{method} now")
        x, y = (np.split(line[axis], np.flatnonzero(np.isnan(line[axis]))) for axis in "xy")
        paths = [np.stack([a[np.isfinite(a)], b[np.isfinite(b)]], -1) for a, b in zip(x, y)][:-1]
        wanted = [(left, low), (right, low), ((left + right) / 2, 0), (left, high), (right, high)]
        np.testing.assert_allclose([path[0] for path in paths], wanted, atol=1e-6)
        ends = lab._runs[method].w
        np.testing.assert_allclose([path[-1] for path in paths], ends[[0, 8, 40, 72, 80]], atol=1e-6)
        assert (
            len(dots["x"]) == 81
            and torch.cdist(torch.tensor(np.stack([dots["x"], dots["y"]], -1)), ends.double()).min(1)[0].max() < 1e-6
        )


def test_fractions_bars_and_sentence_say_where_the_runs_ended(lab):
    starts = grid(((-0.9, -0.1), (-0.4, 0.4)), 9, 9).repeat(4, 1)
    for method, hyper in (("sam", {"rho": 0.2}), ("nso", {"kind": "isotropic", "sigma": 0.2})):
        w = descend(SHARP_AND_WIDE, method, starts, steps=600, lr=0.01, gradient_noise=1.0, **hyper).w
        found = basin_of(SHARP_AND_WIDE, w)
        assert lab.fractions[method] == [(found == k).double().mean().item() for k in (0, 1, -1)]
    assert tuple(lab.fractions) == lab.state.methods
    bars = [trace for trace in lab.traces() if trace["type"] == "bar"]
    assert sum(np.array(bar["x"]) for bar in bars) == pytest.approx(np.full(5, 100.0))
    labels = {"sgd": "SGD", "sam": "SAM", "rwp": "RWP", "nso": "NSO", "m-rwp": "m-RWP"}
    said = lab.text[lab.text.index("end:") :]
    for name, (sharp, wide, _) in lab.fractions.items():
        row = bars[0]["y"].index(labels[name])
        assert (bars[0]["x"][row], bars[1]["x"][row]) == pytest.approx((100 * sharp, 100 * wide))
        assert bars[1]["text"][row] == (f"{100 * wide:.0f} %" if wide >= 0.05 else "")
        assert re.search(rf"(?<![\w-]){labels[name]} (\d+) %", said)[1] == f"{100 * sharp:.0f}"
    assert "(−0.49, 0.00)" in bars[0]["name"] and "(0.48, 0.00)" in bars[1]["name"]
    stars = named(lab, "minima")[0]["marker"]["color"]
    assert [bar["marker"]["color"] for bar in bars[:2]] == stars[:2]


def test_the_sentence_counts_the_minima_of_the_smoothed_surface(lab):
    assert "σ = 0.2: the smoothed loss has 1 minimum;" in lab.text
    assert "has 2 minima;" in landscape(sigma=0.15).text
    assert "no isolated minima" in landscape(surface="rescaling", sigma=0.0).text


def test_without_two_minima_the_sentence_has_means_at_the_end():
    lab = landscape(surface="rescaling", methods="sgd,rwp", sigma=0.3, steps=200)
    lab.finish()
    w = lab._runs["rwp"].w.double()
    loss, trace = ((w.prod(1) - 1) ** 2 / 2).mean(), w.square().sum(1).mean()
    assert f"RWP {loss:.3g} ({trace:.3g})" in lab.text


def test_all_runs_that_start_in_a_well_without_noise_end_in_it():
    lab = landscape(x=0.45, spread=0.05, gradient_noise=0.0, sigma=0.0, methods="sgd,rwp", steps=100)
    lab.finish()
    assert lab.fractions == {"sgd": [0.0, 1.0, 0.0], "rwp": [0.0, 1.0, 0.0]}
    assert "elsewhere" not in lab.layout()["annotations"][2]["text"]


# Work in slices


def test_slices_are_one_go(monkeypatch):
    def done(slice_):
        monkeypatch.setattr(terrain, "SLICE", slice_)
        lab = landscape(sigma=0.2, methods="sam,nso,arwp", steps=110)
        turns = 1
        while lab.work():
            turns += 1
        return lab, turns

    (one, few), (many, turns) = done(1e9), done(0.0)
    assert few <= 4 < turns
    assert one.fractions == many.fractions and one.text == many.text
    for name, run in one._runs.items():
        assert torch.equal(run.w, many._runs[name].w) and torch.equal(run.path, many._runs[name].path)
        assert run.updates == many._runs[name].updates == 110


def test_a_change_on_the_way_begins_again_and_the_old_bars_stay_until_the_new_ones_are_known(monkeypatch):
    monkeypatch.setattr(terrain, "SLICE", 0.0)
    lab = landscape(methods="sgd,rwp", sigma=0.0, steps=40)
    lab.finish()
    before = lab.fractions
    lab.set(sigma=0.3)
    assert lab.work() and lab.fractions == before and "end:" not in lab.text
    lab.set(sigma=0.4)
    lab.finish()
    fresh = landscape(methods="sgd,rwp", sigma=0.4, steps=40)
    fresh.finish()
    assert lab.fractions == fresh.fractions and torch.equal(lab._runs["rwp"].w, fresh._runs["rwp"].w)
    lab.set(surface="double well")
    lab.traces()
    assert lab.fractions == {}


def test_a_new_draw_is_other_noise_and_the_same_one_is_the_same():
    ends = []
    for seed in (0, 0, 1):
        lab = landscape(methods="sgd,rwp", steps=20, seed=seed)
        lab.finish()
        ends.append(torch.stack([run.w for run in lab._runs.values()]))
    assert torch.equal(ends[0], ends[1]) and not torch.isclose(ends[0], ends[2]).all(-1).any()


def test_entrants_with_values_of_their_own():
    lab = landscape(methods="nso,nso:k=3", sigma=0.2, steps=10)
    lab.finish()
    one, three = lab._runs.values()
    assert (one.settings["k"], three.settings["k"]) == (1, 3) and not torch.equal(one.w, three.w)


# The pointer


def test_a_click_moves_the_box_and_the_pointer_reads_both_surfaces():
    lab = landscape(sigma=0.2, methods="sgd", steps=1)
    lab.finish()
    runs = lab._runs["sgd"]
    lab.hovered(-0.5, 0.1)
    crosses = named(lab, "cursor")
    assert [(t["x"].tolist(), t["y"].tolist()) for t in crosses] == [([-0.5], [0.1])] * 2
    assert [t["text"][0] for t in crosses] == [f"f = {_height(-0.5, 0.1):.3g}", f"F = {_height(-0.5, 0.1, 0.2):.3g}"]
    assert lab._runs["sgd"] is runs and not lab.work()  # looking starts nothing
    lab.clicked(np.float64(0.123456), -0.25)
    assert (lab.state.x, lab.state.y) == (0.123, -0.25)
    (box,) = named(lab, "starts")
    assert (min(box["x"]), max(box["y"])) == pytest.approx((0.123 - 0.4, -0.25 + 0.4))


# The sliders


def test_ticks_are_where_the_smoothed_surface_changes():
    (lower, first), (gone, second) = landscape().rows["sigma"].ticks
    assert (first, second) == ("wide lower", "sharp gone")
    heights = SHARP_AND_WIDE.smoothed(lower).value(minima(SHARP_AND_WIDE.smoothed(lower)))
    assert len(heights) == 2 and abs(heights[0] - heights[1]) < 1e-6
    assert [len(minima(SHARP_AND_WIDE.smoothed(gone + e))) for e in (-1e-3, 1e-3)] == [2, 1]
    ((scale, _),) = landscape(surface="double well").rows["sigma"].ticks
    assert scale == pytest.approx(1 / math.sqrt(3), abs=1e-6)
    assert all(
        landscape(surface=name).rows["sigma"].ticks == () for name in ("quadratic", "rosenbrock", "himmelblau", "rescaling")
    )


def test_sliders_follow_the_surface_and_only_what_acts_is_shown():
    rows = landscape(surface="himmelblau").rows
    assert rows["x"].slider == (-5.5, 5.5) and rows["sigma"].slider == (0.0, 3.0)
    assert {"sigma", "x", "lr"} <= set(landscape(methods="sgd").shown)
    assert not {"rho", "lam", "k"} & set(landscape(methods="sgd").shown)
    assert "rho" in landscape(methods="sam").shown and "lam" in landscape(methods="m-rwp").shown


def test_a_value_beside_the_places_of_a_slider_is_one_of_them():
    asked, row = [], Parameter("sigma", "σ", 0.1, "scale", slider=(0.0, 0.4), step=0.01, title="scale", ticks=((0.1, "here"),))
    control = Control(row, 0.123, lambda *what: asked.append(what), Maker())
    assert control.input.options[control.input.index][0] == "0.123" and asked == []
    control.input.value = 0.12
    control.input.value = 0.13
    assert asked == [("sigma", 0.12), ("sigma", 0.13)]
    control.show(0.124)
    assert control.input.value == 0.124 and len(asked) == 2


def test_other_bounds_make_another_slider():
    """The old one would answer new bounds with its old value, cut to them, as if a hand had moved it."""
    asked, row = [], Parameter("x", "", 0.0, "place", low=-10, slider=(-1.0, 1.0), title="place", ticks=((0.5, "half"),))
    control = Control(row, 0.5, lambda *what: asked.append(what), Maker())
    before = control.input
    control.show(-3.0, Parameter("x", "", 0.0, "place", low=-10, slider=(-5.0, 5.0), title="place", ticks=((2.5, "here"),)))
    assert control.input is not before and control.input in control.box.children
    assert (control.places[0], control.places[-1], control.input.value) == (-5, 5, -3) and "left:75.0%" in control.ticks.value
    before.value = 1.0
    assert asked == []
    control.show(8.0)
    assert (control.places[0], control.places[-1], control.input.value) == (-5, 8, 8)
    control.input.value = 5.0
    assert asked == [("x", 5.0)]


# The screen


def test_screen_follows_sliders_chips_menu_and_pointer():
    async def scene():
        lab = landscape(methods="sgd,rwp", sigma=0.0, steps=20)
        screen = lab.screen
        screen.show()
        await rest(screen)
        seen = [t["z"].sum() for t in screen.figure.data if t["name"] == "surface"]
        runs = lab._runs["rwp"]

        screen.controls["sigma"].input.value = 0.3
        await rest(screen)
        now = [t["z"].sum() for t in screen.figure.data if t["name"] == "surface"]
        assert lab.state.sigma == 0.3 and lab._runs["rwp"] is not runs and lab._runs["rwp"].updates == 20
        assert now[0] == seen[0] and now[1] != seen[1] and "σ = 0.3" in screen.says.value
        assert "sharp gone" in screen.controls["sigma"].ticks.value and "rho" not in screen.controls

        chip = next(c.children[1] for c in screen.chips.box.children if c.children[1].description.startswith("SAM"))
        chip.value = True
        await rest(screen)
        assert lab.state.methods == ("sgd", "rwp", "sam") and screen.controls["rho"].box in screen.left.children
        assert "SAM" in {t["name"] for t in screen.figure.data} and "SAM" in screen.figure.data[-1]["y"]
        next(c.children[1] for c in screen.chips.box.children if c.children[1].description.startswith("SGD")).value = False
        await rest(screen)
        assert lab.state.methods == ("rwp", "sam") and "SGD" not in {t["name"] for t in screen.figure.data}

        screen.controls["surface"].input.value = "himmelblau"
        await rest(screen)
        x = screen.controls["x"].input
        assert (x.options[0][1], x.options[-1][1], x.value) == (-5.5, 5.5, 0.0) and screen.controls["spread"].input.value == 3.0
        assert screen.figure.plot_layout["xaxis2"]["range"] == [-5.5, 5.5] and screen.controls["sigma"].places[-1] == 3.0
        assert screen.controls["sigma"].ticks.value == "" and lab.state.spread == 3.0

        screen.from_page({"type": "hover", "trace": "surface", "x": 1.0, "y": 2.0})
        screen.from_page({"type": "click", "trace": "surface", "x": 1.0, "y": 2.0})
        await rest(screen)
        assert (lab.cursor, lab.state.x, x.value) == ((1.0, 2.0), 1.0, 1.0)
        assert [t["text"][0][:4] for t in screen.figure.data if t["name"] == "cursor"] == ["f = ", "F = "]

        screen.store("toggle", ("rwp", False))
        screen.store("toggle", ("sam", False))
        await rest(screen)
        assert lab.state.methods == ("sam",) and "at least one" in screen.status.value
        screen._task.cancel()

    asyncio.run(scene())


# What there is to see


def _surely_more(one, other, by=0.0, n=324):
    """Do two fractions of n runs differ by more than ``by`` and three standard errors?"""
    return one - other - by > 3 * math.sqrt((one * (1 - one) + other * (1 - other) + 1 / n) / n)


def test_at_a_radius_of_a_fifth_random_perturbation_has_left_and_sam_and_mixed_have_not(lab):
    share = {name: found[0] for name, found in lab.fractions.items()}
    assert _surely_more(share["sam"], share["rwp"], by=0.5) and _surely_more(share["sam"], share["nso"], by=0.5)
    assert _surely_more(share["m-rwp"], share["rwp"], by=0.5) and _surely_more(share["sgd"], share["rwp"], by=0.5)
    (dots,) = named(lab, "sam now")
    assert np.mean(np.hypot(dots["x"] + 0.193, dots["y"]) < 0.1) > 0.5  # SAM hovers over the pass, in neither minimum


def test_at_a_larger_radius_sam_has_left_too_and_mixed_has_not():
    lab = landscape(sigma=0.4, rho=0.4, methods="sam,m-rwp")
    lab.finish()
    assert _surely_more(lab.fractions["m-rwp"][0], lab.fractions["sam"][0], by=0.4)


# The exercise


def _well(depth, width, sigma):
    v = width**2 + sigma**2
    return depth * width**2 / v, math.sqrt(v)


@pytest.mark.parametrize(
    "attempt, says",
    [
        (_well, "Right."),
        (lambda a, s, sigma: torch.tensor(_well(a, s, sigma)), "Right."),
        (lambda a, s, sigma: (a, s), "the width is unchanged"),
        (lambda a, s, sigma: (a, s + sigma), "variances add"),
        (lambda a, s, sigma: (a, s**2 + sigma**2), "its root is the width"),
        (lambda a, s, sigma: (a, math.hypot(s, sigma)), "the depth is unchanged"),
        (lambda a, s, sigma: (a * s / math.hypot(s, sigma), math.hypot(s, sigma)), "depth in one dimension"),
        (lambda a, s, sigma: (a * (s**2 + sigma**2) / s**2, math.hypot(s, sigma)), "turn the fraction over"),
        (lambda a, s, sigma: (a * s**2, math.hypot(s, sigma)), "divide the depth"),
        (lambda a, s, sigma: (0.1, math.hypot(s, sigma)), "the depth should be 0.2118; it returns 0.1000"),
        (lambda a, s, sigma: (_well(a, s, sigma)[0], math.nan), "the width should be 0.2332"),
        (lambda a, s, sigma: a, "return two numbers"),
        (lambda a, s, sigma: None, "return two numbers"),
    ],
)
def test_exercise_says_what_is_wrong(attempt, says, capsys):
    assert exercises.check_smoothed_well(attempt) is (says == "Right.")
    assert says in capsys.readouterr().out
