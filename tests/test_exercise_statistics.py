"""The exercise on BatchNorm's statistics tells right from wrong, and why."""

from __future__ import annotations

import pytest
import torch

from rwp_edu.lab.exercises.statistics import check_statistics


def mean(batches):
    return sum(x.mean((0, 2, 3)) for x in batches) / len(batches)


def variance(batches, **how):
    return sum(x.var((0, 2, 3), **how) for x in batches) / len(batches)


def test_right(capsys):
    assert check_statistics(lambda b: (mean(b), variance(b))) and capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize(
    "statistics, said",
    [
        (lambda b: 1.0, "return two tensors"),
        (lambda b: 1 / 0, "ZeroDivisionError"),
        (lambda b: (b[0].mean(), variance(b)), "one number per channel"),
        (lambda b: (len(b) * mean(b), variance(b)), "divide by how many there are"),
        (lambda b: (b[0].mean((0, 2, 3)), variance(b)), "the mean per channel is"),
        (lambda b: (mean(b), torch.cat(b).var((0, 2, 3))), "all batches together"),
        (lambda b: (mean(b), variance(b, correction=0)), "divides by n - 1"),
        (lambda b: (mean(b), 2 * variance(b)), "the variance per channel is"),
    ],
)
def test_wrong(statistics, said, capsys):
    assert not check_statistics(statistics)
    out = capsys.readouterr().out
    assert out.startswith("Not yet: ") and said in out
