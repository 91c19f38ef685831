"""Sweeps: the plan, the engines, what is kept, what is chosen, the figures, the command."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rwp_edu.settings import Settings
from rwp_edu.sweep import plan, sweep
from rwp_edu.sweep.engines import ENGINES
from rwp_edu.sweep.figures import heat_map, parallel, table
from rwp_edu.sweep.plan import GROUP, groups
from rwp_edu.sweep.results import Row, Sweep
from rwp_edu.training import Record, Run

GRID = {"sigma": [0.05, 0.1], "lam": [0.3, 0.5]}
SHORT = {"seeds": 2, "steps": 3}


# ------------------------------------------------------------------------------------------------------------------ plan


def test_each_method_meets_the_parameters_that_act_on_it():
    names = [point.entrant for point in plan("digits", "sgd,rwp,m-rwp", GRID, **SHORT)]
    assert names == [
        "sgd",
        "rwp:sigma=0.05",
        "rwp:sigma=0.1",
        *(f"m-rwp:sigma={s}:lam={lam}" for s in (0.05, 0.1) for lam in (0.3, 0.5)),
    ]


def test_settings_that_cannot_be_pinned_have_runs_of_their_own():
    points = plan("digits", "sgd,rwp", {"sigma": [0.1, 0.2], "label_noise": "0,0.3", "batch": [10, 20, 30]}, **SHORT)
    assert len(points) == 2 * 3 * (1 + 2) and len({point.key for point in points}) == len(points)
    made = groups(points)
    assert len(made) == 6 and all(len(group) == 3 for group in made)
    assert {(g[0].settings.label_noise, g[0].settings.batch) for g in made} == {
        (p, b) for p in (0.0, 0.3) for b in (10, 20, 30)
    }


def test_groups_are_bounded_and_lose_nothing():
    points = plan("digits", "rwp", {"sigma": [k / 100 for k in range(1, 2 * GROUP + 4)]}, **SHORT)
    made = groups(points)
    assert [len(group) for group in made] == [GROUP, GROUP, 3] and [p for group in made for p in group] == points


def test_the_key_depends_on_what_the_result_depends_on():
    def key(**options):
        (point,) = plan("digits", "rwp", {"sigma": [0.1]}, **{**SHORT, **options})
        return point.key

    assert key() == key() and len({key(), key(seed=1), key(steps=4), key(seeds=3), key(lr=0.2)}) == 5


@pytest.mark.parametrize(
    ("grid", "options", "says"),
    [
        ({"sigmaa": [0.1]}, {}, "sigma"),
        ({"seeds": [1]}, {}, "parameter of a grid"),
        ({"sigma": []}, {}, "empty"),
        ({"sigma": [-1]}, {}, "sigma"),
        ({"eta": [0.1]}, {}, "acts on none of the methods"),
        ({"sigma": [0.1]}, {"engine": "rey"}, "ray"),
        ({"sigma": [0.1]}, {"engine": "processes", "workers": 0}, "workers"),
        ({"sigma": [0.1]}, {"address": "auto"}, "engine ray"),
        ({"batch": [10]}, {"batch": 20}, "given twice"),
    ],
)
def test_errors_come_before_any_work(grid, options, says, monkeypatch):
    monkeypatch.setitem(ENGINES, "batched", lambda *a: pytest.fail("work began"))
    with pytest.raises(ValueError, match=says):
        sweep("digits", "sgd,rwp", grid, **{**SHORT, **options})


def test_an_engine_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("rwp_edu.sweep.engines.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"rwp_edu\[ray\]"):
        sweep("digits", "sgd", {"lr": [0.1]}, engine="ray", **SHORT)


# --------------------------------------------------------------------------------------------------------------- engines


def test_a_sweep_gives_what_the_run_gives():
    found = sweep("digits", "sgd,rwp", {"sigma": [0.05, 0.1]}, seeds=2, steps=12)
    run = Run(Settings("digits", methods=["sgd", "rwp:sigma=0.05", "rwp:sigma=0.1"], seeds=2, steps=12))
    run.advance(12)
    for k, row in enumerate(found.rows):
        assert np.array_equal(row.last("train_loss"), run.record.rows[-1]["train_loss"][k])


@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "batched"])
def test_all_engines_give_the_same_records(engine, monkeypatch):
    pytest.importorskip({"processes": "joblib", "ray": "ray"}[engine])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    grid = {"sigma": [0.05, 0.1, 0.2], "batch": [20, 30]}
    here, there = (
        sweep("digits", "sgd,m-rwp", grid, seeds=2, steps=10, **options) for options in ({}, {"engine": engine, "workers": 2})
    )
    assert len(there.finished) == len(there.rows) == 8
    for a, b in zip(here.rows, there.rows):
        assert a.point == b.point
        for metric in ("train_loss", "test_accuracy"):
            assert np.array_equal(a.last(metric), b.last(metric))


def test_one_setting_that_fails_leaves_the_others(monkeypatch):
    from rwp_edu.sweep import engines

    real = engines.work

    def work(task):
        return {"failed": "RuntimeError: broken on purpose"} if "sigma=0.1" in task else real(task)

    monkeypatch.setattr(engines, "work", work)
    found = sweep("digits", "sgd,rwp", {"sigma": [0.05, 0.1, 0.2]}, **SHORT)
    assert [row["status"] for row in found.results()] == ["finished", "finished", "failed", "finished"]
    assert "on purpose" in found.results()[2]["why"]


def test_an_impossible_setting_is_recorded():
    found = sweep("digits", "sgd,lpf-sgd", {"k": [2, 4]}, batch=3, **SHORT)
    assert [row["status"] for row in found.results()] == ["finished", "finished", "failed"]
    assert "choose batch >= k" in found.results()[2]["why"]


# ------------------------------------------------------------------------------------------------------------------ kept


def test_what_is_finished_is_not_run_again_and_the_grid_may_grow(tmp_path, monkeypatch):
    first = sweep("digits", "sgd,rwp", {"sigma": [0.05]}, out=tmp_path, **SHORT)
    tasks = []
    real = ENGINES["batched"]
    monkeypatch.setitem(ENGINES, "batched", lambda todo, *more: (tasks.extend(todo), real(todo, *more))[1])
    again = sweep("digits", "sgd,rwp", {"sigma": [0.05]}, out=tmp_path, **SHORT)
    assert tasks == [] and len(again.finished) == 2
    assert np.array_equal(first.rows[1].last("train_loss"), again.rows[1].last("train_loss"))
    more = sweep("digits", "sgd,rwp", {"sigma": [0.05, 0.1]}, out=tmp_path, **SHORT)
    assert len(more.finished) == 3 and [json.loads(task)["methods"] for task in tasks] == [["rwp:sigma=0.1"]]


def test_a_broken_file_is_left_alone_and_its_settings_run_again(tmp_path):
    sweep("digits", "sgd", {"lr": [0.1]}, out=tmp_path, **SHORT)
    (kept,) = tmp_path.glob("run-*.json")
    kept.write_text(kept.read_text()[:100])
    (tmp_path / "run-other.json").write_text("not a record")
    assert len(sweep("digits", "sgd", {"lr": [0.1]}, out=tmp_path, **SHORT).finished) == 1
    assert Record.load(kept).entrants and (tmp_path / "run-other.json").read_text() == "not a record"


COMMAND = [sys.executable, "-m", "rwp_edu", "sweep"]
LONG = [
    "digits",
    "--methods",
    "rwp",
    "--grid",
    "sigma=0.1",
    "--grid",
    "batch=10,15,20,25,30,35",
    "--seeds",
    "2",
    "--steps",
    "150",
]


def stopped(folder, how):
    """A sweep that is stopped by a signal once its first group is on the disk; its standard error and exit status."""
    process = subprocess.Popen(
        [*COMMAND, *LONG, "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(4000):
        if list(folder.glob("run-*.json")) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(how)
    said = process.communicate(timeout=120)
    return said, process.returncode


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_sweep_that_was_stopped_goes_on(how, tmp_path):
    (_, err), code = stopped(tmp_path, how)
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("run-*.json")}
    assert 1 <= len(kept) < 6, "it was over before it was stopped"
    if how == signal.SIGINT:
        assert code == 130 and "the same command goes on" in err and (tmp_path / "sweep.json").exists()
    else:
        assert code == -signal.SIGKILL
    done = subprocess.run([*COMMAND, *LONG, "--out", str(tmp_path), "--json"], capture_output=True, text=True, check=True)
    assert [row["status"] for row in json.loads(done.stdout)["results"]] == ["finished"] * 6
    assert all((tmp_path / name).read_bytes() == content for name, content in kept.items())
    assert len(list(tmp_path.glob("run-*.json"))) == 6


# ---------------------------------------------------------------------------------------------------------------- chosen


def made(scores, **options):
    """A sweep over sigma of RWP with made-up accuracies: one row of seeds per value."""
    sigmas = [round(0.1 * (k + 1), 1) for k in range(len(scores))]
    points = plan("digits", "rwp", {"sigma": sigmas}, seeds=len(scores[0]), steps=1)
    rows = []
    for point, values in zip(points, scores):
        values = np.array([values], float)
        record = Record(point.settings, diverged=np.where(np.isfinite(values), -1, 1))
        record.rows.append({"updates": 1, "test_accuracy": values, "gradient_evaluations": np.ones(1), "seconds": np.ones(1)})
        rows.append(Row(point, record))
    return Sweep("digits", rows, grid={"sigma": sigmas}, **options)


def test_seeds_that_choose_do_not_report():
    found = made([[0.9, 0.9, 0.1, 0.2], [0.5, 0.5, 0.8, 0.8]])
    assert found.chosen()["rwp"] is found.rows[0]
    told = found.results()[0]
    assert told["chosen"] and told["chooses_mean"] == pytest.approx(0.9) and told["reports_mean"] == pytest.approx(0.15)
    assert told["reports_se"] == pytest.approx(0.05) and "had no part" in found.rule


def test_diverged_settings_are_chosen_last_and_one_seed_chooses_nothing():
    assert made([[np.nan, 0.9, 0.9, 0.9], [0.5] * 4]).chosen()["rwp"].point.values == (("sigma", 0.2),)
    assert made([[0.9], [0.8]]).chosen() == {} and "nothing can be chosen" in made([[0.9]]).rule


def test_the_best_at_the_end_of_a_grid_is_pointed_out():
    found = made([[0.1] * 4, [0.5] * 4, [0.9] * 4])
    assert found.on_the_edge(found.rows[2]) == ["sigma"] and found.on_the_edge(found.rows[1]) == []


# --------------------------------------------------------------------------------------------------------------- figures


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    arguments = [
        *COMMAND,
        "digits",
        "--methods",
        "sgd,m-rwp",
        "--grid",
        "sigma=0.05,0.1,0.2",
        "--grid",
        "lam=0.3,0.5",
        "--seeds",
        "4",
        "--steps",
        "20",
    ]
    done = subprocess.run([*arguments, "--out", str(folder)], capture_output=True, text=True, check=True)
    return (
        folder,
        done,
        sweep("digits", "sgd,m-rwp", {"sigma": "0.05,0.1,0.2", "lam": "0.3,0.5"}, seeds=4, steps=20, out=folder),
    )


def test_the_heat_map_shows_the_scores(real):
    found = real[2]
    x, y, z = table(found, "m-rwp", "sigma", "lam")
    assert (x, y) == ([0.05, 0.1, 0.2], [0.3, 0.5]) and np.isfinite(z).all()
    row = next(r for r in found.rows if dict(r.point.values) == {"sigma": 0.2, "lam": 0.3})
    assert z[0, 2] == pytest.approx(100 * row.last("test_accuracy").mean())
    fig = heat_map(found, "m-rwp", "sigma", "lam")
    chosen = dict(found.chosen()["m-rwp"].point.values)
    assert (fig.data[1].x, fig.data[1].y) == ((str(chosen["sigma"]),), (str(chosen["lam"]),))
    with pytest.raises(ValueError, match="sigma"):
        table(found, "m-rwp", "sigmaa", "lam")


def test_parallel_coordinates_have_a_line_per_setting(real):
    method, sigma, lam, score = parallel(real[2]).data[0].dimensions
    assert list(method.values) == [0] + [1] * 6 and list(sigma["values"]) == [-1, 0, 0, 1, 1, 2, 2]
    assert list(lam["values"]) == [-1, 0, 1, 0, 1, 0, 1] and len(score["values"]) == 7 and sigma.ticktext[0] == "-"


def test_the_command_keeps_everything(real):
    folder, done, found = real
    rows = list(csv.DictReader((folder / "results.csv").open()))
    plain = json.loads((folder / "sweep.json").read_text())
    assert len(rows) == 7 == len(plain["results"]) and {row["status"] for row in rows} == {"finished"}
    for row, kept in zip(rows, found.rows):
        values = kept.last("test_accuracy")
        assert float(row["reports_mean"]) == pytest.approx(values[2:].mean())
    html = (folder / "sweep.html").read_text()
    assert '"type":"heatmap"' in html and '"type":"parcoords"' in html
    assert done.stdout.count("\n*") >= 2 and "reported on seeds 2 to 3" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("digits", "--grid", "sigma=0.1"), "--methods"),
        (("digits", "--methods", "rwp", "--grid", "sigma"), "--grid NAME=VALUE"),
        (("digits", "--methods", "rwp", "--grid", "sgima=0.1"), "sigma"),
        (("digits", "--methods", "rwp", "--grid", "sigma=0.1", "--workers", "none"), "workers"),
        (("digts", "--methods", "rwp"), "digits"),
    ],
)
def test_errors_of_the_command(arguments, says):
    found = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 2 and len(found.stderr.splitlines()) == 1 and says in found.stderr
