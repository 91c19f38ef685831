"""Surfaces against autograd, and against averages over noise; one update taken apart; the lab of arrows without a browser."""

from __future__ import annotations

import asyncio

import pytest
import torch

import rwp_edu
from rwp_edu.anatomy import take_apart
from rwp_edu.lab import UpdateState, arrows, exercises
from rwp_edu.methods import METHODS
from rwp_edu.noise import generator
from rwp_edu.points import At
from rwp_edu.problems.surfaces import SHARP_AND_WIDE, Wells

POINTS = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.6


def test_gradient_and_hessian_are_those_of_the_value():
    x = POINTS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(SHARP_AND_WIDE.value(x).sum(), x)
    torch.testing.assert_close(SHARP_AND_WIDE.gradient(POINTS), gradient)
    for point, hessian in zip(POINTS, SHARP_AND_WIDE.hessian(POINTS)):
        torch.testing.assert_close(hessian, torch.autograd.functional.hessian(SHARP_AND_WIDE.value, point))


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_smoothed_surface_is_the_mean_over_noise(sigma):
    u = sigma * torch.randn(400_000, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = SHARP_AND_WIDE.value(POINTS + u)
    error = values.std(0) / len(u) ** 0.5
    assert ((values.mean(0) - SHARP_AND_WIDE.smoothed(sigma).value(POINTS)).abs() < 4 * error).all()


def test_smoothing_twice_is_smoothing_once_by_the_root_of_the_sum():
    once, twice = SHARP_AND_WIDE.smoothed(0.5), SHARP_AND_WIDE.smoothed(0.3).smoothed(0.4)
    torch.testing.assert_close(once.value(POINTS), twice.value(POINTS))
    assert SHARP_AND_WIDE.smoothed(0.0) == SHARP_AND_WIDE


def test_the_sharp_well_is_deeper_until_it_is_smoothed():
    wide, sharp = torch.tensor([[0.5, 0.0], [-0.5, 0.0]], dtype=torch.float64)
    assert SHARP_AND_WIDE.value(sharp) < SHARP_AND_WIDE.value(wide)
    assert SHARP_AND_WIDE.smoothed(0.2).value(sharp) > SHARP_AND_WIDE.smoothed(0.2).value(wide)


@pytest.mark.parametrize("method", METHODS)
def test_an_update_shows_what_the_method_asked_and_did(method):
    w = torch.tensor([0.3, -0.4], dtype=torch.float64)
    asked = []

    def gradient(at):
        asked.append(at)
        return SHARP_AND_WIDE.gradient(at.w)

    found = take_apart(method, w, gradient, lr=0.1, seed=3)
    cost = METHODS[method].cost(k=METHODS[method].default("k"))
    assert [a.at for a in found.answers] == asked and len(asked) == cost.points and found.rounds == cost.rounds
    torch.testing.assert_close(found.after, w - 0.1 * found.g)
    again = take_apart(method, w, lambda at: SHARP_AND_WIDE.gradient(at.w), lr=0.1, seed=3)
    assert torch.equal(found.g, again.g)


def test_an_update_of_rwp_by_hand():
    w = torch.tensor([0.3, -0.4], dtype=torch.float64)
    z = torch.randn(2, generator=generator(5, "noise"), dtype=torch.float64)
    found = take_apart("rwp", w, lambda at: 2 * at.w, sigma=0.2, kind="filter-wise", seed=5)
    torch.testing.assert_close(found.g, 2 * (w + 0.2 * w.norm() * z))


def test_unknown_hyper_parameters_are_refused():
    with pytest.raises(ValueError, match="did you mean 'sigma'"):
        take_apart("rwp", torch.zeros(2), lambda at: at.w, sgima=0.1)


# The lab


@pytest.mark.parametrize("method", METHODS)
def test_arrows_start_and_end_where_the_update_says(method):
    state = UpdateState(method=method, k=2)
    found, plan = state.update, arrows.layout(state)["annotations"]
    step = plan[-1]
    assert (step["ax"], step["ay"], step["x"], step["y"]) == (*found.w.tolist(), *found.after.tolist())
    moved = [a for a in found.answers if not torch.equal(a.at.w, found.w)]
    assert len(plan) == 1 + len(found.answers) + len(moved)
    circles, diamonds = arrows.traces(state)[1:3]
    assert len(circles["x"]) + len(diamonds["x"]) == len(found.answers)
    assert bool(diamonds["x"]) is (found.rounds == 2)
    assert METHODS[method].formula in arrows.sentence(state)


def test_the_batches_differ_as_much_as_asked():
    w = torch.zeros(2, dtype=torch.float64)
    same, other = UpdateState(batch_noise=0.0), UpdateState(batch_noise=2.0)
    assert torch.equal(same.gradient(At(w, 0)), same.gradient(At(w, 1)))
    torch.testing.assert_close(other.gradient(At(w, 0)) - other.gradient(At(w, 1)), 2 * (arrows._TILTS[0] - arrows._TILTS[1]))


@pytest.mark.parametrize("changes, says", [({"rho": -1}, "rho must be"), ({"method": "smam"}, "method must be one of"), ({"roh": 1}, "did you mean 'rho'")])  # fmt: skip
def test_impossible_values(changes, says):
    lab = rwp_edu.lab.update()
    with pytest.raises(ValueError, match=says):
        lab.set(**changes)
    assert lab.state == UpdateState()


def test_screen_follows_the_state_and_shows_errors():
    async def scene():
        lab = rwp_edu.lab.update(method="rwp")
        screen = lab.screen
        screen.show()
        screen.method.value = "sam"
        await asyncio.sleep(0.1)
        assert lab.state.method == "sam" and "SAM" in screen.says.value
        assert screen.controls["rho"].box in screen.left.children and screen.controls["sigma"].box not in screen.left.children
        drawn = screen.figure.layout.annotations[-1].x
        screen.controls["x"].input.value = 0.5
        await asyncio.sleep(0.1)
        assert lab.state.x == 0.5 and screen.figure.layout.annotations[-1].x != drawn
        screen.store("rho", -1)
        await asyncio.sleep(0.1)
        assert "rho must be" in screen.status.value and lab.state.rho > 0
        screen._task.cancel()

    asyncio.run(scene())


# The exercise


def _solution(w, noise):
    u = noise(w)
    gs = yield [At(w + u), At(w - u)]
    return (gs[0] + gs[1]) / 2


def _rwp(w, noise):
    (g,) = yield [At(w + noise(w))]
    return g


def _two_rounds(w, noise):
    u = noise(w)
    (a,) = yield [At(w + u)]
    (b,) = yield [At(w - u)]
    return (a + b) / 2


def _two_draws(w, noise):
    gs = yield [At(w + noise(w)), At(w - noise(w))]
    return (gs[0] + gs[1]) / 2


def _two_batches(w, noise):
    u = noise(w)
    gs = yield [At(w + u), At(w - u, batch=1)]
    return (gs[0] + gs[1]) / 2


def _sum(w, noise):
    u = noise(w)
    gs = yield [At(w + u), At(w - u)]
    return gs[0] + gs[1]


def _clean(w, noise):
    gs = yield [At(w + noise(w)), At(w)]
    return (gs[0] + gs[1]) / 2


@pytest.mark.parametrize(
    "attempt, says",
    [
        (_solution, "Right."),
        (_rwp, "one point in its first round"),
        (_two_rounds, "one point in its first round"),
        (_two_draws, "*same* u"),
        (_two_batches, "on one batch"),
        (_sum, "mean of the two gradients"),
        (_clean, "w + u and w - u"),
        (lambda w, noise: w, "never yields"),
    ],
)
def test_exercise_says_what_is_wrong(attempt, says, capsys):
    assert exercises.check_nso(attempt) is (attempt is _solution)
    assert says in capsys.readouterr().out


def test_wells_without_a_bowl_and_batches_of_points():
    surface = Wells(((1.0, 0.5, 0.0, 0.0),))
    assert surface.value(torch.zeros(3, 4, 2)).shape == (3, 4) and surface.hessian(torch.zeros(3, 4, 2)).shape == (3, 4, 2, 2)
