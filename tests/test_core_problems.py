"""Every row of the table of problems: its settings, its metrics, a run of it and its record; and a race that changes the problem."""

from __future__ import annotations

import math

import numpy as np
import pytest

import rwp_edu
from rwp_edu.methods import METHODS
from rwp_edu.plotting import figures
from rwp_edu.problems import PROBLEMS
from rwp_edu.training import Record, Run
from rwp_edu.training.settings import COMMON, LIVE, Settings, parameters

SMALL = {
    "digits": {"width": 8, "train": 60, "batch": 20},
    "sensing": {"d": 8, "n": 60},
    "fine-tuning": {"width": 8, "shots": 10, "batch": 20},
    "images": {"width": 4, "train": 60, "batch": 20, "test": 50, "label_noise": 0.3},
}


def trained(problem, steps=12, **changes):
    run = Run(Settings(problem, **{"seeds": 2, "steps": steps, "record_every": 5, **SMALL[problem], **changes}))
    run.advance(steps)
    return run


SLOW = [pytest.param(name, marks=pytest.mark.slow) if row.engine == "one by one" else name for name, row in PROBLEMS.items()]


@pytest.fixture(scope="module", params=SLOW)
def run(request):
    return trained(request.param, methods=tuple(METHODS), k=2)


def test_a_row_speaks_of_settings_that_exist(run):
    row = run.record.problem
    assert set(row.here) <= set(COMMON)
    own = {p.name for p in row.parameters}
    assert not own & set(COMMON) and not own & set(LIVE) and all(not p.live for p in row.parameters)
    assert all(row.metric(name).name == name for name in row.panels) and len(row.panels) == 4


def test_every_slider_can_show_its_default(run):
    for name, row in parameters(run.settings.problem).items():
        if row.choices or row.type is str or name == "seed":
            continue
        low, high = row.slider
        assert row.low <= low < high <= row.high and low <= row.default <= high, name
        steps = math.log10(row.default / low) / 0.05 if row.log else (row.default - low) / row.step
        assert steps == pytest.approx(round(steps), abs=1e-3), name
        assert all(low <= value <= high for value, _ in row.ticks), name


def test_every_method_is_trained_and_measured(run):
    record, shape = run.record, (4, len(METHODS), 2)
    assert record.updates.tolist() == [0, 5, 10, 12]
    for metric in record.problem.metrics:
        values = getattr(record, metric.name)
        assert values.shape == shape and np.isfinite(values).all(), metric.name
        assert (values[0] == values[0, 0]).all(), "all methods of a seed start alike"
        assert metric.mean(values[-1, 0]) and metric.shown(values[-1, 0, 0])
    assert (record.diverged == -1).all()
    assert record.gradient_evaluations[-1, list(METHODS).index("sam")] == 24


def test_a_record_goes_through_a_file(run, tmp_path):
    loaded = Record.load(run.record.save(tmp_path / "record.json"))
    assert loaded.settings == run.record.settings and loaded.to_dict() == run.record.to_dict()
    for kind in ("profiles", "reference"):
        for name, values in getattr(run.record, kind).items():
            np.testing.assert_array_equal(getattr(loaded, kind)[name], values.astype(float))


def test_the_picture_has_every_panel(run):
    plan, data = figures.layout(run.record), figures.traces(run.record)
    assert len(data) == 4 * (3 * len(METHODS) + 2)
    for number, name in enumerate(run.record.problem.panels, 1):
        metric = run.record.problem.metric(name)
        axis = plan[f"yaxis{number if number > 1 else ''}"]
        assert (axis.get("type") == "log") is metric.log
        assert any(metric.title in note["text"] for note in plan["annotations"])
        (mean,) = [t for t in data if t["name"] == "SGD" and t.get("yaxis", "y1") == f"y{number}"]
        assert len(mean["x"]) == len(mean["y"]) > 0


def test_curves_that_are_not_over_time_and_the_truth():
    record = trained("sensing").record
    spectrum = record.profiles["spectrum"]
    assert spectrum.shape == (4, 2, 8) and (np.diff(spectrum) <= 0).all()
    np.testing.assert_allclose(spectrum.sum(2), record.nuclear[-1], rtol=1e-4)
    truth = record.reference
    np.testing.assert_allclose(truth["spectrum"].sum(1), truth["nuclear"], rtol=1e-4)
    assert (truth["spectrum"][:, 2:] < 1e-4 * truth["spectrum"][:, :1]).all(), "the truth has rank 2"


def test_a_logarithmic_band_is_that_of_the_logarithms():
    record = trained("sensing").record
    _, band, mean = figures.traces(record)[:3]
    logs = np.log10(record.distance[:, 0])
    np.testing.assert_allclose(mean["y"], 10 ** logs.mean(1))
    np.testing.assert_allclose(band["y"][:4], 10 ** (logs.mean(1) + logs.std(1, ddof=1)))


def test_what_does_not_fit_together():
    with pytest.raises(ValueError, match="rank must not exceed d, got rank=9, d=8"):
        Settings("sensing", d=8, rank=9)
    with pytest.raises(ValueError, match="unknown setting 'train'"):
        Settings("sensing", train=100)
    with pytest.raises(ValueError, match="unknown problem 'digit'; did you mean 'digits'"):
        Settings("digit")


def test_a_problem_pins_values_of_single_methods_that_an_entrant_may_pin_again():
    settings = Settings("sensing", methods="usam,usam:rho=0.002,sam", rho=0.3)
    assert [settings.of(e)["rho"] for e in settings.entrants] == [0.001, 0.002, 0.3]
    assert Settings(methods="usam", rho=0.3).of(Settings(methods="usam").entrants[0])["rho"] == 0.3


def test_another_problem_starts_from_its_own_defaults():
    changed = Settings(sigma=0.2, train=100, seeds=3).replace(problem="sensing", n=120)
    assert changed == Settings("sensing", n=120) and changed.lr == parameters("sensing")["lr"].default != Settings().lr
    assert changed.changed() == {"problem": "sensing", "n": 120}


def test_a_race_that_is_left_for_another_problem_waits():
    lab = rwp_edu.lab.race(methods="sgd,rwp", seeds=2, steps=20, sigma=0.15, **SMALL["digits"])
    lab.run(10)
    record, summary = lab.record, lab.summary
    lab.set(problem="sensing")
    assert lab.state.problem == "sensing" and lab.record.updates.tolist() == [0] and lab.ghost is None
    lab.run(10)
    lab.set(problem="digits")
    assert lab.record is record and lab.summary == summary and lab.state.sigma == 0.15 and lab.status == "paused"
    lab.run()
    assert lab.status == "finished" and lab.record.updates[-1] == 20
    lab.set(problem="sensing")
    assert lab.record.updates[-1] == 10


def test_the_sentence_of_matrix_sensing():
    lab = rwp_edu.lab.race(problem="sensing", methods="sgd,nso", seeds=3, n=180, sigma=0.12, steps=400)
    lab.run()
    assert lab.summary.startswith("After 400 updates NSO leads with 0.") and "a clear lead" in lab.summary
    assert "SGD fits its measurements best" in lab.summary
