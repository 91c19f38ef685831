"""``rwp-edu train --parallel points`` under torchrun: the networks of one process, also after a worker died."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rwp_edu.cli import main

pytestmark = pytest.mark.slow

ASKED = ["images", "--methods", "sam,m-rwp", "--seeds", "1", "--set", "train=40", "--set", "batch=10", "--set", "width=4", "--set", "test=50"]
TRAIN = ["-m", "rwp_edu", "train"]


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options]


def networks(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{path.name} {name}": value for path in sorted((folder / "networks").glob("*.pt")) for name, value in torch.load(path, weights_only=True).items()}


def test_a_worker_that_dies_is_started_again_and_the_run_goes_on_bit_for_bit(tmp_path):
    steps = [*ASKED, "--set", "norm=batch", "--steps", "40", "--checkpoint-every", "10", "--threads", "1"]
    stopped = [str(Path(__file__).with_name("stopped.py")), "KILL", "update", "25", "train"]
    command = [*torchrun("--max-restarts", "1"), *stopped, *steps, "--parallel", "points", "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "exitcode: -9" in said, said
    assert "m-rwp" in said and said.count("40 updates on cpu") == 1, said
    assert main(["train", *steps, "--out", str(tmp_path / "one")]) == 0
    two, one = networks(tmp_path / "two"), networks(tmp_path / "one")
    assert two.keys() == one.keys() and all(torch.equal(two[name], one[name]) for name in one)


def test_shards_train_alike_to_rounding(tmp_path):
    steps = [*ASKED, "--steps", "4", "--threads", "1"]
    command = [*torchrun(), *TRAIN, *steps, "--parallel", "points", "--shards", "2", "--out", str(tmp_path / "two")]
    subprocess.run(command, check=True, capture_output=True)
    assert main(["train", *steps, "--out", str(tmp_path / "one")]) == 0
    two, one = networks(tmp_path / "two"), networks(tmp_path / "one")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["images", "--parallel", "points"], "several workers are started by torchrun --nproc-per-node 2 -m rwp_edu train"),
        (["images", "--shards", "2"], "--shards goes with --parallel points"),
        (["images", "--parallel", "data"], "--parallel takes points, got 'data'"),
    ],
)
def test_errors(arguments, says, capsys):
    assert main(["train", *arguments]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and says in said
