"""Averages, variances and traces against closed forms, dense derivatives and each other; the tanh network against autograd."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from rwp_edu.curvature import (
    Estimate,
    derivatives,
    expected_rise,
    gradient_variance,
    hessian,
    hessian_change,
    hessian_trace,
    smoothing,
    squared_hessian_trace,
)
from rwp_edu.curvature.smoothing import joined
from rwp_edu.methods.noise import LAWS
from rwp_edu.methods.points import At
from rwp_edu.problems.matrix_sensing import Sensing
from rwp_edu.problems.mlp import MLP
from rwp_edu.problems.surfaces import SHARP_AND_WIDE

DOUBLE = torch.float64
KURTOSIS = {"gaussian": 0, "uniform": -6 / 5, "laplace": 3, "rademacher": -2}  # E z⁴ - 3
W = torch.tensor([0.5, -1.0, 1.5], dtype=DOUBLE)
A = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.5]], dtype=DOUBLE)


def quadratic(w):
    return (w @ A * w).sum(-1) / 2 + w.sum(-1)


def quadratic_gradient(w):
    return w @ A + 1


def quartic(w):
    return w.pow(4).sum(-1) / 4


def cube(w):
    return w**3


def within(estimate, value, errors=4):
    assert abs(estimate.value - value) <= errors * estimate.error, (estimate, value)


@cache
def dense_third(loss, w):
    jacobian = torch.func.jacrev
    return jacobian(jacobian(jacobian(lambda v: loss(v[None])[0])))(w)


@pytest.fixture(scope="module")
def network():
    """A small tanh network at random weights: batched loss and gradient, and the weights."""
    g = torch.Generator().manual_seed(3)
    net = MLP((4, 5, 3), "tanh")
    x, y = torch.randn(1, 20, 4, generator=g, dtype=DOUBLE), torch.randint(3, (1, 20), generator=g)
    w = net.init(g, DOUBLE)
    return (
        lambda v: net.loss(v, x.expand(len(v), -1, -1), y.expand(len(v), -1)),
        lambda v: net.gradient(v, x.expand(len(v), -1, -1), y.expand(len(v), -1)),
        w,
    )


# The mean of the loss


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("antithetic", [True, False])
def test_rise_of_a_quadratic_is_half_the_trace(law, antithetic):
    within(expected_rise(quadratic, W, 0.7, law, draws=20_000, antithetic=antithetic), 0.7**2 / 2 * A.trace().item())


@pytest.mark.parametrize("law", LAWS)
def test_rise_of_a_quartic_knows_the_fourth_moment(law):
    sigma, one = 0.8, torch.tensor([1.3], dtype=DOUBLE)
    exact = (6 * sigma**2 * 1.3**2 + (3 + KURTOSIS[law]) * sigma**4) / 4
    rise = expected_rise(quartic, one, sigma, law, draws=20_000)
    assert abs(rise.value - exact) <= 4 * rise.error + 1e-12


@pytest.mark.parametrize("sigma", [0.05, 0.2])
@pytest.mark.parametrize("place", [(-0.5, 0.0), (-0.3, 0.1), (0.5, 0.0)])
def test_rise_on_the_surface_is_that_of_the_smoothed_surface(place, sigma):
    w = torch.tensor(place, dtype=DOUBLE)
    exact = SHARP_AND_WIDE.smoothed(sigma).value(w) - SHARP_AND_WIDE.value(w)
    within(expected_rise(SHARP_AND_WIDE.value, w, sigma, draws=20_000), exact.item())


def test_laws_agree_to_second_order(network):
    loss, _, w = network
    trace = hessian(loss, w).trace().item()
    for law in LAWS:
        rise = expected_rise(loss, w, 1e-3, law, draws=20_000)
        within(Estimate(rise.value / 0.5e-6, rise.error / 0.5e-6), trace)


def test_errors_of_the_rise_are_those_of_the_formulas():
    """One-sided σ²|∇f|² + σ⁴/2 ‖H‖², antithetic σ⁴/2 ‖H‖², per draw of Gaussian noise on a quadratic."""
    sigma, n = 0.3, 40_000
    bend, slope = sigma**4 / 2 * A.square().sum().item(), sigma**2 * quadratic_gradient(W).square().sum().item()
    for antithetic, variance in ((True, bend), (False, bend + slope)):
        error = expected_rise(quadratic, W, sigma, draws=n, antithetic=antithetic).error
        assert error == pytest.approx(math.sqrt(variance / n), rel=0.05)


# The variance of the gradient


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("law", LAWS)
def test_variance_on_a_quadratic(law, k):
    one = gradient_variance(quadratic_gradient, W, 0.7, "one-point", k, law, draws=5_000)
    within(one, 0.7**2 * A.square().sum().item() / k)
    two = gradient_variance(quadratic_gradient, W, 0.7, "two-point", k, law, draws=100)
    assert two.value < 1e-28


@pytest.mark.parametrize("k", [1, 3])
def test_variance_on_a_quartic(k):
    """Var (w+u)³ = 9w⁴σ² + 36w²σ⁴ + 15σ⁶, and of the pair 18w²σ⁴."""
    s, square = 0.4, W.square()
    one = (9 * square**2 * s**2 + 36 * square * s**4 + 15 * s**6).sum().item()
    within(gradient_variance(cube, W, s, "one-point", k, draws=20_000), one / k)
    within(gradient_variance(cube, W, s, "two-point", k, draws=20_000), 18 * square.sum().item() * s**4 / k)


@pytest.mark.parametrize("law", LAWS)
def test_variance_of_a_pair_depends_on_the_fourth_moment(law):
    """Var 3wu² = 9w²σ⁴ (E z⁴ - 1)."""
    two = gradient_variance(cube, W, 0.4, "two-point", law=law, draws=20_000)
    exact = 9 * W.square().sum().item() * 0.4**4 * (2 + KURTOSIS[law])
    assert abs(two.value - exact) <= 4 * two.error + 1e-25


@pytest.fixture(scope="module")
def sensing():
    """A loss of degree 4 in the weights, with entries of H and ∂H everywhere."""
    problem = Sensing([0], d=3, rank=1, n=12, dtype=DOUBLE)
    a, y = problem.measurements(), problem.y[0]

    def loss(v):
        m = v.view(-1, 3, 3)
        return (torch.einsum("nij,bip,bjp->bn", a, m, m) - y).square().mean(1) / 4

    w = problem.init()[0]
    torch.testing.assert_close(loss(w[None]), problem.loss(w[None]))
    return loss, lambda v: torch.cat(problem.gradients([At(row[None]) for row in v])), w


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2])
def test_variance_of_a_pair_in_matrix_sensing(sensing, k):
    loss, gradient, w = sensing
    change = dense_third(loss, w).square().sum().item()
    within(gradient_variance(gradient, w, 0.3, "two-point", k, draws=1000), 0.3**4 / 2 * change / k)


@pytest.mark.slow
def test_variances_of_a_network_have_their_leading_terms(network):
    loss, gradient, w = network
    slope, change = hessian(loss, w).square().sum().item(), dense_third(loss, w).square().sum().item()
    for s in (1e-3, 1e-2):
        within(gradient_variance(gradient, w, s, "one-point", 2, draws=2000), s**2 * slope / 2)
        within(gradient_variance(gradient, w, s, "two-point", 1, draws=2000), s**4 / 2 * change)


@pytest.mark.parametrize(
    "points, k, asked", [("one-point", 1, 2), ("one-point", 2, 4), ("two-point", 1, 4), ("two-point", 3, 12)]
)
def test_what_an_estimate_costs(points, k, asked):
    """Two independent estimates per draw; a pair costs as much as two draws."""
    rows = []
    gradient_variance(lambda v: rows.append(len(v)) or v, W, 0.1, points, k, draws=50)
    assert sum(rows) == 50 * asked


# Derivatives


def test_hessian_and_third_derivatives_are_those_of_autograd(network):
    loss, gradient, w = network
    dense = torch.autograd.functional.hessian(lambda v: loss(v[None])[0], w)
    torch.testing.assert_close(hessian(loss, w), dense)
    torch.testing.assert_close(derivatives(loss, w)[0], gradient(w[None])[0])
    u, v = torch.randn(2, 6, len(w), generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    torch.testing.assert_close(derivatives(loss, w, v), v @ dense)
    torch.testing.assert_close(derivatives(loss, w, u, v), torch.einsum("abc,na,nb->nc", dense_third(loss, w), u, v))
    assert not w.requires_grad


def test_derivatives_that_vanish():
    assert torch.equal(hessian(lambda v: v.sum(-1), W), torch.zeros(3, 3, dtype=DOUBLE))
    assert torch.equal(hessian(lambda v: v[:, 0] ** 2, W), torch.diag(torch.tensor([2.0, 0, 0], dtype=DOUBLE)))
    assert hessian_change(quadratic, W, draws=5) == (0, 0)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_traces_are_those_of_the_dense_hessian(network, law):
    loss, _, w = network
    dense = hessian(loss, w)
    within(hessian_trace(loss, w, 3000, law), dense.trace().item())
    within(squared_hessian_trace(loss, w, 3000, law), dense.square().sum().item())
    within(hessian_change(loss, w, 3000, law), dense_third(loss, w).square().sum().item())


def test_errors_of_the_trace_are_those_of_the_formulas(network):
    loss, _, w = network
    dense, n = hessian(loss, w), 10_000
    rademacher = 2 * (dense.square().sum() - dense.diagonal().square().sum()).item()
    for law, variance in (("rademacher", rademacher), ("gaussian", 2 * dense.square().sum().item())):
        assert hessian_trace(loss, w, n, law).error == pytest.approx(math.sqrt(variance / n), rel=0.1)
    assert hessian_trace(quartic, W, 5).error < 1e-12


def test_kinks_are_not_in_the_derivatives():
    assert not hessian(lambda v: v.abs().sum(-1), W).any()
    assert expected_rise(lambda v: v.abs().sum(-1), 0 * W, 0.1).value > 0.1


# What all have in common


def probes(seed, **more):
    return (
        expected_rise(quartic, W, 0.3, seed=seed, **more),
        gradient_variance(cube, W, 0.3, seed=seed, **more),
        hessian_trace(quadratic, W, seed=seed, law="gaussian", **more),
        squared_hessian_trace(quadratic, W, seed=seed, **more),
        hessian_change(quartic, W, seed=seed, law="gaussian", **more),
    )


def test_same_seed_same_numbers(global_random_state):
    assert probes(1, draws=20) == probes(1, draws=20)
    assert all(a.value != b.value for a, b in zip(probes(1, draws=20), probes(2, draws=20)))


def test_standard_errors_are_honest():
    exact = probes(10**6, draws=40_000)
    z = torch.tensor([[(p.value - e.value) / p.error for p, e in zip(probes(s, draws=300), exact)] for s in range(80)])
    assert (z.mean(0).abs() < 0.6).all() and (z.std(0) > 0.7).all() and (z.std(0) < 1.4).all()


def test_draws_come_in_pieces(monkeypatch):
    rows = []

    def loss(v):
        rows.append(v.shape)
        return quartic(v)

    monkeypatch.setattr(smoothing, "PIECE", 30)
    pieces = expected_rise(loss, W, 0.3, draws=2001)
    assert max(n * p for n, p in rows) <= 30 and sum(n for n, _ in rows if n > 1) == 2 * 2001 - 2
    monkeypatch.undo()
    whole = expected_rise(quartic, W, 0.3, draws=2001, seed=5)
    assert abs(pieces.value - whole.value) < 4 * math.hypot(pieces.error, whole.error)
    assert pieces.error == pytest.approx(whole.error, rel=0.2)
    monkeypatch.setattr(smoothing, "PIECE", 1)  # less than one draw needs
    torch.testing.assert_close(hessian(quadratic, W), A)
    within(gradient_variance(quadratic_gradient, W, 0.7, k=2, draws=1000), 0.7**2 * A.square().sum().item() / 2)


def test_a_loss_of_one_weight_vector_is_batched_by_vmap(network):
    loss, _, w = network
    batched = torch.vmap(lambda v: loss(v[None])[0])
    assert hessian_trace(batched, w, 10).value == pytest.approx(hessian_trace(loss, w, 10).value)


def test_joined_estimates():
    assert joined([Estimate(1.0, 0.3), Estimate(3.0, 0.4)]) == (2.0, 0.25)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: expected_rise(quartic, W, -0.1), "sigma must be a finite number >= 0, got -0.1"),
        (lambda: gradient_variance(cube, W, math.nan), "sigma must be a finite number >= 0, got nan"),
        (lambda: expected_rise(quartic, W, 0.1, draws=1), "draws must be a whole number >= 2, got 1"),
        (lambda: hessian_trace(quartic, W, draws=0), "draws must be a whole number >= 2, got 0"),
        (lambda: gradient_variance(cube, W, 0.1, k=0), "k must be a whole number >= 1, got 0"),
        (lambda: expected_rise(quartic, W, 0.1, law="gausian"), "unknown law 'gausian'; did you mean 'gaussian'"),
        (lambda: gradient_variance(cube, W, 0.1, "twopoint"), "unknown points 'twopoint'; did you mean 'two-point'"),
        (lambda: expected_rise(lambda v: v.log().sum(-1), W.abs(), 9.0), r"the loss is not finite at \d+ of \d+ points"),
        (lambda: expected_rise(lambda v: v.sum(-1) * math.nan, W, 0.1), "the loss is not finite at 1 of 1 points"),
        (lambda: gradient_variance(lambda v: v / 0, W, 0.1), r"the gradient is not finite at \d+ of \d+ points"),
        (lambda: expected_rise(lambda v: v.sum(), W, 0.1), r"the loss must give \(1,\) for weights \(1, 3\), it gave \(\)"),
        (lambda: gradient_variance(quartic, W, 0.1, draws=2), r"the gradient must give \(4, 3\) for weights \(4, 3\), it gave \(4,\)"),
        (lambda: hessian_trace(quartic, W[None]), r"w must be flat weights of a floating-point type, got torch.float64 \(1, 3\)"),
        (lambda: hessian(quartic, torch.arange(3)), "w must be flat weights of a floating-point type, got torch.int64"),
    ],
)  # fmt: skip
def test_errors(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# The tanh network


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("widths", [(6, 4), (6, 5, 4), (6, 5, 7, 4)])
def test_network_is_its_module_and_its_gradient_that_of_autograd(widths, activation):
    g = torch.Generator().manual_seed(1)
    net, n, batch = MLP(widths, activation), 3, 8
    w = torch.randn(n, net.layout.size, generator=g, dtype=DOUBLE)
    x, y = torch.randn(n, batch, 6, generator=g, dtype=DOUBLE), torch.randint(4, (n, batch), generator=g)
    gradient = net.gradient(w, x, y)
    for i in range(n):
        module = net.module(w[i])
        loss = torch.nn.functional.cross_entropy(module(x[i]), y[i])
        flat = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.parameters()))])
        torch.testing.assert_close(gradient[i], flat)
        torch.testing.assert_close(net.logits(w, x)[i], module(x[i]))
        torch.testing.assert_close(net.loss(w, x, y)[i], loss)


def test_unknown_activation():
    with pytest.raises(ValueError, match="unknown activation 'thanh'; did you mean 'tanh'"):
        MLP((2, 2), "thanh")
