"""Surfaces against autograd and quadrature; one update taken apart; minima and basins; descents against a loop in NumPy."""

import math

import numpy as np
import pytest
import torch

from rwp_edu.benchmarks.rows import trajectories
from rwp_edu.methods import METHODS
from rwp_edu.methods.noise import generator
from rwp_edu.methods.trace_update import take_apart
from rwp_edu.problems.basins import basin_of, critical_scales, minima
from rwp_edu.problems.surface_descent import Descent, descend
from rwp_edu.problems.surfaces import RESCALING, SHARP_AND_WIDE, SURFACES, Polynomial, Wells, grid, quadratic

DOUBLE = SURFACES["double well"]
POINTS = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.6
NAMES = sorted(SURFACES)


def _sharp_and_wide(x, y):
    sharp, wide = np.exp(-((x + 0.5) ** 2 + y**2) / 0.0288), np.exp(-((x - 0.5) ** 2 + y**2) / 1.62)
    return -0.8 * sharp - wide + 0.025 * (x**2 + y**2)


def _quadratic(x, y):
    z = (x + 1j * y) * np.exp(-1j * np.pi / 6)
    return z.real**2 / 2 + 5 * z.imag**2


FORMULAS = {
    "sharp and wide": _sharp_and_wide,
    "quadratic": _quadratic,
    "double well": lambda x, y: (x**2 - 1) ** 2 + y**2,
    "rosenbrock": lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
    "himmelblau": lambda x, y: (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2,
    "rescaling": lambda x, y: (x * y - 1) ** 2 / 2,
}

# Surfaces


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_formula(name):
    surface = SURFACES[name]
    assert surface.name == name and surface.meaning
    x = grid(surface.view, 9, 7, torch.float64)
    np.testing.assert_allclose(surface.value(x).numpy(), FORMULAS[name](*x.numpy().T), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_and_hessian_are_those_of_the_value(name):
    surface = SURFACES[name]
    x = POINTS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(surface.value(x).sum(), x)
    torch.testing.assert_close(surface.gradient(POINTS), gradient)
    for point, hessian in zip(POINTS, surface.hessian(POINTS)):
        torch.testing.assert_close(hessian, torch.autograd.functional.hessian(surface.value, point))
    h = 1e-5 * torch.eye(2, dtype=torch.float64)
    differences = [(surface.value(POINTS + e) - surface.value(POINTS - e)) / 2e-5 for e in h]
    torch.testing.assert_close(surface.gradient(POINTS), torch.stack(differences, -1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_float64_rounded(name):
    surface = SURFACES[name]
    for what in (surface.value, surface.gradient, surface.hessian):
        exact = what(POINTS.float().double())
        assert what(POINTS.float()).dtype == torch.float32
        assert (what(POINTS.float()) - exact).abs().max() < 1e-5 * (1 + exact.abs().max())


@pytest.mark.parametrize("sigma", [0.05, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_smoothed_surface_is_the_mean_over_noise(name, sigma):
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    u = sigma * torch.cartesian_prod(torch.tensor(nodes), torch.tensor(nodes)).unsqueeze(1)
    weights = torch.tensor(np.outer(weights, weights).flatten() / (2 * math.pi))
    surface, smoothed = SURFACES[name], SURFACES[name].smoothed(sigma)
    for what in ("value", "gradient", "hessian"):
        mean = torch.tensordot(weights, getattr(surface, what)(POINTS + u), 1)
        torch.testing.assert_close(getattr(smoothed, what)(POINTS), mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_smoothing_twice_is_smoothing_once_by_the_root_of_the_sum(name):
    surface = SURFACES[name]
    once, twice = surface.smoothed(0.5), surface.smoothed(0.3).smoothed(0.4)
    torch.testing.assert_close(once.value(POINTS), twice.value(POINTS))
    assert surface.smoothed(0.0) == surface and once != surface
    assert (once.name, once.view) == (surface.name, surface.view)


@pytest.mark.parametrize("surface", [SHARP_AND_WIDE, RESCALING, Wells(((1.0, 0.5, 0.0, 0.0),))])
def test_shapes(surface):
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
    assert surface.value(x).shape == (3, 4) and surface.gradient(x).shape == (3, 4, 2)
    assert surface.hessian(x).shape == (3, 4, 2, 2)
    torch.testing.assert_close(surface.gradient(x)[1, 2], surface.gradient(x[1, 2]))
    assert surface.value(torch.zeros(0, 2)).shape == (0,) and surface.gradient(x.mT.contiguous().mT).is_contiguous()


def test_the_curvatures_of_a_quadratic_are_those_asked_for():
    surface = quadratic(2.0, 7.0, angle=0.4)
    curvatures, axes = torch.linalg.eigh(surface.hessian(POINTS[0]))
    torch.testing.assert_close(curvatures, torch.tensor([2.0, 7.0], dtype=torch.float64))
    assert abs(axes[1, 0] / axes[0, 0]) == pytest.approx(math.tan(0.4))
    torch.testing.assert_close(surface.smoothed(0.3).value(POINTS), surface.value(POINTS) + 0.045 * 9)


def test_rescaling_changes_the_sharpness_and_smoothing_is_weight_decay():
    for scale in (0.5, 1.0, 3.0):
        w = torch.tensor([scale, 1 / scale], dtype=torch.float64)
        assert RESCALING.value(w) == pytest.approx(0, abs=1e-12)
        curvatures = torch.linalg.eigvalsh(RESCALING.hessian(w)).tolist()
        assert curvatures == pytest.approx([0, scale**2 + scale**-2], abs=1e-12)
    decayed = RESCALING.value(POINTS) + 0.3**2 / 2 * POINTS.square().sum(-1) + 0.3**4 / 2
    torch.testing.assert_close(RESCALING.smoothed(0.3).value(POINTS), decayed)
    balanced = math.sqrt(1 - 0.3**2)
    assert max(minima(RESCALING.smoothed(0.3))[:, 0].tolist()) == pytest.approx(balanced)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: SHARP_AND_WIDE.smoothed(-0.1), "sigma must be a finite number >= 0, got -0.1"),
        (lambda: RESCALING.smoothed(math.nan), "sigma must be a finite number"),
        (lambda: SHARP_AND_WIDE.gradient(torch.zeros(4)), r"shape \(..., 2\), got torch.float32 \(4,\)"),
        (lambda: RESCALING.value(torch.zeros(4, 2, dtype=torch.long)), "floating point"),
        (lambda: Wells(((1.0, 0.0, 0.0, 0.0),)), "width > 0"),
        (lambda: Wells(()), "width > 0"),
        (lambda: Polynomial({(1, -1): 2.0}), "whole i, j >= 0"),
    ],
)
def test_impossible_surfaces_and_points(wrong, says):
    with pytest.raises(ValueError, match=says):
        wrong()


# One update taken apart


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


# Minima, basins, critical scales


def test_minima_are_flat_convex_distinct_and_all_there_are():
    known = {
        "himmelblau": [(-3.779310, -3.283186), (-2.805118, 3.131312), (3.0, 2.0), (3.584428, -1.848126)],
        "double well": [(-1.0, 0.0), (1.0, 0.0)],
        "rosenbrock": [(1.0, 1.0)],
        "quadratic": [(0.0, 0.0)],
        "rescaling": [],
    }
    for name, points in known.items():
        found = minima(SURFACES[name]).numpy()
        assert found.shape == (len(points), 2)
        np.testing.assert_allclose(found[found[:, 0].argsort()], np.reshape(points, (-1, 2)), atol=2e-6)
    sharp, wide = found = minima(SHARP_AND_WIDE)
    assert sharp[0] < 0 < wide[0] and SHARP_AND_WIDE.gradient(found).abs().max() < 1e-12
    assert SHARP_AND_WIDE.value(sharp) < SHARP_AND_WIDE.value(wide)
    assert (torch.linalg.eigvalsh(SHARP_AND_WIDE.hessian(found)) > 0).all()


def test_basins_are_where_slow_gradient_descent_goes():
    starts = grid(SHARP_AND_WIDE.view, 24, 18, torch.float64)
    w = descend(SHARP_AND_WIDE, "sgd", starts, steps=4000, lr=0.003).w
    distance, nearest = torch.cdist(w, minima(SHARP_AND_WIDE)).min(1)
    assert distance.max() < 1e-3
    assert (basin_of(SHARP_AND_WIDE, starts) != nearest).float().mean() < 0.01


def test_basins_of_points_in_any_shape():
    x = torch.tensor([[[0.3, 1.0], [-0.001, 0.0]], [[2.0, -1.0], [-3.0, 0.5]]])
    side = minima(DOUBLE)[basin_of(DOUBLE, x)][..., 0]
    torch.testing.assert_close(side, x[..., 0].sign().double())
    assert (basin_of(RESCALING, x) == -1).all()
    assert basin_of(DOUBLE, torch.tensor([0.0, 0.7])) == -1


def _minima_on_the_axis(sigma):
    """Of the smoothed sharp and wide wells, on a fine grid: the axis is a line of symmetry, and across it both wells are convex."""
    x = np.linspace(-0.9, 0.9, 200_001)
    v = sigma**2
    wide = -0.81 / (0.81 + v) * np.exp(-((x - 0.5) ** 2) / (2 * (0.81 + v)))
    f = wide - 0.8 * 0.0144 / (0.0144 + v) * np.exp(-((x + 0.5) ** 2) / (2 * (0.0144 + v))) + 0.025 * x**2
    return f[1:-1][(f[1:-1] < f[:-2]) & (f[1:-1] < f[2:])]


def test_critical_scales_are_where_the_picture_changes():
    lower, gone = critical_scales(SHARP_AND_WIDE)
    sharp, wide = _minima_on_the_axis(lower - 0.001)
    assert sharp < wide
    sharp, wide = _minima_on_the_axis(lower + 0.001)
    assert sharp > wide
    assert len(_minima_on_the_axis(gone - 0.001)) == 2 and len(_minima_on_the_axis(gone + 0.001)) == 1


def test_critical_scales_of_a_double_well_in_closed_form():
    assert critical_scales(DOUBLE).gone == pytest.approx(1 / math.sqrt(3), abs=1e-6)
    tilted = Polynomial({**DOUBLE.terms, (1, 0): 0.1}, view=DOUBLE.view)
    assert 0 < critical_scales(tilted).gone < 1 / math.sqrt(3)
    with pytest.raises(ValueError, match="two minima, this one has 4"):
        critical_scales(SURFACES["himmelblau"])


# Descents

STARTS = torch.tensor([[-0.3, 0.4], [0.1, -0.2], [-0.6, 0.1], [0.9, 0.8]], dtype=torch.float64)
HERE = {"kind": "isotropic", "sigma": 0.2, "rho": 0.3, "lam": 0.3, "gradient_noise": 0.7, "lr": 0.05}


def _in_numpy(method, updates, *, sigma, rho, lam, gradient_noise, lr, seed=0, **_):
    """The five methods in a loop of their own, with the streams of noise that the docstring names."""
    grad = lambda x: SHARP_AND_WIDE.gradient(torch.tensor(x)).numpy()
    stream = lambda *names: generator(seed, *names)
    noise, batches = stream("noise"), [stream("gradient noise", str(b), "0") for b in (0, 1)]
    draw = lambda g: torch.randn(STARTS.shape, generator=g, dtype=torch.float64).numpy()
    w = STARTS.numpy().copy()
    for _ in range(updates):
        e = gradient_noise * draw(batches[0])
        if method == "sgd":
            g = grad(w) + e
        elif method == "sam":
            g = grad(w) + e
            g = grad(w + rho * g / np.linalg.norm(g, axis=1, keepdims=True)) + e
        elif method == "rwp":
            g = grad(w + sigma * draw(noise)) + e
        elif method == "nso":
            u = sigma * draw(noise)
            g = (grad(w + u) + grad(w - u)) / 2 + e
        elif method == "m-rwp":
            g = (1 - lam) * (grad(w) + e)
            g += lam * (grad(w + sigma * draw(noise)) + gradient_noise * draw(batches[1]))
        w = w - lr * g
    return w


@pytest.mark.parametrize("method", ["sgd", "sam", "rwp", "nso", "m-rwp"])
def test_a_descent_is_the_loop_one_would_write(method):
    found = descend(SHARP_AND_WIDE, method, STARTS, steps=25, seed=4, **HERE)
    np.testing.assert_allclose(found.w.numpy(), _in_numpy(method, 25, seed=4, **HERE), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_trajectory_is_one_update_after_another(method):
    row, w, memory = METHODS[method], STARTS[0], {}
    descent = Descent(SHARP_AND_WIDE, method, STARTS[:1], lr=0.1, sigma=0.2, k=2, seed=9)
    for _ in range(1 if {"noise", "normal"} & set(row.needs) else 3):
        descent.advance(1)
        found = take_apart(method, w, lambda at: SHARP_AND_WIDE.gradient(at.w), lr=0.1, sigma=0.2, k=2, seed=9, memory=memory)
        w = found.after
        torch.testing.assert_close(descent.w[0], w)


@pytest.mark.parametrize("method", METHODS)
def test_slices_are_one_go_and_everything_stays_finite(method, global_random_state):
    make = lambda: Descent(SHARP_AND_WIDE, method, STARTS, watch=[2, 0], gradient_noise=0.5, lr=0.02, rho=0.2)
    slices, whole = make(), make()
    for updates in (1, 0, 7, 22):
        slices.advance(updates)
        slices.set(lr=0.02)
    whole.advance(30)
    assert torch.equal(slices.w, whole.w) and torch.equal(slices.path, whole.path) and whole.updates == 30
    assert torch.isfinite(whole.w).all() and (whole.left == -1).all() and not torch.equal(whole.w, STARTS)
    assert whole.path.shape == (31, 2, 2)
    assert torch.equal(whole.path[0], STARTS[[2, 0]]) and torch.equal(whole.path[-1], whole.w[[2, 0]])


def test_the_path_is_recorded_as_often_as_asked():
    every = descend(SHARP_AND_WIDE, "rwp", STARTS, steps=10, watch=range(4))
    third = descend(SHARP_AND_WIDE, "rwp", STARTS, steps=10, watch=range(4), record_every=3)
    assert third.recorded.tolist() == [0, 3, 6, 9] and torch.equal(third.path, every.path[::3])
    assert descend(SHARP_AND_WIDE, "rwp", STARTS, steps=10).path.shape[1] == 0


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.strength])
def test_without_strength_every_method_is_gradient_descent(method):
    off = dict.fromkeys(METHODS[method].strength, 0.0)
    noise = 0.7 if METHODS[method].cost(k=2).slots == 1 else 0.0
    found, plain = (
        descend(SHARP_AND_WIDE, name, STARTS, steps=20, gradient_noise=noise, k=2, alpha=0.0, **off) for name in (method, "sgd")
    )
    torch.testing.assert_close(found.w, plain.w)


class Plane:
    """f(x) = 0: whatever a descent on it does is noise in the gradients."""

    def gradient(self, x):
        return torch.zeros_like(x)


def _drift(method, n=4000, **hyper):
    return -descend(Plane(), method, torch.zeros(n, 2), steps=1, lr=1.0, gradient_noise=2.0, seed=1, **hyper).w


def test_points_on_one_batch_share_its_noise_and_other_batches_have_their_own():
    plain = _drift("sgd")
    assert plain.std().item() == pytest.approx(2.0, abs=4 * 2 / math.sqrt(2 * plain.numel()))
    for method in ("sam", "rwp", "nso"):
        torch.testing.assert_close(_drift(method), plain)
    torch.testing.assert_close(_drift("m-rwp", lam=0.0), plain)
    other = _drift("m-rwp", lam=1.0)
    assert abs(torch.corrcoef(torch.stack((plain.flatten(), other.flatten())))[0, 1]) < 4 / math.sqrt(plain.numel())
    parts = _drift("lpf-sgd", k=5)
    assert parts.std().item() == pytest.approx(2.0, abs=4 * 2 / math.sqrt(2 * plain.numel()))


@pytest.mark.parametrize("method", METHODS)
def test_values_per_trajectory_are_those_of_separate_descents(method):
    names = [n for n in ("sigma", "rho", "lam", "eta", "exponent", "ema", "alpha", "clean") if n in METHODS[method].parameters]
    values = {name: (0.1 * (i + 1), 0.45) for i, name in enumerate((*names, "lr", "gradient_noise"))}
    go = lambda settings: descend(SHARP_AND_WIDE, method, STARTS, steps=12, **settings).w
    rows = go({name: torch.tensor(pair, dtype=torch.float64).repeat(2)[:, None] for name, pair in values.items()})
    for i in (0, 1):
        alone = go({name: pair[i] for name, pair in values.items()})
        torch.testing.assert_close(rows[i::2], alone[i::2])


@pytest.mark.parametrize("method", ["rwp", "nso"])
def test_the_mean_step_is_down_the_smoothed_surface(method):
    w = torch.tensor([[-0.35, 0.1]], dtype=torch.float64)
    hyper = {"kind": "isotropic", "sigma": 0.15, "gradient_noise": 0.5, "lr": 1.0}
    g = w - descend(SHARP_AND_WIDE, method, w.repeat(20_000, 1), steps=1, **hyper).w
    error = g.std(0) / math.sqrt(len(g))
    away = g.mean(0) - SHARP_AND_WIDE.smoothed(0.15).gradient(w[0])
    assert (away.abs() < 4 * error).all()
    assert ((g.mean(0) - SHARP_AND_WIDE.gradient(w[0])).abs() > 4 * error).any()


@pytest.mark.parametrize("surface, lr, start", [(quadratic(1.0, 1.0), 3.0, 1.0), (SURFACES["himmelblau"], 0.5, 4.0)])
def test_a_trajectory_that_leaves_is_frozen_and_reported_and_disturbs_no_other(surface, lr, start):
    starts = torch.tensor([[start, 0.0], [0.1, 0.2], [0.0, start]])
    rates = torch.tensor([[lr], [0.001], [lr]])
    descent = Descent(surface, "nso", starts, lr=rates, watch=[0])
    descent.advance(60)
    left = descent.left.tolist()
    assert left[1] == -1 and left[0] > 0 and left[2] > 0
    at, then = descent.path[:, 0], left[0]
    assert torch.isfinite(descent.path).all() and (at[then - 1 :] == at[then - 1]).all()
    assert then == 1 or not torch.equal(at[then - 1], at[then - 2])
    calm = Descent(surface, "nso", starts, lr=0.001)
    calm.advance(60)
    torch.testing.assert_close(descent.w[1], calm.w[1])


def test_settings_may_change_on_the_way():
    descent = Descent(quadratic(1.0, 1.0), "rwp", STARTS, lr=0.1, sigma=0.0)
    descent.advance(1)
    descent.set(lr=0.5)
    descent.advance(1)
    torch.testing.assert_close(descent.w, 0.9 * 0.5 * STARTS)
    descent.set(sigma=torch.tensor([[0.0], [1.0], [0.0], [1.0]]), kind="isotropic")
    before = descent.w
    descent.advance(1)
    as_before = torch.isclose(descent.w, 0.5 * before).all(1).tolist()
    assert as_before == [True, False, True, False]
    with pytest.raises(ValueError, match="sigma must be"):
        descent.set(lr=0.3, sigma=-1)
    assert descent.settings["lr"] == 0.5


def test_starts_keep_their_type():
    assert Descent(RESCALING, "sgd", [[1, 2]]).w.dtype == torch.float32
    assert Descent(RESCALING, "sgd", np.ones((3, 2))).w.dtype == torch.float64
    starts = STARTS.clone()
    descend(RESCALING, "sgd", starts, steps=3)
    assert torch.equal(starts, STARTS)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"method": "sma"}, "unknown method 'sma'; did you mean 'sam'"),
        ({"sgima": 0.1}, "unknown setting 'sgima'; did you mean 'sigma'"),
        ({"sigma": -0.1}, "sigma must be a finite number >= 0, got -0.1"),
        ({"gradient_noise": math.inf}, "gradient_noise must be"),
        ({"lr": torch.tensor([0.1, 0.2])}, r"lr must be a finite number >= 0, or a tensor \(4, 1\)"),
        ({"sigma": torch.tensor([[0.1], [0.2], [-0.1], [0.3]])}, "everywhere, got values from -0.1 to 0.3"),
        ({"k": torch.ones(4, 1)}, r"k must be a whole number .*, got a tensor \(4, 1\)"),
        ({"starts": torch.zeros(2)}, r"shape \(N, 2\)"),
        ({"starts": torch.zeros(4, 3)}, r"shape \(N, 2\)"),
        ({"starts": torch.zeros(0, 2)}, r"shape \(N, 2\)"),
        ({"starts": [[0.0, math.nan]]}, "finite"),
        ({"starts": [[1e7, 0.0]]}, "finite numbers within"),
        ({"watch": [4]}, "from 0 to 3"),
        ({"record_every": 0}, "record_every must be"),
        ({"steps": -1}, "updates must be"),
    ],
)
def test_impossible_descents(changes, says):
    with pytest.raises(ValueError, match=says):
        descend(SHARP_AND_WIDE, **{"method": "rwp", "starts": STARTS, "steps": 1, **changes})


# What there is to see on the wells: 81 starts around the sharp one, 600 updates, lr 0.01, gradient noise 1

AROUND = grid(((-0.9, -0.1), (-0.4, 0.4)), 9, 9)


def test_smoothing_first_widens_the_catchment_of_the_sharp_well():
    fraction = lambda sigma: (basin_of(s := SHARP_AND_WIDE.smoothed(sigma), AROUND) == minima(s)[:, 0].argmin()).double().mean()
    assert fraction(0.0) < fraction(0.05) < fraction(0.1)
    plain, nso = _in_the_sharp_well("sgd"), _in_the_sharp_well("nso", 0.1)
    assert _surely_more(nso, plain)


def _in_the_sharp_well(method, radius=0.0, repeats=16, seed=5):
    """Whether each of 81 * repeats trajectories ends in the sharp well."""
    starts = AROUND.repeat(repeats, 1)
    hyper = {"kind": "isotropic", "sigma": radius, "rho": radius, "gradient_noise": 1.0, "lr": 0.01, "seed": seed}
    return (basin_of(SHARP_AND_WIDE, descend(SHARP_AND_WIDE, method, starts, steps=600, **hyper).w) == 0).double()


def _surely_more(one, other, by=0.0):
    """The mean of ``one`` exceeds that of ``other`` by so much and two standard errors of the paired difference."""
    difference = one - other
    return difference.mean() - by > 2 * difference.std() / math.sqrt(len(difference))


def test_sam_stays_at_a_radius_at_which_random_perturbation_leaves():
    plain = _in_the_sharp_well("sgd", repeats=4)
    rwp, nso, mixed = (_in_the_sharp_well(name, 0.22, repeats=4) for name in ("rwp", "nso", "m-rwp"))
    assert critical_scales(SHARP_AND_WIDE).gone < 0.22
    assert rwp.mean() < 0.03 and nso.mean() < 0.03
    assert _surely_more(_in_the_sharp_well("sam", 0.2, repeats=4), _in_the_sharp_well("rwp", 0.2, repeats=4), by=0.5)
    assert _surely_more(mixed, plain, by=-0.1)
    assert _surely_more(_in_the_sharp_well("m-rwp", 0.4, repeats=4), rwp, by=0.5)


def test_the_bench_measures_both_ways():
    by_autograd, by_hand = trajectories()
    assert by_autograd() > 0 and by_hand() > 0
