"""One definition, two engines: the optimizer of a user's own loop and the batched race give the same weights."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rwp_edu.methods import METHODS, PARAMETERS
from rwp_edu.methods.noise import generator
from rwp_edu.methods.points import At, Layout
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.problems.digits import Digits
from rwp_edu.problems.mlp import MLP
from rwp_edu.training import Run
from rwp_edu.training.batched import SGD, Group, update
from rwp_edu.training.settings import Settings

STEPS = 50
HYPER = {
    "published": {},
    "isotropic-laplace-2": {"kind": "isotropic", "law": "laplace", "k": 2, "sigma": 0.05},
    "filter-wise-rademacher-2": {"kind": "filter-wise", "law": "rademacher", "k": 2, "sigma": 0.03, "lam": 0.3},
    "uniform": {"law": "uniform", "rho": 0.1, "schedule": "constant", "weight_decay": 0.0, "momentum": 0.5},
}


def in_a_loop(settings, dtype):
    """The plain loop a student would write, over the very same data, initial weights and noise stream."""
    (name,), seed, row = settings.methods, settings.seed, METHODS[settings.methods[0]]
    problem = Digits([seed], dtype=dtype)
    module = problem.module()
    (entrant,) = settings.entrants
    own = settings.of(entrant)
    base = torch.optim.SGD(module.parameters(), **{key: own[key] for key in ("lr", "momentum", "weight_decay")})
    optimizer = OPTIMIZERS[name](base, seed=seed, **{key: own[key] for key in row.parameters})
    cost = row.cost(k=own["k"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)

    def closure(x, y):
        def evaluate():
            loss = torch.nn.functional.cross_entropy(module(x), y)
            loss.backward()
            return loss

        return evaluate

    for _ in range(settings.steps):
        drawn = [problem.draw(batch) for batch in range(cost.batches)]
        parts = cost.slots // cost.batches
        cuts = [[j * len(y[0]) // parts for j in range(parts + 1)] for _, y in drawn]
        optimizer.step(*(closure(x[0, a:b], y[0, a:b]) for (x, y), cut in zip(drawn, cuts) for a, b in pairwise(cut)))
        if settings.schedule == "cosine":
            schedule.step()
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach()


def race(settings, dtype=torch.float32):
    run = Run(settings, dtype=dtype)
    run.advance(settings.steps)
    return run.base.w.view(len(settings.methods), settings.seeds, -1)


@pytest.mark.parametrize(
    ("hyper", "dtype", "tolerance"),
    [
        ("published", torch.float32, 1e-6),
        *(pytest.param(hyper, torch.float64, 1e-12, marks=pytest.mark.slow) for hyper in HYPER),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_both_engines_agree(name, hyper, dtype, tolerance):
    settings = Settings(methods=(name,), seeds=1, seed=3, steps=STEPS, record_every=STEPS, **HYPER[hyper])
    batched, looped = race(settings, dtype)[0, 0], in_a_loop(settings, dtype)
    moved = (looped - Digits([3], dtype=dtype).init()[0]).abs().max()
    assert (batched - looped).abs().max() <= tolerance < moved < 10


@pytest.mark.slow
def test_a_run_alone_is_the_run_in_a_bigger_race():
    common = {"seeds": 3, "seed": 4, "steps": STEPS, "k": 2}
    names = tuple(METHODS)
    together = race(Settings(methods=names, **common))
    for e, name in enumerate(names):
        torch.testing.assert_close(race(Settings(methods=(name,), **common))[0], together[e], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_seed_alone_is_the_seed_among_others():
    names = tuple(METHODS)
    together = race(Settings(methods=names, seeds=3, seed=4, steps=STEPS))
    alone = race(Settings(methods=names, seeds=1, seed=5, steps=STEPS))
    torch.testing.assert_close(alone[:, 0], together[:, 1], rtol=0, atol=1e-6)


def test_every_method_of_a_seed_starts_from_the_same_weights():
    run = Run(Settings(methods=tuple(METHODS), seeds=3, steps=1))
    w = run.base.w.view(len(METHODS), 3, -1)
    assert torch.equal(w, w[:1].expand_as(w))
    assert not torch.equal(w[0, 0], w[0, 1])


def test_every_method_of_a_seed_sees_the_same_batches_and_the_same_noise():
    """Without strength all methods of one batch are SGD, so they can only agree if they saw the same data."""
    one_batch = (name for name in METHODS if METHODS[name].strength and METHODS[name].cost().batches == 1)
    names = ("sgd", *(":".join([name, *(f"{key}=0" for key in METHODS[name].strength)]) for name in one_batch))
    w = race(Settings(methods=names, seeds=2, steps=STEPS))
    torch.testing.assert_close(w, w[:1].expand_as(w), rtol=0, atol=1e-6)
    w = race(Settings(methods=("rwp", "m-rwp:lam=0", "sgd", "rwp:lr=0.1"), seeds=2, steps=STEPS, sigma=0.2))
    torch.testing.assert_close(w[0], w[3], rtol=0, atol=1e-6)
    torch.testing.assert_close(w[1], w[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("widths", [(5, 3), (5, 4, 3), (3, 6, 5, 2)])
def test_gradient_of_the_mlp_against_autograd(widths):
    network, n, batch = MLP(widths), 4, 7
    g = generator(0, "test")
    w = torch.randn(n, network.layout.size, generator=g, dtype=torch.float64)
    x = torch.randn(n, batch, widths[0], generator=g, dtype=torch.float64)
    y = torch.randint(widths[-1], (n, batch), generator=g)
    found, logits = network.gradient(w, x, y), network.logits(w, x)
    for i in range(n):
        module = network.module(w[i])
        expected = module(x[i])
        torch.nn.functional.cross_entropy(expected, y[i]).backward()
        torch.testing.assert_close(logits[i], expected.detach(), rtol=0, atol=1e-12)
        flat = torch.cat([p.grad.flatten() for p in module.parameters()])
        torch.testing.assert_close(found[i], flat, rtol=0, atol=1e-13)


def test_the_module_owns_its_weights_and_the_inputs_stay():
    network = MLP((4, 3, 2))
    flat = network.init(generator(0, "init"))
    before, x, y = flat.clone(), torch.randn(1, 5, 4), torch.zeros(1, 5, dtype=torch.long)
    copy = x.clone()
    with torch.no_grad():
        next(network.module(flat).parameters()).zero_()
    network.gradient(flat[None], x, y)
    assert torch.equal(flat, before) and torch.equal(x, copy)


def test_initial_weights_are_he_normal_with_zero_biases():
    network = MLP((200, 300, 100))
    for name, value in zip(network.layout.names, network.layout.split(network.init(generator(0, "init"), torch.float64))):
        if name.endswith("bias"):
            assert value.eq(0).all()
        else:
            variance = 2 / value.shape[1]
            assert value.mean().abs() < 4 * (variance / value.numel()) ** 0.5
            assert (value.var() / variance - 1).abs() < 4 * (2 / value.numel()) ** 0.5


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 0.99), st.floats(0, 0.5)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 100),
)
def test_batched_sgd_against_torch(hyper, seed):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(len(hyper), 6, generator=g, dtype=torch.float64)
    parameters = [torch.nn.Parameter(row.clone()) for row in w]
    optimizers = [
        torch.optim.SGD([p], lr=lr, momentum=momentum, weight_decay=decay)
        for p, (lr, momentum, decay) in zip(parameters, hyper)
    ]
    base = SGD(w)
    lr, momentum, decay = (torch.tensor(column, dtype=torch.float64)[:, None] for column in zip(*hyper))
    for _ in range(8):
        gradients = torch.randn(len(hyper), 6, generator=g, dtype=torch.float64)
        for p, gradient, optimizer in zip(parameters, gradients, optimizers):
            p.grad = gradient.clone()
            optimizer.step()
        base.step(gradients, lr, momentum, decay)
    torch.testing.assert_close(base.w, torch.stack([p.detach() for p in parameters]), rtol=1e-12, atol=1e-12)
    assert base.alive.all()


def test_batched_sgd_freezes_a_run_before_it_leaves_the_finite_numbers():
    w = torch.ones(3, 2)
    base, lr, zero = SGD(w), torch.full((3, 1), 0.5), torch.zeros(3, 1)
    for bad in (float("nan"), 1.0, 1.0):
        base.step(torch.tensor([[1.0, 1.0], [bad, 1.0], [1.0, 1.0]]), lr, zero, zero)
    assert base.alive.tolist() == [True, False, True]
    assert torch.equal(base.w, torch.tensor([[-0.5, -0.5], [1.0, 1.0], [-0.5, -0.5]]))


def test_update_counts_and_asks_all_methods_of_a_round_at_once():
    layout, calls = Layout({"w": (2,)}), []

    def gradients(points, owners):
        calls.append([(owner.method, at.batch) for at, owner in zip(points, owners, strict=True)])
        return [at.w * (1 + at.batch) for at in points]

    hyper = {name: row.default for name, row in PARAMETERS.items()} | {"k": 2}
    groups = [Group(name, hyper, [generator(0, "noise")]) for name in METHODS]
    combined = update([torch.ones(1, 2) for _ in groups], groups, layout, gradients)
    costs = [METHODS[name].cost(k=2) for name in METHODS]
    assert len(calls) == max(cost.rounds for cost in costs)
    for group, cost, g in zip(groups, costs, combined, strict=True):
        assert cost.points == sum(call.count((group.method, b)) for call in calls for b in range(cost.batches))
        assert group.work == cost.work
        assert g.shape == (1, 2) and group.displacement is None and group.seconds > 0


@pytest.mark.parametrize(
    "name", [name for name in METHODS if "noise" in METHODS[name].needs and "rho" not in METHODS[name].parameters]
)
def test_matrices_only_leaves_biases_alone_in_both_engines(name):
    """At every point of three steps, and the entries of the matrices do move."""
    module = Digits([0], width=8, train=60, batch=20).module()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1)
    start = [p.detach().clone() for p in module.parameters()]
    layout, moved = Layout({str(i): p.shape for i, p in enumerate(start)}), []

    def note(values):
        moved.append([not torch.equal(value, p.expand_as(value)) for value, p in zip(values, start)])

    def closure():
        note([p.detach() for p in module.parameters()])
        loss = sum(p.square().sum() for p in module.parameters())
        loss.backward()
        return loss

    optimizer = OPTIMIZERS[name](torch.optim.SGD(module.parameters(), lr=0.0), perturb="matrices")
    for _ in range(3):
        optimizer.step(closure)
    in_a_loop, moved = moved, []
    hyper = {key: METHODS[name].default(key) for key in PARAMETERS} | {"perturb": "matrices"}
    group = Group(name, hyper, [generator(0, "noise"), generator(1, "noise")])
    for _ in range(3):

        def answer(points, groups):
            for at in points:
                note(layout.split(at.w))
            return [torch.ones_like(at.w) for at in points]

        update([layout.flatten(start).repeat(2, 1)], [group], layout, answer)
    for found in (in_a_loop, moved):
        noisy = [point for point in found if any(point)]
        assert noisy and all(point == [p.dim() > 1 for p in start] for point in noisy)


def test_displacement_is_that_of_the_farthest_point_relative_to_the_weights():
    w = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    group = Group("sam", {name: row.default for name, row in PARAMETERS.items()} | {"rho": 0.5}, [])
    update([w], [group], Layout({"w": (2,)}), lambda points, owners: [torch.ones_like(at.w) for at in points], measure=True)
    torch.testing.assert_close(group.displacement, torch.tensor([0.1, 0.05]))


def test_a_race_never_draws_from_the_global_random_state(global_random_state):
    race(Settings(methods=tuple(METHODS), seeds=2, steps=3))


def test_digits_gradients_are_those_of_the_module():
    problem = Digits([0, 1], width=8, train=60, batch=20, dtype=torch.float64)
    problem.next(2)
    points = [At(problem.init(), batch=1), At(problem.init() + 0.1, batch=0)]
    found = problem.gradients(points, [])
    again = Digits([0, 1], width=8, train=60, batch=20, dtype=torch.float64)
    for at, gradient in zip(points, found, strict=True):
        x, y = again.draw(at.batch)
        for s in range(2):
            module = problem.network.module(at.w[s])
            torch.nn.functional.cross_entropy(module(x[s]), y[s]).backward()
            flat = torch.cat([p.grad.flatten() for p in module.parameters()])
            torch.testing.assert_close(gradient[s], flat, rtol=0, atol=1e-12)
