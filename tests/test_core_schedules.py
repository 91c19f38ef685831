"""Schedules of the scale: their values, in a user's own loop and in a race."""

import numpy as np
import pytest
import torch

from rwp_edu.optim import RSAM, RWP, SAM
from rwp_edu.optim.schedules import SHAPES, ScaleSchedule, scale
from rwp_edu.training import Run
from rwp_edu.training.settings import Settings

START, END = 0.001, 0.011
VALUES = {
    "constant": {0: END, 0.25: END, 0.5: END, 0.79: END, 1: END},
    "linear": {0: START, 0.25: 0.0035, 0.5: 0.006, 1: END},
    "cosine": {0: START, 0.25: START + 0.01 * (1 - 0.5**0.5) / 2, 0.5: 0.006, 1: END},
    "switch-off": {0: END, 0.5: END, 0.799: END, 0.8: 0.0, 0.9: 0.0, 1: 0.0},
}


def optimizer_of(*sigmas, **hyper):
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "sigma": sigma} for sigma in sigmas]
    return RWP(torch.optim.SGD(groups, lr=0.1), **hyper)


def test_every_shape_has_its_values():
    assert set(VALUES) == set(SHAPES)


@pytest.mark.parametrize(("shape", "p", "value"), [(s, p, v) for s, values in VALUES.items() for p, v in values.items()])
def test_values(shape, p, value):
    assert scale(shape, START, END, p) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
def test_progress_beyond_the_ends_is_that_of_the_ends(shape):
    for start, end in ((START, END), (END, START), (0.0, 0.0)):
        assert scale(shape, start, end, -1) == scale(shape, start, end, 0)
        assert scale(shape, start, end, 7) == scale(shape, start, end, 1)
        for p in np.linspace(0, 1, 21):
            assert scale(shape, start, end, p) == 0 or min(start, end) <= scale(shape, start, end, p) <= max(start, end)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_schedule_moves_all_groups(shape):
    optimizer = optimizer_of(0.3, 0.4)
    schedule = ScaleSchedule(optimizer, shape=shape, start=START, end=END, steps=20)

    def closure():
        loss = sum((p**2).sum() for group in optimizer.param_groups for p in group["params"])
        loss.backward()
        return loss

    for step in range(25):
        assert [group["sigma"] for group in optimizer.param_groups] == [scale(shape, START, END, step / 20)] * 2
        optimizer.step(closure)
        schedule.step()


def test_the_noise_of_a_step_is_that_of_the_schedule():
    w, norms = torch.nn.Parameter(torch.ones(50)), []
    optimizer = RWP(torch.optim.SGD([w], lr=0.0), kind="isotropic", law="rademacher")
    schedule = ScaleSchedule(optimizer, "sigma", shape="linear", start=0.0, end=0.4, steps=4)

    def closure():
        norms.append(float((w - 1).detach().abs().max()))
        loss = w.sum()
        loss.backward()
        return loss

    for _ in range(6):
        optimizer.step(closure)
        schedule.step()
    assert norms == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4], abs=1e-6)


@pytest.mark.parametrize(("own", "name"), [(SAM, "rho"), (RSAM, "rho"), (RSAM, "sigma"), (RWP, "lr")])
def test_any_number_of_the_groups_may_follow_a_schedule(own, name):
    optimizer = own(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
    ScaleSchedule(optimizer, name, shape="switch-off", end=0.07, steps=1)
    assert optimizer.param_groups[0][name] == 0.07


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("at", [0, 3, 12])
def test_a_schedule_continues_from_its_state(shape, at):
    first, second = optimizer_of(0.1), optimizer_of(0.7)
    one, other = (ScaleSchedule(o, shape=shape, start=START, end=END, steps=10) for o in (first, second))
    for _ in range(at):
        one.step()
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        assert first.param_groups[0]["sigma"] == second.param_groups[0]["sigma"]
        one.step()
        other.step()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shape": "cosin"}, "unknown shape of a schedule 'cosin'; did you mean 'cosine'?"),
        ({"name": "sgima"}, "unknown entry of the parameter groups 'sgima'; did you mean 'sigma'?"),
        ({"name": "rho"}, "unknown entry of the parameter groups 'rho'"),
        ({"name": "law"}, "unknown entry of the parameter groups 'law'"),
        ({"start": -1}, "start must be a finite number >= 0, got -1"),
        ({"end": float("nan")}, "end must be a finite number >= 0, got nan"),
        ({"end": float("inf")}, "end must be a finite number >= 0, got inf"),
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"steps": 1.5}, "steps must be a whole number >= 1, got 1.5"),
    ],
)
def test_what_a_schedule_refuses(given, message):
    optimizer = optimizer_of(0.1)
    with pytest.raises(ValueError) as error:
        ScaleSchedule(optimizer, **{"end": 0.1, "steps": 5, **given})
    assert message in str(error.value)
    assert optimizer.param_groups[0]["sigma"] == 0.1


# --- in a race


def perturbations(**changes):
    """Sizes of the perturbations of RWP and SAM update by update, with weights that stay where they are."""
    given = {"methods": "rwp,sam,sgd", "lr": 0.0, "kind": "isotropic", "law": "rademacher", "sigma": 0.1, "rho": 0.5}
    small = {"steps": 20, "seeds": 2, "train": 60, "batch": 20, "width": 8, "record_every": 1}
    run = Run(Settings(**{**given, **small, **changes}))
    run.advance(20)
    assert run.record.gradient_evaluations[-1].tolist() == [20, 40, 20]
    return run.record.perturbation[1:]


@pytest.mark.parametrize("start", [0.0, 0.25])
@pytest.mark.parametrize("shape", SHAPES)
def test_perturbations_of_a_race_follow_the_schedule(shape, start):
    found, constant = perturbations(scale=shape, scale_start=start), perturbations()
    factors = [scale(shape, start, 1.0, update / 20) for update in range(20)]
    np.testing.assert_allclose(found[:, :2], np.multiply.outer(factors, constant[0, :2]), rtol=1e-3, atol=1e-6)
    assert (found[:, 2] == 0).all() and (constant[:, :2] > 0).all()


def test_switched_off_is_the_last_fifth_without_noise():
    found = perturbations(scale="switch-off")
    assert (found[:16, :2] > 0).all() and (found[16:] == 0).all()


@pytest.mark.parametrize("pinned", ["rwp:sigma=0.2", "rwp:scale=constant"])
def test_an_entrant_may_pin_its_scale_or_its_schedule(pinned):
    found = perturbations(methods=f"{pinned},sam,sgd", scale="linear")
    plain = perturbations(methods="rwp,sam,sgd")
    factors = np.arange(20) / 20 * 2 if "sigma" in pinned else np.ones(20)
    np.testing.assert_allclose(found[:, 0], np.multiply.outer(factors, plain[0, 0]), rtol=1e-3, atol=1e-6)


def test_a_schedule_set_on_the_way_acts_from_the_next_update():
    given = {"steps": 20, "seeds": 1, "train": 60, "batch": 20, "width": 8, "record_every": 1, "lr": 0.0}
    run = Run(Settings(methods="sam", **given))
    run.advance(10)
    run.set(scale="linear")
    run.advance(5)
    run.set(scale="constant")
    run.advance(5)
    sizes = run.record.perturbation[1:, 0, 0]
    np.testing.assert_allclose(sizes / sizes[0], [1] * 10 + [n / 20 for n in range(10, 15)] + [1] * 5, rtol=1e-3)
