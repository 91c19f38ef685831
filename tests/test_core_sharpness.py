"""Rises against closed forms, the exact worst case of a quadratic, the methods' own points; radii; invariance; errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rwp_edu.curvature import Estimate
from rwp_edu.curvature.lanczos import dense
from rwp_edu.curvature.objective import Objective
from rwp_edu.curvature.sharpness import average_rise, pac_bayes, radius_of_rise, sam_rise, worst_rise
from rwp_edu.curvature.trace import trace
from rwp_edu.methods.noise import LAWS
from rwp_edu.methods.points import Layout
from rwp_edu.methods.trace_update import take_apart
from rwp_edu.problems.mlp import MLP
from rwp_edu.problems.objectives import NetworkObjective
from rwp_edu.problems.surfaces import SHARP_AND_WIDE

DOUBLE = torch.float64
A = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.5]], dtype=DOUBLE)
B = torch.tensor([1.0, -0.4, 0.3], dtype=DOUBLE)
W = torch.tensor([0.5, -1.0, 1.5], dtype=DOUBLE)
LAYOUT = Layout({"a": (2, 1), "b": (1,)})
KINDS = ("isotropic", "layer-wise", "filter-wise", "element-wise")


def within(measured, value, errors=4):
    assert abs(measured.value - value) <= errors * measured.error + 1e-12 * abs(value), (measured, value)


def quadratic(h=A, b=B, w=W, layout=LAYOUT):
    return Objective(lambda w: (w @ h * w).sum(-1) / 2 + w @ b, w, layout if len(w) == layout.size else None)


def network(runs=None, activation="tanh"):
    g = torch.Generator().manual_seed(3)
    net = MLP((4, 5, 3), activation)
    w = torch.stack([net.init(g, DOUBLE) for _ in range(runs or 1)])
    x, y = torch.randn(20, 4, generator=g, dtype=DOUBLE), torch.randint(3, (20,), generator=g)
    return NetworkObjective(net, w if runs else w[0], x, y)


# On average


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("law", LAWS)
def test_average_rise_of_a_quadratic(law, kind):
    s = quadratic().scale(kind)
    exact = 0.7**2 / 2 * (A.diagonal() * s.square()).sum().item()
    for antithetic in (True, False):
        within(average_rise(quadratic(), 0.7, kind, law, rtol=0, budget=10_000, antithetic=antithetic), exact)


def test_errors_of_the_average_rise_are_those_of_the_formulas():
    slope = (A @ W + B).square().sum().item()
    bend = 0.3**4 / 2 * A.square().sum().item()
    for antithetic, variance in ((True, bend), (False, bend + 0.3**2 * slope)):
        found = average_rise(quadratic(), 0.3, rtol=0, budget=20_000, antithetic=antithetic)
        assert found.error == pytest.approx(math.sqrt(variance / 20_000), rel=0.05)


def test_average_rise_stops_when_it_is_known_well_enough():
    loose, tight = (average_rise(quadratic(), 0.3, rtol=rtol, budget=100_000) for rtol in (0.1, 0.02))
    assert loose.reached and tight.reached and tight.draws > 10 * loose.draws and tight.error <= 0.02 * tight.value
    assert not average_rise(quadratic(), 0.3, rtol=1e-9, budget=50).reached


@pytest.mark.parametrize("kind", KINDS)
def test_average_rise_of_a_network_is_that_of_its_trace(kind):
    net, sigma = network(), 1e-3
    rise, bent = average_rise(net, sigma, kind, "rademacher", 0, 300), trace(net, 0, 300, kind=kind)
    assert rise.value == pytest.approx(sigma**2 / 2 * bent.value, rel=1e-3), "the same draws"
    within(rise, sigma**2 / 2 * (dense(net).diagonal() * net.scale(kind).square()).sum().item())


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_average_rise_on_a_surface_is_that_of_the_smoothed_surface(sigma):
    w = torch.tensor([-0.5, 0.05], dtype=DOUBLE)
    exact = SHARP_AND_WIDE.smoothed(sigma).value(w) - SHARP_AND_WIDE.value(w)
    within(average_rise(Objective(SHARP_AND_WIDE.value, w), sigma, rtol=0, budget=20_000), exact.item())


def test_average_rise_sees_kinks():
    kink = Objective(lambda w: w.abs().sum(-1), torch.zeros(1, dtype=DOUBLE))
    within(average_rise(kink, 0.1, rtol=0, budget=5000), 0.1 * math.sqrt(2 / math.pi))
    assert trace(kink).value == 0


def test_runs_at_once_are_the_runs_alone(global_random_state):
    runs = network(3)
    for r, (found, sam) in enumerate(zip(average_rise(runs, 0.1, "filter-wise", rtol=0.2), sam_rise(runs, 0.1, "filter-wise"))):
        one = NetworkObjective(runs.net, runs.w[r], runs.x[0], runs.y[0])
        alone = average_rise(one, 0.1, "filter-wise", rtol=0.2, seed=r)
        assert (
            found.draws == alone.draws
            and found.value == pytest.approx(alone.value)
            and found.error == pytest.approx(alone.error)
        )
        assert sam == pytest.approx(sam_rise(one, 0.1, "filter-wise"))


# SAM's step


def test_sam_rise_of_a_quadratic():
    g = A @ W + B
    u = g / g.norm()
    for rho in (0.0, 0.1, 2.0):
        assert sam_rise(quadratic(), rho) == pytest.approx((rho * g.norm() + rho**2 / 2 * u @ A @ u).item())
    assert sam_rise(quadratic(b=0 * B, w=0 * W), 1.0) == 0


@pytest.mark.parametrize("method, kind", [("sam", "isotropic"), ("asam", "element-wise")])
def test_sam_rise_is_at_the_point_that_the_method_asks_about(method, kind):
    loss = quadratic()
    own = {"floor": 0.0, "adapt": "all"} if method == "asam" else {}
    update = take_apart(method, W, lambda at: loss.gradient(at.w[None])[0], rho=0.3, layout=LAYOUT, **own)
    asked = update.answers[-1].at.w
    assert sam_rise(loss, 0.3, kind) == pytest.approx(loss.loss(asked[None]).item() - loss.value, rel=1e-9)


# The worst case


def worst_of_a_quadratic(h, g, rho):
    """max gᵀe + eᵀHe/2 over |e| <= ρ: e = (μ - H)⁻¹ g with μ above the largest eigenvalue such that |e| = ρ (no hard case)."""
    values, vectors = np.linalg.eigh(h.numpy())
    b = vectors.T @ g.numpy()
    low, high = max(values[-1], 0), max(values[-1], 0) + np.linalg.norm(b) / rho + 1
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if np.linalg.norm(b / (mu - values)) > rho else (low, mu)
    e = b / (high - values)
    return b @ e + e @ (values * e) / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rho", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("shift", [0.0, -1.2])
def test_worst_rise_of_a_quadratic(rho, shift, kind):
    h = A + shift * torch.eye(3, dtype=DOUBLE)
    loss, g = quadratic(h), h @ W + B
    s = loss.scale(kind)
    found = worst_rise(loss, rho, kind, steps=300)
    assert found.rise == pytest.approx(worst_of_a_quadratic(s[:, None] * h * s, s * g, rho), rel=1e-6)
    assert found.rise == max(found.rises) == pytest.approx(loss.loss(found.point[None]).item() - loss.value)
    assert ((found.point - W) / s).norm() <= rho * (1 + 1e-12)
    assert found.gradients == 1 + 300 * len(found.rises) and len(found.rises) == 5


def test_worst_rise_leaves_a_minimum_and_does_not_fall():
    still = quadratic(b=0 * B, w=0 * W)
    found = worst_rise(still, 2.0, steps=200)
    assert found.rise == pytest.approx(2 * torch.linalg.eigvalsh(A)[-1].item(), rel=1e-6) and found.rises[0] == 0
    net = network()
    rises = [worst_rise(net, rho, "filter-wise").rise for rho in (0.0, 0.05, 0.1, 0.3)]
    assert rises[0] == 0 and rises == sorted(rises)
    for rho, rise in zip((0.0, 0.05, 0.1, 0.3), rises):
        assert rise >= sam_rise(net, rho, "filter-wise") - 1e-12
    hill = Objective(lambda w: -w.square().sum(-1), torch.tensor([1.0, 0.0], dtype=DOUBLE))
    assert worst_rise(hill, 3.0).rise == pytest.approx(1.0, abs=1e-4), "the top lies inside the ball"


def test_restarts_find_the_higher_of_two_hills():
    def hills(w):
        return torch.exp(-(w - torch.tensor([0.5, 0.0])).square().sum(-1) / 0.1) + 3 * torch.exp(
            -(w + 0.6).square().sum(-1) / 0.1
        )

    loss = Objective(hills, torch.zeros(2))
    alone, several = (worst_rise(loss, 0.9, restarts=n) for n in (0, 8))
    assert alone.rise < 1.1 and several.rise > 2.9
    assert several.rises == worst_rise(loss, 0.9, restarts=8).rises


def test_rescaling_a_network_changes_plain_sharpness_but_not_adaptive_sharpness():
    net = network(activation="relu")
    w, factors = net.w.clone(), torch.tensor([0.2, 5.0, 1.0, 3.0, 0.5], dtype=DOUBLE)
    first, bias, second, _ = net.layout.split(w)
    first.mul_(factors[:, None])
    bias.mul_(factors)
    second.div_(factors)
    other = net.at(w)
    for measure in (
        sam_rise,
        lambda *args: worst_rise(*args, restarts=0).rise,
        lambda *args: average_rise(*args, law="rademacher").value,
    ):
        assert measure(other, 0.1, "element-wise") == pytest.approx(measure(net, 0.1, "element-wise"))
        assert abs(measure(other, 0.1, "isotropic") / measure(net, 0.1, "isotropic") - 1) > 0.1


# Radii


@pytest.mark.parametrize("rise", [1e-4, 0.1, 30.0])
def test_radius_of_sam_on_a_quadratic(rise):
    g = A @ W + B
    bend = (g @ A @ g / g.square().sum()).item()
    exact = (math.sqrt(g.square().sum().item() + 2 * rise * bend) - g.norm().item()) / bend
    found = radius_of_rise(quadratic(), rise, "sam", tol=1e-9)
    assert found.distance == pytest.approx(exact) == pytest.approx(found.size) and found.error == 0
    assert found.rise == pytest.approx(rise, rel=1e-9) == pytest.approx(sam_rise(quadratic(), found.size))


@pytest.mark.parametrize("kind", KINDS)
def test_radius_of_noise_on_a_quadratic(kind):
    s = quadratic().scale(kind)
    exact = math.sqrt(2 * 0.5 / (A.diagonal() * s.square()).sum().item())
    found = radius_of_rise(quadratic(), 0.5, "noise", kind=kind, draws=2000, seed=3)
    length = s.norm().item()
    assert abs(found.distance - exact * length) < 4 * found.error and found.distance == pytest.approx(found.size * length)
    rise = average_rise(quadratic(), found.size, kind, rtol=0, budget=2000, seed=3)
    assert rise.value == pytest.approx(0.5, rel=1e-3) and found.error == pytest.approx(
        found.distance * rise.error / rise.value / 2, rel=1e-2
    )


def test_radius_of_the_worst_case_is_the_smallest():
    net = network()
    found = {how: radius_of_rise(net, 0.2, how) for how in ("noise", "sam", "worst")}
    assert found["worst"].distance <= found["sam"].distance < found["noise"].distance
    assert worst_rise(net, found["worst"].size).rise == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("p", [10, 1000])
def test_noise_goes_farther_than_sam_the_more_weights_there_are(p):
    """At a minimum with one sharp direction, r/ρ = √(P uᵀHu / tr H)."""
    h = torch.full((p,), 0.01, dtype=DOUBLE)
    h[0] = 4.0
    valley = Objective(lambda w: (w.square() @ h) / 2, torch.eye(p, dtype=DOUBLE)[0] * 1e-9)
    sam, noise = (radius_of_rise(valley, 0.5, how) for how in ("sam", "noise"))
    assert abs(noise.distance / sam.distance - math.sqrt(p * 4 / h.sum().item())) < 4 * noise.error / sam.distance


# PAC-Bayes


@pytest.mark.parametrize("b", [0.3, 0.5, 0.9])
def test_pac_bayes_is_the_best_over_the_variance(b):
    a, r, n, c = 40.0, 3.0, 500, 2.0
    s2 = np.geomspace(1e-5, 1e2, 200_001)
    terms = (1 / b - 1) * s2 / 2 * a + c * r**2 / (4 * b * (1 - b) * n * s2)
    assert pac_bayes(a, r, n, c).value == pytest.approx(math.sqrt(2) * b * terms.min(), rel=1e-6)


def test_pac_bayes_carries_the_error_of_the_trace():
    values = [pac_bayes(t, 2.0, 100).value for t in (49.5, 50.0, 50.5)]
    found = pac_bayes(Estimate(50.0, 0.5), 2.0, 100)
    assert found.value == values[1] and found.error == pytest.approx((values[2] - values[0]) / 2, rel=1e-3)
    assert pac_bayes(trace(quadratic()), 1.0, 10).error > 0 and pac_bayes(Estimate(0.0, 0.1), 1.0, 10) == (0, 0)


# Errors


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: average_rise(quadratic(), -1), "sigma must be a finite number >= 0, got -1"),
        (lambda: average_rise(quadratic(), 0.1, budget=0), "budget must be a whole number >= 2, got 0"),
        (lambda: average_rise(quadratic(), 0.1, law="gauss"), "unknown law 'gauss'; did you mean 'gaussian'"),
        (lambda: average_rise(quadratic(), 0.1, kind="filters"), "unknown kind 'filters'"),
        (lambda: average_rise(Objective(lambda w: w.log().sum(-1), W.abs()), 9.0), "the loss is not finite at [0-9]+ of 16 points: choose a smaller radius"),
        (lambda: sam_rise(quadratic(), math.nan), "rho must be a finite number >= 0, got nan"),
        (lambda: sam_rise(Objective(lambda w: w.sqrt().sum(-1), 0 * W), 0.1), "the gradient at w is not finite"),
        (lambda: worst_rise(quadratic(), 0.1, steps=0), "steps must be a whole number >= 1, got 0"),
        (lambda: worst_rise(network(2), 0.1), "for one run at a time"),
        (lambda: radius_of_rise(network(2), 0.1), "for one run at a time"),
        (lambda: radius_of_rise(quadratic(), 0.1, "rwp"), "unknown how 'rwp'"),
        (lambda: radius_of_rise(quadratic(), 0), "rise must be"),
        (lambda: radius_of_rise(Objective(lambda w: -torch.exp(-w.square().sum(-1)), 0 * W), 2.0, "sam"), "rises by 0 at sam of size"),
        (lambda: radius_of_rise(Objective(lambda w: torch.tanh(w.square().sum(-1)), W), 2.0), "and nowhere by 2: ask for less"),
        (lambda: radius_of_rise(Objective(lambda w: (w.sum(-1) - 1 > 0.05).double() + 1e-9 * w.sum(-1), W), 0.5, "sam"), "it jumps there"),
        (lambda: pac_bayes(-1, 1.0, 10), "trace and distance must be >= 0"),
        (lambda: pac_bayes(1, 1.0, 0), "n >= 1"),
    ],
)  # fmt: skip
def test_errors(call, says):
    with pytest.raises(ValueError, match=says):
        call()
