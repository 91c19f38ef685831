"""The optimizer in a user's own loop: what one step does, and what it refuses."""

import functools
import warnings
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.module import _global_forward_pre_hooks
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from rwp_edu.benchmarks.memory import extra_copies
from rwp_edu.methods import METHODS, PARAMETERS
from rwp_edu.methods.noise import KINDS, Noise, generator
from rwp_edu.methods.points import Layout, drive
from rwp_edu.optim import MRWP, NSO, OPTIMIZERS, RWP, SAM, PerturbedOptimizer
from rwp_edu.optim import optimizer as optim

NOISY = [name for name in METHODS if {"noise", "normal"} & set(METHODS[name].needs)]


def quadratic(*parameters, seen=None):
    """The loss sum |p|^4 / 4 as a closure; ``seen`` gathers copies of the weights at every call."""

    def closure():
        if seen is not None:
            seen.append([p.detach().clone() for p in parameters])
        loss = sum((p**4).sum() for p in parameters) / 4
        loss.backward()
        return loss

    return closure


def vector(*values, dtype=torch.float64):
    return nn.Parameter(torch.tensor(values, dtype=dtype))


# --- what a step does


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_the_closure_is_called_as_often_as_documented_and_the_first_loss_is_returned(toy, name, k):
    one = toy(name, **({"k": k} if "k" in METHODS[name].parameters else {}))
    losses = []

    def watch(evaluate, call):
        assert all(p.grad is None for p in one.model.parameters())
        losses.append(evaluate())
        return losses[-1]

    for _ in range(2):
        losses.clear()
        assert one.step(watch) is losses[0]
        assert len(losses) == one.cost.points == METHODS[name].cost(k=k).points


@pytest.mark.parametrize("name", METHODS)
def test_the_weights_come_back_bit_for_bit_in_the_same_storage(toy, same, name):
    one = toy(name, lr=0.0)
    before, points = one.state(), []

    def watch(evaluate, call):
        points.append([p.detach().clone() for p in one.model.parameters()])
        return evaluate()

    for _ in range(5):
        one.step(watch)
    after = one.state()
    assert same(after["weights"], before["weights"]) and after["storage"] == before["storage"]
    assert name == "sgd" or not all(same(point, before["weights"]) for point in points)


@pytest.mark.slow
@pytest.mark.parametrize("hyper", [{"k": 1}, {"k": 3, "lam": 0.3, "clean": 0.3}], ids=["one draw", "three draws, 0.3"])
@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].strength or name == "sgd"])
def test_without_strength_it_is_the_base_optimizer_bit_for_bit(toy, same, name, hyper, base):
    """With one closure, so that all points see the same data."""
    row = METHODS[name]
    given = {key: value for key, value in hyper.items() if key in row.parameters}
    one, plain = toy(name, base, **dict.fromkeys(row.strength, 0.0), **given), toy("sgd", base)
    for seed in range(5):
        torch.manual_seed(seed)
        assert one.optimizer.step(one.evaluate) is not None
        torch.manual_seed(seed)
        plain.optimizer.base.zero_grad()
        plain.evaluate()
        plain.optimizer.base.step()
        assert same({**one.state(), "own": None, "storage": None}, {**plain.state(), "own": None, "storage": None})


@pytest.mark.parametrize(("lam", "lam_of"), [(0.0, "noisy"), (1.0, "clean")])
@pytest.mark.parametrize("name", [name for name in METHODS if "lam" in METHODS[name].parameters])
def test_without_weight_of_the_noisy_gradient_it_is_the_base_optimizer_bit_for_bit(toy, same, name, base, lam, lam_of):
    one, plain = toy(name, base, lam=lam, lam_of=lam_of, sigma=0.3), toy("sgd", base)
    for toys in (one, plain):
        toys.steps(range(5))
    assert same(one.state()["weights"], plain.state()["weights"])
    assert same(one.state()["buffers"], plain.state()["buffers"])


def test_m_rwp_with_one_closure_uses_it_for_both_points():
    w, calls = vector(1.0, -2.0), []
    MRWP(torch.optim.SGD([w], lr=0.1), sigma=0.0).step(quadratic(w, seen=calls))
    assert len(calls) == 2
    torch.testing.assert_close(w.detach(), torch.tensor([0.9, -1.2], dtype=torch.float64))


def test_m_rwp_takes_one_closure_per_batch():
    w = vector(1.0)
    called = []

    def closure(number, slope):
        def evaluate():
            called.append(number)
            loss = slope * w.sum()
            loss.backward()
            return loss

        return evaluate

    MRWP(torch.optim.SGD([w], lr=1.0), lam=0.25, sigma=0.1).step(closure(0, 1.0), closure(1, 2.0))
    assert called == [0, 1]
    torch.testing.assert_close(w.detach(), torch.tensor([1 - 0.75 * 1 - 0.25 * 2], dtype=torch.float64))


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(toy, same, name):
    weights = []
    for seed in (1, 1, 2):
        one = toy(name, seed=seed)
        one.steps(range(3))
        weights.append(one.state()["weights"])
    assert same(weights[0], weights[1])
    assert same(weights[0], weights[2]) == (name not in NOISY)


@pytest.mark.parametrize("name", METHODS)
def test_the_global_random_state_is_untouched(name, global_random_state):
    w = vector(1.0, 2.0)
    optimizer = OPTIMIZERS[name](torch.optim.SGD([w], lr=0.01))
    for _ in range(3):
        optimizer.step(quadratic(w))


@pytest.mark.parametrize("name", METHODS)
def test_dropout_sees_one_mask_per_step(toy, name):
    one, masks = toy(name), []
    one.model[3].register_forward_hook(lambda module, given, out: masks.append(out == 0))
    one.model[2] = nn.Softplus()
    torch.manual_seed(5)
    for _ in range(2):
        one.step()
    n = one.cost.points
    assert all(torch.equal(mask, masks[0]) for mask in masks[:n])
    assert all(torch.equal(mask, masks[n]) for mask in masks[n:])
    assert not torch.equal(masks[0], masks[n])
    torch.manual_seed(5)
    for _ in range(2):
        one.evaluate()
    after_two_evaluations = torch.get_rng_state()
    torch.manual_seed(5)
    for _ in range(2):
        one.step()
    assert torch.equal(torch.get_rng_state(), after_two_evaluations)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", METHODS)
def test_batch_norm_statistics_move_once_per_step_at_the_first_point(toy, same, clean_first, name, momentum):
    one = toy(name)
    norm = one.model[1]
    norm.momentum = momentum
    for step in range(1, 4):
        first, clean = [], nn.BatchNorm1d(4, momentum=momentum)
        clean.load_state_dict(norm.state_dict())
        with torch.no_grad():
            clean(one.model[0](one.data[0][0]))

        def watch(evaluate, call, first=first):
            loss = evaluate()
            first.append([b.clone() for b in norm.buffers()])
            return loss

        one.step(watch)
        assert norm.num_batches_tracked == step
        assert same(list(norm.buffers()), first[0])
        assert clean_first(name) == same(list(norm.buffers()), list(clean.buffers()))


@pytest.mark.parametrize("name", METHODS)
def test_statistics_of_a_frozen_batch_norm_stay(toy, same, name):
    one = toy(name)
    one.model.eval()
    before = one.state()["buffers"]
    one.step()
    assert same(one.state()["buffers"], before)


class Counting(nn.Module):
    """A module that replaces its buffer instead of writing into it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("count", torch.tensor(0.0))

    def forward(self):
        self.count = self.count + 1
        return self.weight.square().sum()


@pytest.mark.parametrize("name", METHODS)
def test_a_buffer_that_is_replaced_moves_once_per_step_too(name):
    model = Counting()
    optimizer = OPTIMIZERS[name](torch.optim.SGD(model.parameters(), lr=0.1))

    def closure():
        loss = model()
        loss.backward()
        return loss

    for step in range(1, 4):
        optimizer.step(closure)
        assert model.count == step


def test_a_module_that_only_a_later_evaluation_calls_moves_no_statistics(same):
    first, later = (nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)) for _ in range(2))
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)) + 3

    def closure(model):
        def evaluate():
            loss = model(x).square().sum()
            loss.backward()
            return loss

        return evaluate

    optimizer = MRWP(torch.optim.SGD([*first.parameters(), *later.parameters()], lr=0.01))
    before = [b.clone() for b in later.buffers()]
    for step in range(1, 3):
        optimizer.step(closure(first), closure(later))
        assert same(list(later.buffers()), before) and first[0].num_batches_tracked == step


@pytest.mark.parametrize("how", ["closure around another model", "one that trains only now", "in training mode from now on"])
def test_modules_that_come_later_are_met_too(how):
    """BatchNorm counts once a step, whenever the closure began to use it."""
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    x, used = torch.randn(6, 2), [first]

    def around(model):
        def evaluate():
            loss = sum(m(x).square().mean() for m in ([model] if how.startswith("closure") else used))
            loss.backward()
            return loss

        return evaluate

    if how.startswith("in"):
        used.append(second.eval())
    optimizer = SAM(torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1))
    optimizer.step(around(first))
    if how.startswith("in"):
        second.train()
    elif how.startswith("one"):
        used.append(second)
    optimizer.step(around(second if how.startswith("closure") else first))
    assert second[1].num_batches_tracked == 1


def test_another_module_without_trained_parameters_in_a_known_closure_is_met_too():
    torch.manual_seed(0)
    model, teachers, x = nn.Linear(2, 2), [nn.BatchNorm1d(2) for _ in range(2)], torch.randn(6, 2)

    def beside(teacher):
        def evaluate():
            loss = (model(x) - teacher(x).detach()).square().mean()
            loss.backward()
            return loss

        return evaluate

    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
    for teacher in teachers:
        optimizer.step(beside(teacher))
        assert teacher.num_batches_tracked == 1


def test_a_fault_in_a_closure_that_calls_train_leaves_no_trace(same):
    torch.manual_seed(0)
    model, x, fails = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.randn(6, 2), []

    def closure():
        model.train()
        loss = model(x).square().mean()
        loss.backward()
        if fails:
            raise RuntimeError("on purpose")
        return loss

    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
    optimizer.step(closure)
    model.eval()
    before = [b.clone() for b in model.buffers()]
    fails.append(True)
    with pytest.raises(RuntimeError, match="on purpose"):
        optimizer.step(closure)
    assert same(list(model.buffers()), before)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_no_hook_is_left_on_the_modules(toy, name, fails):
    one = toy(name)
    hooks = []

    def watch(evaluate, call):
        hooks.append(len(_global_forward_pre_hooks))
        if fails:
            raise RuntimeError("on purpose")
        return evaluate()

    for _ in range(2):
        with pytest.raises(RuntimeError, match="on purpose") if fails else nullcontext():
            one.step(watch)
        assert not _global_forward_pre_hooks
    assert hooks[0] == 1 and any(hooks[len(hooks) // 2 :]) == fails  # a closure that is known is evaluated without


def test_a_module_that_a_closure_holds_without_calling_it_does_not_keep_the_hook():
    model, teacher, hooks = nn.Linear(2, 1), nn.Linear(2, 1), []
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))

    def closure():
        hooks.append(len(_global_forward_pre_hooks))
        teacher.requires_grad_(False)
        loss = model(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.step(closure)
    assert hooks == [1, 0, 0, 0]


# --- memory


@pytest.mark.parametrize("name", ["nso", "lpf-sgd"])
def test_draws_are_made_one_by_one_as_they_are_asked(name, monkeypatch):
    drawn, seen = [], []
    draw = Noise.__call__
    monkeypatch.setattr(Noise, "__call__", lambda noise, w: drawn.append(None) or draw(noise, w))
    w = vector(1.0, 2.0)

    def closure():
        seen.append(len(drawn))
        return quadratic(w)()

    OPTIMIZERS[name](torch.optim.SGD([w], lr=0.1), k=3).step(closure)
    assert seen == ([1, 1, 2, 2, 3, 3] if name == "nso" else [1, 2, 3])


def test_copies_of_the_weights_beyond_the_base_are_as_the_table_says():
    """History included: see ``rwp_edu.benchmarks.memory`` for what they are."""
    copies = extra_copies()
    assert copies == {name: row.copies for name, row in METHODS.items()}
    assert all(held <= 2 for name, (_, held) in copies.items() if not METHODS[name].history)
    assert all(copies[name] == (2, 1) for name in ("sgd", "rwp", "sam", "usam"))


def test_more_draws_hold_one_copy_more_however_many_they_are():
    """The sum of the gradients so far, beside the noise."""
    few, many = (extra_copies(("nso", "lpf-sgd"), k=k) for k in (2, 9))
    assert few == many == {"nso": tuple(n + 1 for n in METHODS["nso"].copies), "lpf-sgd": METHODS["lpf-sgd"].copies}


# --- waiting for the device


class Reads(TorchDispatchMode):
    """Counts the numbers that are read out of tensors: on a device each of them would wait for it."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", METHODS)
def test_a_device_is_waited_for_once_per_step(toy, same, name, monkeypatch):
    one, twin = toy(name), toy(name)
    for toys in (one, twin):
        toys.steps(range(1))  # what is worked out once
    twin.steps([1])
    monkeypatch.setattr(optim, "READ_AT_ONCE", ())
    torch.manual_seed(1)
    with Reads() as reads:
        one.step()
    assert reads.number == 1
    assert same({**one.state(), "storage": None}, {**twin.state(), "storage": None})


@pytest.mark.parametrize("name", METHODS)
def test_gradients_left_by_zero_grad_are_looked_at_once_and_are_no_reason_to_warn(toy, name, monkeypatch):
    """``set_to_none=False`` leaves some, all zero, before every step."""
    monkeypatch.setattr(optim, "READ_AT_ONCE", ())
    one, reads = toy(name), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            with Reads() as reading:
                one.step()
            reads.append(reading.number)
            one.optimizer.zero_grad(set_to_none=False)
    assert reads == [1, 1 + len(list(one.model.parameters())), 1, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", METHODS)
def test_losses_that_are_read_late_are_refused_as_clearly(toy, same, name, bad, monkeypatch):
    monkeypatch.setattr(optim, "READ_AT_ONCE", ())
    one = toy(name)
    one.steps(range(1))
    before = one.state()
    for at in range(one.cost.points):
        with pytest.raises(FloatingPointError, match="loss is (nan|inf) at a point"):
            one.step(lambda evaluate, call, at=at: evaluate() + (bad if call == at else 0))
        torch.set_rng_state(before["random state"])
        assert same(one.state(), before)


@pytest.mark.parametrize("at_once", [("cpu",), ()])
def test_large_but_finite_losses_and_gradients_are_no_failure(at_once, monkeypatch):
    """Though their sum is not finite."""
    monkeypatch.setattr(optim, "READ_AT_ONCE", at_once)
    w = vector(1.0, 1.0, dtype=torch.float32)

    def closure():
        loss = 1.5e38 * w.sum()
        loss.backward()
        w.grad.mul_(2)
        return loss

    RWP(torch.optim.SGD([w], lr=1e-38), sigma=0.0).step(closure)
    torch.testing.assert_close(w.detach(), torch.full((2,), -2.0))


# --- parameters


@pytest.mark.parametrize("name", METHODS)
def test_a_model_may_change_its_precision_between_two_steps(name):
    model = nn.Linear(3, 2)
    optimizer = OPTIMIZERS[name](torch.optim.SGD(model.parameters(), lr=0.01))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

    def closure():
        loss = model(x.to(model.weight.dtype)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1e-12)
    optimizer.param_groups[0]["lr"], before = 0.0, [p.detach().clone() for p in model.parameters()]
    optimizer.step(closure)
    assert all(p.dtype == torch.float64 and torch.equal(p, b) for p, b in zip(model.parameters(), before))


@pytest.mark.parametrize("name", METHODS)
def test_frozen_parameters_stay_at_every_point(name):
    w, frozen = vector(1.0, 2.0), vector(3.0)
    frozen.requires_grad_(False)
    optimizer = OPTIMIZERS[name](torch.optim.SGD([frozen, w], lr=0.01, weight_decay=0.1))
    seen = []
    optimizer.step(quadratic(w, frozen, seen=seen))
    assert all(point[1] == 3.0 for point in seen) and frozen == 3.0 and frozen.grad is None
    assert not torch.equal(w.detach(), torch.tensor([1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("name", METHODS)
def test_a_parameter_frozen_between_two_steps_stays(name):
    w, later = vector(1.0, 2.0), vector(3.0)
    optimizer = OPTIMIZERS[name](torch.optim.SGD([later, w], lr=0.01, momentum=0.9))
    optimizer.step(quadratic(w, later))
    later.requires_grad_(False)
    before = later.clone()
    optimizer.step(quadratic(w, later))
    assert torch.equal(later, before)


@pytest.mark.parametrize("name", METHODS)
def test_other_trained_parameters_are_no_reason_to_warn_and_gradients_collected_before_a_step_are(name):
    parameters = [vector(1.0, 2.0), vector(3.0), vector(0.5, 0.1)]
    optimizer = OPTIMIZERS[name](torch.optim.SGD(parameters[:2], lr=0.001))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(8):
            parameters[0].requires_grad_(step not in (2, 3))
            parameters[1].requires_grad_(step != 6)
            if step == 5:
                optimizer.add_param_group({"params": parameters[2:]})
            optimizer.step(quadratic(*parameters[: 2 + (step >= 5)]))
    quadratic(*parameters)()
    with pytest.warns(UserWarning, match="discards gradients that were collected before it"):
        optimizer.step(quadratic(*parameters))


@pytest.mark.parametrize("hooked", [False, True])
def test_the_warning_names_the_line_of_the_step(hooked):
    w = vector(1.0, 2.0)
    optimizer = RWP(torch.optim.SGD([w], lr=0.001))
    if hooked:
        optimizer.register_step_pre_hook(lambda *_: None)
    quadratic(w)()
    with pytest.warns(UserWarning, match="discards gradients") as caught:
        optimizer.step(quadratic(w))
    assert hooked or caught[0].filename == __file__


@pytest.mark.parametrize("name", METHODS)
def test_an_unused_parameter_is_left_to_the_base_optimizer_as_ever(name):
    """It has no gradient, so not even weight decay acts on it."""
    w, unused = vector(1.0, 2.0), vector(3.0)
    optimizer = OPTIMIZERS[name](torch.optim.SGD([unused, w], lr=0.01, weight_decay=0.1))
    for _ in range(2):
        optimizer.step(quadratic(w))
    assert unused == 3.0 and unused.grad is None


def test_a_parameter_used_at_some_points_only_counts_as_zero_at_the_others():
    w, sometimes = vector(1.0, 2.0), vector(3.0)
    optimizer = NSO(torch.optim.SGD([sometimes, w], lr=1.0), sigma=0.1)
    calls = iter(range(2))

    def closure():
        loss = w.square().sum() + (4 * sometimes.sum() if next(calls) == 1 else 0)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(sometimes.detach(), torch.tensor([3.0 - 4 / 2], dtype=torch.float64))


@pytest.mark.parametrize("name", METHODS)
def test_a_pass_that_reaches_no_parameter_counts_as_zero(name):
    """As when a mini-batch has nothing to learn from; bSAM without its prior, which is a weight decay."""
    w, elsewhere = vector(1.0, 2.0), vector(3.0)
    optimizer = OPTIMIZERS[name](torch.optim.SGD([w], lr=0.1), **({"prior": 0.0} if name == "bsam" else {}))
    for _ in range(2):
        optimizer.step(quadratic(elsewhere))
    assert w.tolist() == [1.0, 2.0] and w.grad is None


@pytest.mark.parametrize("name", METHODS)
def test_tied_weights_are_one_parameter_in_every_method(name):
    """As a parameter that a function uses twice."""
    g, shared = torch.Generator().manual_seed(0), nn.Parameter(torch.empty(3, 3, dtype=torch.float64))
    x = torch.randn(5, 3, generator=g, dtype=torch.float64)
    first, second = (nn.Linear(3, 3, bias=False, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        shared.copy_(torch.randn(3, 3, generator=g, dtype=torch.float64))
        first.weight.copy_(shared)
    second.weight = first.weight
    model, found = nn.Sequential(first, nn.Tanh(), second), []
    for parameters, output in (
        (list(model.parameters()), lambda: model(x)),
        ([shared], lambda: torch.tanh(x @ shared.T) @ shared.T),
    ):
        optimizer = OPTIMIZERS[name](torch.optim.SGD(parameters, lr=0.05, momentum=0.9))

        def closure(output=output):
            loss = output().square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        (p,) = parameters
        found.append(p.detach())
    torch.testing.assert_close(*found)
    assert second.weight is first.weight and found[0].data_ptr() == first.weight.data_ptr()


def test_tied_weights_are_one_parameter():
    torch.manual_seed(0)
    first = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    second = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    second.weight = first.weight
    model, x = nn.Sequential(first, nn.Tanh(), second), torch.randn(5, 3, dtype=torch.float64)

    def loss(w):
        return (torch.tanh(x @ w.T) @ w.T).square().mean()

    def closure():
        value = model(x).square().mean()
        value.backward()
        return value

    w = first.weight.detach().clone()
    g = torch.func.grad(loss)(w)
    g = torch.func.grad(loss)(w + 0.3 * g / g.norm())
    SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3).step(closure)
    assert second.weight is first.weight
    torch.testing.assert_close(first.weight.detach(), w - 0.1 * g)


def test_mixed_precision_weights_come_back_bit_for_bit():
    parameters = [vector(0.1, 0.7, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    before = [p.detach().clone() for p in parameters]
    optimizer = RWP(torch.optim.SGD(parameters, lr=0.0), sigma=0.3)
    for _ in range(3):
        optimizer.step(lambda: quadratic(*parameters)())
        assert all(torch.equal(p, b) and p.grad.dtype == p.dtype for p, b in zip(parameters, before))


# --- groups


def displacement(optimizer, parameters, before):
    seen = []
    optimizer.step(quadratic(*parameters, seen=seen))
    return [(at - w) for at, w in zip(seen[-1], before)]


@pytest.mark.parametrize("kind", KINDS)
def test_groups_with_their_own_sigma(kind):
    values, sigmas = ((1.0, 2.0), (0.5, -1.0, 3.0), (4.0,)), (0.0, 0.1, 0.3)
    before = [vector(*v).detach() for v in values]

    def moved(sigmas):
        parameters = [vector(*v) for v in values]
        groups = [{"params": [p], "sigma": s} for p, s in zip(parameters, sigmas)]
        return displacement(RWP(torch.optim.SGD(groups, lr=0.1), kind=kind, seed=3), parameters, before)

    one = moved((1.0, 1.0, 1.0))
    for u, z, sigma in zip(moved(sigmas), one, sigmas):
        torch.testing.assert_close(u, sigma * z, rtol=1e-12, atol=1e-15)


def test_groups_with_their_own_rho_share_the_norm_of_the_gradient():
    parameters = [vector(1.0, 2.0), vector(0.5)]
    before = [p.detach().clone() for p in parameters]
    groups = [{"params": [p], "rho": rho} for p, rho in zip(parameters, (0.1, 0.4))]
    found = displacement(SAM(torch.optim.SGD(groups, lr=0.1)), parameters, before)
    norm = torch.cat([p**3 for p in before]).norm()
    for e, p, rho in zip(found, before, (0.1, 0.4)):
        torch.testing.assert_close(e, rho * p**3 / norm, rtol=1e-12, atol=1e-15)


def test_groups_with_their_own_lambda():
    parameters = [vector(1.0), vector(1.0)]
    groups = [{"params": [p], "lam": lam} for p, lam in zip(parameters, (0.1, 0.7))]
    slopes = iter((1.0, 2.0))

    def closure():
        loss = next(slopes) * sum(p.sum() for p in parameters)
        loss.backward()
        return loss

    MRWP(torch.optim.SGD(groups, lr=1.0)).step(closure)
    torch.testing.assert_close(torch.cat(parameters).detach(), 1 - torch.tensor([1.1, 1.7], dtype=torch.float64))


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("which", [0, 1])
def test_the_strength_of_one_group_may_be_set_later_as_a_whole_number(which, value):
    parameters = [vector(1.0, 2.0), vector(0.5)]
    before = [p.detach().clone() for p in parameters]
    optimizer = RWP(torch.optim.SGD([{"params": [p]} for p in parameters], lr=0.1), sigma=0.1)
    optimizer.param_groups[which]["sigma"] = value
    found = displacement(optimizer, parameters, before)
    assert found[which].eq(0).all() == (value == 0) and found[1 - which].ne(0).all()


def test_groups_that_differ_in_something_that_cannot_differ():
    parameters = [vector(1.0), vector(2.0)]
    groups = [{"params": [p], "k": k} for p, k in zip(parameters, (1, 2))]
    with pytest.raises(ValueError, match=r"k must be the same in all parameter groups, got \[1, 2\]"):
        NSO(torch.optim.SGD(groups, lr=0.1)).step(quadratic(*parameters))


@pytest.mark.parametrize("name", [name for name in METHODS if "k" in METHODS[name].parameters])
def test_the_number_of_draws_may_change_between_two_steps(name):
    w, calls = vector(1.0, 2.0), []
    optimizer = OPTIMIZERS[name](torch.optim.SGD([w], lr=0.01), k=1)
    for k in (1, 3, 2):
        optimizer.param_groups[0]["k"] = k
        calls.clear()
        optimizer.step(quadratic(w, seen=calls))
        assert len(calls) == METHODS[name].cost(k=k).points
        optimizer.step(*[quadratic(w)] * METHODS[name].cost(k=k).slots)


def test_a_schedule_of_the_scale_costs_no_new_layout():
    w = vector(1.0, 2.0)
    optimizer = RWP(torch.optim.SGD([w], lr=0.01))
    optimizer.step(quadratic(w))
    plan, given = optimizer._plan, optimizer._plan.given
    optimizer.param_groups[0]["sigma"] = 0.2
    optimizer.step(quadratic(w))
    assert optimizer._plan is plan and plan.given is not given
    optimizer.param_groups[0]["sigma"] = -0.2
    for _ in range(2):
        with pytest.raises(ValueError, match="sigma must be"):
            optimizer.step(quadratic(w))


def test_add_param_group():
    parameters = [vector(1.0, 2.0), vector(0.5), vector(3.0)]
    before = [p.detach().clone() for p in parameters]
    optimizer = RWP(torch.optim.SGD(parameters[:1], lr=0.1), sigma=0.1)
    optimizer.step(quadratic(*parameters))
    optimizer.add_param_group({"params": [parameters[1]], "lr": 0.0})
    optimizer.add_param_group({"params": [parameters[2]], "sigma": 0.0})
    assert [group["sigma"] for group in optimizer.base.param_groups] == [0.1, 0.1, 0.0]
    before[0] = parameters[0].detach().clone()
    found = displacement(optimizer, parameters, before)
    assert found[0].ne(0).all() and found[1].ne(0).all() and found[2].eq(0).all()
    assert torch.equal(parameters[1], before[1]) and not torch.equal(parameters[2], before[2])
    with pytest.raises(ValueError, match="sigma must be"):
        optimizer.add_param_group({"params": [vector(1.0)], "sigma": -1})
    assert len(optimizer.param_groups) == 3


def test_a_group_added_to_the_base_optimizer_is_part_of_it():
    parameters = [vector(1.0, 2.0), vector(0.5)]
    optimizer = RWP(torch.optim.SGD(parameters[:1], lr=0.1), sigma=0.1)
    optimizer.base.add_param_group({"params": [parameters[1]]})
    before = [p.detach().clone() for p in parameters]
    assert all(u.ne(0).all() for u in displacement(optimizer, parameters, before))


# --- with the rest of torch


@pytest.mark.parametrize("attach", [lambda optimizer: optimizer, lambda optimizer: optimizer.base], ids=["outer", "base"])
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=10),
    ],
    ids=["step", "cosine", "one cycle"],
)
def test_learning_rate_schedulers(toy, same, schedule, attach):
    one, plain = toy("rwp", sigma=0.0), toy("sgd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedulers = schedule(attach(one.optimizer)), schedule(plain.optimizer.base)
        for seed in range(5):
            torch.manual_seed(seed)
            one.step()
            torch.manual_seed(seed)
            plain.optimizer.base.zero_grad()
            plain.evaluate()
            plain.optimizer.base.step()
            for scheduler in schedulers:
                scheduler.step()
            assert [g["lr"] for g in one.optimizer.param_groups] == [g["lr"] for g in plain.optimizer.base.param_groups]
    assert same(one.state()["weights"], plain.state()["weights"])


def test_weight_decay_acts_once_at_the_clean_weights():
    w = vector(1.0, -2.0)
    optimizer = SAM(torch.optim.SGD([w], lr=0.1, weight_decay=0.5), rho=0.3)
    before, g = w.detach().clone(), w.detach() ** 3
    g = (before + 0.3 * g / g.norm()) ** 3
    optimizer.step(quadratic(w))
    torch.testing.assert_close(w.detach(), before - 0.1 * (g + 0.5 * before))


@pytest.mark.parametrize("name", METHODS)
def test_hooks_run_once_per_step(toy, name):
    one, called = toy(name), []
    one.optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    one.optimizer.register_step_post_hook(lambda *_: called.append("after"))
    one.optimizer.base.register_step_pre_hook(lambda *_: called.append("base"))
    one.step()
    assert called == ["before", "base", "after"]


@pytest.mark.parametrize("register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook])
def test_hooks_for_all_optimizers_see_it_and_its_base_once_per_step(toy, register):
    one, seen = toy("sam"), []
    one.step()
    handle = register(lambda optimizer, *_: seen.append(type(optimizer).__name__))
    try:
        one.step()
    finally:
        handle.remove()
    one.step()
    assert sorted(seen) == ["SAM", "SGD"]


def test_a_profiler_sees_it_and_its_base_once_per_step(toy):
    one = toy("sam")
    one.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        one.step()
    found = {event.key: event.count for event in profiler.key_averages() if event.key.startswith("Optimizer.step#")}
    assert found == {"Optimizer.step#SAM.step": 1, "Optimizer.step#SGD.step": 1}


def counted(step, calls):
    @functools.wraps(step)
    def counting(*args, **kwargs):
        calls.append(None)
        return step(*args, **kwargs)

    return counting


@pytest.mark.parametrize("how", ["on the instance", "in a subclass", "in a class that torch takes for wrapped", "by a scheduler"])
@pytest.mark.parametrize("name", METHODS)
def test_whatever_somebody_put_around_the_step_of_the_base_is_called(name, how):
    """Torch's own wrapper is passed by where nobody watches; nobody else's is."""
    w, calls = vector(1.0, 2.0), []
    kind = torch.optim.SGD
    if how == "in a subclass":
        kind = type("Own", (kind,), {"step": lambda self: calls.append(None) or torch.optim.SGD.step(self)})
    if how == "in a class that torch takes for wrapped":
        kind = type("Own", (kind,), {"step": counted(kind.step, calls)})
    base = kind([w], lr=0.01)
    if how == "on the instance":
        base.step = counted(base.step, calls)
    if how == "by a scheduler":
        torch.optim.lr_scheduler.StepLR(base, 1)
        calls = []
    optimizer = OPTIMIZERS[name](base)
    for _ in range(2):
        optimizer.step(quadratic(w))
    assert base._opt_called if how == "by a scheduler" else len(calls) == 2
    assert not torch.equal(w.detach(), torch.tensor([1.0, 2.0], dtype=torch.float64))


def test_it_is_a_torch_optimizer_that_shares_its_base():
    w = vector(1.0)
    base = torch.optim.Adam([w])
    optimizer = RWP(base)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is base.param_groups and optimizer.state is base.state
    optimizer.step(quadratic(w))
    optimizer.zero_grad()
    assert w.grad is None


@pytest.mark.parametrize("name", METHODS)
def test_repr_names_the_method_the_base_and_the_hyper_parameters(name):
    text = repr(OPTIMIZERS[name](torch.optim.Adam([vector(1.0)], lr=0.125)))
    assert text.startswith(OPTIMIZERS[name].__name__) and "Adam" in text and "0.125" in text
    assert all(f"{key}: {METHODS[name].default(key)}" in text for key in METHODS[name].parameters)


@pytest.mark.parametrize("name", METHODS)
def test_classes_are_found_by_their_name(name):
    own = OPTIMIZERS[name]
    assert issubclass(own, PerturbedOptimizer) and getattr(optim, own.__name__) is own and own.__name__ in optim.__all__


# --- random models against a reference on flat weights


PER_GROUP = {
    "sigma": st.floats(0, 0.5),
    "rho": st.floats(0.001, 0.02),
    **dict.fromkeys(("lam", "beta", "ema", "remove", "alpha", "clean", "exponent", "beta2"), st.floats(0, 1)),
    **dict.fromkeys(("eta", "floor", "pull", "prior"), st.floats(0.01, 2)),
    "damping": st.floats(0.1, 1),
    "beta1": st.floats(0, 0.99),
}


@st.composite
def problems(draw):
    groups = draw(st.lists(st.fixed_dictionaries(PER_GROUP), min_size=draw(st.integers(1, 3)), max_size=3))
    shapes = draw(st.lists(st.lists(st.integers(1, 3), max_size=4).map(tuple), min_size=len(groups), max_size=5))
    owner = [draw(st.integers(0, len(groups) - 1)) for _ in shapes]
    owner[: len(groups)] = range(len(groups))
    return {
        "shapes": shapes,
        "groups": groups,
        "owner": owner,
        "frozen": draw(st.sets(st.integers(1, len(shapes)), max_size=len(shapes) - 1)),
        "k": draw(st.integers(1, 3)),
        **{key: draw(st.sampled_from(row.choices)) for key, row in PARAMETERS.items() if row.choices},
        "base": draw(st.sampled_from(["sgd", "adam"])),
        "seed": draw(st.integers(0, 1000)),
    }


def coupled(tensors):
    return torch.sin(sum(t.sum() for t in tensors)) + sum((t**4).sum() for t in tensors)


def bases(name, parameters):
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=0.1)
    return torch.optim.Adam(parameters, lr=0.01, eps=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=12)
@given(problem=problems())
def test_any_model_and_groups_against_flat_weights(name, problem):
    row = METHODS[name]
    g = torch.Generator().manual_seed(problem["seed"])
    parameters = [nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64)) for shape in problem["shapes"]]
    for i in problem["frozen"]:
        parameters[i - 1].requires_grad_(False)
    groups = [
        {"params": [p for p, o in zip(parameters, problem["owner"]) if o == i]}
        | {key: value for key, value in group.items() if key in row.parameters}
        for i, group in enumerate(problem["groups"])
    ]
    own = {key: problem[key] for key in row.parameters if key in problem}
    own |= {"examples": PARAMETERS["examples"].default} if "examples" in row.parameters else {}
    optimizer = OPTIMIZERS[name](bases(problem["base"], groups), seed=problem["seed"], **own)

    trained = [(p, group) for group in groups for p in group["params"] if p.requires_grad]
    fixed = [p for p in parameters if not p.requires_grad]
    layout = Layout({str(i): p.shape for i, (p, _) in enumerate(trained)})
    w = nn.Parameter(layout.flatten([p.detach() for p, _ in trained]))
    hyper = {
        key: torch.cat([torch.full((p.numel(),), group[key], dtype=torch.float64) for p, group in trained])
        for key in PER_GROUP
        if key in row.parameters
    }
    kind = row.kind if problem["kind"] == "published" else problem["kind"]
    stream, memory = [generator(problem["seed"], "noise")], {}
    if "noise" in row.needs:
        hyper["noise"] = Noise(layout, stream, hyper["sigma"], kind, problem["law"], problem["perturb"])
    hyper |= {"normal": Noise(layout, stream), "layout": layout, "memory": memory}
    base = bases(problem["base"], [w])
    gradient = torch.func.grad(lambda flat: coupled([*layout.split(flat), *fixed]))

    def closure():
        loss = coupled(parameters)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        talk = row.start(w.detach(), **{**own, **hyper})
        w.grad = drive(talk, lambda points: [gradient(at.w) for at in points])
        base.step()
        found = layout.flatten([p.detach() for p, _ in trained])
        torch.testing.assert_close(found, w.detach(), rtol=1e-9, atol=1e-9)


# --- errors


@pytest.mark.parametrize("name", METHODS)
def test_no_closure_is_an_error_that_says_what_is_needed(name):
    w = vector(1.0)
    optimizer = OPTIMIZERS[name](torch.optim.SGD([w], lr=0.1))
    for arguments in ((), (None,), (torch.tensor(1.0),), (quadratic(w), None)):
        with pytest.raises(TypeError, match=r"needs a closure that computes the loss.*GradScaler.*bfloat16"):
            optimizer.step(*arguments)
    assert w == 1.0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("returned", [None, 1.0, torch.ones(2)])
def test_a_closure_must_return_the_loss(name, returned):
    w = vector(1.0)

    def closure():
        quadratic(w)()
        return returned

    with pytest.raises(TypeError, match="must return the loss"):
        OPTIMIZERS[name](torch.optim.SGD([w], lr=0.1)).step(closure)
    assert w == 1.0 and w.grad is None


@pytest.mark.parametrize("name", METHODS)
def test_too_many_closures(name):
    w, slots = vector(1.0), METHODS[name].cost().slots
    several = rf", or {slots}: one for each of its batches or parts of a batch" if slots > 1 else ""
    for number in {slots + 1, slots + 2, 2 * slots + 1, *range(2, slots)}:
        with pytest.raises(
            TypeError, match=rf"{OPTIMIZERS[name].__name__}\.step takes one closure{several}; got {number} closures"
        ):
            OPTIMIZERS[name](torch.optim.SGD([w], lr=0.1)).step(*[quadratic(w)] * number)
    assert w == 1.0
    for number in {1, slots}:
        OPTIMIZERS[name](torch.optim.SGD([w], lr=0.1)).step(*[quadratic(w)] * number)


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in METHODS for key in METHODS[name].parameters])
def test_impossible_hyper_parameters_name_what_is_allowed(name, key):
    for bad in (-1, float("nan"), float("inf"), "nonsense", None):
        for groups, hyper in (([{"params": [vector(1.0)]}], {key: bad}), ([{"params": [vector(1.0)], key: bad}], {})):
            with pytest.raises(ValueError) as error:
                OPTIMIZERS[name](torch.optim.SGD(groups, lr=0.1), **hyper)
            assert str(error.value).startswith(f"{key} must be {PARAMETERS[key].allowed}, got {bad!r}")


def test_a_refused_hyper_parameter_leaves_nothing_behind():
    base = torch.optim.SGD([vector(1.0)], lr=0.1)
    before = dict(base.param_groups[0])
    with pytest.raises(ValueError, match="law"):
        RWP(base, sigma=0.3, law="nonsense")
    assert base.param_groups[0] == before


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_hyper_parameter_lists_what_there_is(name):
    with pytest.raises(ValueError, match=f"unknown parameter of {OPTIMIZERS[name].__name__} 'sgima'") as error:
        OPTIMIZERS[name](torch.optim.SGD([vector(1.0)], lr=0.1), sgima=0.1)
    assert all(key in str(error.value) for key in (*METHODS[name].parameters, "seed"))
    assert ("did you mean 'sigma'" in str(error.value)) == ("sigma" in METHODS[name].parameters)


@pytest.mark.parametrize("base", [torch.optim.SGD, [vector(1.0)], None, 0.1], ids=["class", "parameters", "none", "number"])
def test_the_base_must_be_an_optimizer_instance(base):
    with pytest.raises(TypeError, match=r"RWP wraps an instance of a torch optimizer, as in RWP\("):
        RWP(base)


def test_a_base_that_needs_a_closure_itself():
    w = vector(1.0)
    for base in (torch.optim.LBFGS([w]), SAM(torch.optim.SGD([w], lr=0.1))):
        with pytest.raises(TypeError, match=f"RWP cannot wrap {type(base).__name__}.*without a closure"):
            RWP(base)


@pytest.mark.parametrize("name", METHODS)
def test_sparse_gradients(name):
    embedding = nn.Embedding(4, 2, sparse=True)
    before = embedding.weight.detach().clone()

    def closure():
        loss = embedding(torch.tensor([1])).square().sum()
        loss.backward()
        return loss

    with pytest.raises(TypeError, match="dense gradients.*sparse=False"):
        OPTIMIZERS[name](torch.optim.SGD(embedding.parameters(), lr=0.1)).step(closure)
    assert torch.equal(embedding.weight, before)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_to_train(name):
    w = vector(1.0)
    w.requires_grad_(False)
    other = vector(2.0)
    with pytest.raises((ValueError, RuntimeError), match="(?i)parameter"):
        OPTIMIZERS[name](torch.optim.SGD([w], lr=0.1)).step(quadratic(other))


def test_wrapping_the_same_base_again_takes_the_new_values():
    p = torch.nn.Parameter(torch.ones(2))
    base = torch.optim.SGD(
        [{"params": [p], "lr": 0.1}, {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1, "sigma": 0.7}]
    )
    optim.RWP(base, sigma=0.1)
    again = optim.RWP(base, sigma=0.2)
    assert [group["sigma"] for group in again.param_groups] == [0.2, 0.7]
