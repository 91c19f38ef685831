"""Traces, eigenvalues and densities against the dense Hessian in float64, closed forms and curvlinops; for many runs; in parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from rwp_edu.benchmarks import baselines
from rwp_edu.curvature import lanczos as spectra
from rwp_edu.curvature import objective
from rwp_edu.curvature.lanczos import Lanczos, dense, density, eigenvalues, spectrum
from rwp_edu.curvature.objective import Objective, of_model
from rwp_edu.curvature.trace import Measurement, frobenius, hutchpp, layer_traces, trace
from rwp_edu.methods.points import Layout
from rwp_edu.problems.matrix_sensing import Sensing
from rwp_edu.problems.mlp import MLP
from rwp_edu.problems.objectives import NetworkObjective, of_sensing

DOUBLE = torch.float64
CRITERION = nn.CrossEntropyLoss()


def within(measured, value, errors=4):
    assert abs(measured.value - value) <= errors * measured.error + 1e-12 * abs(value), (measured, value)


def quadratic(h, w=None):
    """The objective wᵀHw/2, at zero."""
    return Objective(lambda w: (w @ h * w).sum(-1) / 2, h.new_zeros(len(h)) if w is None else w, product=lambda w, v: v @ h)


def diagonal(*values):
    return quadratic(torch.diag(torch.tensor(values, dtype=DOUBLE)))


def turned(values, seed=0):
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    values = torch.as_tensor(values, dtype=DOUBLE)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed), dtype=DOUBLE))[0]
    return q @ torch.diag(values) @ q.T


def network(runs=None, activation="tanh", widths=(4, 5, 3), seed=3, dtype=DOUBLE):
    g = torch.Generator().manual_seed(seed)
    net = MLP(widths, activation)
    w = torch.stack([net.init(g, dtype) for _ in range(runs or 1)])
    x, y = torch.randn(20, widths[0], generator=g, dtype=dtype), torch.randint(widths[-1], (20,), generator=g)
    return NetworkObjective(net, w if runs else w[0], x, y)


@pytest.fixture(scope="module")
def net():
    return network()


@pytest.fixture(scope="module")
def h(net):
    loss = lambda w: CRITERION(net.net.logits(w[None], net.x)[0], net.y[0])
    return torch.autograd.functional.hessian(loss, net.w)


# Traces


@pytest.mark.parametrize("law", ["rademacher", "gaussian", "uniform"])
def test_trace(net, h, law):
    found = trace(net, rtol=0, budget=3000, law=law)
    within(found, h.trace().item())
    assert found.draws == 3000 and not found.reached
    fourth = {"rademacher": 1, "gaussian": 3, "uniform": 9 / 5}[law]  # E z⁴
    spread = 2 * h.square().sum() + (fourth - 3) * h.diagonal().square().sum()
    assert found.error == pytest.approx(math.sqrt(spread / 3000), rel=0.1)


BOWL = torch.linspace(0.1, 2, 40)


def test_trace_stops_when_it_is_known_well_enough():
    loss, exact = quadratic(turned(BOWL)), BOWL.sum().item()
    loose, tight = trace(loss, rtol=0.03), trace(loss, rtol=0.005, budget=100_000)
    assert loose.reached and tight.reached and tight.draws > 10 * loose.draws
    for found, rtol in ((loose, 0.03), (tight, 0.005)):
        within(found, exact)
        assert rtol / 2 < found.error / found.value <= rtol
    short = trace(loss, rtol=1e-6, budget=77)
    assert short.draws == 77 and not short.reached


def test_trace_makes_at_least_so_many_draws():
    assert trace(diagonal(1.0, 2.0), least=50) == Measurement(3.0, 0.0, 50, True)
    assert trace(diagonal(1.0, 2.0), least=50, budget=20).draws == 20
    assert trace(diagonal(0.0, 0.0)) == Measurement(0.0, 0.0, 16, True)


def test_errors_are_honest_though_the_trace_stops_by_itself():
    """Draws that agree by chance stop early, which makes errors too small: by less than a quarter."""
    loss, exact = quadratic(turned(BOWL)), BOWL.sum().item()
    found = [trace(loss, rtol=0.03, seed=1000 * s) for s in range(200)]
    z = np.array([(f.value - exact) / f.error for f in found])
    assert abs(z.mean()) < 0.3 and 0.8 < z.std() < 1.25 and len({f.draws for f in found}) > 2


@pytest.mark.parametrize("kind", ["isotropic", "layer-wise", "filter-wise", "element-wise"])
def test_traces_by_layer_and_scale(net, h, kind):
    s = net.scale(kind)
    bent = (h.diagonal() * s.square()).split(net.layout.sizes)
    layers = layer_traces(net, rtol=0, budget=2000, kind=kind)
    assert tuple(layers) == net.layout.names
    for part, exact in zip(layers.values(), bent):
        within(part, exact.sum().item())
    whole = trace(net, rtol=0, budget=2000, kind=kind)
    within(whole, torch.cat(bent).sum().item())
    assert sum(part.value for part in layers.values()) == pytest.approx(whole.value)


def test_frobenius_norm(net, h):
    found = frobenius(net, rtol=0.02, budget=10_000)
    within(found, torch.linalg.matrix_norm(h).item())
    assert found.reached and found.error / found.value <= 0.02 and found.draws > 16
    assert frobenius(diagonal(3.0, 4.0)).value == 5 and frobenius(diagonal(0.0)).error == 0


def test_hutchpp_is_exact_on_a_low_rank():
    few = quadratic(turned([5.0, 3.0, -2.0, *[0.0] * 17]))
    found = hutchpp(few, budget=12)
    assert found.value == pytest.approx(6.0) and found.error < 1e-12 and found.draws == 4


def test_hutchpp_pays_where_the_spectrum_decays(h):
    loss = quadratic(turned([3.0**-i for i in range(40)]))
    exact, plain = 1.5, trace(loss, rtol=0, budget=30)
    found = [hutchpp(loss, 30, seed=s) for s in range(30)]
    z = np.array([(f.value - exact) / f.error for f in found])
    assert np.mean([f.error for f in found]) < plain.error / 100 and abs(z.mean()) < 1 and z.std() < 2
    within(hutchpp(quadratic(h), 60), h.trace().item())
    assert hutchpp(diagonal(1.0, 2.0), 99).value == pytest.approx(3)


# Eigenvalues


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("end", ["largest", "smallest", "magnitude"])
def test_eigenvalues(net, h, end, k):
    values = torch.linalg.eigvalsh(h)
    order = {"largest": values.flip(0), "smallest": values, "magnitude": values[values.abs().argsort(descending=True)]}
    found = eigenvalues(net, k, end, tol=1e-8)
    torch.testing.assert_close(found.values, order[end][:k], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(k, dtype=DOUBLE))
    residuals = torch.linalg.vector_norm(found.vectors @ h - found.values[:, None] * found.vectors, dim=1)
    torch.testing.assert_close(found.residuals, residuals, atol=1e-10, rtol=1e-3)
    assert found.reached and found.products < len(h)


def test_eigenvalues_stop_at_a_residual_or_a_budget(net, h):
    products = []
    for tol in (0.1, 1e-2, 1e-6):
        found = eigenvalues(net, tol=tol)
        products.append(found.products)
        assert found.reached and found.residuals.item() <= tol * found.values.item()
        assert (torch.linalg.eigvalsh(h) - found.values).abs().min() <= found.residuals + 1e-12
    assert products == sorted(set(products))
    short = eigenvalues(net, 2, tol=1e-12, budget=6)
    assert short.products == 6 and not short.reached
    whole = eigenvalues(net, 5, tol=0, budget=10_000)
    assert whole.products <= len(h) and whole.reached
    torch.testing.assert_close(whole.values, torch.linalg.eigvalsh(h).flip(0)[:5])


def test_multiple_eigenvalues_and_none():
    found = eigenvalues(diagonal(2.0, 2.0, 2.0, 1.0, 0.0), k=4)
    torch.testing.assert_close(found.values, torch.tensor([2.0, 2, 2, 1], dtype=DOUBLE))
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(4, dtype=DOUBLE))
    assert not eigenvalues(diagonal(0.0, 0.0, 0.0), k=2).values.any()
    assert eigenvalues(diagonal(-7.0)).values.tolist() == [-7]


def test_eigenvalues_from_a_start(net):
    first = eigenvalues(net, tol=1e-10)
    moved = net.at(net.w + 1e-3)
    again = eigenvalues(moved, tol=1e-3, start=first.vectors[0])
    assert again.products < eigenvalues(moved, tol=1e-3).products
    torch.testing.assert_close(again.values, eigenvalues(moved, tol=1e-10).values, rtol=1e-5, atol=0)


def test_a_start_that_is_another_eigenvector_does_not_mislead():
    start = torch.tensor([0.0, 1, 0, 0, 0, 0, 0, 0, 0], dtype=DOUBLE)
    found = eigenvalues(diagonal(9.0, 5.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.5, 0.1), start=start)
    assert found.values.item() == pytest.approx(9, abs=1e-3)


@pytest.mark.parametrize("dtype, tol", [(DOUBLE, 1e-12), (torch.float32, 2e-5)])
def test_lanczos_keeps_its_promise(dtype, tol):
    """H Q = Q T + β q' eᵀ with orthonormal Q, also in float32 after many steps."""
    matrix = turned([2.0**-i for i in range(60)]).to(dtype)
    lanczos = Lanczos(lambda q: q @ matrix, torch.ones(2, 60, dtype=dtype), [torch.Generator(), torch.Generator()])
    for _ in range(50):
        lanczos.step()
    q = lanczos.basis[1]
    assert (q @ q.T - torch.eye(50, dtype=dtype)).abs().max() < tol
    alpha, beta = (torch.stack(each, 1)[1] for each in (lanczos.alpha, lanczos.beta))
    t = torch.diag(alpha) + torch.diag(beta[:-1], 1) + torch.diag(beta[:-1], -1)
    assert (q @ matrix @ q.T - t).abs().max() < tol


# Density


def test_density_of_as_many_steps_as_weights_is_the_measure_of_the_probes(net, h):
    found = density(net, steps=1000, probes=3, law="gaussian")
    assert found.nodes.shape == found.weights.shape == (3, len(h))
    np.testing.assert_allclose(found.weights.sum(1), 1)
    np.testing.assert_allclose(found.nodes, np.tile(torch.linalg.eigvalsh(h).numpy(), (3, 1)), atol=1e-9)


def test_density_has_the_moments_of_the_probes(h):
    found = density(quadratic(h), steps=6, probes=2)
    vectors, seen = [], quadratic(h)
    seen._given_product = lambda w, v: vectors.append(v) or v @ h
    density(seen, steps=1, probes=2)
    v = vectors[0]
    for k in range(12):
        moment = ((v @ torch.linalg.matrix_power(h, k)) * v).sum(1).numpy()
        np.testing.assert_allclose((found.weights * found.nodes**k).sum(1), moment, rtol=1e-6)


def test_density_of_a_network(net, h):
    values = torch.linalg.eigvalsh(h).numpy()
    found = density(net, steps=20, probes=200)
    for f in (lambda x: x, lambda x: x**2, np.exp):
        within(found.mean(f), f(values).mean())
    grid = np.linspace(values.min() - 1, values.max() + 1, 200)
    mean, error = found.at(grid, 0.2)
    exact, none = spectrum(net).at(grid, 0.2)
    np.testing.assert_allclose(
        exact, np.exp(-(((grid[:, None] - values) / 0.2) ** 2) / 2).mean(1) / (0.2 * math.sqrt(2 * math.pi))
    )
    assert not none.any() and (np.abs(mean - exact) <= 5 * error + 1e-6).all() and error.max() < 0.1 * exact.max()
    assert np.trapezoid(mean, grid) == pytest.approx(1, abs=1e-3)


def test_density_of_probes_some_at_a_time(net, monkeypatch):
    whole = density(net, steps=5, probes=4)
    monkeypatch.setattr(spectra, "free_memory", lambda device: 4 * 5 * 8 * len(net.w) * 3)
    parts = density(net, steps=5, probes=4)
    np.testing.assert_allclose(parts.nodes, whole.nodes)
    np.testing.assert_allclose(parts.weights, whole.weights)


def test_dense(net, h):
    torch.testing.assert_close(dense(net), h)
    torch.testing.assert_close(spectrum(net).nodes[0], torch.linalg.eigvalsh(h).numpy())
    assert spectrum(net).mean(lambda x: x).value == pytest.approx(h.trace().item() / len(h))


# Many runs, parts, seeds


def test_runs_at_once_are_the_runs_alone():
    runs = network(runs=3)
    singles = [NetworkObjective(runs.net, w, runs.x[0], runs.y[0]) for w in runs.w]

    def same(many, alone):
        for r, (found, one) in enumerate(zip(many(runs, 0), singles)):
            alike(found, alone(one, r))

    def alike(a, b):
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            a, b = a.values(), b.values()
        for x, y in zip(a, b):
            if isinstance(x, tuple):
                alike(x, y)
            else:
                np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)

    for what in (
        lambda o, seed: trace(o, 0.2, seed=seed),
        lambda o, seed: trace(o, 0.2, kind="filter-wise", seed=seed),
        lambda o, seed: layer_traces(o, 0.2, seed=seed),
        lambda o, seed: frobenius(o, 0.2, seed=seed),
        lambda o, seed: hutchpp(o, seed=seed),
        lambda o, seed: eigenvalues(o, 2, seed=seed),
        lambda o, seed: density(o, 8, 3, seed=seed),
        lambda o, seed: spectrum(o),
    ):
        same(what, what)
    assert len({found.draws for found in trace(runs, 0.05)}) > 1, "each run stops by itself"
    torch.testing.assert_close(dense(runs)[2], dense(singles[2]))
    starts = torch.stack([eigenvalues(one).vectors[0] for one in singles])
    for found, one, start in zip(eigenvalues(runs, start=starts), singles, starts):
        torch.testing.assert_close(found.values, eigenvalues(one, start=start).values)


def measured(o, seed=0):
    return trace(o, 0.1, seed=seed).value, frobenius(o, 0.1, seed=seed).value, eigenvalues(o, tol=0.1, seed=seed).values.item(), density(o, 4, seed=seed).nodes[0, 0]  # fmt: skip


def test_same_seed_same_numbers_whatever_the_parts(net, monkeypatch, global_random_state):
    first = measured(net)
    assert measured(net) == first and all(a != b for a, b in zip(first, measured(net, 1)))
    rows = []
    monkeypatch.setattr(objective, "free_memory", lambda device: 16 * 8 * len(net.w) * 3)
    product = net.product
    monkeypatch.setattr(net, "product", lambda v: rows.append(len(v)) or product(v), raising=False)
    assert measured(net) == pytest.approx(first, rel=1e-9) and max(rows) == 4
    torch.testing.assert_close(dense(net), dense(network()))


@pytest.mark.parametrize("budget", [6, 20, 41])
@pytest.mark.parametrize(
    "measure, times",
    [
        (lambda o, budget: trace(o, 0, budget), 1),
        (lambda o, budget: frobenius(o, 0, budget), 1),
        (lambda o, budget: hutchpp(o, budget), 1),
        (lambda o, budget: eigenvalues(o, tol=0, budget=budget), 1),
        (lambda o, budget: density(o, budget, 3), 3),
    ],
)
def test_budgets_are_kept(net, measure, times, budget):
    rows = []
    measure(Objective(net.loss, net.w, net.layout, product=lambda w, v: rows.append(len(v)) or net.product(v)), budget)
    assert sum(rows) == times * budget


# Closed forms, other libraries


def test_matrix_sensing_has_its_trace_in_closed_form():
    problem = Sensing([0], d=12, rank=2, n=60, dtype=DOUBLE)
    w = problem.init()
    loss, exact = of_sensing(problem, w[0]), problem.hessian_trace(w).item()
    within(trace(loss, 0.01, budget=20_000), exact)
    assert dense(loss).trace().item() == pytest.approx(exact)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_networks_have_their_trace_in_closed_form(activation):
    net = network(activation=activation, widths=(4, 6, 5, 3))
    exact = {name: value.item() for name, value in net.traces().items()}
    for name, found in layer_traces(net, 0, 4000).items():
        within(found, exact[name])
    assert dense(net).trace().item() == pytest.approx(sum(exact.values()))


def rescaled(w, layout, factors):
    """The weights of the ReLU network that computes the same with its hidden units multiplied by ``factors`` and divided again."""
    w = w.clone()
    first, bias, second, _ = layout.split(w)
    first.mul_(factors[:, None])
    bias.mul_(factors)
    second.div_(factors)
    return w


def test_rescaling_changes_the_trace_but_not_the_scaled_ones():
    net = network(activation="relu")
    same = torch.full((5,), 3.0, dtype=DOUBLE)
    own = torch.tensor([0.2, 5.0, 1.0, 3.0, 0.5], dtype=DOUBLE)

    def exact(o, kind):
        return (dense(o).diagonal() * o.scale(kind).square()).sum().item()

    for factors, kinds in ((same, ("layer-wise", "filter-wise", "element-wise")), (own, ("element-wise",))):
        other = net.at(rescaled(net.w, net.layout, factors))
        assert other.value == pytest.approx(net.value)
        assert sum(other.traces().values()) > 1.2 * sum(net.traces().values())
        for kind in kinds:
            layers = [layout_trace for layout_trace in (exact(net, kind), exact(other, kind))]
            assert layers[0] == pytest.approx(layers[1])
            a, b = (trace(o, 0, 400, kind=kind, law="rademacher") for o in (net, other))
            assert a.value == pytest.approx(b.value)


@pytest.fixture(scope="module")
def oracle():
    """``curvlinops``, its Hessian of a small network, and ours."""
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed")
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (
            nn.Unflatten(1, (1, 4, 4)),
            nn.Conv2d(1, 3, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(12, 8),
            nn.Tanh(),
            nn.Linear(8, 3),
        )
        model = nn.Sequential(*layers).double()
    x, y = torch.randn(30, 16, generator=g, dtype=DOUBLE), torch.randint(3, (30,), generator=g)
    data = list(zip(x.split((10, 13, 7)), y.split((10, 13, 7))))
    theirs = curvlinops.HessianLinearOperator(model, CRITERION, list(model.parameters()), data)
    return curvlinops, theirs, of_model(model, CRITERION, data)


def test_products_are_those_of_curvlinops(oracle):
    _, theirs, ours = oracle
    v = torch.randn(5, ours.layout.size, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    torch.testing.assert_close(ours.product(v), (theirs @ v.T).T)


def test_estimates_agree_with_those_of_curvlinops(oracle):
    curvlinops, theirs, ours = oracle
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = (float(estimate(theirs, 150)) for estimate in (curvlinops.hutchinson_trace, curvlinops.hutchinson_squared_fro))
    for own, other in zip((trace(ours, 0, 150), frobenius(ours, 0, 150)), (next(found), next(found) ** 0.5)):
        assert abs(own.value - other) < 4 * 2**0.5 * own.error


# Errors


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda o: trace(o, budget=0), "budget must be a whole number >= 2, got 0"),
        (lambda o: layer_traces(o, budget=1), "budget must be a whole number >= 2, got 1"),
        (lambda o: frobenius(o, rtol=-1), "rtol must be a finite number >= 0, got -1"),
        (lambda o: trace(o, least=1), "least must be a whole number >= 2, got 1"),
        (lambda o: trace(o, law="rademacer"), "unknown law 'rademacer'; did you mean 'rademacher'"),
        (lambda o: trace(o, kind="filter"), "unknown kind 'filter'; did you mean 'filter-wise'"),
        (lambda o: hutchpp(o, budget=5), "budget must be a whole number >= 6, got 5"),
        (lambda o: eigenvalues(o, budget=0), "budget must be a whole number >= 1, got 0"),
        (lambda o: eigenvalues(o, k=0), "k must be a whole number >= 1, got 0"),
        (lambda o: eigenvalues(o, k=3, budget=2), "got k=3, 2 products"),
        (lambda o: eigenvalues(o, end="top"), "unknown end 'top'"),
        (lambda o: eigenvalues(o, tol=-1), "tol must be a finite number >= 0, got -1"),
        (lambda o: eigenvalues(o, start=torch.ones(2)), r"start must have the shape \(43,\)"),
        (lambda o: eigenvalues(o, start=0 * o.w), "and not be zero"),
        (lambda o: density(o, steps=0), "steps must be a whole number >= 1, got 0"),
        (lambda o: density(o, probes=1), "probes must be a whole number >= 2, got 1"),
        (lambda o: density(o, law="normal"), "unknown law 'normal'"),
        (lambda o: spectrum(o).at(np.zeros(3), 0), "width must be a number > 0, in the units of the eigenvalues, got 0"),
        (lambda o: dense(Objective(o.loss, torch.zeros(20_000), Layout({"w": (20_000,)}))), "a dense Hessian of 20000 weights has 1.6 GB"),
        (lambda o: trace(Objective(lambda w: w.sum(-1) * torch.nan, o.w)), "the loss at w is not finite"),
    ],
)  # fmt: skip
def test_errors(net, call, says):
    with pytest.raises(ValueError, match=says):
        call(net)


def test_the_plain_loops_of_the_bench_find_the_same():
    digits = baselines.TrainedDigits(images=40, steps=30)
    plain, ours = digits.plain(), digits.ours()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert plain.top(1e-5) == pytest.approx(eigenvalues(ours, tol=0.01).values.item(), rel=1e-3)
        assert plain.trace(50) == pytest.approx(sum(ours.traces().values()).item(), rel=0.2)
        squares = [np.dot(weights, nodes**2) for nodes, weights in plain.density(10, 3)]
    assert np.mean(squares) == pytest.approx(density(ours, 10, 20).mean(lambda x: x**2).value, rel=0.3)
    loop, answer = baselines.plane(3, 20)
    np.testing.assert_allclose(loop(), answer(), rtol=1e-5)
