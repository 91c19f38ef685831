"""Flatness against test accuracy: the statistics, the runs, the screen and the exercise of its notebook."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
import torch
from waiting import rest

from rwp_edu.experiments import run_pool
from rwp_edu.experiments.rank_correlation import Correlation, correlation, kendall
from rwp_edu.experiments.run_pool import DECAYS, LABELS, SCALES, Pool, entrants
from rwp_edu.lab.exercises.scatter import check_rescaling
from rwp_edu.lab.explorers.flatness_correlation import ALL, MEASURES, PARAMETERS, scatter
from rwp_edu.problems.flatness import LOOKS
from rwp_edu.utils.incremental import HEADLESS

# Statistics


def counted(x, y, pairs):
    """Kendall's τ_b pair by pair."""
    agree = in_x = in_y = 0
    for i, j in pairs:
        a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
        agree, in_x, in_y = agree + a * b, in_x + abs(a), in_y + abs(b)
    return agree / math.sqrt(in_x * in_y)


def test_kendall_by_hand():
    assert kendall([1, 2, 3], [1, 2, 3]) == 1 and kendall([1, 2, 3], [9, 4, 1]) == -1
    assert kendall([1, 2, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(2 * 3))  # a tie in x
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3]))


def test_kendall_counts_the_pairs_it_is_given():
    g = np.random.default_rng(0)
    x, y, group = g.integers(6, size=20), g.integers(6, size=20), g.integers(3, size=20)
    chosen = group[:, None] == group
    pairs = [(i, j) for i in range(20) for j in range(i) if group[i] == group[j]]
    assert kendall(x, y, chosen) == pytest.approx(counted(x, y, pairs))


def test_a_weight_is_a_copy():
    x, y, times = np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 3]), [0, 2, 1, 3]
    copies = np.repeat(np.arange(4), times)
    pairs = [(i, j) for n, i in enumerate(copies) for j in copies[:n] if i != j]
    assert kendall(x, y, weights=times) == pytest.approx(counted(x, y, pairs))
    assert kendall(x, y, weights=np.ones((3, 4))).tolist() == [float(kendall(x, y))] * 3


def test_an_interval_covers_and_shrinks():
    """Of correlated Gaussians τ = 2/π arcsin r."""
    g, right, widths = np.random.default_rng(1), 2 / math.pi * math.asin(0.6), []
    for n in (30, 300):
        hits = 0
        for _ in range(20):
            x, noise = g.standard_normal((2, n))
            found = correlation(x, 0.6 * x + 0.8 * noise, draws=200)
            hits += found.low <= right <= found.high
        widths.append(found.high - found.low)
        assert hits >= 16 and found.pairs == n * (n - 1) // 2 and found.runs == n
    assert widths[1] < widths[0] / 2


def test_shared_data_make_an_interval_wider():
    """Twenty copies of five runs are five runs."""
    g = np.random.default_rng(2)
    x, y = g.standard_normal((2, 5))
    unit = np.repeat(np.arange(5), 20)
    alone = correlation(x, y)
    naive, honest = correlation(x[unit], y[unit]), correlation(x[unit], y[unit], units=(unit,))
    assert (honest.low, honest.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    assert naive.high - naive.low < (honest.high - honest.low) / 2


def test_nothing_to_compare():
    found = correlation([1, 2], [2, 1], np.eye(2, dtype=bool))
    assert str(found) == "no pairs to compare" and not found.clear
    assert len(correlation([], []).__str__()) > 5
    with pytest.raises(ValueError, match="one length"):
        correlation([1, 2], [1])
    assert Correlation(0.5, 0.1, 0.8, 3, 3).clear and not Correlation(0.5, -0.1, 0.8, 3, 3).clear


# Runs


@pytest.fixture(scope="module")
def small():
    pool = Pool("noisy", methods=entrants(1), seeds=2, steps=20)
    pool.finish()
    return pool


@pytest.mark.slow
def test_flatness_is_in_the_record(small):
    assert small.finished and small.looks == 4 and not small.work()
    row, w = small.record.rows[-1], small.run.base.w.view(15, 2, -1)
    for name, values in LOOKS["digits"](small.run.problem, w[7]).items():
        np.testing.assert_array_equal(row[name][7], values.numpy())
    runs = small.at()
    assert runs.updates == 20 and small.at(0).updates == 5 and set(runs.measures) == set(MEASURES)
    distance = (w[7, 1] - small.run.problem.init()[1]).norm().item()
    assert runs.measures["pac_bayes"][15] == pytest.approx(math.sqrt(row["trace"][7, 1] * distance**2 / 300), rel=1e-5)
    assert runs.entrant[15] == small.record.entrants[7] and runs.decay[15] == 0.01 and runs.seed[15] == 1


def broken(function, calls, error):
    """The function, which raises an error at some of its calls: what is computed then is lost."""
    count = iter(range(1, 10**6))

    def call(*args):
        found = function(*args)
        if next(count) in calls:
            raise error
        return found

    return call


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("where", ["training", "a measurement of flatness", "the record"])
def test_after_an_interrupt_it_goes_on_where_it_was(where, error, monkeypatch):
    how = {"methods": "sgd,rwp:sigma=0.1", "seeds": 2, "steps": 12}
    whole, pool = Pool("clean", **how), Pool("clean", **how)
    whole.finish()
    if where == "training":
        monkeypatch.setattr(pool.run.problem, "gradients", broken(pool.run.problem.gradients, (1, 5, 12), error))
    elif where == "the record":
        monkeypatch.setattr(pool.run.engine, "measure", broken(pool.run.engine.measure, (1, 5), error))
    else:
        monkeypatch.setitem(LOOKS, "digits", broken(LOOKS["digits"], (1, 4, 8), error))
    stops = 0
    while True:
        try:
            pool.finish()
            break
        except error:
            stops += 1
            assert not pool.finished and pool.looks < 4
    assert stops >= 2 and pool.finished and pool.looks == 4 and len(pool.record.rows) == 5
    for look in range(4):
        again, right = pool.at(look), whole.at(look)
        assert again.updates == right.updates == 3 * (look + 1)
        for name, values in right.measures.items():
            np.testing.assert_array_equal(again.measures[name], values)
        np.testing.assert_array_equal(again.test_accuracy, right.test_accuracy)


def test_while_it_is_measured_the_moment_before_is_shown():
    pool = Pool("clean", methods="sgd,rwp:sigma=0.1", seeds=2, steps=8)
    while pool.looks < 1 or len(pool.record.rows) == 2:
        pool.work()
    before = pool.at().measures["pac_bayes"]
    pool.work()
    assert pool.looks == 1 and pool.at().updates == 2
    np.testing.assert_array_equal(pool.at().measures["pac_bayes"], before)


def test_pairs(small):
    runs = small.at()
    same, other = runs.pairs(methods="same"), runs.pairs(methods="other")
    assert not (same & other).any() and ((same | other) == runs.pairs()).all()
    assert runs.pairs().sum() == 2 * 15 * 15
    i, j = np.nonzero(runs.pairs(within=1.2))
    loss = runs.measures["train_loss"]
    assert (runs.seed[i] == runs.seed[j]).all() and (np.abs(np.log(loss[i] / loss[j])) <= math.log(1.2) + 1e-12).all()
    assert 30 < len(i) < runs.pairs().sum()
    found = runs.correlation("rise")
    chosen = [(a, b) for a in range(30) for b in range(a) if runs.seed[a] == runs.seed[b]]
    assert found.tau == pytest.approx(counted(runs.measures["rise"], runs.test_accuracy, chosen)) and found.pairs == 210


def test_what_is_not_possible_is_an_error(small):
    for ask, message in (
        (lambda: Pool("dirty"), "unknown labels"),
        (lambda: small.at().correlation("size"), "unknown measure"),
        (lambda: small.at().pairs(methods="all"), "same, other"),
        (lambda: scatter(window=0.5), "window must be"),
        (lambda: scatter(measure="size"), "measure must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


# The screen


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setenv(HEADLESS, "12")
    monkeypatch.setattr(run_pool, "_POOLS", {})


@pytest.mark.slow
def test_it_trains_in_slices_and_once(few):
    view = scatter()
    assert view.text.startswith("Training 30 runs on 300 digits") and view.found is None
    seen = set()
    while view.work():
        seen.add(view.text[:20])
    assert len(seen) > 1 and "after 12 updates" in view.text and "Still" not in view.text
    assert not scatter(labels="clean").work()  # both kinds are made


@pytest.mark.slow
def test_controls_choose_what_is_compared(few):
    view = scatter()
    view.finish()
    assert view.found.runs == 30 and "around" not in view.shown
    for decay in DECAYS:
        view.set(weight_decay=decay)
        assert view.found.runs == 2 * len(SCALES)
    loss = view.runs.measures["train_loss"]
    view.set(weight_decay="all", window=1.2, around=float(np.median(loss)))
    inside = np.abs(np.log(loss / view.state.around)) <= math.log(1.2) / 2
    assert (view.compared(view.runs) == inside).all() and 2 < inside.sum() < 30 and "around" in view.shown
    shown = np.concatenate([t["marker"]["opacity"] for t in view.traces()[: len(SCALES)]])
    assert (shown > 0.5).sum() == inside.sum()
    assert view.layout()["shapes"][0]["x1"] / view.layout()["shapes"][0]["x0"] == pytest.approx(1.2)
    assert all(
        np.ndim(t["marker"].get("opacity", 1)) == 0 for t in view.traces() if t.get("showlegend", True) and "marker" in t
    )
    view.set(around=1e-4)
    assert "move it" in view.text and "window=1.2" in view.snippet


def test_the_right_end_of_the_slider_is_all():
    grid = PARAMETERS["window"].grid
    assert grid[-1] == ALL and grid[-1] / grid[-2] == pytest.approx(10**0.05, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("labels", LABELS)
def test_every_picture_is_a_figure(few, labels):
    for measure in MEASURES:
        view = scatter(measure=measure, labels=labels)
        figure = view.figure
        assert [len(t.x) for t in figure.data[:5]] == [6] * 5
        assert sorted(v for t in figure.data[:5] for v in t.x) == pytest.approx(sorted(view.runs.measures[measure]))
        low, high = (10**end for end in figure.layout.xaxis.range)
        assert low < view.runs.measures[measure].min() and view.runs.measures[measure].max() < high


@pytest.mark.slow
def test_the_screen_follows(few):
    async def live():
        view = scatter()
        view._repr_mimebundle_()
        screen = view.screen
        await rest(screen)
        assert "30 runs" in screen.says.value and len(screen.figure.data[1]["x"]) == 6
        screen.choice.value = "rise"
        screen.controls["weight_decay"].input.value = "0.04"
        await rest(screen)
        assert view.state.measure == "rise" and view.found.runs == 10 and "10 runs" in screen.says.value
        assert list(screen.figure.data[0]["x"]) == pytest.approx(list(view.runs.measures["rise"][:6]))
        assert not screen.status.value
        screen.end()

    asyncio.run(live())


# The exercise


def verdict(capsys, function):
    return check_rescaling(function), capsys.readouterr().out


def test_right(capsys):
    assert verdict(capsys, lambda w1, b1, w2, b2, a: (a * w1, a * b1, w2 / a, b2)) == (True, "Right.\n")


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda w1, b1, w2, b2, a: (w1, b1, w2, b2), "trace is unchanged"),
        (lambda w1, b1, w2, b2, a: (w1.flip(0), b1.flip(0), w2.flip(1), b2), "trace is unchanged"),
        (lambda w1, b1, w2, b2, a: (a * w1, b1, w2 / a, b2), "both have it"),
        (lambda w1, b1, w2, b2, a: (a * w1, a * b1, w2, b2), "w2 must be 0.333 times"),
        (lambda w1, b1, w2, b2, a: (a * w1, a * b1, w2 / a, b2 / a), "b2 is added after"),
        (lambda w1, b1, w2, b2, a: (-a * w1, -a * b1, -w2 / a, b2), "positive a"),
        (lambda w1, b1, w2, b2, a: (w1 / a, b1 / a, a * w2, b2), "w1 should be 3 times"),
        (lambda w1, b1, w2, b2, a: (a + w1, a + b1, w2, b2), "every hidden unit"),
        (lambda w1, b1, w2, b2, a: (a * w1, a * b1, w2 / a), "3 things"),
        (lambda w1, b1, w2, b2, a: (a * w1.T, a * b1, w2 / a, b2), "keep its shape"),
        (lambda w1, b1, w2, b2, a: None, "return the four tensors"),
        (lambda w1, b1, w2, b2, a: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_wrong(answer, says, capsys):
    right, said = verdict(capsys, answer)
    assert not right and says in said


def test_the_trace_of_a_rescaled_network():
    """tr = a⁻² (first layer) + a² w2 + b2, as the notebook says."""
    from rwp_edu.problems.mlp import MLP
    from rwp_edu.problems.objectives import NetworkObjective

    g, net, a = torch.Generator().manual_seed(1), MLP((4, 6, 3)), 2.0
    x, y = torch.randn(30, 4, generator=g, dtype=torch.float64), torch.randint(3, (30,), generator=g)
    w = torch.randn(net.layout.size, generator=g, dtype=torch.float64)
    w1, b1, w2, b2 = net.layout.split(w)
    new = torch.cat([part.flatten() for part in (a * w1, a * b1, w2 / a, b2)])
    before, after = (list(NetworkObjective(net, at, x, y).traces().values()) for at in (w, new))
    for old, now, times in zip(before, after, (a**-2, a**-2, a**2, 1)):
        assert now.item() == pytest.approx(times * old.item(), rel=1e-9)
