"""Runs on disk: they continue bit for bit, also after they were killed, and a checkpoint that was there stays until the next is whole."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from waiting import wait_until

from rwp_edu.cli import main
from rwp_edu.methods import METHODS
from rwp_edu.problems import PROBLEMS
from rwp_edu.training import Record, Run
from rwp_edu.training import checkpoint as checkpoints
from rwp_edu.training.settings import Settings

SMALL = {
    "digits": {"width": 8, "train": 60, "batch": 20},
    "sensing": {"d": 8, "n": 60},
    "fine-tuning": {"width": 8, "shots": 10, "batch": 20},
    "images": {"width": 4, "train": 60, "batch": 20, "test": 50, "norm": "batch", "crop": 1, "flip": "on", "swa": 0.5, "seeds": 1},
}


def run_of(problem="digits", methods=tuple(METHODS), steps=24, **changes):
    return Run(Settings(problem, methods=methods, **{"seeds": 2, "steps": steps, "record_every": 5, "k": 2, **SMALL[problem], **changes}))  # fmt: skip


def same(a, b):
    """Everything but the seconds."""
    first, second = a.engine.state(), b.engine.state()
    assert equal(first, second) and torch.equal(a.engine.weights(), b.engine.weights()) and a.updates == b.updates
    first, second = a.record.to_dict(), b.record.to_dict()
    assert first.pop("seconds") and second.pop("seconds")
    assert first == second


def equal(a, b):
    """Nested lists, dicts and tensors, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(equal, a, b)) if isinstance(a, (list, tuple)) else a == b


@cache
def whole_of(problem):
    run = run_of(problem)
    run.advance(24)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("at", [0, 7, 24])
def test_a_run_continues_bit_for_bit(problem, at, tmp_path):
    whole, part = whole_of(problem), run_of(problem)
    part.advance(at)
    checkpoints.save(part, tmp_path)
    again = checkpoints.load(tmp_path)
    again.advance(24)
    same(again, whole)
    assert again.record.profiles.keys() == whole.record.profiles.keys()
    assert [group.work for group in again.groups] == [group.work for group in whole.groups]


def test_what_moved_is_kept(tmp_path):
    runs = [run_of(methods="rwp,arwp:scale=linear", flatness_every=10) for _ in range(2)]
    for run in runs:
        run.advance(8)
        run.set(sigma=0.2, lr=0.05)
    checkpoints.save(runs[0], tmp_path)
    again = checkpoints.load(tmp_path)
    assert again.settings.sigma == 0.2 and again.record.settings.sigma == 0.1 and len(again.record.marks) == 2
    for run in (again, runs[1]):
        run.advance(24)
    same(again, runs[1])
    assert np.isfinite(again.record.trace[-1]).all()


def test_a_diverged_run_stays_frozen(tmp_path):
    run = run_of(methods="sgd:lr=100000,sgd")
    run.advance(10)
    assert (run.record.diverged[0] >= 0).all()
    checkpoints.save(run, tmp_path)
    again = checkpoints.load(tmp_path)
    again.advance(24)
    assert torch.equal(again.base.w[:2], run.base.w[:2]) and (again.record.diverged[1] == -1).all()


def test_float64(tmp_path):
    run = Run(run_of(methods="rwp").settings, dtype=torch.float64)
    run.advance(3)
    checkpoints.save(run, tmp_path)
    assert checkpoints.load(tmp_path).base.w.dtype == torch.float64


COMMAND = [sys.executable, "-m", "rwp_edu", "train"]
STOPPED = [sys.executable, str(Path(__file__).with_name("stopped.py"))]


@pytest.mark.slow
@pytest.mark.parametrize("when, at", [(("update", "25"), 21), (("checkpoint", "28"), 21)], ids=["in an update", "as it writes"])
def test_a_killed_process_continues_bit_for_bit(when, at, tmp_path):
    asked = ["digits", "--methods", "sgd,arwp,m-rwp", "--seeds", "2", "--steps", "60", "--checkpoint-every", "7", "--threads", "1"]
    killed = subprocess.run([*STOPPED, "KILL", *when, "train", *asked, "--out", tmp_path / "a"], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoints.load(tmp_path / "a").updates == at
    assert main(["train", "--resume", str(tmp_path / "a")]) == main(["train", *asked, "--out", str(tmp_path / "b")]) == 0
    found, whole = (json.loads((tmp_path / name / "record.json").read_text()) for name in "ab")
    for data in (found, whole):
        data.pop("seconds")
    assert found == whole and found["updates"][-1] == 60


def test_a_table_of_all_that_was_measured(tmp_path):
    assert main(["train", "digits", "--methods", "sgd,rwp", "--seeds", "2", "--steps", "20", "--out", str(tmp_path)]) == 0
    with open(tmp_path / "record.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    record = Record.load(tmp_path / "record.json")
    assert len(rows) == 3 * 2 * 2
    last = rows[-1]
    assert (last["updates"], last["method"], last["seed"], last["trace"]) == ("20", "rwp", "1", "")
    assert float(last["test_accuracy"]) == record.test_accuracy[-1, 1, 1]


def test_a_run_that_was_begun_is_not_replaced_by_another(tmp_path, capsys):
    def train(*arguments):
        return main(["train", *map(str, arguments)]), capsys.readouterr().err

    begun = run_of("digits", methods="sgd", steps=50)
    begun.advance(20)
    path = checkpoints.save(begun, tmp_path)
    kept = path.read_bytes()
    code, said = train("digits", "--methods", "rwp", "--steps", "10", "--out", tmp_path)
    assert code == 2 and "holds a run of digits that is at update 20 of 50: go on with it by --resume" in said
    assert path.read_bytes() == kept and [p.name for p in tmp_path.iterdir()] == [checkpoints.FILE]
    assert train("--resume", tmp_path)[0] == 0 and checkpoints.load(tmp_path).updates == 50
    done = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, said = train("digits", "--methods", "rwp", "--steps", "10", "--seeds", "1", "--out", tmp_path)
    assert code == 2 and "holds a run of digits that is at update 50 of 50: give --out another folder" in said
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == done


@pytest.mark.slow
def test_a_run_can_be_gone_on_with_from_its_beginning(tmp_path):
    """What is in the folder is of this run, from the first moment on."""
    checkpoints.save(run_of("digits", methods="sgd", steps=5), tmp_path)
    asked = ["digits", "--methods", "sam", "--seeds", "1", "--steps", "1000000", "--checkpoint-every", "1000000"]
    killed = subprocess.Popen([*COMMAND, *asked, "--out", tmp_path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: killed.poll() is not None or checkpoints.load(tmp_path).settings.methods == ("sam",))
        assert killed.poll() is None
    finally:
        killed.kill()
        killed.wait()


# Errors


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    run = run_of(methods="rwp")
    run.advance(5)
    path = checkpoints.save(run, tmp_path)
    former = path.read_bytes()
    run.advance(5)

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left on device.*the former one is still there"):
        checkpoints.save(run, tmp_path)
    assert path.read_bytes() == former and [p.name for p in tmp_path.iterdir()] == [checkpoints.FILE]


@pytest.mark.parametrize(
    "spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not a checkpoint", lambda b: b[:-900]]
)
def test_a_damaged_checkpoint(spoil, tmp_path):
    path = checkpoints.save(run_of(methods="rwp"), tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match="is not a checkpoint that can be continued"):
        checkpoints.load(tmp_path)


def test_another_format_and_another_file(tmp_path):
    path = checkpoints.save(run_of(methods="rwp"), tmp_path)
    state = torch.load(path, weights_only=True)
    torch.save({**state, "format": 99}, path)
    with pytest.raises(ValueError, match="it has format 99, this is format 2"):
        checkpoints.load(tmp_path)
    engine = {**state["engine"], "base": {**state["engine"]["base"], "w": torch.zeros(3, 3)}}
    torch.save({**state, "engine": engine}, path)
    with pytest.raises(ValueError, match=r"w has shape \(3, 3\), this problem needs"):
        checkpoints.load(tmp_path)
    torch.save(torch.nn.Linear(1, 1).state_dict(), path)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--resume", "nowhere"], "there is no checkpoint in nowhere"),
        (["digits", "--resume", "."], "leave out problem"),
        (["digits", "--checkpoint-every", "5"], "checkpoints need a folder: give --out DIR"),
        (["digits", "--out", ".", "--checkpoint-every", "0"], "checkpoint_every must be a whole number >= 1, got '0'"),
    ],
)
def test_command_line_errors(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and says in said
