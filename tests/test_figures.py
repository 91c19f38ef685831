"""Pictures are pure functions of records; what they show is what was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from rwp_edu.methods import METHODS
from rwp_edu.plotting import figures
from rwp_edu.training import Mark, Record, Run
from rwp_edu.training.settings import Settings


@pytest.fixture(scope="module")
def record():
    run = Run(Settings(seeds=3, steps=100))
    run.advance(50)
    run.set(sigma=0.2)
    run.advance(20)
    run.set(rho=0.1)
    run.advance(30)
    return run.record


def lines(record, **options):
    return [t for t in figures.traces(record, **options) if t["mode"] == "lines"]


def named(record, name, **options):
    return next(t for t in figures.traces(record, **options) if t["name"] == name)


def test_mean_and_band_are_those_of_the_record(record):
    accuracy = 100 * record.test_accuracy[:, 2]
    np.testing.assert_allclose(named(record, "RWP")["y"], accuracy.mean(1))
    band = named(record, "RWP, ±1 sd")["y"]
    np.testing.assert_allclose(band[: len(accuracy)], accuracy.mean(1) + accuracy.std(1, ddof=1))


def test_axis_of_gradients_moves_sam_to_the_right(record):
    updates = record.updates
    np.testing.assert_array_equal(named(record, "SAM", x="updates")["x"], updates)
    np.testing.assert_array_equal(named(record, "SAM", x="gradients")["x"], 2 * updates)
    np.testing.assert_array_equal(named(record, "RWP", x="gradients")["x"], updates)
    assert figures.layout(record, x="gradients")["xaxis"]["range"][1] == 200


def test_marks_are_on_the_curves_they_act_on(record):
    marks = named(record, "changes")
    assert sorted(set(marks["text"])) == ["ρ 0.4 → 0.1", "σ 0.1 → 0.2"]
    assert sum(text.startswith("ρ") for text in marks["text"]) == 1  # SAM alone
    assert sum(text.startswith("σ") for text in marks["text"]) == 3  # RWP, m-RWP, NSO
    assert set(marks["x"]) == {50, 70}
    assert len(figures.layout(record)["shapes"]) == 8


def test_a_gesture_leaves_one_mark():
    marks = [
        Mark(50, "sigma", 0.1, 0.11, 1),
        Mark(90, "sigma", 0.11, 0.15, 1),
        Mark(92, "rho", 0.4, 0.5, 2),
        Mark(93, "sigma", 0.15, 0.1, 3),
    ]
    assert figures.merged(marks) == [Mark(90, "sigma", 0.1, 0.15), Mark(92, "rho", 0.4, 0.5), Mark(93, "sigma", 0.15, 0.1)]
    assert figures.merged([Mark(1, "sigma", 0.1, 0.2, 1), Mark(2, "sigma", 0.2, 0.1, 1)]) == []
    assert figures.merged(before := [Mark(1, "sigma", 0.1, 0.2), Mark(2, "sigma", 0.2, 0.1)]) == before, "a record of an earlier version"


def test_changes_of_a_hand_are_one_gesture(monkeypatch):
    clock = iter(np.arange(0.0, 1e6, 0.5))
    monkeypatch.setattr("rwp_edu.utils.clock.now", lambda: next(clock))
    run = Run(Settings(methods="rwp,sam", seeds=1, steps=1000))
    run.background = True  # on a live screen
    run.advance(1)
    for sigma in (0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.17):
        run.set(sigma=sigma)
        run._moved = next(clock)
        run.updates += 60  # the training goes on meanwhile, at any pace
    assert [figures.mark_text(m) for m in figures.merged(run.record.marks)] == ["σ 0.1 → 0.17"] and len(run.record.marks) == 7
    run.set(rho=0.3)
    run.set(sigma=0.2)
    for _ in range(4):
        next(clock)
    run.updates += 1
    run.set(sigma=0.3)
    assert [m.new for m in figures.merged(run.record.marks)] == [0.17, 0.3, 0.2, 0.3]


def test_changes_by_a_program_are_gestures_of_their_own():
    run = Run(Settings(methods="rwp", seeds=1, steps=100))
    for sigma in (0.2, 0.3):
        run.advance(1)
        run.set(sigma=sigma)
    run.set(sigma=0.25)
    assert [figures.mark_text(m) for m in figures.merged(run.record.marks)] == ["σ 0.1 → 0.2", "σ 0.2 → 0.25"]
    assert [m.gesture for m in Record.from_dict(run.record.to_dict()).marks] == [1, 2, 2]


def test_labels_of_marks_do_not_overlap():
    marks = [Mark(10 * i, name, old, new, i) for i in range(1, 40) for name, old, new in [("kind", "published", "filter-wise"), ("sigma", 0.1, 0.15)][i % 2 :][:1]]
    labels = figures.mark_labels(marks, 400)
    assert len(labels) >= 12 and len({(row, text, at) for text, at, row, _ in labels}) == len(labels)
    spans = sorted((row, at - (anchor == "right") * (w := 0.03 * 400 * len(text)), w) for text, at, row, anchor in labels)
    for (row, left, width), (other, right, _) in zip(spans, spans[1:]):
        assert row != other or left + width <= right
    assert figures.ROW * figures.ROWS <= 1
    few = figures.mark_labels([Mark(50, "sigma", 0.1, 0.2, 1), Mark(300, "sigma", 0.2, 0.1, 2)], 400)
    assert [(at, anchor) for _, at, _, anchor in few] == [(50, "left"), (300, "right")]


def test_structure_does_not_depend_on_what_is_shown(record):
    names = [t["name"] for t in figures.traces(record)]
    assert names == [t["name"] for t in figures.traces(record, shown=("sgd",), smoothing=0.5, ghost=record, x="seconds")]


def test_ranges_only_grow():
    run = Run(Settings(seeds=2, steps=100, sigma=0.3))
    before = figures.layout(run.record)
    for _ in range(10):
        run.advance(10)
        after = figures.layout(run.record)
        for axis in ("yaxis", "yaxis2", "yaxis3", "yaxis4"):
            low, high = after[axis]["range"]
            assert low <= before[axis]["range"][0] and high >= before[axis]["range"][1]
        before = after


def test_smoothing_starts_at_the_first_value_and_keeps_constants():
    y = np.array([1.0, 1.0, 2.0])
    np.testing.assert_allclose(figures.smooth(y, 0.5), [1.0, 1.0, 1.5])
    np.testing.assert_array_equal(figures.smooth(y, 0.0), y)


def test_flatness_that_is_measured_now_and_then_is_a_line_smoothed_like_others():
    run = Run(Settings(methods="rwp", seeds=2, steps=60, flatness_every=20))
    run.advance(60)
    assert np.isnan(run.record.trace).any()

    def third(smoothing=0.0):
        return {t["name"]: t["y"] for t in figures.traces(run.record, third="trace", ghost=run.record, smoothing=smoothing) if t.get("yaxis") == "y3"}

    sharp, smoothed = third(), third(0.9)
    assert len(sharp["RWP"]) == 4 and np.isfinite(sharp["RWP"]).all() and smoothed["RWP"][0] == sharp["RWP"][0]
    assert np.ptp(smoothed["RWP"]) < 0.5 * np.ptp(sharp["RWP"])
    np.testing.assert_array_equal(sharp["RWP, former run"], sharp["RWP"])


def test_marks_lie_on_the_curve_over_the_loss_too():
    run = Run(Settings(methods="sgd", seeds=2, steps=40))
    run.advance(20)
    run.set(lr=0.05)
    run.advance(20)
    x, y = (named(run.record, "changes", x="loss")[axis] for axis in "xy")
    assert x == [run.record.train_loss[2, 0].mean()] and y == [100 * run.record.test_accuracy[2, 0].mean()]


def test_a_diverged_run_has_a_marker_and_no_hole():
    run = Run(Settings(methods="sgd,sgd:lr=1000000", seeds=2, steps=30))
    run.advance(30)
    assert any("2 of 2 runs diverged" in text for text in named(run.record, "changes")["text"])
    assert np.isfinite(named(run.record, "SGD (η 1e+06)")["y"]).all()


def test_colours_and_dashes_tell_entrants_apart():
    entrants = ("sam:rho=0.2", *METHODS, "rwp:sigma=0.2", "rwp:sigma=0.3")
    looks = figures.looks(entrants)
    assert len(set(looks.values())) == len(entrants)
    assert looks["rwp"][0] == looks["rwp:sigma=0.3"][0]
    assert figures.look("rwp:sigma=0.5", entrants) not in looks.values()
    for n in range(len(entrants)):
        assert figures.looks(entrants[:n]).items() <= looks.items(), "those that follow change nothing"


@pytest.mark.parametrize("options", [{}, {"x": "seconds"}, {"x": "gradients", "smoothing": 0.5}, {"shown": ()}])
def test_the_figure_is_valid_plotly(record, options):
    figure = figures.race(record, **options)
    assert len(figure.data) == 4 * (3 * 5 + 2)
