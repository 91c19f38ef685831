"""Fine-tuning on few, partly mislabelled images of digits that the network has not seen."""

from __future__ import annotations

import pytest
import torch

from rwp_edu.curvature.lanczos import dense
from rwp_edu.problems.digits import standardised
from rwp_edu.problems.fine_tuning import KNOWN, FineTuning, pretrained
from rwp_edu.problems.flatness import LOOKS, objective_of
from rwp_edu.problems.mlp import MLP
from rwp_edu.training import Run
from rwp_edu.training.settings import Settings


@pytest.fixture(scope="module")
def problem():
    return FineTuning([3, 4], shots=10, batch=10, width=16)


def test_the_network_knows_the_first_digits(problem):
    images, labels = standardised()
    images, labels = images[labels < KNOWN], labels[labels < KNOWN]
    w = pretrained((3, 4), 16)
    found = MLP((64, 16, 16, KNOWN), "tanh").logits(w, images.expand(2, -1, -1)).argmax(-1)
    assert ((found == labels).double().mean(1) > 0.97).all()


def test_the_start_is_pretrained_with_a_new_head(problem):
    (*body, head, bias), (*before, old, _) = (problem.layout.split(w) for w in (problem.init(), pretrained((3, 4), 16)))
    assert all(torch.equal(a, b) for a, b in zip(body, before))
    assert not bias.any() and not torch.equal(head, old) and not torch.equal(head[0], head[1])
    assert head.std().item() == pytest.approx(16**-0.5, rel=0.2)
    assert (problem.measure(problem.init())["test_accuracy"] < 0.5).all()


def test_images_of_the_new_digits_only_and_no_test_image_is_trained_on(problem):
    images, labels = standardised()
    label_of = {tuple(image.tolist()): int(label) for image, label in zip(images, labels)}
    for which in range(2):
        train = [tuple(image.tolist()) for image in problem.train_x[which]]
        test = [tuple(image.tolist()) for image in problem.test_x[which]]
        true = torch.tensor([label_of[image] - KNOWN for image in train])
        assert true.bincount(minlength=KNOWN).tolist() == [10] * KNOWN
        assert torch.equal(problem.train_y[which] != true, problem.wrong[which])
        assert torch.equal(torch.tensor([label_of[image] - KNOWN for image in test]), problem.test_y[which])
        assert not set(train) & set(test)


def test_more_shots_keep_the_images_of_fewer():
    few, many = (FineTuning([0], shots=shots, batch=5, width=8) for shots in (10, 20))
    assert torch.equal(few.train_x[0], many.train_x[0, :50]) and torch.equal(few.train_y[0], many.train_y[0, :50])
    assert torch.equal(few.test_x, many.test_x)


def test_no_label_noise():
    assert not FineTuning([0], label_noise=0.0, width=8).wrong.any()


def test_distance_and_pac_bayes(problem):
    w = problem.init()
    w[1] += 0.01
    found, n = LOOKS["fine-tuning"](problem, w), problem.train_y.shape[1]
    distance = problem.measure(w)["distance"]
    assert distance.tolist() == pytest.approx([0, 0.01 * w.shape[1] ** 0.5], rel=1e-4)
    trace = torch.stack([h.trace() for h in dense(objective_of(problem, w))])
    assert found["trace"].tolist() == pytest.approx(trace.tolist(), rel=1e-3)
    assert found["pac_bayes"].tolist() == pytest.approx((trace.clamp(min=0) * distance**2 / n).sqrt().tolist(), rel=1e-3)


def test_noise_keeps_the_network_from_learning_wrong_labels():
    run = Run(Settings("fine-tuning", methods="sgd,nso", seeds=4))
    run.advance(300)
    (sgd, nso), learnt = run.record.test_accuracy[-1], run.record.wrong_labels_learnt[-1].mean(1)
    assert (nso - sgd).mean() > 0.05 and learnt[0] > 2 * learnt[1]


@pytest.mark.parametrize(
    "values, says", [({"shots": 51}, "shots"), ({"shots": 10, "batch": 51}, r"batch must not exceed 5 \* shots")]
)
def test_what_cannot_be(values, says):
    with pytest.raises(ValueError, match=says):
        Settings("fine-tuning", **values)
    with pytest.raises(ValueError, match="1 <= shots <= 50"):
        FineTuning([0], **values)
