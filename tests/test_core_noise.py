import itertools

import pytest
import torch

from rwp_edu.methods.noise import KINDS, LAWS, Noise, generator
from rwp_edu.methods.points import Layout

N = 200_000
FOURTH_MOMENT = {"gaussian": 3.0, "uniform": 9 / 5, "laplace": 6.0, "rademacher": 1.0}
LAYOUT = Layout({"conv": (3, 2, 2, 2), "matrix": (4, 5), "bias": (6,), "scale": ()})


def draws(law, seed=0, n=N):
    return LAWS[law](torch.empty(n, dtype=torch.float64), generator(seed, "noise"))


def assert_mean(samples, expected, message=""):
    error = 4 * samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - expected).abs() <= error + 1e-12).all(), message


@pytest.mark.parametrize("law", LAWS)
def test_law_has_mean_0_and_variance_1(law):
    z = draws(law)
    assert_mean(z, 0)
    assert_mean(z**2, 1)


@pytest.mark.parametrize("law", LAWS)
def test_law_is_symmetric(law):
    z = draws(law)
    assert_mean(z.sign(), 0)
    assert_mean(z**3, 0)
    for bound in (0.5, 1.0, 1.5):
        assert_mean((z >= bound).double() - (z <= -bound).double(), 0)


@pytest.mark.parametrize("law", FOURTH_MOMENT)
def test_law_is_the_one_it_is_called(law):
    assert_mean(draws(law) ** 4, FOURTH_MOMENT[law])


def test_support_of_bounded_laws():
    assert set(draws("rademacher").tolist()) == {-1.0, 1.0}
    assert draws("uniform").abs().max() <= 3**0.5


@pytest.mark.parametrize("law", LAWS)
def test_entries_are_independent(law):
    z = draws(law)
    for lag in (1, 2, 8):
        assert_mean(z[lag:] * z[:-lag], 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("law", LAWS)
def test_noise_has_the_shape_and_type_of_the_weights_and_leaves_them_alone(law, kind, dtype):
    w = torch.ones(LAYOUT.size, dtype=dtype)
    u = Noise(LAYOUT, [generator(0, "noise")], 0.1, kind, law)(w)
    assert u.shape == w.shape and u.dtype == dtype and torch.equal(w, torch.ones_like(w))


def weights(runs):
    """Filters of very different norms; the last row of the matrix is zero."""
    w = torch.randn(LAYOUT.size, generator=generator(1, "weights"), dtype=torch.float64) * torch.logspace(-2, 1, LAYOUT.size)
    LAYOUT.split(w)[1][3] = 0
    return w.expand(runs, -1)


def expected_deviation(w, kind):
    if kind == "isotropic":
        return torch.ones_like(w)
    deviation = torch.empty_like(w)
    for slot, value in zip(LAYOUT.split(deviation), LAYOUT.split(w)):
        if kind == "layer-wise":
            slot.fill_(value.square().sum().sqrt())
            continue
        for j in range(value.shape[0] if value.dim() > 1 else 1):
            rows = (slot[j], value[j]) if value.dim() > 1 else (slot, value)
            rows[0].fill_(rows[1].square().sum().sqrt())
    return deviation


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_standard_deviation_per_entry(kind, law):
    sigma, runs = 0.3, 4000
    w = weights(runs)
    u = Noise(LAYOUT, [generator(i, "noise") for i in range(runs)], sigma, kind, law)(w)
    s = sigma * expected_deviation(w[0], kind)
    assert_mean(u, 0)
    assert_mean(u**2, s**2)
    for a, b in ((0, 1), (0, LAYOUT.size - 1), (25, 45)):
        assert_mean(u[:, a] * u[:, b], 0)


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_matrices_only_leaves_vectors_and_scalars_alone_and_draws_the_same_for_the_rest(kind, runs):
    w = weights(runs)
    every, matrices = (
        Noise(LAYOUT, [generator(i, "noise") for i in range(runs)], 0.3, kind, perturb=perturb)
        for perturb in ("all", "matrices")
    )
    for _ in range(2):
        for u, v, shape in zip(LAYOUT.split(every(w)), LAYOUT.split(matrices(w)), LAYOUT.shapes):
            assert torch.equal(u, v) if len(shape) > 1 else u.ne(0).all() and v.eq(0).all()


def test_zero_filters_get_no_noise_and_zero_sigma_gives_none():
    w = weights(1)[0]
    u = Noise(LAYOUT, [generator(0, "noise")], 0.3, "filter-wise")(w)
    matrix = LAYOUT.split(u)[1]
    assert matrix[3].eq(0).all() and matrix[:3].ne(0).all()
    for kind in KINDS:
        assert Noise(LAYOUT, [generator(0, "noise")], 0.0, kind)(w).eq(0).all()


def test_sigma_may_differ_from_entry_to_entry():
    w = weights(1)[0]
    sigma = torch.linspace(0, 1, LAYOUT.size, dtype=torch.float64)
    one = Noise(LAYOUT, [generator(0, "noise")], 1.0, "filter-wise")(w)
    assert torch.equal(Noise(LAYOUT, [generator(0, "noise")], sigma, "filter-wise")(w), one * sigma)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batched_row_is_the_stream_of_the_run_alone(kind, law, dtype):
    seeds = (3, 0, 7)
    w = torch.randn(len(seeds), LAYOUT.size, generator=generator(2, "weights"), dtype=dtype)
    together = Noise(LAYOUT, [generator(s, "noise") for s in seeds], 0.1, kind, law)
    alone = [Noise(LAYOUT, [generator(s, "noise")], 0.1, kind, law) for s in seeds]
    for _ in range(3):
        one, other = together(w), torch.stack([noise(row) for noise, row in zip(alone, w)])
        assert torch.equal(one.sign(), other.sign())
        if kind == "isotropic":
            assert torch.equal(one, other)
        else:  # norms may be summed in another order
            torch.testing.assert_close(one, other, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)


@pytest.mark.parametrize("runs", [None, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "isotropic"])
def test_norms_of_long_filters_do_not_suffer_from_a_short_type(kind, dtype, runs):
    """4608 squares of 1: a sum in bfloat16 would stop at 256."""
    layout, lead = Layout({"conv": (2, 4608), "bias": (4608,)}), () if runs is None else (runs,)
    w = torch.ones(*lead, layout.size, dtype=dtype)
    u = Noise(layout, [generator(i, "noise") for i in range(runs or 1)], 0.1, kind, "rademacher")(w)
    for size, part in zip((4608 * (2 if kind == "layer-wise" else 1), 4608), layout.split(u)):
        torch.testing.assert_close(part.abs(), torch.full_like(part, 0.1 * size**0.5), rtol=0.02, atol=0)


def test_as_many_generators_as_rows():
    with pytest.raises(ValueError, match="3 rows .* got 2"):
        Noise(LAYOUT, [generator(0), generator(1)], 0.1)(torch.zeros(3, LAYOUT.size))


def test_streams_are_reproducible():
    a, b = (torch.randn(5, generator=generator(4, "noise", "extra")) for _ in range(2))
    assert torch.equal(a, b)


def test_streams_are_independent_of_each_other():
    names = [(seed, *stream) for seed in (0, 1, 2, 12) for stream in ((), ("noise",), ("batches",), ("batches", "1"))]
    drawn = [torch.randn(10_000, generator=generator(*name), dtype=torch.float64) for name in names]
    for a, b in itertools.combinations(drawn, 2):
        assert (a * b).mean().abs() < 5 / 100


def test_global_random_state_is_untouched(global_random_state):
    generator(0, "noise")
    for kind, law in itertools.product(KINDS, LAWS):
        Noise(LAYOUT, [generator(0, "noise")], 0.1, kind, law)(torch.ones(LAYOUT.size))
