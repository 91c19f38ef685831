"""A method is one function and one row: here is one with a memory, and everything works with it."""

import io

import pytest
import torch

from rwp_edu.methods import METHODS, Method
from rwp_edu.methods.points import At
from rwp_edu.optim import PerturbedOptimizer
from rwp_edu.problems.digits import Digits
from rwp_edu.training import Run
from rwp_edu.training.settings import Settings


def averaged(w, noise, memory, lam):
    """g = m, m <- λ m + ∇L(w + u): a running mean of noisy gradients."""
    (g,) = yield [At(w + noise(w))]
    memory["mean"] = g if "mean" not in memory else lam * memory["mean"] + g
    memory["updates"] = memory.get("updates", 0) + 1
    return memory["mean"]


class Averaged(PerturbedOptimizer):
    method = "averaged"


@pytest.fixture(autouse=True)
def row(monkeypatch):
    row = Method("averaged", "Averaged", averaged, "this test, 2025", kind="isotropic")
    monkeypatch.setitem(METHODS, row.name, row)
    return row


class Training:
    def __init__(self, seed=0, init=0, **hyper):
        self.problem = Digits([init], width=8, train=60, batch=20, dtype=torch.float64)
        self.module = self.problem.module()
        base = torch.optim.SGD(self.module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        self.optimizer = Averaged(base, seed=seed, **hyper)

    def step(self, fail=False):
        x, y = self.problem.draw()

        def closure():
            loss = torch.nn.functional.cross_entropy(self.module(x[0]), y[0])
            loss.backward()
            return loss * float("nan") if fail else loss

        self.optimizer.step(closure)

    def weights(self):
        return torch.nn.utils.parameters_to_vector(self.module.parameters()).detach().clone()


def test_the_row_knows_its_parameters_and_cost(row):
    assert row.parameters == ("sigma", "kind", "law", "perturb", "lam")
    assert (row.cost().points, row.cost().rounds, row.cost().batches, row.symbolic("work")) == (1, 1, 1, "1")
    assert row.formula == "g = m, m <- λ m + ∇L(w + u)" and row.meaning == "a running mean of noisy gradients"


@pytest.mark.slow
def test_both_engines_agree():
    one = Training(seed=3, init=3, lam=0.8)
    run = Run(
        Settings(methods="sgd,averaged:lam=0.8", seeds=2, seed=2, steps=50, schedule="constant", width=8, train=60, batch=20),
        dtype=torch.float64,
    )
    for _ in range(50):
        one.step()
    run.advance(50)
    torch.testing.assert_close(run.base.w.view(2, 2, -1)[1, 1], one.weights(), rtol=0, atol=1e-12)
    assert run.groups[1].memory["updates"] == one.optimizer.memory["updates"] == 50


def test_every_entrant_has_a_memory_of_its_own():
    settings = {"seeds": 2, "steps": 10, "width": 8, "train": 60, "batch": 20}
    alone, both = (Run(Settings(methods=m, **settings)) for m in ("averaged", "averaged:lam=0.9,averaged"))
    for run in (alone, both):
        run.advance(10)
    torch.testing.assert_close(both.base.w[2:], alone.base.w, rtol=0, atol=1e-6)
    assert not torch.equal(both.base.w[:2], both.base.w[2:])


def test_a_failed_step_leaves_the_memory_alone():
    one, twin = Training(), Training()
    for each in (one, twin):
        each.step()
    with pytest.raises(FloatingPointError):
        one.step(fail=True)
    twin.problem.draw()
    assert one.optimizer.memory["updates"] == 1
    for each in (one, twin):
        each.step()
    assert torch.equal(one.weights(), twin.weights())


@pytest.mark.parametrize("at", [0, 1, 3])
def test_the_memory_travels_with_a_checkpoint(at):
    one, other = Training(), Training(seed=9)
    for _ in range(at):
        one.step()
        other.problem.draw()
    file = io.BytesIO()
    torch.save([one.module.state_dict(), one.optimizer.state_dict()], file)
    file.seek(0)
    model, optimizer = torch.load(file, weights_only=True)
    other.module.load_state_dict(model)
    other.optimizer.load_state_dict(optimizer)
    for _ in range(3):
        one.step()
        other.step()
    assert torch.equal(one.weights(), other.weights())
    assert one.optimizer.memory["updates"] == other.optimizer.memory["updates"] == at + 3
