import itertools

import numpy as np
import pytest
import torch

from rwp_edu.methods import METHODS, PARAMETERS
from rwp_edu.methods.noise import generator
from rwp_edu.methods.points import At
from rwp_edu.problems.matrix_sensing import Sensing
from rwp_edu.training.batched import SGD, Group, update

DOUBLE = {"dtype": torch.float64}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given(d=4, p=3, n=7, seeds=2):
    """Explicit data with A that are not symmetric and y that no matrix explains."""
    return {
        "A": normal(seeds, n, d, d),
        "y": normal(seeds, n, seed=1),
        "truth": _truth(seeds, d),
        "w0": normal(seeds, d, p, seed=2),
    }


def _truth(seeds, d):
    u = normal(seeds, d, 2, seed=3)
    return u @ u.mT


def plain_loss(a, y, w):
    """L by its definition, for one seed: A (n, d, d), y (n,), W (d, p)."""
    return ((a * (w @ w.T)).sum((1, 2)) - y).square().mean() / 4


def trained(problem, method, steps, lr, momentum=0.0, weight_decay=0.0, **hyper):
    """The weights (S, P) after ``steps`` updates."""
    hyper = {name: METHODS[method].default(name) for name in PARAMETERS} | {"kind": "isotropic"} | hyper
    group = Group(method, hyper, [generator(seed, "noise") for seed in problem.seeds])
    base = SGD(problem.init())
    values = [torch.full((len(problem.seeds), 1), value, dtype=problem.dtype) for value in (lr, momentum, weight_decay)]
    for _ in range(steps):
        problem.next(2)
        base.step(*update([base.w], [group], problem.layout, problem.gradients), *values)
    return base.w


# ------------------------------------------------------------------------------------------------------------- derivatives


def test_loss_and_gradient_are_those_of_autograd_on_the_definition():
    data = given()
    problem = Sensing(**data, **DOUBLE)
    w = problem.init()
    assert torch.equal(w, data["w0"].flatten(1)) and problem.layout.shapes == ((4, 3),)
    found = problem.gradient(w)
    for s in range(2):
        own = data["w0"][s].clone().requires_grad_()
        loss = plain_loss(data["A"][s], data["y"][s], own)
        loss.backward()
        torch.testing.assert_close(problem.loss(w)[s], loss.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(found[s], own.grad.flatten(), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    problem = Sensing([3, 4], d=4, rank=1, n=9, noise=0.2, **DOUBLE)
    w, h = problem.init(), 1e-4
    sigma = 0.3
    pairs = (
        (problem.loss, problem.gradient),
        (problem.hessian_trace, problem.trace_gradient),
        (lambda w: problem.smoothed(w, sigma), lambda w: problem.smoothed_gradient(w, sigma)),
    )
    for value, gradient in pairs:
        steps = h * torch.eye(16, dtype=torch.float64)
        differences = torch.stack([(value(w + e) - value(w - e)) / (2 * h) for e in steps], 1)
        torch.testing.assert_close(gradient(w), differences, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("d, p", [(1, 1), (3, 5), (6, 2), (5, 5)])
def test_the_trace_is_that_of_the_dense_hessian(d, p):
    data = given(d, p)
    problem = Sensing(**data, **DOUBLE)
    w = normal(2, d * p, seed=9)
    for s in range(2):
        f = lambda flat, s=s: plain_loss(data["A"][s], data["y"][s], flat.view(d, p))
        hessian = torch.autograd.functional.hessian(f, w[s])
        torch.testing.assert_close(problem.hessian_trace(w)[s], hessian.trace(), rtol=1e-12, atol=1e-10)


def test_the_trace_of_many_measurements():
    """More than are unpacked at a time."""
    problem = Sensing([0, 1], d=3, rank=1, n=150, **DOUBLE)
    w = problem.init()
    for s in range(2):
        a, m = problem.measurements(s), w[s].view(3, 3)
        residuals = (a * (m @ m.T)).sum((1, 2)) - problem.y[s]
        expected = 2 * (a @ m).square().sum((1, 2)).mean() + 3 * (residuals * a.diagonal(dim1=1, dim2=2).sum(1)).mean()
        torch.testing.assert_close(problem.hessian_trace(w)[s], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("d, p", [(1, 1), (2, 2), (2, 3), (5, 1)])
def test_smoothing_is_exact(d, p):
    """Three Gauss-Hermite nodes per weight integrate polynomials of degree 5 exactly; the loss has degree 4."""
    sigma, size = 0.7, d * p
    nodes, weights = (np.array(x) for x in ([-(3**0.5), 0.0, 3**0.5], [1 / 6, 2 / 3, 1 / 6]))
    grid = list(itertools.product(range(3), repeat=size))
    v = torch.tensor(nodes[np.array(grid)])
    share = torch.tensor(weights[np.array(grid)].prod(1))
    data = given(d, p, seeds=1)
    one = Sensing(**data, **DOUBLE)
    w = one.init()
    many = Sensing(range(len(grid)), A=data["A"], y=data["y"], w0=data["w0"], **DOUBLE)
    torch.testing.assert_close(one.smoothed(w, sigma)[0], share @ many.loss(w + sigma * v), rtol=1e-11, atol=0)
    torch.testing.assert_close(one.smoothed_gradient(w, sigma)[0], share @ many.gradient(w + sigma * v), rtol=1e-11, atol=1e-11)
    assert torch.equal(one.smoothed(w, 0.0), one.loss(w))


def test_random_draws_average_to_the_smoothed_loss_and_gradient():
    draws, sigma = 20_000, 0.2
    data = given(5, 5, n=12, seeds=1)
    one, many = Sensing(**data, **DOUBLE), Sensing(range(draws), A=data["A"], y=data["y"], w0=data["w0"], **DOUBLE)
    points = one.init() + sigma * normal(draws, 25, seed=11)
    checks = (
        (many.loss(points)[:, None], one.smoothed(one.init(), sigma)[:, None]),
        (many.gradient(points), one.smoothed_gradient(one.init(), sigma)),
    )
    for drawn, expected in checks:
        error = drawn.std(0) / draws**0.5
        assert ((drawn.mean(0) - expected[0]).abs() < 4 * error).all()
    plain = one.loss(one.init())[0]
    assert (many.loss(points).mean() - plain).abs() > 20 * many.loss(points).std() / draws**0.5


# --------------------------------------------------------------------------------------------------------- the drawn data


@pytest.fixture(scope="module")
def drawn():
    return Sensing(range(3000), d=4, rank=2, n=3, **DOUBLE)


def mean_is(values, expected):
    return abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5


def test_laws_of_the_data(drawn):
    a = torch.stack([drawn.measurements(s)[0] for s in range(3000)])
    assert torch.equal(a, a.mT)
    for i, j in itertools.combinations_with_replacement(range(4), 2):
        assert mean_is(a[:, i, j], 0) and mean_is(a[:, i, j].square(), 1.0 if i == j else 0.5)
    assert mean_is(a[:, 0, 0] * a[:, 1, 1], 0) and mean_is(a[:, 0, 1] * a[:, 0, 2], 0)
    assert mean_is(drawn.truth.diagonal(dim1=1, dim2=2).sum(1), 4 * 2)
    assert (torch.linalg.matrix_rank(drawn.truth[:50]) == 2).all()
    expected = torch.stack([(drawn.measurements(s) * drawn.truth[s]).sum((1, 2)) for s in range(50)])
    torch.testing.assert_close(drawn.y[:50], expected, rtol=1e-12, atol=1e-12)
    assert mean_is(drawn.init()[:, 5].square(), 1.0)


def test_fresh_measurements_would_measure_the_distance(drawn):
    """The start knows nothing of A: E <A, D>² = ‖D‖², D = WWᵀ - X; at D = X it is the scale of y."""
    d = drawn.init().view(-1, 4, 4) @ drawn.init().view(-1, 4, 4).mT - drawn.truth
    assert mean_is(4 * drawn.loss(drawn.init()) / d.square().sum((1, 2)), 1.0)
    assert mean_is(drawn.y.square().mean(1) / drawn.truth.square().sum((1, 2)), 1.0)
    torch.testing.assert_close(
        drawn.measure(drawn.init())["distance"], d.square().sum((1, 2)) / drawn.truth.square().sum((1, 2)), rtol=1e-12, atol=0
    )


def test_mean_trace_over_the_measurements(drawn):
    w = drawn.init()
    d = w.view(-1, 4, 4) @ w.view(-1, 4, 4).mT - drawn.truth
    expected = 5 * w.square().sum(1) + 4 * d.diagonal(dim1=1, dim2=2).sum(1)
    assert mean_is(drawn.hessian_trace(w) - expected, 0)


def test_noise_is_relative_to_the_measurements():
    clean, noisy = (Sensing(range(4), d=5, rank=1, n=2000, noise=noise, **DOUBLE) for noise in (0.0, 0.3))
    assert torch.equal(clean.packed, noisy.packed) and torch.equal(clean.truth, noisy.truth)
    noise = (noisy.y - clean.y) / clean.y.square().mean(1, keepdim=True).sqrt()
    assert mean_is(noise.flatten(), 0) and mean_is(noise.flatten().square(), 0.09)
    root = _root(clean.truth)
    assert (clean.measure(root)["train_error"] < 1e-20).all()
    torch.testing.assert_close(noisy.measure(root)["train_error"], noise.square().mean(1), rtol=1e-9, atol=0)


def _root(truth):
    values, vectors = torch.linalg.eigh(truth)
    return (vectors * values.clamp(min=0).sqrt()[:, None]).flatten(1)


def test_a_seed_has_the_same_data_whatever_runs_beside_it(global_random_state):
    both, one, other = (Sensing(seeds, d=4, n=6) for seeds in ([3, 5], [5], [6]))
    for name in ("packed", "y", "truth"):
        assert torch.equal(getattr(both, name)[1:], getattr(one, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(both.init()[1:], one.init()) and not torch.equal(one.init(), other.init())
    same = Sensing([5], d=4, n=6, init=0.5, **DOUBLE)
    torch.testing.assert_close(same.packed.float(), one.packed, rtol=1e-6, atol=0)
    assert torch.equal(same.init().float(), one.init() / 2)
    one.init().zero_()
    assert torch.equal(both.init()[1:], one.init())


# ----------------------------------------------------------------------------------------------------- step by step, units


class Plain:
    """A NumPy loop of one run: loss ``factor`` · mean r², weights scaled by ``unit``, perturbations given from outside."""

    def __init__(self, problem, factor, unit):
        self.a, self.y = problem.measurements().numpy(), unit**2 * problem.y[0].numpy()
        self.w, self.factor, self.unit = unit * problem.init()[0].view(problem.d, problem.p).numpy(), factor, unit
        self.noise = generator(problem.seeds[0], "noise")

    def gradient(self, w):
        residuals = np.einsum("nij,ij->n", self.a, w @ w.T) - self.y
        return 4 * self.factor * np.einsum("n,nij->ij", residuals, self.a) @ w / len(self.y)

    def asked(self, method, strength):
        if method == "sgd":
            return self.gradient(self.w)
        if method == "sam":
            g = self.gradient(self.w)
            return self.gradient(self.w + strength * g / np.linalg.norm(g))
        v = strength * torch.randn(self.w.shape, generator=self.noise, dtype=torch.float64).numpy()
        if method == "rwp":
            return self.gradient(self.w + v)
        return (self.gradient(self.w + v) + self.gradient(self.w - v)) / 2

    def train(self, method, steps, lr, momentum, weight_decay, strength):
        buffer = np.zeros_like(self.w)
        for _ in range(steps):
            buffer = momentum * buffer + self.asked(method, strength) + weight_decay * self.w
            self.w = self.w - lr * buffer
        return torch.tensor(self.w / self.unit).flatten()[None]


@pytest.mark.parametrize("method", ["sgd", "rwp", "nso", "sam"])
@pytest.mark.parametrize("units", ["1/(4n)", "1/(2n)", "1/(2n), truth / d"])
def test_the_units_of_other_texts_give_the_same_runs(method, units):
    d, lr, momentum, decay, strength = 6, 0.01, 0.5, 0.3, 0.2
    problem = Sensing([7], d=d, rank=2, n=20, **DOUBLE)
    factor, unit, lr_, decay_ = {
        "1/(4n)": (1 / 4, 1.0, lr, decay),
        "1/(2n)": (1 / 2, 1.0, lr / 2, 2 * decay),
        "1/(2n), truth / d": (1 / 2, d**-0.5, lr * d / 2, decay * 2 / d),
    }[units]
    ours = trained(problem, method, 30, lr, momentum, decay, sigma=strength, rho=strength)
    theirs = Plain(problem, factor, unit).train(method, 30, lr_, momentum, decay_, strength * unit)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert (ours - problem.init()).norm() > 1


@pytest.mark.parametrize("factor, unit, times", [(1 / 2, 1.0, 2.0), (1 / 2, 6**-0.5, 2 / 6)])
def test_the_trace_in_the_units_of_other_texts(factor, unit, times):
    problem = Sensing([7], d=6, n=20, **DOUBLE)
    a, y, w = problem.measurements(), unit**2 * problem.y[0], unit * problem.init()[0]
    f = lambda flat: 4 * factor * plain_loss(a, y, flat.view(6, 6))
    hessian = torch.autograd.functional.hessian(f, w)
    torch.testing.assert_close(times * problem.hessian_trace(problem.init())[0], hessian.trace(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["sgd", "nso"])
def test_given_data_are_trained_as_by_a_plain_loop(method):
    data = {name: value[0] for name, value in given(5, 3, n=9).items()}
    problem = Sensing(**{name: value.numpy() for name, value in data.items()}, **DOUBLE)
    assert problem.seeds == (0,)
    plain = Plain(problem, 1 / 4, 1.0)
    plain.a = data["A"].numpy() / 2 + data["A"].mT.numpy() / 2
    theirs = plain.train(method, 40, 0.02, 0.0, 0.0, 0.1)
    torch.testing.assert_close(trained(problem, method, 40, 0.02, sigma=0.1), theirs, rtol=1e-10, atol=1e-10)


# -------------------------------------------------------------------------------------------------- many points, the parts


def points(problem, parts):
    return [
        At(problem.init() + normal(len(problem.seeds), problem.layout.size, seed=i), i % 2, *part)
        for i, part in enumerate(parts)
    ]


@pytest.mark.parametrize("shared", [False, True])
def test_many_points_at_once_are_as_one_by_one(shared):
    data = given(4, 3, n=10, seeds=3)
    if shared:
        data |= {name: data[name][0] for name in ("A", "truth")}
    problem = Sensing(**data, **DOUBLE)
    asked = points(problem, [(0, 1), (1, 3), (0, 1), (2, 3), (1, 3), (0, 2)])
    together = problem.gradients(asked, [None] * len(asked))
    for at, found in zip(asked, together):
        (alone,) = problem.gradients([at], [None])
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)
    assert found.shape == (3, 12) and not torch.allclose(together[0], together[2])


def test_what_all_seeds_share_is_kept_once():
    data = given(4, 3, seeds=1)
    a, y, w0 = data["A"][0], data["y"][0], normal(3, 4, 3, seed=5)
    once = Sensing(A=a, y=y, truth=data["truth"], w0=w0, **DOUBLE)
    each = Sensing(A=a.expand(3, -1, -1, -1), y=y.expand(3, -1), truth=data["truth"], w0=w0, **DOUBLE)
    assert len(once.packed) == 1 and len(each.packed) == 3 and once.seeds == each.seeds == (0, 1, 2)
    w = once.init()
    assert w.is_contiguous() and torch.equal(w, w0.flatten(1))
    for name, value in each.measure(w).items():
        torch.testing.assert_close(once.measure(w)[name], value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(once.smoothed_gradient(w, 0.2), each.smoothed_gradient(w, 0.2), rtol=1e-12, atol=1e-12)
    same = Sensing(seeds=[4, 9], A=a, y=y, w0=w0[0], **DOUBLE)
    assert same.seeds == (4, 9) and torch.equal(same.init(), w0[:1].flatten(1).repeat(2, 1))


def test_given_data_are_not_shared_with_their_owner():
    data = given()
    problem = Sensing(**data, **DOUBLE)
    before = problem.measure(problem.init())
    for value in data.values():
        value.zero_()
    after = problem.measure(problem.init())
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_parts_are_slices_that_make_up_the_whole(k):
    problem = Sensing([0, 1], d=4, n=10, **DOUBLE)
    (whole,) = problem.gradients([At(problem.init(), batch=1)])
    parts = problem.gradients([At(problem.init(), part=j, of=k) for j in range(k)])
    cuts = [j * 10 // k for j in range(k + 1)]
    sizes = torch.tensor(cuts).diff()
    torch.testing.assert_close(sum(size * g for size, g in zip(sizes, parts)) / 10, whole, rtol=1e-12, atol=1e-12)
    for s, j in itertools.product(range(2), range(k)):
        some = slice(cuts[j], cuts[j + 1])
        own = Sensing(A=problem.measurements(s)[some], y=problem.y[s, some], w0=problem.init()[s].view(4, 4), **DOUBLE)
        torch.testing.assert_close(own.gradient(own.init())[0], parts[j][s], rtol=1e-12, atol=1e-12)


def test_more_parts_than_measurements_is_an_error():
    problem = Sensing([0], d=3, n=3)
    with pytest.raises(ValueError, match="3 measurements cannot be cut into 4 parts: choose n >= k"):
        problem.gradients([At(problem.init(), part=0, of=4)])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method, global_random_state):
    problem = Sensing([0, 1], d=8, n=40)
    w = trained(problem, method, 3, 0.005, k=2, sigma=0.05)
    assert torch.isfinite(w).all() and (problem.loss(w) < problem.loss(problem.init())).all()


# ----------------------------------------------------------------------------------------------------------------- metrics


def test_metrics_against_numpy():
    data = given(5, 3)
    problem = Sensing(**data, **DOUBLE)
    w = problem.init()
    found = problem.measure(w)
    assert tuple(found) == problem.metrics and all(value.shape == (2,) for value in found.values())
    for s in range(2):
        square, truth = (x[s].numpy() for x in (data["w0"] @ data["w0"].mT, data["truth"]))
        singular = np.linalg.svd(square, compute_uv=False)
        residuals = np.einsum("nij,ij->n", data["A"][s].numpy(), square) - data["y"][s].numpy()
        expected = {
            "train_error": (residuals**2).mean() / (data["y"][s].numpy() ** 2).mean(),
            "distance": np.linalg.norm(square - truth) ** 2 / np.linalg.norm(truth) ** 2,
            "trace": problem.hessian_trace(w)[s].item(),
            "nuclear": singular.sum(),
            "rank": (singular > 0.01 * singular[0]).sum(),
        }
        assert {name: value[s].item() for name, value in found.items()} == pytest.approx(expected, rel=1e-10)
        assert problem.spectrum(w)[s].numpy() == pytest.approx(singular, rel=1e-10, abs=1e-10)


def test_the_rank_counts_eigenvalues_above_one_percent():
    w0 = torch.tensor([1.0, 0.011, 0.009]).sqrt().diag()
    problem = Sensing(A=normal(5, 3, 3), y=normal(5), w0=w0)
    assert problem.measure(problem.init())["rank"].tolist() == [2.0]


def test_the_truth_solves_the_problem():
    problem = Sensing([0, 1], d=6, rank=2, n=30, **DOUBLE)
    found = problem.measure(_root(problem.truth))
    assert (found["train_error"] < 1e-20).all() and (found["distance"] < 1e-20).all() and (found["rank"] == 2).all()
    torch.testing.assert_close(found["nuclear"], problem.truth.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-12, atol=0)


def test_metrics_that_do_not_exist_are_nan():
    data = given()
    del data["truth"]
    problem = Sensing(**data)
    w = problem.init()
    w[1] *= 1e30
    found = problem.measure(w)
    assert found["distance"].isnan().all()
    assert found["rank"].isnan().tolist() == [False, True] == problem.spectrum(w).isnan().any(1).tolist()
    nothing = Sensing([0], d=3, n=5, init=0.0)
    assert nothing.measure(nothing.init())["rank"] == 0


# ---------------------------------------------------------------------------------------------------------------- outcomes


def clearly_smaller(a, b):
    """Mean of log a - log b over paired seeds, in standard errors, below -3."""
    difference = a.log() - b.log()
    return difference.mean() < -3 * difference.std() / len(difference) ** 0.5


def distances(init, steps):
    problem = Sensing(range(8), d=20, rank=2, n=120, init=init)
    return [problem.measure(trained(problem, m, steps, 0.005, sigma=0.1))["distance"] for m in ("sgd", "rwp", "nso")]


@pytest.mark.slow
def test_noise_finds_the_truth_and_two_points_come_closer_than_one():
    gd, naive, nso = distances(1.0, 4000)
    assert clearly_smaller(naive, gd) and clearly_smaller(nso, naive) and naive.max() < 0.02


def test_from_a_small_start_gradient_descent_alone_is_better():
    gd, naive, nso = distances(0.01, 1000)
    assert clearly_smaller(gd, nso) and clearly_smaller(gd, naive) and gd.max() < 0.02


# ------------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"d": 0}, "d must be a whole number >= 1, got 0"),
        ({"d": 2.5}, "d must be a whole number"),
        ({"n": 0}, "n must be a whole number >= 1, got 0"),
        ({"rank": 0}, "rank must be a whole number >= 1, got 0"),
        ({"rank": 4}, "rank must be at most d, got rank=4, d=3"),
        ({"init": -1.0}, "init must be a finite number >= 0"),
        ({"noise": -0.1}, "noise must be a finite number >= 0"),
        ({"noise": float("nan")}, "noise must be a finite number >= 0"),
        ({"dtype": torch.float16}, "dtype must be torch.float32 or torch.float64"),
        ({"seeds": []}, "one seed at least"),
        ({"seeds": None}, "seeds are needed, or data: A, y and w0"),
        ({"w0": torch.ones(3, 3)}, "d cannot be chosen"),
    ],
)
def test_settings_that_make_no_sense(wrong, says):
    with pytest.raises(ValueError, match=says):
        Sensing(**{"seeds": [0], "d": 3, "n": 5, **wrong})


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"A": normal(2, 7, 4, 3)}, r"A must have shape \(n, d, d\) or \(S, n, d, d\).*got \(2, 7, 4, 3\)"),
        ({"A": normal(4, 4)}, r"A must have shape .*got \(4, 4\)"),
        ({"A": normal(2, 0, 4, 4)}, "without empty axes"),
        ({"y": normal(2, 6)}, r"y must have shape \(n\) or \(S, n\).*got \(2, 6\).*n = 7"),
        ({"y": normal(3, 7)}, r"y must have shape .*got \(3, 7\).*S = 2"),
        ({"y": torch.zeros(2, 7)}, "y must not be all zero"),
        ({"y": None}, "A, y and w0 together.*got only A, truth, w0"),
        ({"truth": normal(5, 5)}, r"truth must have shape .*d = 4"),
        ({"w0": normal(2, 5, 3)}, r"w0 must have shape \(d, p\) or \(S, d, p\)"),
        ({"w0": normal(4)}, "w0 must have shape"),
        ({"w0": torch.full((4, 3), float("nan"))}, "w0 has values that are not finite"),
        ({"A": torch.full((7, 4, 4), float("inf"))}, "A has values that are not finite"),
        ({"seeds": [1, 2, 3]}, r"A must have shape .*S = 3"),
        ({"rank": 3}, "rank cannot be chosen"),
    ],
)
def test_data_that_do_not_fit(wrong, says):
    with pytest.raises(ValueError, match=says):
        Sensing(**{**given(), **wrong})
