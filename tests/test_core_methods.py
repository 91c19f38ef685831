"""The methods against closed forms, by hand, through the optimizer and through the batched engine."""

import re

import pytest
import torch

from rwp_edu import methods
from rwp_edu.methods import METHODS, PARAMETERS, get
from rwp_edu.methods.noise import KINDS, generator
from rwp_edu.methods.points import At, Layout, drive
from rwp_edu.methods.random_perturbation import mean
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.training import batched

DEFAULTS = {name: row.default for name, row in PARAMETERS.items()}
W = torch.tensor([1.0, -0.5], dtype=torch.float64)
U = torch.tensor([0.1, 0.2], dtype=torch.float64)
LAYOUT = Layout({"w": (2,)})
LR, GIVEN = 0.1, {**DEFAULTS, "rho": 0.05, "lam": 0.5, "k": 1, "adapt": "all", "floor": 0.0}

# f(w) = (w0^2 + 10 w1^2)/2 + w0^4/4 at W with perturbation U: the farthest point that is asked, and w after one step of SGD.
# ASAM with adapt="all" and floor 0; USAM with rho 0.05.
FARTHEST = {
    "sgd": (0, 0),
    "sam": (0.01856953, -0.04642383),
    "usam": (0.1, -0.25),
    "asam": (0.03123475, -0.01952172),
    "rwp": (0.1, 0.2),
    "m-rwp": (0.1, 0.2),
    "nso": (0.1, 0.2),
}
NEXT = {
    "sgd": (0.8, 0),
    "sam": (0.79246810, 0.04642383),
    "usam": (0.7569, 0.25),
    "asam": (0.78721037, 0.01952172),
    "rwp": (0.7569, -0.2),
    "m-rwp": (0.77845, -0.1),
    "nso": (0.797, 0),
}


def loss(w):
    return (w[..., 0] ** 2 + 10 * w[..., 1] ** 2) / 2 + w[..., 0] ** 4 / 4


def gradient(w):
    return torch.stack([w[..., 0] + w[..., 0] ** 3, 10 * w[..., 1]], -1)


def answer(points):
    return [gradient(at.w) for at in points]


def combined(name, w=W, answer=answer, **given):
    return drive(
        METHODS[name].start(
            w, **{**GIVEN, "layout": LAYOUT, "noise": lambda w: U, "normal": lambda w: U, "memory": {}, **given}
        ),
        answer,
    )


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
    monkeypatch.setattr(methods, "Noise", lambda *_: lambda w: U)
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
    monkeypatch.setattr(methods, "Noise", lambda *_: lambda w: U.expand_as(w))
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
    rounds = []

    def count(points):
        rounds.append(points)
        return answer(points)

    combined(name, answer=count, k=k)
    cost, asked = METHODS[name].cost(k=k), [at for points in rounds for at in points]
    batches, slots = {at.batch for at in asked}, {at.batch * at.of + at.part for at in asked}
    assert (cost.points, cost.rounds, cost.batches) == (len(asked), len(rounds), len(batches))
    assert batches == set(range(cost.batches)) and slots == set(range(cost.slots))
    assert cost.work == pytest.approx(sum(1 / at.of for at in asked)) and type(cost.work) is int


@pytest.mark.parametrize(
    ("name", "cost", "text", "work", "history"),
    [
        ("sgd", (1, 1, 1, 1, 1), "1", "1", 0),
        ("sam", (2, 2, 1, 2, 1), "2", "2", 0),
        ("rwp", (1, 1, 1, 1, 1), "1", "1", 0),
        ("m-rwp", (2, 1, 2, 2, 2), "2∥", "2", 0),
        ("nso", (6, 1, 1, 6, 1), "6∥", "2k", 0),
        ("arwp", (1, 1, 1, 1, 1), "1", "1", 1),
        ("m-arwp", (2, 1, 2, 2, 2), "2∥", "2", 1),
        ("a-rwp", (2, 1, 2, 2, 2), "2∥", "2", 0),
        ("lpf-sgd", (3, 1, 1, 1, 3), "1∥", "1", 0),
        ("usam", (2, 2, 1, 2, 1), "2", "2", 0),
        ("asam", (2, 2, 1, 2, 1), "2", "2", 0),
        ("fsam", (2, 2, 1, 2, 1), "2", "2", 1),
        ("gsam", (2, 2, 1, 2, 1), "2", "2", 0),
        ("rsam", (2, 2, 1, 2, 1), "2", "2", 0),
        ("bsam", (2, 2, 1, 2, 1), "2", "2", 2),
    ],
)
def test_cost_in_words(name, cost, text, work, history):
    """The documented cost with k = 3: points, rounds, batches, work, slots."""
    counted = METHODS[name].cost(k=3)
    assert (counted.points, counted.rounds, counted.batches, counted.work, counted.slots) == cost
    assert str(counted) == text and METHODS[name].symbolic("work") == work and METHODS[name].history == history


def test_optional_points_cost_what_they_ask():
    assert METHODS["nso"].cost(k=2, signs="one-point").work == 2
    assert METHODS["nso"].cost(k=2, clean=0.3).work == 5


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
    """bSAM has a weight decay of its own, the prior."""
    assert combined(name, answer=lambda points: [torch.zeros_like(at.w) for at in points], prior=0.0).eq(0).all()


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].strength])
def test_without_strength_every_method_is_the_plain_gradient_exactly(name):
    given = {**dict.fromkeys(METHODS[name].strength, 0.0), "noise": lambda w: GIVEN["sigma"] * 0 * U}
    for lam in (0.0, 0.3, 0.7, 1.0):
        for k in (1, 3, 5, 7):
            assert torch.equal(combined(name, **given, k=k, lam=lam, clean=lam), gradient(W))


def test_which_methods_can_be_switched_off():
    """Every method that has a scale of its noise or of its ascent, except bSAM, whose noise no parameter scales."""
    for name, row in METHODS.items():
        scales = tuple(key for key in ("sigma", "rho") if key in row.parameters)
        assert row.strength == (() if name == "bsam" else scales)


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


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_the_running_mean(n):
    gradients = torch.randn(n, 5, generator=generator(0, "gradients"), dtype=torch.float64)
    torch.testing.assert_close(mean(iter(gradients)), gradients.mean(0), rtol=1e-14, atol=1e-15)
    assert torch.equal(mean([gradients[0]] * n), gradients[0])


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
    assert row.name == name and re.match(r"g = .*(∇L\(|m/s)", row.formula) and len(row.meaning) > 10
    assert re.search(r"arXiv:\d{4}\.\d{5}|\b(19|20)\d\d\b|^this project$", row.source)
    assert set(row.parameters) <= set(PARAMETERS)
    assert set(row.needs) <= {*PARAMETERS, "noise", "normal", "memory", "layout"}
    assert set(row.strength) <= set(row.parameters) >= set(row.defaults)
    assert all(PARAMETERS[key].parse(value) == value == row.default(key) for key, value in row.defaults.items())
    assert (row.kind in KINDS) if "noise" in row.needs else row.kind is None
    assert (set(row.parameters) >= {"sigma", "kind", "law", "perturb"}) == ("noise" in row.needs)
    assert row.formula in OPTIMIZERS[name].__doc__
    assert all(key in OPTIMIZERS[name].__doc__ for key in row.parameters)


def test_labels_and_classes_are_unique():
    assert len({row.label for row in METHODS.values()}) == len(METHODS)
    assert len({own.__name__ for own in OPTIMIZERS.values()}) == len(METHODS) == len(OPTIMIZERS)
    assert all(OPTIMIZERS[name].__name__ == row.class_name and row.class_name.isidentifier() for name, row in METHODS.items())


@pytest.mark.parametrize(
    ("name", "hint"), [("rpw", "did you mean 'rwp'"), ("m_rwp", "did you mean 'm-rwp'"), (None, ""), ([], "")]
)
def test_an_unknown_method_lists_the_table(name, hint):
    with pytest.raises(ValueError, match="unknown method") as error:
        get(name)
    assert hint in str(error.value) and all(known in str(error.value) for known in METHODS)


def test_at_asks_about_the_whole_of_batch_0_by_default():
    at = At(W)
    assert (at.batch, at.part, at.of) == (0, 0, 1)
