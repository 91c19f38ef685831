"""What the lab says and asks about matrix sensing: the exercise, the presets, the remark under the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rwp_edu
from rwp_edu.lab import PRESETS, exercises
from rwp_edu.problems.matrix_sensing import Sensing
from rwp_edu.training.settings import Entrant, Settings


def weighted(W, A, y):
    return torch.einsum("n,nij->ij", torch.einsum("nij,ij->n", A, W @ W.T) - y, A)


def by_hand(W, A, y):
    m = weighted(W, A, y) / len(y)
    return (m + m.T) @ W / 2


def by_machine(W, A, y):
    W.requires_grad_()
    loss = sum(((a * (W @ W.T)).sum() - value) ** 2 for a, value in zip(A, y)) / (4 * len(y))
    return torch.autograd.grad(loss, W)[0]


def in_place(W, A, y):
    A += A.mT.clone()
    A /= 2
    return weighted(W, A, y) @ W / len(y)


@pytest.mark.parametrize(
    "attempt, says",
    [
        (by_hand, "Right."),
        (by_machine, "Right."),
        (lambda W, A, y: len(y) * by_hand(W, A, y), "the sum over the measurements; divide it by their number, here 7"),
        (lambda W, A, y: -by_hand(W, A, y), "uphill"),
        (lambda W, A, y: 2 * by_hand(W, A, y), "twice the gradient"),
        (lambda W, A, y: 4 * by_hand(W, A, y), "the 1/4 of the loss got lost"),
        (lambda W, A, y: by_hand(W, A, y) / 2, "half of the gradient"),
        (lambda W, A, y: by_hand(W, A, y) / 4, "a quarter of the gradient"),
        (lambda W, A, y: 3 * by_hand(W, A, y), "3 times the gradient"),
        (lambda W, A, y: weighted(W, A, y) @ W / len(y), "not symmetric"),
        (lambda W, A, y: weighted(W, A, y).T @ W, "not symmetric"),
        (lambda W, A, y: by_hand(W, A, 0 * y), "y is missing"),
        (lambda W, A, y: weighted(W, A, 0 * y) @ W, "y is missing"),
        (lambda W, A, y: by_hand(W, A, 2 * y), "should be"),
        (lambda W, A, y: torch.zeros_like(W), "zero"),
        (lambda W, A, y: by_hand(W, A, y).T, "of the shape of W, (4, 3)"),
        (lambda W, A, y: None, "of the shape of W, (4, 3), not None"),
        (in_place, "was changed"),
    ],
)
def test_exercise_says_what_is_wrong(attempt, says, capsys):
    assert exercises.check_sensing_gradient(attempt) is (says == "Right.")
    assert says in capsys.readouterr().out


def test_what_the_exercise_calls_right_is_the_gradient_of_the_problem():
    g = torch.Generator().manual_seed(1)
    W, A, y = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((5, 2), (9, 5, 5), (9,)))
    problem = Sensing(A=A, y=y, w0=W, dtype=torch.float64)
    torch.testing.assert_close(problem.gradient(problem.init()).view(5, 2), by_hand(W, A, y), rtol=1e-12, atol=0)


def test_the_preset_of_weight_decay_has_the_strength_of_the_noise():
    """On average over the measurements σ²/2 tr H has the gradient σ² (2d + 1) W."""
    d, runs = 4, 400
    drawn = Sensing(range(runs), d=d, n=50, dtype=torch.float64)
    W = torch.randn(1, d * d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    same = W.expand(runs, -1)
    pull = (drawn.trace_gradient(same) / 2 * same).sum(1) / W.square().sum()
    assert abs(pull.mean() - (2 * d + 1)) < 4 * pull.std() / runs**0.5

    settings = Settings(**PRESETS["sensing-weight-decay"].changes)
    decay = Entrant.parse(settings.methods[1]).pins["weight_decay"]
    assert decay == pytest.approx(settings.sigma**2 * (2 * settings.d + 1))


def test_the_remark_tells_how_far_the_best_fit_is():
    lab = rwp_edu.lab.race()
    lab.preset("too-few-measurements")
    lab.set(methods="sgd,rwp", seeds=3, steps=300)
    lab.run()
    assert lab.record.train_error[-1, 0].max() < 1e-3 * lab.record.train_error[-1, 1].min()
    far = 10 ** np.log10(lab.record.distance[-1, 0]).mean()
    assert far > 1 and f"its distance² is {far:.2g};" in lab.summary
