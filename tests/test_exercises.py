"""What the exercises of all notebooks have in common: right answers of every reasonable type, NaN is never right, and no error comes through."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rwp_edu.lab.exercises import (
    check_nso,
    check_rwp,
    check_sensing_gradient,
    check_smoothed_loss,
    check_smoothed_well,
    check_two_point,
    near,
    numbers,
    pair,
    parts,
)
from rwp_edu.lab.exercises.pac_bayes import check_best_noise
from rwp_edu.lab.exercises.paired import check_paired
from rwp_edu.lab.exercises.radius import check_radius_ratio
from rwp_edu.lab.exercises.scatter import check_rescaling, rescaled
from rwp_edu.lab.exercises.statistics import check_statistics
from rwp_edu.lab.exercises.trace import check_trace
from rwp_edu.lab.exercises.workers import check_round
from rwp_edu.methods.points import At


def rwp(w, noise):
    (g,) = yield [At(w + noise(w))]
    return g


def nso(w, noise):
    u = noise(w)
    a, b = yield [At(w + u), At(w - u)]
    return (a + b) / 2


def doubled(method):
    """The method in float64."""

    def answer(w, noise):
        talk = method(w.double(), lambda at: noise(at).double())
        try:
            points = next(talk)
            while True:
                points = talk.send((yield points))
        except StopIteration as end:
            return end.value.double()

    return answer


def smoothed_loss(f, w, sigma, draws):
    return f(w + sigma * torch.randn(draws, len(w))).mean()


def two_point(gradient, w, sigma, k):
    u = sigma * torch.randn(k, len(w))
    return gradient(torch.cat([w + u, w - u])).mean(0)


def sensing_gradient(W, A, y):
    return torch.einsum("n,nij->ij", (A * (W @ W.T)).sum((1, 2)) - y, (A + A.mT) / 2) @ W / len(y)


def smoothed_well(depth, width, sigma):
    v = width**2 + sigma**2
    return depth * width**2 / v, math.sqrt(v)


def best_noise(trace, distance, n):
    return distance / math.sqrt(n * trace), distance * math.sqrt(trace / n)


def paired(a, b):
    return (a - b).mean(), (a - b).std(ddof=1) / len(a) ** 0.5


def radius_ratio(trace, along, size):
    return math.sqrt(size * along / trace)


def statistics(batches):
    return tuple(torch.stack([of(x, (0, 2, 3)) for x in batches]).mean(0) for of in (torch.mean, torch.var))


def trace(product, size, draws, dtype=torch.float32):
    probes = (torch.randn(size, dtype=dtype) for _ in range(draws))
    found = torch.stack([z @ product(z) for z in probes])
    return found.mean(), found.std() / draws**0.5


def round_of(points, rank, workers, evaluate, gather):
    answers = gather([evaluate(p) for p in points[rank::workers]])
    return [answers[j % workers][j // workers] for j in range(len(points))]


RIGHT = {
    check_rwp: rwp,
    check_nso: nso,
    check_smoothed_loss: smoothed_loss,
    check_two_point: two_point,
    check_sensing_gradient: sensing_gradient,
    check_smoothed_well: smoothed_well,
    check_best_noise: best_noise,
    check_paired: paired,
    check_radius_ratio: radius_ratio,
    check_rescaling: rescaled,
    check_statistics: statistics,
    check_trace: trace,
    check_round: round_of,
}
PAIRS = [check_smoothed_well, check_best_noise, check_paired, check_statistics, check_trace]
NUMBERS = [check for check in RIGHT if check not in (check_rwp, check_nso, check_round)]


def mapped(answer, change):
    """The answer with ``change`` made of every number or tensor of it."""

    def other(*args):
        found = answer(*args)
        return tuple(change(part) for part in found) if isinstance(found, tuple) else change(found)

    return other


CHANGES = {
    "list": lambda part: part.tolist() if hasattr(part, "tolist") else part,
    "array": lambda part: np.asarray(part),
    "float32 array": lambda part: np.asarray(part, np.float32),
    "float32": lambda part: torch.as_tensor(part, dtype=torch.float32),
    "float64": lambda part: torch.as_tensor(part, dtype=torch.float64),
    "with a graph": lambda part: torch.as_tensor(part, dtype=torch.float32).requires_grad_() * 1,
}


@pytest.mark.parametrize("check", NUMBERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_right_answer_may_be_of_any_type(check, change, capsys):
    assert check(mapped(RIGHT[check], CHANGES[change])) and capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize("check", PAIRS)
def test_two_numbers_may_be_a_list_a_tensor_or_an_array(check, capsys):
    for join in (list, lambda both: torch.stack([torch.as_tensor(part) for part in both]), lambda both: np.array([np.asarray(part) for part in both])):
        assert check(lambda *args, join=join: join(RIGHT[check](*args))), capsys.readouterr().out


@pytest.mark.parametrize("check", [check_rwp, check_nso])
def test_a_method_may_work_in_double_precision(check, capsys):
    assert check(doubled(RIGHT[check])), capsys.readouterr().out


def test_what_students_write(capsys):
    def in_floats(f, w, sigma, draws):
        return sum(f(w + sigma * torch.randn(3)).item() for _ in range(draws)) / draws

    def of_a_list(f, w, sigma, draws):
        return torch.tensor([f(w + sigma * torch.randn(3)) for _ in range(draws)]).mean()

    def into_float32(gradient, w, sigma, k):
        total = torch.zeros(len(w))
        for _ in range(k):
            u = sigma * torch.randn(3)
            total += gradient(w + u) + gradient(w - u)
        return total / (2 * k)

    def measurement_by_measurement(W, A, y):
        total = torch.zeros(W.shape)
        for a, value in zip(A, y):
            total += ((a * (W @ W.T)).sum() - value) * (a + a.T) / 2 @ W
        return total / len(y)

    assert check_smoothed_loss(in_floats) and check_smoothed_loss(of_a_list)
    assert check_two_point(into_float32) and check_sensing_gradient(measurement_by_measurement)
    assert check_trace(lambda product, size, draws: trace(product, size, draws, torch.float64))
    assert check_round(lambda *args: np.array(round_of(*args))) and check_round(lambda *args: iter(round_of(*args)))
    assert set(capsys.readouterr().out.split("\n")) == {"Right.", ""}


@pytest.mark.parametrize("factor", [1.001, 0.999])
@pytest.mark.parametrize("check", [check_smoothed_loss, check_two_point, check_sensing_gradient, check_smoothed_well, check_statistics])
def test_a_little_wrong_is_wrong(check, factor, capsys):
    assert not check(mapped(RIGHT[check], lambda part: factor * part)), capsys.readouterr().out


PLACES = [(check, place) for check in NUMBERS for place in range(2 if check in PAIRS else 4 if check is check_rescaling else 1)]


@pytest.mark.parametrize("check, place", PLACES)
def test_nan_is_wrong_also_in_one_place(check, place, capsys):
    turn = iter(range(10**6))
    assert not check(mapped(RIGHT[check], lambda part: part * math.nan if next(turn) == place else part))
    assert capsys.readouterr().out.startswith("Not yet: ")


@pytest.mark.parametrize("check", RIGHT)
@pytest.mark.parametrize("odd", [None, "a word", {}, [], (), (1.0, "b"), object(), [[1.0], [2.0, 3.0]], torch.ones(2, 2, 2), np.array(["a"])], ids=lambda odd: "object" if type(odd) is object else repr(odd))
def test_odd_answers_are_wrong(check, odd, capsys):
    def method(*args):
        RIGHT[check](*args)
        return odd

    assert not check(method) and capsys.readouterr().out.startswith("Not yet: ")


def test_probes_of_nan_are_wrong(capsys):
    def poisoned(product, size, draws):
        return trace(lambda v: product(v * math.nan), size, draws)

    assert not check_trace(poisoned) and "mean 0 in every entry" in capsys.readouterr().out


def test_noise_of_nan_is_wrong(capsys):
    assert not check_smoothed_loss(lambda f, w, sigma, draws: f(w + math.nan * torch.randn(draws, 3)).mean())
    assert "the noise has mean nan" in capsys.readouterr().out


def broken(*args):
    raise KeyError("lost")


@pytest.mark.parametrize("check", RIGHT)
def test_an_error_is_told(check, capsys):
    def asks(w, noise):
        u = noise(w)
        yield [At(w + u)] if check is check_rwp else [At(w + u), At(w - u)]
        broken()

    def at_once(w, noise):
        yield broken()

    for answer in (asks, at_once) if check in (check_rwp, check_nso) else (broken,):
        assert not check(answer)
        said = capsys.readouterr().out
        assert said.startswith("Not yet: ") and "raised KeyError: 'lost'." in said


@pytest.mark.parametrize("check", RIGHT)
def test_an_answer_with_other_arguments_is_told(check, capsys):
    assert not check(lambda: None) and capsys.readouterr().out.startswith("Not yet: ")


def test_an_interrupt_comes_through():
    def interrupted(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_radius_ratio(interrupted)


def test_numbers_of_answers():
    assert numbers([1, np.float32(0.5), torch.tensor(2)]).tolist() == [1, 0.5, 2] and numbers(3).dtype == torch.float64
    assert numbers(None) is numbers("1") is numbers([1, None]) is numbers([[1], [1, 2]]) is None
    assert [len(parts(answer)) for answer in (([1.0], [1.0, 2.0]), torch.ones(3, 2), 1.0, None, (1.0, None))] == [2, 3, 1, 0, 0]
    assert pair(np.array([[1, 2]])) == [1, 2] and pair((1, 2, 3)) is pair(None) is None
    assert near(np.float32(0.1), torch.tensor(0.1)) and not near([0.1], torch.tensor(0.1)) and not near(math.nan, torch.tensor(math.nan))
