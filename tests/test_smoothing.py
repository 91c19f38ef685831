"""The explorers of smoothing and of two-point noise without a browser, and the exercises of their notebooks."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
import torch
from waiting import rest, until

import rwp_edu
from rwp_edu.curvature import Estimate, derivatives, gradient_variance, hessian
from rwp_edu.curvature.smoothing import joined
from rwp_edu.experiments import variance_functions
from rwp_edu.experiments.variance_functions import BATCH, SUBJECTS, subject
from rwp_edu.lab import SmoothingState, TwoPointsState, exercises
from rwp_edu.lab.explorers import gradient_variance as variance
from rwp_edu.lab.explorers import smoothing as smoothed
from rwp_edu.lab.explorers.smoothing import SURFACE, minima, scales
from rwp_edu.methods.noise import LAWS
from rwp_edu.plotting.plotly import bars
from rwp_edu.utils.parameters import Parameter


def named(explorer, name):
    return next(trace for trace in explorer.traces() if trace["name"] == name)


def all_shown(screen):
    return [(t["name"], t["x"], t["y"]) for t in screen.figure.data]


# Smoothing


def on_the_line(sigma, x):
    """The smoothed surface for w₂ = 0, in NumPy."""
    out = 0.025 * (x**2 + 2 * sigma**2)
    for a, s, c in ((1.0, 0.9, 0.5), (0.8, 0.12, -0.5)):
        v = s**2 + sigma**2
        out -= a * s**2 / v * np.exp(-((x - c) ** 2) / (2 * v))
    return out


def valleys(sigma):
    """Values of the local minima on a fine grid."""
    y = on_the_line(sigma, np.linspace(-1.25, 1.25, 200_001))
    return y[1:-1][(y[1:-1] < y[:-2]) & (y[1:-1] < y[2:])]


def test_the_scales_are_where_the_minima_are_level_and_where_one_goes():
    level, gone = scales()
    sharp, wide = valleys(level)
    assert sharp == pytest.approx(wide, abs=1e-5)
    assert np.subtract(*valleys(level - 0.005)) < 0 < np.subtract(*valleys(level + 0.005))
    assert len(valleys(gone - 5e-4)) == 2 and len(valleys(gone + 5e-4)) == 1


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.18, 0.25])
def test_minima_have_no_slope_and_positive_curvature(sigma):
    surface = SURFACE.smoothed(sigma)
    found = minima(surface)
    assert len(found) == len(valleys(sigma))
    for x in found:
        w = torch.tensor([x, 0.0], dtype=torch.float64)
        assert surface.gradient(w).abs().max() < 1e-9 and torch.linalg.eigvalsh(surface.hessian(w)).min() > 0


def test_the_cut_shows_the_loss_smoothed_and_its_minima():
    lab = rwp_edu.lab.smoothing(sigma=0.15)
    line = named(lab, "smoothed loss F")
    np.testing.assert_allclose(line["y"], on_the_line(0.15, line["x"]), atol=1e-12)
    np.testing.assert_allclose(named(lab, "loss f")["y"], on_the_line(0.0, line["x"]), atol=1e-12)
    heights = [named(lab, f"{name} minimum")["y"][0] for name in ("sharp", "wide")]
    np.testing.assert_allclose(heights, valleys(0.15), atol=1e-8)
    second = named(lab, "f + σ²/2 tr H")["y"] - named(lab, "loss f")["y"]
    at = torch.tensor([line["x"][150], 0.0], dtype=torch.float64)
    assert second[150] == pytest.approx(0.15**2 / 2 * hessian(SURFACE.value, at).trace().item())
    lab.set(sigma=0.25)
    assert named(lab, "sharp minimum")["x"] == [None] and named(lab, "wide minimum")["x"][0] == pytest.approx(0.47, abs=0.02)


@pytest.mark.parametrize("law", LAWS)
def test_the_rise_is_exact_and_measured(law):
    lab = rwp_edu.lab.smoothing(sigma=0.1, x=0.4, law=law)
    exact, dots = named(lab, "F - f, exact"), named(lab, "measured ± 2 s.e.")
    rise = [on_the_line(s, 0.4) - on_the_line(0.0, 0.4) for s in exact["x"]]
    np.testing.assert_allclose(exact["y"], rise, rtol=1e-9)
    for s, y in zip(dots["x"][:5], dots["y"]):  # where the law does not matter yet
        error = lab.state.measured(s).error
        assert abs(y - np.interp(s, exact["x"], exact["y"])) < 4 * error + 0.01 * y
    assert law in lab.text


def test_where_noise_lowers_the_loss():
    lab = rwp_edu.lab.smoothing(x=-0.3, sigma=0.05)
    rise, fall = named(lab, "F - f, exact")["y"], named(lab, "f - F, where noise lowers the loss")["y"]
    assert fall[0] > 0 and rise[0] == 0 and fall[-1] == 0 and rise[-1] > 0 and ((rise > 0) ^ (fall > 0)).all()
    symbols = named(lab, "measured ± 2 s.e.")["marker"]["symbol"]
    assert symbols[0] == "circle-open" and symbols[-1] == "circle"
    assert min(named(lab, "measured ± 2 s.e.")["y"]) > 0
    lab.set(sigma=0.15)
    assert "of the wrong sign" in lab.text


def test_what_is_said_about_smoothing():
    level, gone = scales()
    lab = rwp_edu.lab.smoothing(sigma=0)
    assert f"{level:.3f}" in lab.text and "Without noise" in lab.text
    for sigma, says in (
        (level - 0.002, "sharp one is still the deeper"),
        (level + 0.002, "wide one is now"),
        (gone + 0.001, "gone"),
    ):
        lab.set(sigma=sigma)
        assert says in lab.text
    lab.set(sigma=0.1, x=-0.5)
    rise = on_the_line(0.1, -0.5) - on_the_line(0.0, -0.5)
    assert f"raises the loss by {rise:.3g};" in lab.text and str(lab.state.measured(0.1)) in lab.text


def test_ticks_are_the_scales():
    row = rwp_edu.lab.smoothing().rows["sigma"]
    assert [value for value, _ in row.ticks] == list(scales())
    assert "0.11" in row.ticks[0][1] and "0.19" in row.ticks[1][1]


STATES = [{"sigma": 0.0}, {"sigma": 0.005}, {"sigma": 0.2, "x": 1.2}, {"sigma": 1.0, "law": "laplace", "x": -1.2}]


def test_the_picture_keeps_its_traces_and_ranges():
    lab = rwp_edu.lab.smoothing()
    names, plan = [trace["name"] for trace in lab.traces()], lab.layout()
    for state in STATES:
        lab.set(**state)
        assert [trace["name"] for trace in lab.traces()] == names and lab.layout() == plan
    assert len(lab.figure.data) == len(names)


def test_new_draws_move_the_dots_only():
    lab = rwp_edu.lab.smoothing()
    before = {trace["name"]: list(trace["y"]) for trace in lab.traces()}
    lab.set(seed=1)
    moved = {trace["name"] for trace in lab.traces() if list(trace["y"]) != before[trace["name"]]}
    assert moved == {"measured ± 2 s.e.", "± 2 s.e.", "measured at σ"}


@pytest.mark.parametrize("opened", [rwp_edu.lab.smoothing, rwp_edu.lab.two_points])
@pytest.mark.parametrize("changes, says", [({"sigma": -1}, "sigma must be"), ({"law": "normal"}, "law must be one of"), ({"sgima": 1}, "did you mean 'sigma'")])  # fmt: skip
def test_impossible_values(opened, changes, says):
    lab = opened()
    before = lab.state
    with pytest.raises(ValueError, match=says):
        lab.set(**changes)
    assert lab.state == before


def test_error_bars_end_above_the_floor():
    trace = bars([1.0, 2.0], [Estimate(-3.0, 0.5), Estimate(0.1, 1.0)], "#000000", floor=0.01)
    assert trace["x"] == [1.0, 1.0, None, 2.0, 2.0, None] and trace["y"] == [2.0, 4.0, None, 0.01, 2.1, None]


# Two points


@pytest.fixture(scope="module", params=["tanh", "relu"])
def network(request):
    return request.param, subject(request.param)


@pytest.mark.parametrize("name", ["quadratic", "quartic"])
def test_closed_forms_have_the_derivatives_they_state(name):
    it = subject(name)
    dense = hessian(it.loss, it.w)
    torch.testing.assert_close(it.gradient(it.w[None]), derivatives(it.loss, it.w))
    assert it.slope == pytest.approx(dense.square().sum().item())
    units = torch.eye(len(it.w), dtype=it.w.dtype)
    third = torch.stack([derivatives(it.loss, it.w, unit.expand_as(units), units) for unit in units])
    assert it.change == pytest.approx(third.square().sum().item())
    assert it.own * it.change == pytest.approx(torch.einsum("iii->i", third).square().sum().item())


def test_kurtosis_is_that_of_the_laws():
    assert variance_functions.KURTOSIS.keys() == LAWS.keys()
    for law, kurtosis in variance_functions.KURTOSIS.items():
        fourth = LAWS[law](torch.empty(1_000_000, dtype=torch.float64), torch.Generator().manual_seed(0)).pow(4)
        assert abs(fourth.mean().item() - 3 - kurtosis) <= 4 * fourth.std().item() / 1000


@pytest.mark.slow
def test_networks_are_trained_and_know_their_mini_batches(network):
    name, it = network
    assert it.loss(it.w[None]).item() < 0.8 and it.w.dtype == torch.float64
    problem = variance_functions.Digits([0], width=32, batch=BATCH, dtype=torch.float64)
    net = variance_functions.MLP((64, 32, 10), name)
    x, y = (torch.cat(parts) for parts in zip(*(problem.draw() for _ in range(1500))))
    apart = net.gradient(it.w.repeat(1500, 1), x, y) - it.gradient(it.w[None])
    samples = apart.square().sum(1)
    error = samples.std().item() / 1500**0.5
    assert abs(samples.mean().item() - it.batch) < 4 * error < 0.08 * it.batch


def ratio(it, sigma, draws):
    one = gradient_variance(it.gradient, it.w, sigma, "one-point", k=2, draws=draws, seed=1)
    two = gradient_variance(it.gradient, it.w, sigma, "two-point", k=1, draws=draws, seed=2)
    return one, two, variance.ratio(one, two)


def test_the_gain_of_a_pair_goes_with_the_square_of_sigma_only_without_kinks(network):
    name, it = network
    (one, two, small), (_, _, middle), (_, _, large) = (ratio(it, s, 60) for s in (0.0003, 0.003, 0.3))
    if name == "tanh":
        gain = variance.ratio(small, middle)
        assert abs(gain.value - 100) < 4 * gain.error
        expected = it.theory(0.0003, 1, "gaussian")
        assert one.value == pytest.approx(expected[0], rel=0.4) and two.value == pytest.approx(expected[1], rel=0.4)
    else:
        assert small.value + 4 * small.error < middle.value < 50
        assert two.value > 1000 * it.theory(0.0003, 1, "gaussian")[1]
    assert 0.8 < large.value < 2


def finished(**state):
    lab = rwp_edu.lab.two_points(**state)
    lab.finish()
    return lab


@pytest.mark.parametrize("law, k", [("gaussian", 1), ("uniform", 2), ("laplace", 1)])
def test_measurements_of_the_quartic_lie_on_the_theory(law, k):
    lab = finished(function="quartic", law=law, k=k)
    for i, sigma in enumerate(variance.SIGMAS[:8]):
        for name, expected in zip(("one", "two"), lab.subject.theory(sigma, k, law)):
            assert len(lab.found[name][i]) == variance.ROUNDS
            found = joined(lab.found[name][i])
            assert abs(found.value - expected) < 4.5 * found.error + 0.01 * expected
    assert named(lab, f"one-point, {2 * k} draws")["x"] == list(variance.SIGMAS)


def test_nothing_is_left_of_a_quadratic():
    lab = finished(function="quadratic", sigma=0.1)
    assert "1 pair exactly 0" in lab.text and named(lab, "two-point, 1 pair")["x"] == []
    assert named(lab, "leading term σ⁴/2 Σ‖∂ᵢH‖²")["x"] == [] and len(named(lab, "leading term σ²‖H‖²")["x"]) == 13
    assert finished(function="quartic", law="rademacher").text.count("exactly 0") == 1


@pytest.mark.slow
def test_what_is_said_about_a_network(monkeypatch):
    monkeypatch.setattr(variance_functions, "_MADE", {})
    lab = rwp_edu.lab.two_points(function="tanh", sigma=0.01)
    assert lab.text == "getting ready" and lab.subject is None
    said = []
    while lab.subject is None:
        assert lab.work()
        said.append(lab.text)
    assert said[0] == "training the network: update 0 of 600" and "probing its second and third derivatives" in said
    assert lab.text == "measuring"
    lab.finish()
    i = lab.state.place
    assert variance.SIGMAS[i] == pytest.approx(0.01)
    one, two = (joined(lab.found[name][i]) for name in ("one", "two"))
    assert str(one) in lab.text and str(two) in lab.text and "it would be hidden" in lab.text
    level = named(lab, f"mini-batches of {BATCH}")["y"]
    assert level == [lab.subject.batch] * 2 and f"have variance {lab.subject.batch:.2g};" in lab.text
    lab.set(sigma=0.1)
    assert "it would be felt" in lab.text


def test_what_was_measured_is_kept():
    lab = finished(function="quartic")
    before = lab.found
    lab.set(function="quadratic")
    assert not any(lab.found["two"]) and lab.work()
    lab.set(function="quartic", sigma=0.1)
    assert lab.found is before and not lab.work()
    lab.set(seed=1)
    lab.finish()
    assert lab.found != before


def test_a_function_that_cannot_be_made_says_so_each_time(monkeypatch):
    def make():
        yield ""
        raise FileNotFoundError("no digits")

    monkeypatch.setitem(SUBJECTS, "tanh", SUBJECTS["tanh"]._replace(make=make))
    monkeypatch.setattr(variance_functions, "_MADE", {})
    lab = rwp_edu.lab.two_points(function="tanh")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            lab.finish()
    with pytest.raises(ValueError, match="unknown function 'tan'; did you mean 'tanh'"):
        subject("tan")


def test_the_picture_of_two_points_keeps_its_number_of_traces_and_ranges():
    lab = rwp_edu.lab.two_points(function="quadratic")
    count, plan = len(lab.traces()), lab.layout()
    for state in ({"k": 3}, {"function": "quartic", "law": "uniform"}, {"function": "quadratic", "sigma": 0.3}):
        lab.set(**state)
        lab.finish()
        assert len(lab.traces()) == count and lab.layout() == plan
        shown = [y for trace in lab.traces() if trace["name"] != "σ" for y in trace["y"] if y]
        assert min(shown) > 10.0 ** variance.UP[0] and max(shown) < 10.0 ** variance.UP[1]


def test_errors_of_a_ratio_and_how_it_is_written():
    found = variance.ratio(Estimate(100.0, 3.0), Estimate(2.0, 0.08))
    assert found == pytest.approx((50.0, 2.5))
    assert variance._plain(found) == "50 ± 2" and variance._plain(Estimate(23_456.0, 1_900.0)) == "23,000 ± 2,000"
    assert variance._plain(Estimate(3.14159, 0.0321)) == "3.14 ± 0.03"


def test_states_are_rows_of_their_tables():
    for state in (SmoothingState(), TwoPointsState()):
        assert all(isinstance(row, Parameter) for row in state.TABLE.values()) and vars(state).keys() == state.TABLE.keys()


def test_the_global_random_state_is_untouched(global_random_state):
    rwp_edu.lab.smoothing(seed=5).traces()
    finished(function="quartic", seed=5)
    exercises.check_two_point(_pairs)


# Screens


def test_screen_of_smoothing():
    async def scene():
        lab = rwp_edu.lab.smoothing()
        screen = lab.screen
        screen.show()
        before = all_shown(screen)
        screen.controls["sigma"].input.value = 0.2
        await rest(screen)
        assert lab.state.sigma == 0.2 and "gone" in screen.says.value and "level" in screen.controls["sigma"].ticks.value
        moved = {name for (name, x, y), (_, x2, y2) in zip(before, all_shown(screen)) if not np.array_equal(y, y2)}
        assert {"smoothed loss F", "f + σ²/2 tr H", "sharp minimum", "measured at σ"} <= moved and "loss f" not in moved
        screen.store("sigma", -1)
        await rest(screen)
        assert "sigma must be" in screen.status.value and lab.state.sigma == 0.2
        screen._task.cancel()

    asyncio.run(scene())


@pytest.mark.slow
def test_screen_of_two_points_works_by_itself():
    async def scene():
        lab = rwp_edu.lab.two_points(function="quadratic")
        screen = lab.screen
        screen.show()
        screen.wake()
        await until(lambda: all(len(done) == variance.ROUNDS for done in lab.found["two"]))
        screen.choice.value = "quartic"
        await until(lambda: "quartic" in screen.says.value and "times less" in screen.says.value)
        await until(lambda: not lab.work())
        screen.again.click()
        await until(lambda: lab.state.seed == 1)
        screen._task.cancel()

    asyncio.run(scene())


# The exercises


def _loop(f, w, sigma, draws):
    return sum(f(w + sigma * torch.randn_like(w)) for _ in range(draws)) / draws


def _mean(f, w, sigma, draws):
    return f(w + sigma * torch.randn(draws, len(w), dtype=w.dtype)).mean()


def _both_sides(f, w, sigma, draws):
    u = sigma * torch.randn(draws, len(w), dtype=w.dtype)
    return (f(w + u) + f(w - u)).mean() / 2


def _in_place(f, w, sigma, draws):
    return f(w.add_(sigma * torch.randn_like(w))[None])


@pytest.mark.parametrize(
    "attempt, says",
    [
        (_mean, "Right."),
        (_loop, "Right."),
        (_both_sides, "Right."),
        (lambda f, w, sigma, draws: f(w[None]).mean(), "no noise was added"),
        (lambda f, w, sigma, draws: torch.tensor(0.0), "never asks f"),
        (lambda f, w, sigma, draws: print(f(w)), "returns nothing"),
        (lambda f, w, sigma, draws: f(w + sigma * torch.randn(draws, 1)).mean(), "noise of its own"),
        (lambda f, w, sigma, draws: f((w + sigma * torch.randn(3)).expand(draws, 3)).mean(), "every draw is the same"),
        (lambda f, w, sigma, draws: f(w + sigma**2 * torch.randn(draws, 3)).mean(), "standard deviation 0.09"),
        (lambda f, w, sigma, draws: f(w + torch.randn(draws, 3)).mean(), "multiply standard normal numbers by sigma"),
        (lambda f, w, sigma, draws: f(w + sigma * torch.rand(draws, 3)).mean(), "it must be 0"),
        (lambda f, w, sigma, draws: f(w + sigma * torch.randn(draws, 3)), "one number"),
        (lambda f, w, sigma, draws: f(w + sigma * torch.randn(draws, 3)).sum(), "the sum over the draws"),
        (lambda f, w, sigma, draws: f(w + sigma * torch.randn(draws, 3)).mean() - f(w), "that is the rise"),
        (lambda f, w, sigma, draws: f(w + sigma * torch.randn(100, 3)).mean(), "at 100 perturbed points"),
        (lambda f, w, sigma, draws: f(w + sigma * torch.randn(draws, 3)).mean() * 0 + f(w), "without noise"),
        (lambda f, w, sigma, draws: f(w + sigma * torch.randn(draws, 3)).median(), "the values of f have mean"),
        (_in_place, "w itself was changed"),
    ],
)  # fmt: skip
def test_exercise_of_smoothing_says_what_is_wrong(attempt, says, capsys):
    assert exercises.check_smoothed_loss(attempt) is (says == "Right.")
    assert says in capsys.readouterr().out


def _pairs(gradient, w, sigma, k):
    total = torch.zeros_like(w)
    for _ in range(k):
        u = sigma * torch.randn_like(w)
        total += gradient(w + u) + gradient(w - u)
    return total / (2 * k)


def _batched(gradient, w, sigma, k):
    u = sigma * torch.randn(k, len(w), dtype=w.dtype)
    return gradient(torch.cat([w + u, w - u])).mean(0)


def _one_point(gradient, w, sigma, k):
    return sum(gradient(w + sigma * torch.randn_like(w)) for _ in range(k)) / k


def _two_draws(gradient, w, sigma, k):
    noise = lambda: sigma * torch.randn_like(w)
    return sum(gradient(w + noise()) + gradient(w - noise()) for _ in range(k)) / (2 * k)


def _one_pair(gradient, w, sigma, k):
    u = sigma * torch.randn_like(w)
    return sum(gradient(w + u) + gradient(w - u) for _ in range(k)) / (2 * k)


@pytest.mark.parametrize(
    "attempt, says",
    [
        (_pairs, "Right."),
        (_batched, "Right."),
        (_one_point, "are 100 gradients; it asks for 50"),
        (_two_draws, "no partner w - u"),
        (_one_pair, "draw new noise for each"),
        (lambda gradient, w, sigma, k: w, "never asks"),
        (lambda gradient, w, sigma, k: gradient(w.expand(2 * k, 3)).mean(0), "no noise was added"),
        (lambda gradient, w, sigma, k: 2 * _pairs(gradient, w, sigma, k), "twice the mean"),
        (lambda gradient, w, sigma, k: 2 * k * _pairs(gradient, w, sigma, k), "that is the sum"),
        (lambda gradient, w, sigma, k: _pairs(gradient, w, sigma, k).mean(), "of the shape of w"),
        (lambda gradient, w, sigma, k: _pairs(gradient, w, 1.0, k), "multiply standard normal numbers by sigma"),
        (lambda gradient, w, sigma, k: -_pairs(gradient, w, sigma, k), "the mean of its gradients"),
    ],
)  # fmt: skip
def test_exercise_of_two_points_says_what_is_wrong(attempt, says, capsys):
    assert exercises.check_two_point(attempt) is (says == "Right.")
    assert says in capsys.readouterr().out


def test_mean_places():
    """σ of the marker and the measured σ next to it."""
    assert [TwoPointsState(sigma=s).place for s in (10**-3.5, 0.001, 0.0012, 0.0014, 10**-0.5)] == [0, 2, 2, 3, 12]
    assert math.isclose(smoothed.MEASURED[0], 0.01) and math.isclose(smoothed.MEASURED[-1], 1.0)
