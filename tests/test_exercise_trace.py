"""The exercise on the trace tells right from wrong, and why."""

from __future__ import annotations

import pytest
import torch

from rwp_edu.lab.exercises.trace import check_trace


def hutchinson(draw=lambda n: torch.randint(0, 2, (n,)) * 2.0 - 1, reduce=lambda s: (s.mean(), s.std() / len(s) ** 0.5)):
    def estimate(product, size, draws):
        probes = [draw(size) for _ in range(draws)]
        return reduce(torch.stack([z @ product(z) for z in probes]))

    return estimate


@pytest.mark.parametrize("draw", [lambda n: torch.randint(0, 2, (n,)) * 2.0 - 1, torch.randn])
def test_right(draw, capsys):
    assert check_trace(hutchinson(draw)) and capsys.readouterr().out == "Right.\n"


SAME = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])


@pytest.mark.parametrize(
    "estimate, said",
    [
        (lambda product, size, draws: 7.5, "return two numbers"),
        (lambda product, size, draws: (8.0, 0.0), "it should ask for 4000 products"),
        (lambda product, size, draws: 1 / 0, "ZeroDivisionError"),
        (hutchinson(lambda n: torch.rand(n)), "mean 0"),
        (hutchinson(lambda n: torch.rand(n) * 2 - 1), "variance 1"),
        (hutchinson(reduce=lambda s: (s.sum(), s.std() / len(s) ** 0.5)), "take the mean"),
        (hutchinson(reduce=lambda s: (s.mean() / 6, s.std() / len(s) ** 0.5)), "the mean of zᵀHz is"),
        (hutchinson(reduce=lambda s: (s.mean(), s.std())), "standard deviation of one draw"),
        (hutchinson(reduce=lambda s: (s.mean(), s.std() / len(s))), "standard error of the mean"),
    ],
)
def test_wrong(estimate, said, capsys):
    assert not check_trace(estimate)
    out = capsys.readouterr().out
    assert out.startswith("Not yet: ") and said in out


def test_the_random_state_is_not_touched():
    before = torch.get_rng_state()
    check_trace(hutchinson())
    assert torch.equal(torch.get_rng_state(), before)
