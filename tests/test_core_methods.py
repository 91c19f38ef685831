"""The methods against closed forms, by hand, through the optimizer and through the batched engine."""

import re

import pytest
import torch

from rwp_edu import batched, optim
from rwp_edu.methods import METHODS, PARAMETERS, get
from rwp_edu.noise import KINDS, generator
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.points import At, Layout, drive

DEFAULTS = {name: row.default for name, row in PARAMETERS.items()}
W = torch.tensor([1.0, -0.5], dtype=torch.float64)
U = torch.tensor([0.1, 0.2], dtype=torch.float64)
LR, GIVEN = 0.1, {**DEFAULTS, "rho": 0.05, "lam": 0.5, "k": 1}

# f(w) = (w0^2 + 10 w1^2)/2 + w0^4/4 at W with perturbation U: the farthest point that is asked, and w after one step of SGD.
FARTHEST = {"sgd": (0, 0), "sam": (0.01856953, -0.04642383), "rwp": (0.1, 0.2), "m-rwp": (0.1, 0.2), "nso": (0.1, 0.2)}
NEXT = {"sgd": (0.8, 0), "sam": (0.79246810, 0.04642383), "rwp": (0.7569, -0.2), "m-rwp": (0.77845, -0.1), "nso": (0.797, 0)}


def loss(w):
    return (w[..., 0] ** 2 + 10 * w[..., 1] ** 2) / 2 + w[..., 0] ** 4 / 4


def gradient(w):
    return torch.stack([w[..., 0] + w[..., 0] ** 3, 10 * w[..., 1]], -1)


def answer(points):
    return [gradient(at.w) for at in points]


def combined(name, w=W, answer=answer, **given):
    return drive(METHODS[name].start(w, **{**GIVEN, "noise": lambda w: U, "memory": {}, **given}), answer)


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NEXT)
def test_golden_values_by_hand(name):
    asked = []

    def watch(points):
        asked.extend(at.w - W for at in points)
        return answer(points)

    close(W - LR * combined(name, answer=watch), NEXT[name])
    close(max(asked, key=torch.linalg.vector_norm), FARTHEST[name])


@pytest.mark.parametrize("name", NEXT)
def test_golden_values_through_the_optimizer(name, monkeypatch):
    monkeypatch.setattr(optim, "Noise", lambda *_: lambda w: U)
    w = torch.nn.Parameter(W.clone())
    hyper = {key: GIVEN[key] for key in METHODS[name].parameters}

    def closure():
        value = loss(w)
        value.backward()
        return value

    OPTIMIZERS[name](torch.optim.SGD([w], lr=LR), **hyper).step(closure)
    close(w.detach(), NEXT[name])


@pytest.mark.parametrize("name", NEXT)
def test_golden_values_through_the_batched_engine(name, monkeypatch):
    monkeypatch.setattr(batched, "Noise", lambda *_: lambda w: U.expand_as(w))
    runs = 3
    w = W.repeat(runs, 1)
    group = batched.Group(name, GIVEN, [generator(i, "noise") for i in range(runs)])
    (g,) = batched.update([w], [group], Layout({"w": (2,)}), lambda points, groups: answer(points), measure=True)
    base = batched.SGD(w)
    base.step(g, w.new_tensor([[LR]] * runs), w.new_zeros(runs, 1), w.new_zeros(runs, 1))
    close(base.w, [NEXT[name]] * runs)
    close(group.displacement, [W.new_tensor(FARTHEST[name]).norm() / W.norm()] * runs)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_cost_is_the_counted_cost(name, k):
    rounds, batches = [], set()

    def count(points):
        rounds.append(len(points))
        batches.update(at.batch for at in points)
        return answer(points)

    combined(name, answer=count, k=k)
    cost = METHODS[name].cost(k=k)
    assert (cost.points, cost.rounds, cost.batches) == (sum(rounds), len(rounds), len(batches))
    assert batches == set(range(cost.batches))


@pytest.mark.parametrize(
    ("name", "cost", "text", "points"),
    [
        ("sgd", (1, 1, 1), "1", "1"),
        ("sam", (2, 2, 1), "2", "2"),
        ("rwp", (1, 1, 1), "1", "1"),
        ("m-rwp", (2, 1, 2), "2∥", "2"),
        ("nso", (2, 1, 1), "2∥", "2k"),
    ],
)
def test_cost_in_words(name, cost, text, points):
    counted = METHODS[name].cost(k=1)
    assert (counted.points, counted.rounds, counted.batches) == cost
    assert str(counted) == text and METHODS[name].points == points


@pytest.mark.parametrize("name", METHODS)
def test_many_runs_at_once_are_the_runs_one_by_one(name):
    w = torch.randn(4, 2, generator=generator(0, "weights"), dtype=torch.float64)

    def noise(w):
        return 0.1 * torch.sin(100 * w)

    together = combined(name, w, noise=noise)
    assert together.shape == w.shape
    torch.testing.assert_close(together, torch.stack([combined(name, row, noise=noise) for row in w]))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_never_touches_the_weights_or_the_answers(name):
    w, given = W.clone(), []

    def remember(points):
        given.extend((g := gradient(at.w), g.clone()) for at in points)
        return [g for g, _ in given[-len(points) :]]

    combined(name, w, remember, k=2)
    assert torch.equal(w, W) and all(torch.equal(g, copy) for g, copy in given)


@pytest.mark.parametrize("name", METHODS)
def test_a_zero_gradient_gives_a_zero_step(name):
    assert combined(name, answer=lambda points: [torch.zeros_like(at.w) for at in points]).eq(0).all()


@pytest.mark.parametrize("name", METHODS)
def test_without_strength_every_method_is_the_plain_gradient(name):
    close(combined(name, noise=torch.zeros_like, rho=0.0, k=3), gradient(W))


def test_nso_does_not_depend_on_the_sign_of_the_noise():
    assert torch.equal(combined("nso"), combined("nso", noise=lambda w: -U))


def test_nso_of_k_draws_is_the_mean_over_draws_and_signs():
    draws = [U, 2 * U, torch.tensor([0.3, -0.1], dtype=torch.float64)]
    left = iter(draws)
    mean = torch.stack([gradient(W + sign * u) for u in draws for sign in (1, -1)]).mean(0)
    torch.testing.assert_close(combined("nso", noise=lambda w: next(left), k=3), mean)


def test_nso_cancels_the_first_order_noise():
    matrix = torch.tensor([[2.0, 1.0], [1.0, 5.0]], dtype=torch.float64)
    quadratic = {"answer": lambda points: [matrix @ at.w for at in points]}
    torch.testing.assert_close(combined("nso", **quadratic), matrix @ W)
    assert not torch.allclose(combined("rwp", **quadratic), matrix @ W)


@pytest.mark.parametrize("name", ["rwp", "nso"])
def test_the_mean_step_descends_the_smoothed_loss(name):
    """E ∇L(w + u) = ∇(L + σ²/2 tr H + ...): for this loss exactly (w0 + w0³ + 3σ² w0, 10 w1)."""
    sigma, runs = 0.2, 100_000
    g = generator(0, "noise")
    found = combined(name, W.expand(runs, 2), noise=lambda w: sigma * torch.randn(runs, 2, generator=g, dtype=w.dtype))
    expected = gradient(W) + torch.stack([3 * sigma**2 * W[0], torch.zeros_like(W[0])])
    assert ((found.mean(0) - expected).abs() <= 4 * found.std(0) / runs**0.5 + 1e-12).all()


def two_batches(points):
    return [gradient(at.w) * (1 + at.batch) for at in points]


def test_m_rwp_mixes_a_clean_and_a_noisy_gradient_of_two_batches():
    clean, noisy = gradient(W), 2 * gradient(W + U)
    assert torch.equal(combined("m-rwp", answer=two_batches, lam=0.0), clean)
    assert torch.equal(combined("m-rwp", answer=two_batches, lam=1.0), noisy)
    torch.testing.assert_close(combined("m-rwp", answer=two_batches, lam=0.3), 0.7 * clean + 0.3 * noisy)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_sam_climbs_rho_whatever_the_scale_of_the_loss(scale):
    asked = []

    def watch(points):
        asked.extend(points)
        return [scale * g for g in answer(points)]

    combined("sam", answer=watch, rho=0.3)
    clean, far = asked
    assert torch.equal(clean.w, W)
    torch.testing.assert_close(far.w - W, 0.3 * gradient(W) / gradient(W).norm())


@pytest.mark.parametrize("name", METHODS)
def test_every_row_documents_itself(name):
    row = METHODS[name]
    assert row.name == name and row.formula.startswith("g = ") and len(row.meaning) > 10
    assert re.search(r"arXiv:\d{4}\.\d{5}|\b(19|20)\d\d\b", row.source)
    assert set(row.parameters) <= set(PARAMETERS)
    assert set(row.needs) <= {*PARAMETERS, "noise", "memory"}
    assert (row.kind in KINDS) if "noise" in row.needs else row.kind is None
    assert (set(row.parameters) >= {"sigma", "kind", "law"}) == ("noise" in row.needs)
    assert row.formula in OPTIMIZERS[name].__doc__
    assert all(key in OPTIMIZERS[name].__doc__ for key in row.parameters)


def test_labels_and_classes_are_unique():
    assert len({row.label for row in METHODS.values()}) == len(METHODS)
    assert len({own.__name__ for own in OPTIMIZERS.values()}) == len(METHODS) == len(OPTIMIZERS)


@pytest.mark.parametrize(
    ("name", "hint"), [("rpw", "did you mean 'rwp'"), ("m_rwp", "did you mean 'm-rwp'"), (None, ""), ([], "")]
)
def test_an_unknown_method_lists_the_table(name, hint):
    with pytest.raises(ValueError, match="unknown method") as error:
        get(name)
    assert hint in str(error.value) and all(known in str(error.value) for known in METHODS)


def test_at_asks_about_batch_0_by_default():
    assert At(W).batch == 0
