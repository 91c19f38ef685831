"""Save at any step, load in a new process, continue: bit for bit the uninterrupted run. Run as a script, this is that process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from waiting import PATIENCE

from rwp_edu.methods import METHODS
from rwp_edu.optim import OPTIMIZERS

BASES = {
    "sgd": lambda ps, lr: torch.optim.SGD(ps, lr=lr, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda ps, lr: torch.optim.Adam(ps, lr=lr),
    "adamw": lambda ps, lr: torch.optim.AdamW(ps, lr=lr, amsgrad=True),
}
SAVED_AT, MORE = (0, 1, 3), 3
CASES = [(name, base, at) for name in METHODS for base in BASES for at in SAVED_AT]


class Training:
    """A network with BatchNorm and dropout, two parameter groups, a schedule, and data that depend on the step alone."""

    def __init__(self, name, base, fresh=False):
        torch.manual_seed(99 if fresh else 0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 2))
        ps = list(self.model.parameters())
        own = {"k": 2} if "k" in METHODS[name].parameters else {}
        groups = [{"params": ps[:2]}, {"params": ps[2:], "lr": 0.01}]
        self.optimizer = OPTIMIZERS[name](BASES[base](groups, 0.02), seed=77 if fresh else 5, **own)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10)
        self.slots = METHODS[name].cost(**own).slots
        self.done = 0

    def steps(self, n):
        for _ in range(n):
            torch.manual_seed(1000 + self.done)
            data = torch.randn(self.slots, 2, 8, 3)

            def closure(x, y):
                loss = nn.functional.mse_loss(self.model(x), y[:, :2])
                loss.backward()
                return loss

            self.optimizer.step(*(lambda pair=pair: closure(*pair) for pair in data))
            self.schedule.step()
            self.done += 1

    def checkpoint(self):
        parts = {key: getattr(self, key).state_dict() for key in ("model", "optimizer", "schedule")}
        return {**parts, "done": self.done}

    def load(self, state):
        for key in ("model", "optimizer", "schedule"):
            getattr(self, key).load_state_dict(state[key])
        self.done = state["done"]


def file_of(name, base, at):
    return f"{name}-{base}-{at}.pt"


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for case in CASES:
        training = Training(*case[:2], fresh=True)
        training.load(torch.load(folder / file_of(*case), weights_only=True))
        training.steps(MORE)
        torch.save(training.checkpoint(), folder / ("continued-" + file_of(*case)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in METHODS:
        for base in BASES:
            training = Training(name, base)
            for at in range(max(SAVED_AT) + MORE + 1):
                if at in SAVED_AT:
                    torch.save(training.checkpoint(), folder / file_of(name, base, at))
                if at - MORE in SAVED_AT:
                    torch.save(training.checkpoint(), folder / ("straight-" + file_of(name, base, at - MORE)))
                training.steps(1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, __file__, str(folder)], check=True, env=environment, timeout=PATIENCE)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "base", "at"), CASES)
def test_a_new_process_continues_bit_for_bit(folder, same, name, base, at):
    straight, continued = (
        torch.load(folder / (kind + file_of(name, base, at)), weights_only=True) for kind in ("straight-", "continued-")
    )
    assert straight["done"] == continued["done"] == at + MORE
    for part in ("model", "optimizer"):
        assert same(continued[part], straight[part])
    assert continued["schedule"]["last_epoch"] == straight["schedule"]["last_epoch"]
    start = torch.load(folder / file_of(name, base, at), weights_only=True)["model"]
    assert not same(start, straight["model"])
