"""Corners of torch's optimizer interface: wrapping again, hooks, setters, kinds of numbers."""

from __future__ import annotations

import collections
import copy
import pickle

import pytest
import torch
from torch import nn

from rwp_edu.methods import METHODS
from rwp_edu.optim import NSO, OPTIMIZERS, RWP, SAM
from rwp_edu.optim.optimizer import FILLED
from rwp_edu.optim.schedules import ScaleSchedule

sgd = torch.optim.SGD
CLIMBERS = [name for name in OPTIMIZERS if METHODS[name].cost().rounds > 1]


def pull(*ps):
    def closure():
        loss = sum((p - 1).square().sum() for p in ps)
        loss.backward()
        return loss

    return closure


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_who_climbs_does_not_maximize(name):
    w = nn.Parameter(torch.ones(3))
    if name in CLIMBERS:
        with pytest.raises(TypeError, match="minimize the negative instead"):
            OPTIMIZERS[name](sgd([w], lr=0.1, maximize=True))
    else:
        OPTIMIZERS[name](sgd([w], lr=0.1, maximize=True)).step(pull(w))
    assert {"sam", "gsam", "bsam"} <= set(CLIMBERS) and "rwp" not in CLIMBERS


def loaded(optimizer, parameters):
    base = sgd(parameters, lr=0.1)
    base.load_state_dict({key: value for key, value in optimizer.state_dict().items() if key != "rwp_edu"})
    return base


@pytest.mark.parametrize(
    "again",
    [
        lambda optimizer, ps: optimizer.base,
        lambda optimizer, ps: copy.deepcopy(optimizer).base,
        lambda optimizer, ps: pickle.loads(pickle.dumps(optimizer)).base,
        loaded,
    ],
)
def test_a_base_that_is_wrapped_again_forgets_what_nobody_gave_it(again):
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = RWP(sgd([{"params": [a]}, {"params": [b], "sigma": 0.3}], lr=0.1), sigma=0.2)
    optimizer.add_param_group({"params": [c]})
    optimizer.step(pull(a, b, c))
    base = again(optimizer, [{"params": [p]} for p in (a, b, c)])
    other = NSO(base, sigma=0.5)
    assert [group["sigma"] for group in other.param_groups] == [0.5, 0.3, 0.5] and "sigma" in other.param_groups[0][FILLED]


def test_what_is_set_is_set_and_hooks_hear():
    w = nn.Parameter(torch.ones(3))
    optimizer = RWP(sgd([w], lr=0.1, momentum=0.9))
    optimizer.step(pull(w))
    heard = []
    optimizer.register_state_dict_pre_hook(lambda *_: heard.append("saving"))
    optimizer.register_state_dict_post_hook(lambda *_: heard.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: heard.append("loading"))
    optimizer.register_load_state_dict_post_hook(lambda *_: heard.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert heard == ["saving", "saved", "loading", "loaded"]
    for these in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(RWP(sgd([w], lr=0.1))))):
        these.state = collections.defaultdict(dict)
        these.param_groups = [dict(these.param_groups[0], lr=0.01)]
        assert not these.base.state and these.base.param_groups[0]["lr"] == 0.01


def test_a_scale_in_a_tensor_may_be_moved_in_place():
    w, seen, sigma = nn.Parameter(torch.ones(2)), [], torch.tensor(0.1)
    optimizer = RWP(sgd([w], lr=0.0))
    optimizer.param_groups[0]["sigma"] = sigma

    def closure():
        seen.append((w.detach() - 1).norm().item())
        return pull(w)()

    optimizer.step(closure)
    sigma.zero_()
    optimizer.step(closure)
    assert seen[0] > 0 and seen[1] == 0


def test_complex_parameters_are_refused():
    w = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(TypeError, match="view_as_real"):
        RWP(sgd([w], lr=0.1)).step(lambda: w.abs().square().sum())


@pytest.mark.parametrize("name", ["sam", "asam", "fsam", "gsam"])
def test_float16_climbs_as_far_as_float32(name):
    def displacement(dtype):
        w, seen = nn.Parameter(torch.full((10_000,), 0.0, dtype=dtype)), []

        def closure():
            seen.append(w.detach().double().norm().item())
            loss = (w.float() * 1000).sum()
            loss.backward()
            return loss

        OPTIMIZERS[name](sgd([w], lr=0.0), rho=100.0, **({"floor": 1.0} if name == "asam" else {})).step(closure)
        return seen[1]

    assert displacement(torch.float16) == pytest.approx(displacement(torch.float32), rel=1e-2) and displacement(torch.float32) > 0
    still = nn.Parameter(torch.ones(3, 4, dtype=torch.float16))
    SAM(sgd([still], lr=0.1)).step(pull(still))
    assert torch.equal(still, torch.ones_like(still))


def test_a_group_without_noise_that_is_added_later_stays_without():
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = RWP(sgd([a], lr=0.1), sigma=0.1)
    schedule = ScaleSchedule(optimizer, end=0.1, steps=1)
    optimizer.add_param_group({"params": [b], "sigma": 0.0})
    optimizer.add_param_group({"params": [c], "sigma": 0.1})
    schedule.step()
    assert [group["sigma"] for group in optimizer.param_groups] == [0.1, 0.0, 0.1]
    other = ScaleSchedule(optimizer, end=0.1, steps=1)
    other.load_state_dict(schedule.state_dict())
    assert other.state_dict() == schedule.state_dict()


def test_a_state_of_a_method_that_draws_nothing_goes_anywhere():
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM(sgd([w], lr=0.1))
    optimizer.step(pull(w))
    state = optimizer.state_dict()
    state["rwp_edu"] |= {"device": "cuda:0"}
    SAM(sgd([w], lr=0.1)).load_state_dict(state)
    noisy = RWP(sgd([w], lr=0.1))
    noisy.step(pull(w))
    state = noisy.state_dict()
    state["rwp_edu"] |= {"device": "cuda:0"}
    with pytest.raises(ValueError, match="noise generator"):
        RWP(sgd([w], lr=0.1)).load_state_dict(state)
