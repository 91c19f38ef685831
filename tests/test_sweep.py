"""Sweeps: the plan, the engines, what is kept, what is chosen, the figures, the command."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from waiting import PATIENCE

from rwp_edu.cli import main
from rwp_edu.experiments.sweep import executors, plan, sweep
from rwp_edu.experiments.sweep.executors import ENGINES
from rwp_edu.experiments.sweep.figures import curves, heat_map, page, parallel, table
from rwp_edu.experiments.sweep.plan import GROUP, groups
from rwp_edu.experiments.sweep.results import Row, Sweep
from rwp_edu.experiments.sweep.work import _kept
from rwp_edu.training import Record, Run
from rwp_edu.training.settings import Settings
from rwp_edu.utils.files import whole
from rwp_edu.utils.parameters import strict_json

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
    monkeypatch.setattr("rwp_edu.experiments.sweep.executors.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"rwp_edu\[ray\]"):
        sweep("digits", "sgd", {"lr": [0.1]}, engine="ray", **SHORT)


# --------------------------------------------------------------------------------------------------------------- engines


def test_a_sweep_gives_what_the_run_gives():
    found = sweep("digits", "sgd,rwp", {"sigma": [0.05, 0.1]}, seeds=2, steps=12)
    run = Run(Settings("digits", methods=["sgd", "rwp:sigma=0.05", "rwp:sigma=0.1"], seeds=2, steps=12))
    run.advance(12)
    for k, row in enumerate(found.rows):
        assert np.array_equal(row.last("train_loss"), run.record.rows[-1]["train_loss"][k])


@pytest.mark.slow
@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "batched"])
def test_all_engines_give_the_same_records(engine, monkeypatch):
    pytest.importorskip({"processes": "joblib", "ray": "ray"}[engine])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    folder = Path(f"/tmp/rwp_test_{os.getpid()}")
    monkeypatch.setattr("rwp_edu.experiments.sweep.executors.tempfile.mkdtemp", lambda **options: folder.mkdir() or str(folder))
    grid = {"sigma": [0.05, 0.1, 0.2], "batch": [20, 30]}
    here, there = (
        sweep("digits", "sgd,m-rwp", grid, seeds=2, steps=10, **options) for options in ({}, {"engine": engine, "workers": 2})
    )
    assert len(there.finished) == len(there.rows) == 8
    for a, b in zip(here.rows, there.rows):
        assert a.point == b.point
        for metric in ("train_loss", "test_accuracy"):
            assert np.array_equal(a.last(metric), b.last(metric))
    assert left_by_ray(folder) == []


def left_by_ray(folder):
    """What is still there of a local cluster, its folder and processes; these are given time to end."""


    def command(process):
        with contextlib.suppress(OSError):
            return (process / "cmdline").read_bytes()
        return b""

    for _ in range(10 * PATIENCE):
        left = [folder] * folder.exists() + [p for p in Path("/proc").glob("[0-9]*") if bytes(folder) in command(p)]
        if not left:
            break
        time.sleep(0.1)
    return left


def test_a_cluster_that_does_not_answer_is_one_line():
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match="no Ray cluster answers at 127.0.0.1:1"):
        sweep("digits", "sgd", {"lr": [0.1]}, engine="ray", address="127.0.0.1:1", **SHORT)


def test_a_busy_machine_may_try_again_to_start_ray():
    class Ray:
        def __init__(self, failures, why):
            self.failures, self.why, self.ended = failures, why, 0

        def init(self, **options):
            if self.failures:
                self.failures -= 1
                raise Exception(self.why)

        def shutdown(self):
            self.ended += 1

    slow = Ray(2, "The current node timed out during startup.")
    executors._start(slow, {})
    assert slow.failures == 0 and slow.ended == 2
    for failures, why in ((3, "timed out during startup"), (1, "something else")):
        with pytest.raises(Exception, match=why):
            executors._start(Ray(failures, why), {})


def test_one_setting_that_fails_leaves_the_others(monkeypatch):
    real = executors.work

    def work(task, *more):
        return {"failed": "RuntimeError: broken on purpose"} if "sigma=0.1" in task else real(task)

    monkeypatch.setattr(executors, "work", work)
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


def test_what_another_version_made_is_not_used(tmp_path):
    sweep("digits", "sgd", {"lr": [0.1]}, out=tmp_path, **SHORT)
    (kept,) = tmp_path.glob("run-*.json")
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"version": "0.0.0"}))
    assert not list(_kept(tmp_path))
    assert len(sweep("digits", "sgd", {"lr": [0.1]}, out=tmp_path, **SHORT).finished) == 1 and len(list(_kept(tmp_path))) == 1


def test_what_is_told_grows_within_a_group_and_ends_at_all():
    told = []
    sweep("digits", "rwp", {"sigma": [0.1, 0.2], "batch": [20, 30]}, seeds=2, steps=10, told=lambda done, of: told.append((done, of)))
    done = [d for d, _ in told]
    assert done == sorted(done) and done[0] == 0 and told[-1] == (4, 4) and {0.2, 1.0, 2.2} <= {round(d, 6) for d in done}


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
    """A sweep that stops itself by a signal once its first group is on the disk; its standard error, which ends when the last worker has ended, and
    exit status. With kill -9 it has workers."""
    workers = ["--engine", "processes", "--workers", "2"] if how == signal.SIGKILL else []
    command = [sys.executable, str(Path(__file__).with_name("stopped.py")), how.name.removeprefix("SIG"), "row", "1", "sweep"]
    done = subprocess.run([*command, *LONG, *workers, "--out", str(folder)], capture_output=True, text=True)
    return done.stderr, done.returncode


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_sweep_that_was_stopped_goes_on(how, tmp_path, capsys):
    err, code = stopped(tmp_path, how)
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("run-*.json")}
    assert len(kept) == 1
    if how == signal.SIGINT:
        assert code == 130 and "the same command goes on" in err and (tmp_path / "sweep.json").exists()
    else:
        assert code == -signal.SIGKILL
    assert main(["sweep", *LONG, "--out", str(tmp_path), "--json"]) == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)["results"]] == ["finished"] * 6
    assert all((tmp_path / name).read_bytes() == content for name, content in kept.items())
    assert len(list(tmp_path.glob("run-*.json"))) == 6


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_no_answer(monkeypatch, tmp_path):
    pytest.importorskip("joblib")

    heard, found = tmp_path / "heard", {}

    def numbered(i, task):
        while i and not heard.exists():
            time.sleep(0.01)
        if i == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if i:
            time.sleep(PATIENCE)
        return i, {"done": task}

    monkeypatch.setattr(executors, "_numbered", numbered)
    for i, answer in executors.processes(["a", "b", "c", "d"], 2, None, lambda part: None):
        found[i] = answer
        heard.touch()
    assert found[0] == {"done": "a"} and [*found] == [0, 1, 2, 3]
    assert all("a worker process was killed" in found[i]["failed"] for i in (1, 2, 3))


# ---------------------------------------------------------------------------------------------------------------- chosen


def made(scores, tested=None, problem="digits", **options):
    """A sweep over sigma of RWP with made-up values: what chooses, one row of seeds per value, and what was tested."""
    sigmas = [round(0.1 * (k + 1), 1) for k in range(len(scores))]
    points = plan(problem, "rwp", {"sigma": sigmas}, seeds=len(scores[0]), steps=1)
    rows = []
    for point, values, reported in zip(points, scores, tested or scores):
        values = np.array([values], float)
        record = Record(point.settings, diverged=np.where(np.isfinite(values), -1, 1))
        record.rows.append({"updates": 1, "validation_accuracy": values, "test_accuracy": np.array([reported], float), "distance": values,
                            "gradient_evaluations": np.ones(1), "seconds": np.ones(1)})  # fmt: skip
        rows.append(Row(point, record))
    return Sweep(problem, rows, grid={"sigma": sigmas}, **options)


def test_images_held_back_choose_and_test_images_report():
    found = made([[0.9, 0.8], [0.5, 0.5]], [[0.1, 0.2], [0.9, 0.9]])
    assert found.chosen()["rwp"] is found.rows[0] and "chosen by validation accuracy, reported by test accuracy" in found.rule
    told = found.results()[0]
    assert told["chosen"] and told["chooses_mean"] == pytest.approx(0.85) and told["reports_mean"] == pytest.approx(0.15)
    assert told["reports_se"] == pytest.approx(0.05) and made([[0.9], [0.8]]).chosen()["rwp"].point.values == (("sigma", 0.1),)


def test_where_nothing_is_held_back_seeds_that_choose_do_not_report():
    found = made([[0.1, 0.1, 10, 1000], [1, 1, 0.1, 0.1]], problem="sensing")
    assert found.chosen()["rwp"] is found.rows[0] and "seeds 0 to 1" in found.rule and "seeds 2 to 3, which had no part" in found.rule
    told = found.results()[0]
    assert told["chooses_mean"] == pytest.approx(0.1) and told["reports_mean"] == pytest.approx(505)
    assert made([[0.9], [0.8]], problem="sensing").chosen() == {} and "nothing can be chosen" in made([[0.9]], problem="sensing").rule


@pytest.mark.slow
@pytest.mark.parametrize(("validation", "seeds"), [(100, 1), (0, 2)])
def test_a_sweep_on_pictures_chooses_by_those_held_back_if_there_are_any(validation, seeds):
    base = {"train": 40, "test": 50, "validation": validation, "steps": 2, "width": 4, "batch": 10}
    found = sweep("images", "sgd,rwp", {"sigma": [0.0, 0.02]}, seeds=seeds, **base)
    held = np.array([row.last("validation_accuracy").mean() for row in found.finished])
    assert np.isnan(held).all() == (not validation)
    if validation:
        assert "chosen by validation accuracy, reported by test accuracy" in found.rule
        best = found.chosen()["rwp"]
        assert best.last("validation_accuracy").mean() == max(held[1:])
    else:
        assert "chosen by test accuracy, seed 0, reported by test accuracy, seed 1" in found.rule
    one = sweep("images", "sgd", {}, seeds=1, **base | {"validation": 0})
    assert one.chosen() == {} and "--set validation=500" in one.rule


def test_diverged_settings_are_chosen_last():
    found = made([[np.nan, 0.9, 0.9, 0.9], [0.5] * 4])
    assert found.chosen()["rwp"].point.values == (("sigma", 0.2),) and found.results()[0]["diverged"] == 1
    assert json.loads(strict_json(found.to_dict()))["results"][0]["chooses_mean"] is None


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


@pytest.mark.slow
def test_the_heat_map_shows_the_scores(real):
    found = real[2]
    x, y, z = table(found, "m-rwp", "sigma", "lam")
    assert (x, y) == ([0.05, 0.1, 0.2], [0.3, 0.5]) and np.isfinite(z).all()
    row = next(r for r in found.rows if dict(r.point.values) == {"sigma": 0.2, "lam": 0.3})
    assert z[0, 2] == pytest.approx(100 * row.last("validation_accuracy").mean())
    (frame,) = heat_map(found, "m-rwp", "sigma", "lam").layout.shapes
    chosen = dict(found.chosen()["m-rwp"].point.values)
    assert x[round(frame.x0 + 0.5)] == chosen["sigma"] and y[round(frame.y0 + 0.5)] == chosen["lam"]
    assert z[round(frame.y0 + 0.5), round(frame.x0 + 0.5)] == z.max()
    with pytest.raises(ValueError, match="sigma"):
        table(found, "m-rwp", "sigmaa", "lam")


@pytest.mark.slow
def test_parallel_coordinates_have_a_line_per_setting(real):
    method, sigma, lam, score, worth = parallel(real[2]).data[0].dimensions
    assert list(method.values) == [0] + [1] * 6 and list(sigma["values"]) == [-1, 0, 0, 1, 1, 2, 2]
    assert list(lam["values"]) == [-1, 0, 1, 0, 1, 0, 1] and len(score["values"]) == 7 and sigma.ticktext[0] == "-"
    assert list(worth["values"]) == pytest.approx([100 * row.last("test_accuracy").mean() for row in real[2].rows])


@pytest.mark.slow
def test_curves_take_the_best_of_what_else_is_in_the_grid(real):
    sgd, mixed = curves(real[2], "sigma").data
    score = {r.point.values: 100 * r.last("validation_accuracy").mean() for r in real[2].rows}
    best = [max(score[("sigma", s), ("lam", lam)] for lam in (0.3, 0.5)) for s in (0.05, 0.1, 0.2)]
    assert list(sgd.y) == pytest.approx([score[()]] * 3) and list(mixed.y) == pytest.approx(best) and list(mixed.x) == [0.05, 0.1, 0.2]


def test_a_page_of_runs_that_all_diverged():
    found = made([[np.nan] * 2, [np.nan] * 2])
    assert "Sweep on digits" in page(found) and len(parallel(found).data[0].dimensions[0]["values"]) == 0


@pytest.mark.slow
def test_the_command_keeps_everything(real):
    folder, done, found = real
    rows = list(csv.DictReader((folder / "results.csv").open()))
    plain = json.loads((folder / "sweep.json").read_text())
    assert len(rows) == 7 == len(plain["results"]) and {row["status"] for row in rows} == {"finished"}
    for row, kept in zip(rows, found.rows):
        assert float(row["reports_mean"]) == pytest.approx(kept.last("test_accuracy").mean())
        assert float(row["chooses_mean"]) == pytest.approx(kept.last("validation_accuracy").mean())
    html = (folder / "sweep.html").read_text()
    assert '"type":"heatmap"' in html and '"type":"parcoords"' in html
    assert done.stdout.count("\n*") >= 2 and "reported by test accuracy" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("digits", "--grid", "sigma=0.1"), "--methods"),
        (("digits", "--methods", "rwp", "--grid", "sigma"), "--grid NAME=VALUE"),
        (("digits", "--methods", "rwp", "--grid", "sgima=0.1"), "sigma"),
        (("digits", "--methods", "rwp", "--grid", "sigma=0.1", "--workers", "none"), "workers"),
        (("digts", "--methods", "rwp"), "digits"),
        (("digits", "--methods", "rwp", "--engine", "rey"), "did you mean 'ray'"),
        (("digits", "--methods", "rwp", "--out", "/dev/null/results"), "cannot write to /dev/null/results"),
        (("digits", "--methods", "rwp", "--grid", "sigma=0.1", "--grid", "sigma=0.2"), "once for a name"),
    ],
)
def test_errors_of_the_command(arguments, says, capsys):
    assert main(["sweep", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and says in err


def test_a_whole_file_or_none(tmp_path, monkeypatch):
    path = whole(tmp_path / "new" / "told.json", "first")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        whole(path, "second")
    assert path.read_text() == "first" and [*path.parent.iterdir()] == [path]
