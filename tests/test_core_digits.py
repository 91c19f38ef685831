import hashlib
from pathlib import Path

import pytest
import torch

from rwp_edu.problems import PROBLEMS, digits
from rwp_edu.problems.digits import POOL, TEST, VALIDATION, Digits
from rwp_edu.problems.fine_tuning import FineTuning

# How often each class occurs, from the documentation of the data set (optdigits.names, the part called optdigits.tes).
CLASSES = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
DATA = next(folder / digits.FILE for folder in digits.FOLDERS if (folder / digits.FILE).is_file())


def numbered(images):
    """Which of the 1,797 images each row is; they are all different."""
    known, _ = digits.standardised()
    index = {row.numpy().tobytes(): i for i, row in enumerate(known)}
    assert len(index) == len(known)
    return [index[row.numpy().tobytes()] for row in images.reshape(-1, 64)]


def epoch(problem, batch=0):
    """Images drawn until all that an epoch holds were drawn, as (S, draws, B) numbers of training images."""
    n = problem.train_x.shape[1]
    problem.train_x = torch.arange(float(n))[None, :, None].expand(len(problem.seeds), n, 64)
    size = problem.draw(batch)[0].shape[1]
    for _ in range(n // size - 1):
        problem.draw(batch)
    return torch.stack([problem.draw(batch)[0][:, :, 0].long() for _ in range(n // size)], 1)


def test_the_bundled_file_is_what_its_checksum_says():
    digest = hashlib.sha256(DATA.read_bytes()).hexdigest()
    assert digest == digits.SHA256
    sums = DATA.with_name("SHA256SUMS").read_text().split()
    assert dict(zip(sums[1::2], sums[::2]))[digits.FILE] == digest
    assert DATA.stat().st_size < 200_000


def test_the_images_and_their_classes():
    images, labels = digits.read()
    assert images.shape == (1797, 64) and labels.shape == (1797,) and labels.dtype == torch.int64
    assert images.min() == 0 and images.max() == 16 and torch.equal(images, images.round())
    assert torch.bincount(labels).tolist() == CLASSES


def test_pixels_are_standardised():
    images, _ = digits.standardised()
    assert images.mean().abs() < 1e-5 and (images.std() - 1).abs() < 1e-5


def test_a_missing_file_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz.*git checkout data/.*reinstall"):
        digits.read(tmp_path / "absent.npz")
    monkeypatch.setattr(digits, "FOLDERS", (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(FileNotFoundError, match="digits are missing") as error:
        digits.read()
    assert str(Path("a", digits.FILE)) in str(error.value) and str(Path("b", digits.FILE)) in str(error.value)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""], ids=["cut", "bit", "empty"]
)
def test_a_damaged_file_says_what_to_do(tmp_path, damage):
    path = tmp_path / digits.FILE
    path.write_bytes(damage(DATA.read_bytes()))
    with pytest.raises(ValueError, match=r"is damaged.*git checkout data/.*reinstall"):
        digits.read(path)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_and_test_images_are_disjoint(seed):
    problem = Digits([seed], train=POOL)
    train, test = numbered(problem.train_x[0]), numbered(problem.test_x[0])
    assert len(set(train)) == len(train) == POOL and len(set(test)) == len(test) == TEST
    assert not set(train) & set(test)
    assert TEST + VALIDATION + POOL == 1797


def test_splits_are_deterministic_and_belong_to_the_seed():
    together, again, alone = Digits([3, 5]), Digits([3, 5]), Digits([5])
    for name in ("train_x", "train_y", "wrong", "test_x", "test_y"):
        assert torch.equal(getattr(together, name), getattr(again, name))
        assert torch.equal(getattr(together, name)[1], getattr(alone, name)[0])
        assert not torch.equal(getattr(together, name)[0], getattr(together, name)[1])
    assert torch.equal(together.init()[1], alone.init()[0]) and not torch.equal(*together.init())


def test_fewer_training_images_are_a_part_of_more():
    few, many = Digits([1], train=100), Digits([1], train=400)
    assert torch.equal(few.train_x, many.train_x[:, :100]) and torch.equal(few.train_y, many.train_y[:, :100])
    assert torch.equal(few.test_x, many.test_x)


def test_labels_belong_to_their_images():
    _, labels = digits.read()
    clean, noisy = Digits([0, 4], label_noise=0.0), Digits([0, 4], label_noise=0.3)
    true = labels[numbered(clean.train_x)].view_as(clean.train_y)
    assert torch.equal(clean.train_y, true) and not clean.wrong.any()
    assert torch.equal(clean.test_y, labels[numbered(clean.test_x)].view_as(clean.test_y))
    assert torch.equal(noisy.wrong, noisy.train_y != true)
    assert torch.equal(noisy.test_y, clean.test_y) and torch.equal(noisy.train_x, clean.train_x)


@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0])
def test_label_noise_makes_nine_tenths_of_that_wrong(noise):
    wrong = Digits(range(30), train=POOL, batch=1, label_noise=noise).wrong.double()
    expected = 0.9 * noise
    assert (wrong.mean() - expected).abs() < 4 * (expected * (1 - expected) / wrong.numel()) ** 0.5


def test_more_label_noise_keeps_the_labels_that_were_wrong():
    little, much = Digits([0], label_noise=0.1), Digits([0], label_noise=0.4)
    assert torch.equal(little.train_y[little.wrong], much.train_y[little.wrong])


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_are_drawn_without_replacement_within_an_epoch(batch):
    drawn = epoch(Digits([0, 1], train=300, batch=30), batch)
    assert torch.equal(drawn.flatten(1).sort(1).values, torch.arange(300).expand(2, -1))


def test_a_leftover_smaller_than_a_batch_is_skipped():
    drawn = epoch(Digits([0], train=50, batch=20))
    assert drawn.shape == (1, 2, 20) and len(set(drawn.flatten().tolist())) == 40


def test_orders_differ_between_epochs_seeds_and_batches():
    problem = Digits([0, 1], train=60, batch=30)
    first, second = epoch(problem), epoch(problem)
    other = epoch(Digits([0, 1], train=60, batch=30), batch=1)
    for a, b in ((first, second), (first[:1], first[1:]), (first, other)):
        assert not torch.equal(a, b)


def test_the_order_of_batch_0_does_not_depend_on_who_else_draws():
    alone, both = Digits([0]), Digits([0])
    for _ in range(12):
        both.next(2)
        alone.next(1)
        for a, b in zip(alone._current[0], both._current[0], strict=True):
            assert torch.equal(a, b)


def test_metrics_are_those_of_the_module():
    problem = Digits([0, 1], width=8, train=60, batch=20, dtype=torch.float64)
    w = problem.init() * 1.5
    found = problem.measure(w)
    assert set(found) == {metric.name for metric in PROBLEMS["digits"].metrics}
    for s in range(2):
        module = problem.network.module(w[s])
        with torch.no_grad():
            logits, test = module(problem.train_x[s]), module(problem.test_x[s]).argmax(-1)
        loss = torch.nn.functional.cross_entropy(logits, problem.train_y[s])
        torch.testing.assert_close(found["train_loss"][s], loss)
        torch.testing.assert_close(found["test_accuracy"][s], (test == problem.test_y[s]).double().mean())
        says = logits.argmax(-1)[problem.wrong[s]] == problem.train_y[s][problem.wrong[s]]
        torch.testing.assert_close(found["wrong_labels_learnt"][s], says.double().mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("train", "batch"), [(501, 30), (20, 21), (10, 0), (0, 0)])
def test_impossible_sizes(train, batch):
    with pytest.raises(ValueError, match=f"got batch={batch}, train={train}"):
        Digits([0], train=train, batch=batch)


def test_the_global_random_state_is_untouched(global_random_state):
    problem = Digits([0])
    problem.init()
    problem.next(2)


def test_the_module_starts_from_the_initial_weights():
    problem = Digits([3, 4])
    flat = torch.nn.utils.parameters_to_vector(problem.module(1).parameters())
    assert torch.equal(flat.detach(), problem.init()[1])


@pytest.mark.parametrize("problem", [Digits([0, 3]), FineTuning([0, 3])], ids=["digits", "fine-tuning"])
def test_images_held_back_neither_train_nor_test(problem):
    for s in range(2):
        own = {part: {image.numpy().tobytes() for image in getattr(problem, f"{part}_x")[s]} for part in ("train", "test", "validation")}
        assert len(own["validation"]) > 200
        assert not own["validation"] & (own["train"] | own["test"])
    w = problem.init()
    logits = problem.network.logits(w, problem.validation_x)
    by_hand = [(rows.argmax(1) == y).float().mean().item() for rows, y in zip(logits, problem.validation_y)]
    assert problem.validate(w)["validation_accuracy"].tolist() == pytest.approx(by_hand)
