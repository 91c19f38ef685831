import dataclasses
import os
import tarfile

import pytest
import torch
from PIL import Image

from rwp_edu import checkpoints
from rwp_edu.datasets import read_pictures
from rwp_edu.one_by_one import OneByOne
from rwp_edu.problems import PROBLEMS, digits
from rwp_edu.problems.images import Images
from rwp_edu.problems.mlp import MLP
from rwp_edu.settings import Settings
from rwp_edu.training import Run


@pytest.fixture
def folder(tmp_path):
    for part, n in (("train", 6), ("val", 3)):
        for c, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            (tmp_path / "pictures" / part / c).mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (9, 7), tuple(max(v - i, 0) for v in colour)).save(
                    tmp_path / "pictures" / part / c / f"{i}.png"
                )
    return tmp_path / "pictures"


@pytest.mark.parametrize("name", ["sgd", "sam", "rwp", "m-rwp", "nso"])
def test_one_by_one_gives_the_curves_of_the_batched_network(monkeypatch, name):
    settings = Settings(methods=name, seeds=2, steps=8, train=60, batch=20, width=8, record_every=2)
    plain = Run(settings, "cpu", torch.float64)
    plain.advance(8)

    class Slow(MLP):
        def __init__(self, widths):
            super().__init__(widths)
            self.other = OneByOne(lambda: self.module(torch.zeros(self.layout.size)))
            assert self.other.layout.shapes == self.layout.shapes

        def gradient(self, w, x, y):
            return self.other.gradient(w, x, y)

        def logits(self, w, x):
            return self.other.logits(w, x)

    monkeypatch.setattr(digits, "MLP", Slow)
    slow = Run(settings, "cpu", torch.float64)
    slow.advance(8)
    torch.testing.assert_close(slow.base.w, plain.base.w, rtol=1e-9, atol=1e-10)
    assert abs(slow.record.train_loss - plain.record.train_loss).max() < 1e-9
    assert (slow.record.gradient_evaluations == plain.record.gradient_evaluations).all()


def test_folder_and_tar_give_the_same_pictures(folder, tmp_path):
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.add(folder, "deep/pictures")
    one, two = read_pictures(folder, 8), read_pictures(tmp_path / "p.tar", 8)
    assert (
        one.classes == two.classes == ("blue", "red")
        and one.train[0].shape == (12, 3, 8, 8)
        and one.train[0].dtype == torch.uint8
    )
    assert all(torch.equal(a, b) for a, b in zip((*one.train, *one.test), (*two.train, *two.test)))
    assert one.train[1].tolist() == [0] * 6 + [1] * 6 and one.train[0][0, :, 0, 0].tolist() == [0, 0, 255]


def test_bad_pictures_are_named(folder, tmp_path):
    (folder / "train" / "red" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="train/red/broken.png cannot be read"):
        read_pictures(folder)
    with pytest.raises(FileNotFoundError, match="no folder or tar"):
        read_pictures(tmp_path / "nothing")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="neither a folder nor a tar"):
        read_pictures(tmp_path / "text")


def test_batch_norm_is_refused():
    with pytest.raises(ValueError, match="GroupNorm instead of BatchNorm"):
        OneByOne(lambda: torch.nn.BatchNorm1d(3))


def test_augmentation_and_order_continue_bit_for_bit(folder):
    problem, other = (Images([0, 1], read_pictures(folder, 8), 10, 4, batch=4, width=4, shift=2, flip=True) for _ in range(2))
    before = torch.random.get_rng_state()
    for _ in range(3):
        problem.draw(0), problem.draw(1)
    other.restore(problem.state())
    for number in (0, 1, 0, 1):
        for a, b in zip(problem.draw(number), other.draw(number)):
            assert torch.equal(a, b)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(problem.init(), other.init()) and not torch.equal(*problem.init())


def test_gradient_of_the_network_is_that_of_autograd(folder):
    problem = Images([0], read_pictures(folder, 8), 10, 4, batch=4, width=4, dtype=torch.float64)
    w, (x, y) = problem.init(), problem.draw()
    module = problem.module().double()
    torch.nn.functional.cross_entropy(module(x[0].double() / 127.5 - 1), y[0]).backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters()])
    torch.testing.assert_close(problem.network.gradient(w, x, y)[0], expected)
    assert set(problem.measure(w)) == {"train_loss", "test_accuracy", "wrong_labels_learnt"}


def test_cifar():
    path = os.environ.get("RWP_EDU_CIFAR_TAR")
    if not path:
        pytest.skip("RWP_EDU_CIFAR_TAR names no tar of CIFAR images")
    pictures = read_pictures(path)
    assert pictures.train[0].shape == (5000, 3, 32, 32) and len(pictures.classes) == 10
    problem = Images([0], pictures, 200, 100, batch=50, shift=4, flip=True)
    w = problem.init()
    before = problem.measure(w)["train_loss"]
    for _ in range(12):
        w = w - 0.1 * problem.network.gradient(w, *problem.draw())
    assert problem.measure(w)["train_loss"] < before


def test_a_race_of_convolutional_networks_continues_bit_for_bit(folder, tmp_path, monkeypatch):
    pictures = read_pictures(folder, 8)
    row = dataclasses.replace(
        PROBLEMS["digits"],
        make=lambda s, *where: Images(
            where[0], pictures, s.train, 4, batch=s.batch, width=4, shift=1, flip=True, device=where[1], dtype=where[2]
        ),
    )
    monkeypatch.setitem(PROBLEMS, "digits", row)
    settings = Settings(methods="sgd,sam,m-rwp,arwp", seeds=2, steps=8, train=10, batch=4, record_every=2)
    whole, first = Run(settings), Run(settings)
    whole.advance(8)
    first.advance(3)
    checkpoints.save(first, tmp_path)
    again = checkpoints.load(tmp_path)
    again.advance(8)
    assert torch.equal(again.base.w, whole.base.w) and again.finished
    assert (again.record.train_loss == whole.record.train_loss).all() and (whole.record.train_loss[-1] > 0).all()
    assert whole.record.gradient_evaluations[-1].tolist() == [8, 16, 16, 8]
