import json
import math
import os
import sys
from pathlib import Path

import pytest

from rwp_edu.benchmarks import rows as bench
from rwp_edu.benchmarks.rows import ROWS, Loop, Row, measure, one_by_one, race, seconds_of
from rwp_edu.cli import main
from rwp_edu.methods import METHODS
from rwp_edu.utils import cpu as machine


def row(a, b, goal=""):
    """A row whose measurements are made up: one unmeasured pair, then as many as asked for."""
    return Row("made up", "this", "that", "s", "seconds", goal, 4, lambda _: (iter(a).__next__, iter(b).__next__))


def test_ratios_are_paired_and_the_first_pair_is_not_counted():
    calls = []
    a, b = iter((100.0, 2.0, 4.0, 6.0, 8.0)), iter((1.0, 1.0, 1.0, 2.0, 2.0))
    made_up = Row(
        "", "", "", "s", "", "", 4, lambda _: (lambda: calls.append("A") or next(a), lambda: calls.append("B") or next(b))
    )
    (found,) = measure((made_up,))
    assert calls == ["A", "B"] * 5
    assert (found["a"], found["b"], found["ratio"]) == (5.0, 1.5, 3.5)
    assert found["quartiles"] == [2.75, 4.0] and found["pairs"] == 4


@pytest.mark.parametrize("goal, met", [("<= 2", True), ("<= 1.9", False), (">= 2", True), (">= 2.1", False), ("", None), ("p95 <= 2", True), ("p95 <= 1.9", False)])
def test_goals(goal, met):
    (found,) = measure((row([2.0] * 4, [1.0] * 4, goal),), quick=True)
    assert found["pairs"] == 3 and found["met"] is met and found["goal"] == (goal or None)


def test_the_goals_can_be_read():
    goals = [r.goal.removeprefix("p95 ").split(" ") for r in ROWS if r.goal]
    assert all(sign in bench.COMPARE and float(bound) for sign, bound in goals)
    assert {"import"} <= {r.name for r in ROWS}


def test_the_race_is_stepped_and_its_metrics_are_not_measured(monkeypatch):
    stepped = []
    monkeypatch.setattr(bench, "UPDATES", 2)
    monkeypatch.setattr(bench.Run, "advance", lambda run, n: stepped.append((run, n)))
    assert race()() >= 0
    ((run, updates),) = stepped
    assert updates == 2 and len(run.groups) == 5 and len(run.base.w) == 40
    assert run.settings.record_every > bench.UPDATES * (1 + max(r.pairs for r in ROWS))


@pytest.mark.slow
@pytest.mark.parametrize("method", [None, *METHODS])
def test_loops_train(method, monkeypatch):
    monkeypatch.setattr(bench, "UPDATES", 150)
    loop = Loop(0, method)
    accuracy = lambda: (loop.model(loop.x).argmax(1) == loop.y).float().mean().item()
    before = accuracy()
    assert one_by_one([loop], Loop.perturbed if method else Loop.plain)() > 0
    assert accuracy() > before + 0.2


def test_seconds_are_cpu_seconds_of_the_work():
    assert 0 <= seconds_of(lambda: None) < seconds_of(lambda: sum(range(300_000))) < 10


def test_importing_measures_a_fresh_process():
    assert 0 < bench.importing("json")() < 10_000


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(
        bench, "measure", lambda **options: measure((row([3.0] * 4, [1.5] * 4, "<= 1.1"), row([1.0] * 4, [2.0] * 4)), **options)
    )


def test_table(made_up, capsys):
    assert main(["bench", "--quick"]) == 0
    head, first, second, *legend = capsys.readouterr().out.splitlines()
    assert head.split() == ["figure", "A", "p95", "of", "A", "B", "A", "/", "B", "quartiles", "pairs", "goal", "met"]
    assert "2.00" in first and "<= 1.1" in first and first.endswith("no")
    assert "0.50" in second and second.endswith("-")
    assert any("this" in line for line in legend)


def test_json(made_up, capsys):
    assert main(["bench", "--quick", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [(r["ratio"], r["met"]) for r in results] == [(2.0, False), (0.5, None)]


def test_wall_time_is_not_measured_on_a_busy_machine(monkeypatch):
    wall = Row("", "", "", "s", "", "", 2, lambda _: (lambda: 2.0, lambda: 1.0), wall=True)
    heard = iter([0.0, 0.0, 1.3, 0.0, 1.3])
    monkeypatch.setattr(bench, "others", lambda: next(heard))
    assert measure((wall,))[0]["ratio"] == 2.0
    before, after = (measure((wall,))[0]["skipped"] for _ in range(2))
    assert "others keep 1.3" in before and before == after and next(heard, None) is None
    monkeypatch.undo()
    watched = [r.name for r in ROWS if "wall time" in r.what and not r.name.startswith("m-RWP on two ")]  # those watch every measurement
    assert watched == [r.name for r in ROWS if r.wall]


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell what others do")
def test_what_this_process_does_is_not_counted_as_what_others_do(monkeypatch):
    tick = os.sysconf("SC_CLK_TCK")
    stats = iter([f"cpu  {7 * tick} 0 0 900 900 0 0 0 0 0\ncpu0 1", f"cpu  {9 * tick} 0 {tick} 990 990 0 0 0 0 0\ncpu0 1"])
    own = iter([5.0, 6.5])
    monkeypatch.setattr(machine.Path, "read_text", lambda self: next(stats))
    monkeypatch.setattr(machine, "process_time", lambda: next(own))
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(machine, "perf_counter", lambda: next(clock))
    assert machine.others(0.01) == pytest.approx((3 - 1.5) / 2)
    monkeypatch.setattr(machine.Path, "read_text", lambda self: "nothing of the kind")
    assert math.isnan(machine.busy())


def test_a_peer_that_cannot_be_imported_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    assert "rwp_edu[bench]" in bench.no_peer()


def test_what_is_told():
    told = []
    measure((row([3.0] * 4, [1.5] * 4),), True, lambda done, of: told.append((done, of)))
    assert told == [(0, 1), (1, 1)]


@pytest.mark.parametrize("method", ["sgd", "m-rwp", "sam"])
def test_what_is_measured_on_a_gpu_runs_on_a_cpu_too(method):
    assert bench.images_of(method, "cpu", batch=2, steps=1)() > 0
    assert bench.updates_of(method, "cpu", updates=2)() > 0


def test_without_a_gpu_its_rows_are_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    rows = tuple(r for r in ROWS if "on a GPU" in r.name)
    assert len(rows) == 4 and {r["skipped"] for r in measure(rows)} == {"needs a GPU for CUDA"}
