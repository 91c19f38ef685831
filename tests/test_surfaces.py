"""The lab of arrows on a surface, without a browser; its exercise."""

from __future__ import annotations

import asyncio

import pytest
import torch
from waiting import rest

import rwp_edu
from rwp_edu.lab import UpdateState, exercises
from rwp_edu.lab.explorers import update
from rwp_edu.methods import METHODS
from rwp_edu.methods.points import At


@pytest.mark.parametrize("method", METHODS)
def test_arrows_start_and_end_where_the_update_says(method):
    state = UpdateState(method=method, k=2)
    found, plan = state.update, update.layout(state)["annotations"]
    step = plan[0]
    assert (step["ax"], step["ay"], step["x"], step["y"]) == (*found.w.tolist(), *found.after.tolist())
    moved = [a for a in found.answers if not torch.equal(a.at.w, found.w)]
    assert len(plan) == 1 + len(found.answers) + len(moved)
    circles, diamonds = update.traces(state)[1:3]
    assert len(circles["x"]) + len(diamonds["x"]) == len(found.answers)
    assert bool(diamonds["x"]) is (found.rounds == 2)
    assert METHODS[method].formula in update.sentence(state)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("x", [-0.9, 0.8])
def test_everything_in_the_figure_is_seen(method, x):
    """The letters stand apart, the contours fill the axes, and a gradient's arrow lies on the step's, which is wider and transparent."""
    state = UpdateState(method=method, x=x)
    traces, plan = update.traces(state), update.layout(state)
    w, after = traces[-2:]
    assert (w["text"], after["text"]) == (["w"], ["w\u2032"])
    away = 1 if after["x"][0] >= w["x"][0] else -1
    assert [t["textposition"] for t in (w, after)] == ["middle left", "middle right"][::away]
    contour = traces[0]
    for axis, name in (("xaxis", "x"), ("yaxis", "y")):
        assert plan[axis]["constrain"] == "domain", "else the axis goes on where the contours end"
        assert [contour[name][0], contour[name][-1]] == plan[axis]["range"]
    step, *others = plan["annotations"]
    assert step["arrowcolor"].startswith("rgba") and all(a["arrowwidth"] < step["arrowwidth"] / 2 for a in others)


def test_the_batches_differ_as_much_as_asked():
    w = torch.zeros(2, dtype=torch.float64)
    same, other = UpdateState(batch_noise=0.0), UpdateState(batch_noise=2.0)
    assert torch.equal(same.gradient(At(w, 0)), same.gradient(At(w, 1)))
    torch.testing.assert_close(other.gradient(At(w, 0)) - other.gradient(At(w, 1)), 2 * (update._TILTS[0] - update._TILTS[1]))


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
        screen.choice.value = "sam"
        await rest(screen)
        assert lab.state.method == "sam" and "SAM" in screen.says.value
        assert screen.controls["rho"].box in screen.left.children and screen.controls["sigma"].box not in screen.left.children
        drawn = screen.figure.plot_layout["annotations"][0]["x"]
        screen.controls["x"].input.value = 0.5
        await rest(screen)
        assert lab.state.x == 0.5 and screen.figure.plot_layout["annotations"][0]["x"] != drawn
        screen.store("rho", -1)
        await rest(screen)
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
