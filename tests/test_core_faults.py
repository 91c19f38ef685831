"""Whatever fails at whatever closure call of whatever method and model: everything is as before the step."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rwp_edu.methods import METHODS, PARAMETERS
from rwp_edu.optim import ARWP, FSAM, OPTIMIZERS

SCALES = {"sigma": st.floats(0, 0.3), "rho": st.floats(0, 0.3), "lam": st.floats(0, 1), "eta": st.floats(0, 5)}
BASES = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, amsgrad=True),
}
FAULTS = {
    "exception": RuntimeError,
    "interrupt": KeyboardInterrupt,
    "no loss": TypeError,
    "nan loss": FloatingPointError,
    "inf gradient": FloatingPointError,
    "nan gradient": FloatingPointError,
    "base refuses": RuntimeError,
}


class Net(nn.Module):
    """Layers that a fault could leave disturbed: BatchNorm, dropout, a parameter not always used, a frozen one."""

    def __init__(self, widths, norm, dropout, frozen):
        super().__init__()
        layers = []
        for a, b in pairwise(widths):
            layers += [
                nn.Linear(a, b),
                *([nn.BatchNorm1d(b, momentum=norm)] if norm != 0 else []),
                nn.Tanh(),
                nn.Dropout(dropout),
            ]
        self.layers = nn.Sequential(*layers)
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("calls", torch.tensor(0.0))
        if frozen:
            self.layers[0].weight.requires_grad_(False)

    def forward(self, x, with_gain=True):
        self.calls = self.calls + 1
        y = self.layers(x)
        return y * self.gain if with_gain else y


class Training:
    def __init__(self, name, problem):
        torch.manual_seed(problem["seed"])
        self.model = Net(problem["widths"], problem["norm"], problem["dropout"], problem["frozen"])
        self.data = torch.randn(3, 6, problem["widths"][0])
        row, parameters = METHODS[name], list(self.model.parameters())
        groups = [{"params": parameters[i :: len(problem["groups"])]} for i in range(len(problem["groups"]))]
        for group, own in zip(groups, problem["groups"]):
            group |= {key: value for key, value in own.items() if key in row.parameters}
        hyper = {key: value for key, value in problem["hyper"].items() if key in row.parameters}
        self.optimizer = OPTIMIZERS[name](BASES[problem["base"]](groups), seed=problem["seed"], **hyper)
        self.slots = row.cost(**{key: value for key, value in hyper.items() if key == "k"}).slots
        self.without, self.calls = problem["without"], 0

    def closure(self, batch, wrap):
        def evaluate():
            call, self.calls = self.calls, self.calls + 1

            def plain():
                loss = self.model(self.data[batch % 3], call not in self.without).square().mean()
                loss.backward()
                return loss

            return wrap(plain, call)

        return evaluate

    def step(self, seed, one_closure, wrap=lambda plain, call: plain()):
        torch.manual_seed(seed)
        self.calls = 0
        return self.optimizer.step(*(self.closure(b, wrap) for b in range(1 if one_closure else self.slots)))

    def state(self):
        """``identity`` of gradients and storages, beside copies of all values."""
        parameters, buffers = list(self.model.parameters()), list(self.model.buffers())
        own = self.optimizer.state_dict()["rwp_edu"]
        return {
            "weights": [p.detach().clone() for p in parameters],
            "identity": [(p.data_ptr(), id(p.grad)) for p in parameters],
            "buffers": [b.clone() for b in buffers],
            "gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
            "global": torch.get_rng_state(),
            "base": [dict(self.optimizer.base.state[p]) for p in parameters if p in self.optimizer.base.state],
            "memory": own["memory"],
            "noise": own["generator"],
        }


@st.composite
def problems(draw):
    hyper = {"k": draw(st.integers(1, 3)), "clean": draw(st.sampled_from([0.0, 0.3]))}
    for key in ("kind", "law", "perturb", "signs", "granularity", "adapt", "lam_of"):
        hyper[key] = draw(st.sampled_from(PARAMETERS[key].choices))
    return {
        "widths": draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)),
        "norm": draw(st.sampled_from([0, 0.1, None])),
        "dropout": draw(st.sampled_from([0.0, 0.4])),
        "frozen": draw(st.booleans()),
        "groups": draw(st.lists(st.fixed_dictionaries({}, optional=SCALES), min_size=1, max_size=3)),
        "hyper": hyper,
        "base": draw(st.sampled_from(sorted(BASES))),
        "seed": draw(st.integers(0, 1000)),
        "without": draw(st.sets(st.integers(0, 6))),
        "one_closure": draw(st.booleans()),
        "before": draw(st.integers(0, 2)),
        "fault": draw(st.sampled_from(sorted(FAULTS))),
        "when": draw(st.sampled_from(["before", "after"])),
        "at": draw(st.integers(0, 100)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=15)
@given(problem=problems())
def test_a_fault_leaves_no_trace(same, name, problem):
    one, twin = Training(name, problem), Training(name, problem)
    for seed in range(problem["before"]):
        one.step(seed, problem["one_closure"])
        twin.step(seed, problem["one_closure"])
    hyper = {key: problem["hyper"][key] for key in ("k", "clean", "signs") if key in METHODS[name].parameters}
    at, fault = problem["at"] % METHODS[name].cost(**hyper).points, problem["fault"]

    def spoil(plain, call):
        if call != at or fault == "base refuses":
            return plain()
        if fault in ("exception", "interrupt"):
            if problem["when"] == "after":
                plain()
            raise FAULTS[fault]
        loss = plain()
        if fault.endswith("gradient"):
            trained = [p for p in one.model.parameters() if p.grad is not None]
            trained[problem["at"] % len(trained)].grad.view(-1)[0] = float(fault.split()[0])
        return None if fault == "no loss" else loss * float("nan") if fault == "nan loss" else loss

    def refuse(*_):
        raise RuntimeError("refused")

    handle = one.optimizer.base.register_step_pre_hook(refuse) if fault == "base refuses" else None
    torch.manual_seed(50)
    before = one.state()
    with pytest.raises(FAULTS[fault]):
        one.step(50, problem["one_closure"], spoil)
    after = one.state()
    if not problem["before"]:  # a generator that was made in the failed step is a fresh one: the twin below tells
        before["noise"] = after["noise"] = None
    assert same(after, before)
    if handle:
        handle.remove()
    for seed in range(60, 62):
        one.step(seed, problem["one_closure"])
        twin.step(seed, problem["one_closure"])
    assert same({**one.state(), "identity": None}, {**twin.state(), "identity": None})


@pytest.mark.parametrize("method", [ARWP, FSAM])
@pytest.mark.parametrize("fault", ["exception", "closures"])
def test_a_step_that_fails_after_a_parameter_was_frozen_keeps_the_history(same, method, fault):
    """A history restarts when other parameters are trained, but only if that step succeeds."""
    a, b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    optimizer = method(torch.optim.SGD([a, b], lr=0.01))

    def closure():
        loss = (a**4).sum() + (b**4).sum()
        loss.backward()
        return loss

    def fail():
        raise RuntimeError

    optimizer.step(closure)
    before = optimizer.state_dict()["rwp_edu"]
    b.requires_grad_(False)
    with pytest.raises((RuntimeError, TypeError)):
        optimizer.step(*([fail] if fault == "exception" else [closure] * 5))
    b.requires_grad_(True)
    assert same(optimizer.state_dict()["rwp_edu"]["memory"], before["memory"])
    assert same(optimizer.state_dict()["rwp_edu"], before)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].history])
def test_a_history_stays_with_the_parameters_that_are_still_trained(name):
    def parameters():
        return [nn.Parameter(torch.tensor(values, dtype=torch.float64)) for values in ([1.0, 2.0], [0.5, 0.3])]

    def steps(optimizer, ps, n):
        def closure():
            loss = sum((p**4).sum() for p in ps)
            loss.backward()
            return loss

        for _ in range(n):
            optimizer.step(closure)

    ps = parameters()
    optimizer = OPTIMIZERS[name](torch.optim.SGD(ps, lr=0.0))
    steps(optimizer, ps, 2)
    kept = {key: value.clone() for key, value in optimizer.memory.items()}
    assert len(kept) == METHODS[name].history
    seen = []
    ps[0].requires_grad_(False)

    def stop():
        seen.append({key: value.clone() for key, value in optimizer.memory.items()})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(stop)
    assert {key: value.tolist() for key, value in seen[0].items()} == {key: value[2:].tolist() for key, value in kept.items()}
    assert {len(value) for value in optimizer.memory.values()} == {4}  # the step was undone
    steps(optimizer, ps, 1)
    ps[0].requires_grad_(True)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1, dtype=torch.float64))]})
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(stop)
    for key, value in seen[1].items():
        fill = 1.0 if key == "s" else 0.0
        assert value.tolist() == [fill, fill, *optimizer.memory[key].tolist(), fill]
