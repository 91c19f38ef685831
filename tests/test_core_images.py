"""Pictures: from folders, tars and downloads; the networks that are trained on them one after another, their measures and their checkpoints."""

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import rwp_edu
from rwp_edu import problems
from rwp_edu.cli import main
from rwp_edu.methods import METHODS
from rwp_edu.methods.noise import generator
from rwp_edu.problems import custom, datasets, flatness, models
from rwp_edu.problems.digits import Digits
from rwp_edu.problems.images import Augmentation, Images
from rwp_edu.problems.module_problem import Networks
from rwp_edu.training import Record, Run
from rwp_edu.training import checkpoint as checkpoints
from rwp_edu.training.settings import Settings

TINY = {"seeds": 2, "train": 40, "test": 30, "batch": 10, "width": 4, "record_every": 5}


# The engine


class AsModules(Networks):
    """The digits of the batched engine as modules: the same weights, batches and metrics."""

    def __init__(self, s, seeds, device, dtype):
        self.digits = Digits(seeds, s.train, s.label_noise, s.width, s.batch, device, dtype)
        super().__init__(seeds, self.digits.module, dtype=dtype)

    def module(self, which=0):
        return self.digits.module(which)

    def stream(self, which, number):
        return None

    def state(self):
        return self.digits.state()

    def restore(self, state):
        self.digits.restore(state)

    def next(self, batches):
        self.digits.next(batches)

    def batch(self, which, number=0):
        x, y = self.digits._current[number]
        return x[which], y[which]

    def measure(self, model, which):
        w = torch.cat([p.detach().flatten() for p in model.parameters()])
        return {name: float(values[which]) for name, values in self.digits.measure(w.repeat(len(self.seeds), 1)).items()}


@pytest.mark.slow
def test_both_engines_train_alike(monkeypatch):
    names = [f"{name}:scale=linear:swa=0.5" for name in METHODS]
    settings = Settings(methods=names, seeds=2, steps=8, train=60, batch=20, width=8, k=2, record_every=2)
    plain = Run(settings, "cpu", torch.float64)
    plain.advance(5)
    plain.set(sigma=0.07, lr=0.05)
    plain.advance(3)
    row = dataclasses.replace(problems.PROBLEMS["digits"], make=AsModules, engine="one by one", held_back=())
    monkeypatch.setitem(problems.PROBLEMS, "digits", row)
    run = Run(settings, "cpu", torch.float64)
    run.advance(5)
    run.set(sigma=0.07, lr=0.05)
    run.advance(3)
    torch.testing.assert_close(run.engine.weights(), plain.engine.weights(), rtol=1e-9, atol=1e-10)
    for name in ("updates", "gradient_evaluations", "train_loss", "test_accuracy", "perturbation"):
        np.testing.assert_allclose(getattr(run.record, name), getattr(plain.record, name), rtol=1e-6, atol=1e-9, err_msg=name)


def run_of(**changes):
    return Run(Settings("images", **{**TINY, "steps": 12, **changes}))


def test_a_setting_moved_within_an_update_acts_on_all_from_the_next_on():
    moved, plain = (run_of(methods="sgd,rwp,sam", seeds=1) for _ in range(2))
    assert moved.piece() and not moved.whole
    moved.set(lr=0.01)
    while moved.piece():
        pass
    plain.step()
    assert torch.equal(moved.engine.weights(), plain.engine.weights())
    plain.set(lr=0.01)
    moved.step(), plain.step()
    assert torch.equal(moved.engine.weights(), plain.engine.weights()) and moved.updates == 2


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 9))
def test_an_interrupted_update_goes_on_where_it_was(at):
    whole, run = (run_of(methods="sgd,sam,m-rwp") for _ in range(2))
    whole.advance(3)
    run.advance(1)
    calls = []

    def loss(*given):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return torch.nn.functional.cross_entropy(*given)

    run.problem.loss = loss
    with pytest.raises(KeyboardInterrupt):
        run.step()
    run.advance(2)
    assert torch.equal(run.engine.weights(), whole.engine.weights())
    assert [group.work for group in run.groups] == [group.work for group in whole.groups]


def test_a_run_that_diverges_stops_alone_with_finite_weights():
    run = run_of(methods="sgd:lr=1e6,sgd", norm="batch")
    run.advance(12)
    assert (run.record.diverged[0] > 0).all() and (run.record.diverged[1] == -1).all() and run.finished
    alone = run_of(methods="sgd", norm="batch")
    alone.advance(12)
    assert torch.equal(run.engine.weights()[1], alone.engine.weights()[0])


def test_a_run_that_diverges_within_an_interrupted_update_is_recorded():
    run = run_of(methods="sgd:lr=1e6,sgd", seeds=1)

    def loss(z, y):
        found = torch.nn.functional.cross_entropy(z, y)
        if not run.engine.runners[0][0].alive:
            run.problem.loss = torch.nn.functional.cross_entropy
            raise KeyboardInterrupt
        return found

    run.problem.loss = loss
    with pytest.raises(KeyboardInterrupt):
        run.advance(12)
    at = run.updates
    run.advance(12)
    assert run.record.diverged.tolist() == [[at + 1], [-1]] and run.finished


def test_the_global_random_state_is_untouched_and_dropout_is_that_of_the_seed(global_random_state):
    x, y = torch.randn(30, 3, generator=generator(0, "x")), torch.arange(30) % 2
    data = [(x[:15], y[:15]), (x[15:], y[15:])]
    problems.add("dropout", lambda: torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2)), data, data)
    runs = [Run(Settings("dropout", methods="sgd,m-rwp:sigma=0:lam=0", steps=6, seeds=2)) for _ in range(2)]
    for run in runs:
        run.advance(6)
    (sgd, mixed), (again, _) = (run.engine.weights() for run in runs)
    assert torch.equal(sgd, again) and torch.equal(sgd, mixed) and not torch.equal(sgd[0], sgd[1])


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_clipping_acts_on_the_combined_gradient(base):
    run = run_of(methods="sam,m-rwp", clip=0.01, base=base, lr=0.01, seeds=1)
    seen = []
    for (runner,) in run.engine.runners:
        runner.optimizer.base.register_step_pre_hook(
            lambda *_, r=runner: seen.append(torch.cat([p.grad.flatten() for p in r.parameters]).norm().item())
        )
    run.advance(2)
    assert len(seen) == 4 and np.allclose(seen, 0.01, rtol=1e-3)


def test_bfloat16_is_autocast_of_float32_weights():
    kinds = set()
    run = run_of(methods="sgd,sam", precision="bfloat16", seeds=1)
    run.problem.loss = lambda z, y: kinds.add(z.dtype) or torch.nn.functional.cross_entropy(z, y)
    run.advance(3)
    assert kinds == {torch.bfloat16} and run.engine.weights().dtype == torch.float32
    assert np.isfinite(run.record.train_loss).all()


def test_averaged_weights_are_measured_and_kept(tmp_path):
    plain, averaged = run_of(methods="sgd", seeds=1, steps=4), run_of(methods="sgd", seeds=1, steps=4, swa=0.5)
    seen = []
    for _ in range(4):
        plain.step(), averaged.step()
        seen.append(plain.engine.weights())
    torch.testing.assert_close(averaged.engine.weights(), (seen[1] + seen[2] + seen[3]) / 3)
    (path,) = checkpoints.save_networks(averaged, tmp_path)
    kept = torch.load(path, weights_only=True)
    flat = torch.cat([value.flatten() for value in kept.values()])
    assert torch.equal(flat, averaged.engine.weights()[0, 0])
    plain_module, module = (run.engine.runners[0][0].model for run in (plain, averaged))
    assert all(torch.equal(a, b) for a, b in zip(plain_module.parameters(), module.parameters())), "the training goes on from its own weights"


def test_batch_norm_is_measured_with_statistics_of_the_measured_weights():
    run = run_of(methods="rwp", norm="batch", seeds=1, steps=12)
    run.advance(12)
    runner = run.engine.runners[0][0]
    before = {name: b.clone() for name, b in runner.model.named_buffers()}
    found = run.problem.measure(runner.model, 0)
    assert all(torch.equal(b, before[name]) for name, b in runner.model.named_buffers()) and runner.model.training
    x, y, _ = next(iter(run.problem.held(0)["train"]))
    with torch.no_grad():  # one batch: its statistics are those of the data; the running variance is the unbiased one
        by_hand = torch.nn.functional.cross_entropy(runner.model.train()(x), y).item()
    for name, b in runner.model.named_buffers():
        b.copy_(before[name])
    assert found["train_loss"] == pytest.approx(by_hand, rel=0.02)
    run.problem.recalibrate = False
    assert abs(run.problem.measure(runner.model, 0)["train_loss"] - by_hand) > 0.05 * by_hand


@pytest.mark.slow
@pytest.mark.parametrize("model, updates", [("rescnn", 10), ("mlp", 250)])
def test_memory_does_not_grow(model, updates):
    """Over 40 updates, and over 1,000."""
    run = run_of(methods="sgd,sam,m-arwp", seeds=1, steps=5 * updates, record_every=updates // 2, swa=0.1, model=model)

    def sizes_of_tensors():
        gc.collect()
        return [o.untyped_storage().nbytes() for o in gc.get_objects() if type(o) is torch.Tensor]

    counts, sizes = [], []
    for _ in range(4):
        run.advance(updates)
        there = sizes_of_tensors()
        counts.append(len(there))
        sizes.append(sum(there))
    assert max(counts[1:]) - min(counts[1:]) <= 4, counts
    assert max(sizes[1:]) - min(sizes[1:]) <= 10_000, sizes


# Data


def test_folder_and_tar_give_the_same_pictures(folder, tmp_path):
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.add(folder, "deep/pictures")
    one, two = datasets.read_pictures(folder, 8), datasets.read_pictures(tmp_path / "p.tar", 8)
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
        datasets.read_pictures(folder)
    with pytest.raises(FileNotFoundError, match="no folder or tar"):
        datasets.read_pictures(tmp_path / "nothing")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="neither a folder nor a tar"):
        datasets.read_pictures(tmp_path / "text")


def test_augmentation_moves_mirrors_and_covers():
    x = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).repeat(200, 1, 1, 1)
    g = generator(0, "test")
    mirrored = Augmentation(flip=True)(x, g)
    assert {tuple(m.flatten().tolist()) for m in mirrored} == {tuple(v.flatten().tolist()) for v in (x[0], x[0].flip(-1))}
    moved = Augmentation(crop=1)(x, g)
    wide = torch.nn.functional.pad(x[0, 0], [1] * 4)
    every = {tuple(wide[i : i + 5, j : j + 5].flatten().tolist()) for i in range(3) for j in range(3)}
    assert {tuple(m.flatten().tolist()) for m in moved} == every
    covered = Augmentation(cutout=2)(x, g)
    holes = (covered == 0).sum((1, 2, 3))
    assert holes.max() == 4 and holes.min() >= 1 and (covered[covered > 0] == x[covered > 0]).all()
    assert torch.equal(Augmentation()(x, g), x)


def test_augmentation_and_order_continue_bit_for_bit(folder, global_random_state):
    how = {"train": 10, "test": 4, "batch": 4, "width": 4, "crop": 2, "flip": True, "cutout": 3}
    problem, other = (Images([0, 1], datasets.read_pictures(folder, 8), **how) for _ in range(2))
    for _ in range(3):
        problem.draw(0), problem.draw(1, 1)
    other.restore(problem.state())
    for number, which in ((0, 0), (1, 1), (0, 1), (1, 0)):
        for a, b in zip(problem.draw(number, which), other.draw(number, which)):
            assert torch.equal(a, b)
    assert not torch.equal(problem.start(0), problem.start(1))
    assert torch.equal(problem.start(1), torch.cat([p.flatten() for p in other.module(1).parameters()]))


def test_bundled_pictures_are_the_digits():
    one = datasets.bundled()
    assert one.train[0].shape == (1297, 1, 8, 8) and one.test[0].shape == (500, 1, 8, 8) and one.train[0].max() == 255
    every = torch.cat((one.train[0], one.test[0])).flatten(1)
    assert len(torch.unique(every, dim=0)) > 1700, "no picture in both parts"


@pytest.mark.parametrize("name, shape, classes", [("cifar10", (50, 3, 32, 32), 10), ("cifar100", (10, 3, 32, 32), 100), ("fashion-mnist", (50, 1, 28, 28), 10)])
def test_downloaded_data_are_read_and_trained_on(name, shape, classes, downloads, made_up):
    with pytest.raises(FileNotFoundError, match=f"`rwp-edu train {name} --download`"):
        datasets.downloaded(name)
    made_up(downloads, name)
    found = datasets.downloaded(name)
    assert found.train[0].shape == shape and found.train[0].dtype == torch.uint8 and len(found.classes) == classes
    run = Run(Settings(name, methods="m-rwp", steps=2, batch=5, width=4, seeds=1))
    run.advance(2)
    assert np.isfinite(run.record.train_loss).all() and run.record.settings.problem == name


def test_what_is_downloaded_is_asked_of_torchvision_and_a_failure_says_what_to_do(downloads, monkeypatch):
    from torchvision import datasets as theirs

    asked = []
    monkeypatch.setattr(theirs, "CIFAR10", lambda root, train, download: asked.append((root, train, download)))
    assert datasets.fetch("cifar10") == downloads
    assert asked == [(str(downloads), True, True), (str(downloads), False, True)]

    def offline(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(theirs, "CIFAR10", offline)
    with pytest.raises(OSError, match="cifar10 could not be downloaded .*go online and try again, or copy"):
        datasets.fetch("cifar10")
    with pytest.raises(ValueError, match="unknown data set 'cifar'; did you mean 'cifar10'"):
        datasets.fetch("cifar")


# Networks


@pytest.mark.slow
@pytest.mark.parametrize("norm", models.NORMS)
@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("channels, size", [(1, 8), (3, 32), (3, 96)])
def test_every_network_takes_every_picture(name, norm, channels, size):
    model = models.build(name, classes=7, channels=channels, width=8, norm=norm, size=size)
    assert model(torch.randn(2, channels, size, size)).shape == (2, 7)
    kinds = {type(m) for m in model.modules()}
    assert (torch.nn.BatchNorm2d in kinds) == (norm == "batch" and name != "mlp")


def test_weights_from_a_file(tmp_path):
    like = {"channels": 3, "width": 8, "norm": "batch", "size": 64}
    other = models.MODELS["resnet18"](5, **like, large=True)
    torch.save(other.state_dict(), tmp_path / "w.pt")
    model = models.build("resnet18", str(tmp_path / "w.pt"), classes=3, **like)
    assert model.conv1.weight.shape[-1] == 7 and torch.equal(model.conv1.weight, other.conv1.weight)
    assert model.fc.weight.shape == (3, 512) and torch.equal(model.layer4[1].bn2.weight, other.layer4[1].bn2.weight)
    with pytest.raises(ValueError, match="w.pt holds the weights of another network .it lacks .*choose the model, norm and width"):
        models.build("resnet34", str(tmp_path / "w.pt"), classes=3, **like)
    with pytest.raises(FileNotFoundError, match="there is no file nowhere.pt with weights"):
        models.build("resnet18", "nowhere.pt", classes=3, **like)
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="bad.pt has no weights that can be read"):
        models.build("rescnn", str(tmp_path / "bad.pt"), classes=3, **like)
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="list.pt is not the state dict of a model"):
        models.build("rescnn", str(tmp_path / "list.pt"), classes=3, **like)
    with pytest.raises(ValueError, match="set norm=batch"):
        models.build("resnet18", models.ONLINE, classes=3, **{**like, "norm": "group"})


def test_weights_of_torchvision(monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18

    theirs = resnet18()

    def get_state_dict(self, **_):
        return theirs.state_dict()

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", get_state_dict)
    model = models.build("resnet18", models.ONLINE, classes=3, channels=3, width=8, norm="batch", size=32)
    assert torch.equal(model.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight) and model.fc.out_features == 3

    def offline(self, **_):
        raise OSError("no route")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(OSError, match="could not be downloaded .no route.*give weights a file"):
        models.build("resnet18", models.ONLINE, classes=3, channels=3, width=8, norm="batch", size=32)


# From end to end


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_folder_of_pictures_in_a_race_that_continues_bit_for_bit(kind, folder, tmp_path):
    if kind == "tar":
        with tarfile.open(tmp_path / "p.tar", "w") as tar:
            tar.add(folder, "deep/pictures")
        folder = tmp_path / "p.tar"
    settings = Settings(f"folder:{folder}", methods="sgd,sam,m-rwp,arwp", seeds=2, steps=8, batch=4, width=4, size=8, crop=1, flip="on",
                        cutout=2, norm="batch", record_every=2, swa=0.5)  # fmt: skip
    whole, first = Run(settings), Run(settings)
    whole.advance(8)
    first.advance(3)
    first.piece()
    checkpoints.save(first, tmp_path / "out")
    again = checkpoints.load(tmp_path / "out")
    assert again.updates == 4, "an update that has begun is finished first"
    again.advance(8)
    assert torch.equal(again.engine.weights(), whole.engine.weights()) and again.finished
    assert (again.record.train_loss == whole.record.train_loss).all() and (whole.record.train_loss[-1] > 0).all()
    assert whole.record.gradient_evaluations[-1].tolist() == [8, 16, 16, 8]


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path = checkpoints.save(run_of(methods="sgd", seeds=1), tmp_path)
    state = torch.load(path, weights_only=True)
    state["engine"][0][0]["model"] = run_of(methods="sgd", seeds=1, width=8).engine.state()[0][0]["model"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="is not a checkpoint that can be continued: .*\n?.*size mismatch"):
        checkpoints.load(tmp_path)


@pytest.mark.slow
def test_your_own_module_and_loaders_continue_bit_for_bit(tmp_path, global_random_state):
    data = torch.utils.data.TensorDataset(torch.randn(50, 5, generator=generator(0, "x")), torch.arange(50) % 3)
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)

    def build():
        return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2), torch.nn.ReLU(), torch.nn.Linear(8, 3))

    problems.add("mine", build, loader, loader)
    settings = Settings("mine", methods="sgd,m-rwp,nso", steps=20, seeds=2, record_every=5)
    whole, part = Run(settings), Run(settings)
    whole.advance(20)
    part.advance(11)
    checkpoints.save(part, tmp_path)
    again = checkpoints.load(tmp_path)
    again.advance(9)
    assert torch.equal(again.engine.weights(), whole.engine.weights())
    order = [run.problem.draw(0, 0)[0] for run in (whole, again)]
    assert torch.equal(*order) and whole.record.test_accuracy[-1].min() > 0
    with pytest.raises(ValueError, match="'digits' is taken by a problem of this project"):
        problems.add("digits", build, loader, loader)
    with pytest.raises(TypeError, match="test must give its batches again and again"):
        problems.add("other", build, loader, iter([]))
    problems.add("empty", build, [], loader)
    with pytest.raises(ValueError, match="the train data gave no batch"):
        Run(Settings("empty", methods="sgd"))


def test_pictures_held_back_neither_train_nor_test():
    problem = Images([0, 1], datasets.bundled(), train=300, test=0, validation=200)
    (x, y), every = datasets.bundled().train, set(range(len(datasets.bundled().train[1])))
    for which in range(2):
        trained, held = set(problem._chosen[which].tolist()), set(problem._validation[which].tolist())
        assert len(trained) == 300 and len(held) == 200 and not trained & held
        (batch, labels, wrong), *_ = problem.held(which)["validation"]
        index = problem._validation[which][: len(labels)]
        assert torch.equal(labels, y[index]) and not wrong.any() and torch.equal(batch, problem._normal(x[index]))
    assert torch.equal(problem._chosen[0], Images([0], datasets.bundled(), train=300)._chosen[0])  # what is held back changes nothing else
    rest = Images([0], datasets.bundled(), validation=200)
    assert set(rest._chosen[0].tolist()) | set(rest._validation[0].tolist()) == every and rest.examples(0) == len(every) - 200
    with pytest.raises(ValueError, match=r"train \+ validation <= 1297 must hold, got batch=50, train=1200, validation=200"):
        Images([0], datasets.bundled(), train=1200, validation=200)


@pytest.mark.slow
def test_accuracy_on_pictures_held_back_is_measured_at_the_end():
    own = {"train": 100, "steps": 4, "record_every": 2, "norm": "batch", "methods": "sgd,rwp", "swa": 0.5}
    run = Run(Settings("images", validation=60, **own))
    run.advance(4)
    found = run.record.validation_accuracy
    assert np.isnan(found[:-1]).all()
    for e in range(2):
        for which in range(2):
            with run.engine.runners[e][which].as_measured() as model:
                model.eval()
                hits = [(model(x).argmax(1) == y) for x, y, _ in run.problem.held(which)["validation"]]
            assert found[-1, e, which] == pytest.approx(torch.cat(hits).float().mean().item())
    none = Run(Settings("images", validation=0, **own))
    none.advance(4)
    assert np.isnan(none.record.validation_accuracy).all()
    assert (none.record.test_accuracy == run.record.test_accuracy).all()


def test_your_own_data_may_be_held_back():
    data = [(torch.randn(8, 3, generator=generator(0, "x")), torch.arange(8) % 2)]
    problems.add("held", lambda: torch.nn.Linear(3, 2), data, data, validation=[(torch.zeros(4, 3), torch.tensor([0, 0, 0, 1]))])
    run = Run(Settings("held", methods="sgd", steps=2))
    run.advance(2)
    assert run.record.validation_accuracy[-1] in (0.25, 0.75)
    with pytest.raises(TypeError, match="validation must give its batches again and again"):
        problems.add("held", lambda: torch.nn.Linear(3, 2), data, data, validation=iter(data))
    problems.add("held", lambda: torch.nn.Linear(3, 2), data, data)
    assert not problems.get("held").held_back


@pytest.mark.slow
def test_cores_of_a_training(monkeypatch):
    """Small networks get one, others all but one; a sweep keeps to one, so that its numbers do not depend on the machine."""
    from rwp_edu.experiments.sweep.executors import work
    from rwp_edu.training import sequential

    data, seen = [(torch.zeros(8, 3), torch.arange(8) % 2)], set()

    class Net(torch.nn.Linear):
        def forward(self, x):
            seen.add(torch.get_num_threads())
            return super().forward(x)

    problems.add("net", lambda: Net(3, 2), data, data)
    for cores, wanted, threads in ((8, {}, 7), (1, {}, 1), (8, {"threads": 3}, 3)):
        monkeypatch.setattr(sequential, "cores", lambda cores=cores: cores)
        run = Run(Settings("net", methods="sgd", steps=2, **wanted))
        seen.clear()
        run.advance(2)
        assert seen == {threads} and torch.get_num_threads() == 1
        lab = rwp_edu.lab.race(problem="net", methods="sgd", steps=2, pace=0, **wanted)
        seen.clear()
        lab.screen._train()
        assert seen == {threads}
    assert run_of(methods="sgd").engine.threads == 1
    seen.clear()
    assert "failed" not in work(Settings("net", methods="sgd", steps=2, threads=3).to_json()) and seen == {1}


def test_only_so_much_of_your_training_data_is_measured(monkeypatch):
    asked = []

    class Data:
        def __iter__(self):
            for number in range(5):
                asked.append(number)
                yield torch.full((10, 2), float(number)), torch.zeros(10, dtype=torch.long)

    monkeypatch.setattr(custom, "MEASURED", 25)
    problem = custom.Own([0], lambda: torch.nn.Linear(2, 2), Data(), Data())
    held = problem.held(0)
    assert not asked and [int(x[0, 0]) for x, *_ in held["train"]] == [0, 1, 2] == asked
    assert sum(len(y) for _, y, _ in held["test"]) == 50 and len(list(held["train"])) == 3


def test_regression_has_a_loss_and_no_accuracy():
    x = torch.randn(32, 2, generator=generator(0, "x"))
    data = [(x, x.sum(1, keepdim=True))]
    problems.add("line", lambda: torch.nn.Linear(2, 1), data, data, loss=torch.nn.functional.mse_loss)
    run = Run(Settings("line", methods="sgd,sam:rho=0.01", steps=60, lr=0.05, weight_decay=0, seeds=1))
    run.advance(60)
    assert (run.record.train_loss[-1] < 1e-2 * run.record.train_loss[0]).all() and "test_accuracy" not in run.record.columns


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_agrees_with_the_cpu():
    """Noise of a GPU is another stream, so methods without noise are compared, and those with noise by their end."""
    settings = Settings("images", **{**TINY, "methods": "sgd,sam,rwp", "steps": 5, "seeds": 1})
    cpu, gpu = Run(settings, "cpu", torch.float64), Run(settings, "cuda", torch.float64)
    cpu.advance(5), gpu.advance(5)
    torch.testing.assert_close(gpu.engine.weights()[:2].cpu(), cpu.engine.weights()[:2], rtol=1e-6, atol=1e-8)
    assert abs(gpu.record.train_loss - cpu.record.train_loss).max() < 0.5


def cifar():
    path = os.environ.get("RWP_EDU_CIFAR_TAR")
    if not path:
        pytest.skip("RWP_EDU_CIFAR_TAR names no tar of CIFAR images")
    return path


def test_cifar(tmp_path):
    found = datasets.folder(cifar())
    assert found.train[0].shape == (5000, 3, 32, 32) and found.test[0].shape == (2000, 3, 32, 32) and len(found.classes) == 10
    command = [sys.executable, "-m", "rwp_edu", "train", f"folder:{cifar()}", "--methods", "sgd,m-rwp", "--seeds", "1", "--steps", "30",
               "--set", "train=1000", "--set", "test=200", "--set", "width=8", "--set", "record_every=15", "--set", "lr=0.03", "--set", "crop=4", "--set", "flip=on",
               "--out", str(tmp_path), "--tensorboard", "--checkpoint-every", "10"]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "one network after another" in said.stdout
    record = Record.load(tmp_path / "record.json")
    assert (record.train_loss[-1] < record.train_loss[0]).all() and (record.test_accuracy[-1] > record.test_accuracy[0]).all()
    kept = torch.load(tmp_path / "networks" / "m-rwp-seed0.pt", weights_only=True)
    model = models.build("rescnn", classes=10, channels=3, width=8, norm="batch", size=32)
    model.load_state_dict(kept)
    assert any((tmp_path / "tensorboard").rglob("events.*"))


@pytest.mark.slow
def test_a_killed_process_continues_bit_for_bit(tmp_path):
    asked = ["images", "--methods", "sgd,m-rwp", "--seeds", "1", "--steps", "30", "--checkpoint-every", "7", "--threads", "1", "--set", "train=40",
             "--set", "batch=10", "--set", "width=4", "--set", "norm=batch", "--set", "crop=1", "--set", "swa=0.5", "--set", "test=50"]  # fmt: skip
    stopped = [sys.executable, str(Path(__file__).with_name("stopped.py")), "KILL", "update", "18"]
    killed = subprocess.run([*stopped, "train", *asked, "--out", tmp_path / "a"], capture_output=True)
    assert killed.returncode == -signal.SIGKILL and checkpoints.load(tmp_path / "a").updates == 14
    assert main(["train", "--resume", str(tmp_path / "a")]) == main(["train", *asked, "--out", str(tmp_path / "b")]) == 0
    found, whole = (Record.load(tmp_path / name / "record.json").to_dict() for name in "ab")
    assert found.pop("seconds") and whole.pop("seconds") and found == whole
    a, b = (torch.load(tmp_path / name / "networks" / "m-rwp-seed0.pt", weights_only=True) for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_fine_tuning_a_resnet_on_a_few_wrongly_labelled_pictures_of_a_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(flatness, "DRAWS", 2)
    monkeypatch.setattr(flatness, "PRODUCTS", 2)
    pretrained = models.MODELS["resnet18"](5, channels=3, norm="batch", size=32, large=True)
    torch.save(pretrained.state_dict(), tmp_path / "w.pt")
    settings = Settings(f"folder:{folder}", methods="nso:sigma=0.001", model="resnet18", norm="batch", weights=str(tmp_path / "w.pt"), train=8, batch=4,
                        label_noise=0.5, size=32, steps=2, record_every=2, flatness_every=2, lr=0.001)  # fmt: skip
    run = Run(settings)
    start = run.problem.module(0)
    assert torch.equal(start.layer3[0].conv1.weight, pretrained.layer3[0].conv1.weight) and start.fc.out_features == 2
    run.advance(2)
    last = run.record.rows[-1]
    assert (last["distance"] > 0).all() and np.isfinite([last[name] for name in ("trace", "top_eigenvalue", "rise", "pac_bayes")]).all()
    assert (run.record.distance[0] == 0).all()


def test_a_trained_network_is_used_elsewhere(folder, tmp_path):
    run = Run(Settings(f"folder:{folder}", methods="sgd", seeds=1, steps=2, record_every=2, train=8, batch=4, size=16, width=4, recalibrate="off"))
    run.advance(2)
    (path,) = checkpoints.save_networks(run, tmp_path)
    found = models.trained(path)
    x, y = run.problem._test_x, run.problem._test_y
    (batch,) = run.problem.held(0)["test"]
    assert found.names == tuple(run.problem.card["names"]) and not found.network.training
    with torch.no_grad():
        torch.testing.assert_close(found.prepared(x[run.problem._tested]), batch[0])
    right = sum(name == found.names[k] for name, k in zip(found.classify(x), y.tolist()))
    assert right / len(y) == run.record.test_accuracy[-1, 0, 0]
    for wrong in (x.float(), x[:, :1], x[..., :8]):
        with pytest.raises(ValueError, match=r"pictures must be uint8 \(n, 3, 16, 16\)"):
            found.classify(wrong)
    (path.parent / models.CARD).unlink()
    with pytest.raises(ValueError, match="does not tell what network this is"):
        models.trained(path)
