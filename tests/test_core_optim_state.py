"""The optimizer's promises about failures, checkpoints and copies: everything bit for bit."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from rwp_edu.methods import METHODS
from rwp_edu.optim import OPTIMIZERS, RWP

CALLS = [(name, call) for name in METHODS for call in range(METHODS[name].cost(k=2).points)]


def assert_failed_step_is_undone(one, twin, same, error, wrap):
    """A failed step leaves no trace, and the training goes on as that of a twin that never failed."""
    for toys in (one, twin):
        torch.manual_seed(3)
        toys.step()
    before = one.state()
    with pytest.raises(error):
        one.step(wrap)
    assert same(one.state(), before)
    one.steps(range(2))
    twin.steps(range(2))
    assert same({**one.state(), "storage": None}, {**twin.state(), "storage": None})


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "at"), CALLS)
def test_an_exception_at_any_closure_call_leaves_no_trace(toy, same, name, at, when, error):
    def fail(evaluate, call):
        if call == at and when == "before":
            raise error
        loss = evaluate()
        if call == at:
            raise error
        return loss

    assert_failed_step_is_undone(toy(name), toy(name), same, error, fail)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("name", "at"), CALLS)
def test_a_loss_that_is_not_finite_leaves_no_trace(toy, same, name, at, bad):
    def spoil(evaluate, call):
        return evaluate() + (bad if call == at else 0)

    assert_failed_step_is_undone(toy(name), toy(name), same, FloatingPointError, spoil)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("name", "at"), CALLS)
def test_a_gradient_that_is_not_finite_leaves_no_trace(toy, same, name, at, bad):
    one = toy(name)

    def spoil(evaluate, call):
        loss = evaluate()
        if call == at:
            one.model[4].bias.grad[0] = bad
        return loss

    assert_failed_step_is_undone(one, toy(name), same, FloatingPointError, spoil)


@pytest.mark.parametrize(("name", "at"), CALLS)
def test_the_very_first_step_may_fail_too(toy, same, name, at):
    one, twin = toy(name), toy(name)

    def fail(evaluate, call):
        loss = evaluate()
        if call == at:
            raise KeyboardInterrupt
        return loss

    before = one.state()
    with pytest.raises(KeyboardInterrupt):
        one.step(fail)
    assert same({**one.state(), "own": None}, {**before, "own": None})
    assert all(p.grad is None for p in one.model.parameters())
    one.steps(range(3))
    twin.steps(range(3))
    assert same({**one.state(), "storage": None}, {**twin.state(), "storage": None})


@pytest.mark.parametrize("name", METHODS)
def test_a_base_optimizer_that_refuses_to_step_leaves_no_trace(toy, same, name):
    one = toy(name)
    one.steps(range(1))
    before = one.state()

    def refuse(*_):
        raise RuntimeError("refused")

    handle = one.optimizer.base.register_step_pre_hook(refuse)
    with pytest.raises(RuntimeError, match="refused"):
        one.step()
    assert same(one.state(), before)
    handle.remove()
    one.step()


def test_the_error_says_where_and_that_nothing_changed(toy):
    one = toy("sam")
    with pytest.raises(FloatingPointError, match="loss is nan.*SAM.*weights are as before"):
        one.step(lambda evaluate, call: evaluate() * float("nan"))


def saved(one):
    file = io.BytesIO()
    torch.save({"model": one.model.state_dict(), "optimizer": one.optimizer.state_dict()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("already", [0, 2], ids=["into a new one", "into one that has trained"])
@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_continues_bit_for_bit(toy, same, name, base, at, already):
    one, other = toy(name, base), toy(name, base, lr=0.7, init=5, seed=9)
    one.steps(range(at))
    other.steps(range(already))
    state = saved(one)
    other.model.load_state_dict(state["model"])
    other.optimizer.load_state_dict(state["optimizer"])
    for toys in (one, other):
        toys.steps(range(at, at + 3))
    assert same({**one.state(), "storage": None}, {**other.state(), "storage": None})
    assert [g["lr"] for g in other.optimizer.param_groups] == [g["lr"] for g in one.optimizer.param_groups]


@pytest.mark.parametrize("name", METHODS)
def test_a_state_dict_does_not_move_with_the_optimizer(toy, same, name):
    one = toy(name)
    one.steps(range(1))
    own = one.optimizer.state_dict()["rwp_edu"]
    before = copy.deepcopy(own)
    one.steps(range(2))
    assert same(own, before)


@pytest.mark.slow
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_copy_continues_bit_for_bit_on_its_own(toy, same, name, base, at, clone):
    one, other = toy(name, base), toy(name, base)
    one.steps(range(at))
    other.model, other.optimizer = clone((one.model, one.optimizer))
    before = one.state()
    other.steps(range(at, at + 3))
    after = one.state()
    assert same({**after, "random state": None}, {**before, "random state": None})
    one.steps(range(at, at + 3))
    assert same({**one.state(), "storage": None}, {**other.state(), "storage": None})


@pytest.mark.parametrize("name", METHODS)
def test_a_copy_does_all_that_the_original_does(toy, name):
    one = toy(name)
    one.model, one.optimizer = copy.deepcopy((one.model, one.optimizer))
    one.step()
    added = nn.Parameter(torch.ones(2))
    one.optimizer.add_param_group({"params": [added]})
    torch.optim.lr_scheduler.StepLR(one.optimizer, 2)
    one.optimizer.load_state_dict(one.optimizer.state_dict())
    one.step()
    assert set(METHODS[name].parameters) <= set(one.optimizer.param_groups[1])
    assert repr(one.optimizer).startswith(type(one.optimizer).__name__)


@pytest.mark.parametrize("name", METHODS)
def test_a_state_that_belongs_to_something_else(toy, name):
    one = toy(name)
    other = toy("sam" if name != "sam" else "rwp")
    with pytest.raises(ValueError, match=f"method '{other.optimizer.method}', not to method '{name}'"):
        one.optimizer.load_state_dict(other.optimizer.state_dict())
    with pytest.raises(ValueError, match="not of rwp_edu"):
        one.optimizer.load_state_dict(one.optimizer.base.state_dict())


def test_a_state_with_other_groups_changes_nothing(toy, same):
    one = toy("rwp")
    one.steps(range(1))
    state = RWP(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1), seed=5).state_dict()
    before = one.state()
    with pytest.raises(ValueError, match="group"):
        one.optimizer.load_state_dict(state)
    assert same(one.state(), before)


def test_hyper_parameters_travel_with_the_checkpoint(toy):
    one, other = toy("rwp", sigma=0.3, law="uniform"), toy("rwp")
    other.optimizer.load_state_dict(one.optimizer.state_dict())
    assert other.optimizer.param_groups[0]["sigma"] == 0.3 and other.optimizer.param_groups[0]["law"] == "uniform"


@pytest.mark.parametrize("name", METHODS)
def test_a_plain_checkpoint_may_be_loaded_into_the_base_optimizer(toy, name):
    """A training that began with the base optimizer alone goes on with a method around it."""
    one = toy(name)
    parameters = list(one.model.parameters())
    plain = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    one.optimizer.base.load_state_dict(plain.state_dict())
    one.step()
    assert OPTIMIZERS[name] is type(one.optimizer)
