"""The exercise on the PAC-Bayes value tells right from wrong, and why."""

from __future__ import annotations

import math

import pytest

from rwp_edu.curvature.sharpness import pac_bayes
from rwp_edu.lab.exercises.pac_bayes import CASES, bound, check_best_noise


def right(trace, distance, n):
    return distance / math.sqrt(n * trace), distance * math.sqrt(trace / n)


def test_right(capsys):
    assert check_best_noise(right) and capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize("case", CASES)
def test_the_best_is_the_best_and_is_what_the_library_calls_the_pac_bayes_value(case):
    s2, value = right(*case)
    assert value == pytest.approx(bound(s2, *case)) == pytest.approx(pac_bayes(*case).value)
    assert min(bound(1.1 * s2, *case), bound(0.9 * s2, *case)) > value


@pytest.mark.parametrize(
    "best, says",
    [
        (lambda trace, r, n: 1.0, "return two numbers"),
        (lambda trace, r, n: (0.0, 1.0), "must be positive"),
        (lambda trace, r, n: 1 / 0, "ZeroDivisionError"),
        (lambda trace, r, n: (math.sqrt(r / math.sqrt(n * trace)), 0.0), "s² is wanted"),
        (lambda trace, r, n: (2 * r / math.sqrt(n * trace), 0.0), "a smaller s² gives less"),
        (lambda trace, r, n: (r / math.sqrt(n * trace) / 2, 0.0), "a larger s² gives less"),
        (lambda trace, r, n: (r / math.sqrt(n * trace), r * math.sqrt(trace / n) / 2), "you returned"),
    ],
)
def test_wrong(best, says, capsys):
    assert not check_best_noise(best)
    out = capsys.readouterr().out
    assert out.startswith("Not yet: ") and says in out
