"""What people bring: pictures in folders as they are, loaders and modules of every kind, files that are not whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from rwp_edu import problems
from rwp_edu.cli import main, train
from rwp_edu.cli.output import Wrong, checked
from rwp_edu.experiments.sweep import sweep
from rwp_edu.lab.race import summary
from rwp_edu.plotting import figures
from rwp_edu.problems import datasets, models
from rwp_edu.problems.module_problem import Networks
from rwp_edu.training import Run, checkpoint
from rwp_edu.training.settings import Settings
from rwp_edu.utils import files

COMMAND = [sys.executable, "-m", "rwp_edu", "train"]
TINY = {"methods": "sgd", "seeds": 1, "steps": 4, "record_every": 2}
SMALL = {"size": 8, "width": 4, "batch": 4, **TINY}


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    monkeypatch.setattr(problems, "OWN", {})


# Pictures


def colour(folder, name, value, mode="RGB"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6), value, np.uint16 if mode == "I;16" else np.uint8)).convert(mode if mode != "I;16" else None).save(path)


def test_pictures_are_found_as_deep_as_they_lie_and_whatever_their_kind(tmp_path):
    for part in ("train", "test"):
        for c, value in (("dark", 20), ("light", 220)):
            colour(tmp_path / part / c, "one.png", value)
            colour(tmp_path / part / c, "more/still/two.tiff", value)
            colour(tmp_path / part / c, "three.pgm", value, "L")
            (tmp_path / part / c / "._one.png").write_bytes(b"what a Mac leaves in a tar")
        (tmp_path / part / ".ipynb_checkpoints").mkdir()
        colour(tmp_path / part / ".ipynb_checkpoints", "one.png", 0)
    (tmp_path / "elsewhere").mkdir()
    os.rename(tmp_path / "train" / "light", tmp_path / "elsewhere" / "light")
    os.symlink(tmp_path / "elsewhere" / "light", tmp_path / "train" / "light")
    os.symlink(tmp_path, tmp_path / "train" / "dark" / "round")
    found = datasets.read_pictures(tmp_path, 4)
    assert found.classes == ("dark", "light") and len(found.train[1]) == len(found.test[1]) == 6 and found.validation is None
    assert (found.train[0][found.train[1] == 0] == 20).all() and (found.train[0][found.train[1] == 1] == 220).all()


def test_grey_pictures_of_16_bits_keep_their_shades(tmp_path):
    for part in ("train", "val"):
        for c, value in (("dark", 0x1010), ("light", 0xC0C0)):
            colour(tmp_path / part / c, "one.png", value, "I;16")
    found = datasets.read_pictures(tmp_path, 4)
    assert found.train[0][:, 0, 0, 0].tolist() == found.test[0][:, 0, 0, 0].tolist() == [0x10, 0xC0]


@pytest.mark.slow
def test_three_parts_are_three_parts(tmp_path):
    for part, n in (("train", 6), ("val", 2), ("test", 3)):
        for c, value in (("dark", 20), ("light", 220)):
            for i in range(n):
                colour(tmp_path / part / c, f"{i}.png", value + i)
    found = datasets.read_pictures(tmp_path, 4)
    assert [len(part[1]) for part in (found.train, found.test, found.validation)] == [12, 6, 4]
    run = Run(Settings(f"folder:{tmp_path}", **SMALL))
    run.advance(4)
    assert np.isfinite(run.record.validation_accuracy[-1]).all() and (run.record.validation_accuracy[-1] * 4 % 1 == 0).all()
    chosen = sweep(f"folder:{tmp_path}", "rwp", {"sigma": [0.01, 0.02]}, **{name: SMALL[name] for name in ("size", "width", "batch", "steps", "seeds")})
    assert all(row["status"] == "finished" and row["chooses_mean"] * 4 % 1 == 0 for row in chosen.results())


def test_a_tar_that_was_cut_off_is_told_in_a_line(folder, tmp_path):
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as tar:
        tar.add(folder, "pictures")
    whole = (tmp_path / "p.tar.gz").read_bytes()
    (tmp_path / "p.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="neither a folder nor a tar that can be read"):
        datasets.read_pictures(tmp_path / "p.tar.gz")


def test_so_many_of_every_class(folder):
    run = Run(Settings(f"folder:{folder}", **SMALL | {"shots": 3}))
    assert torch.bincount(run.problem._y.cpu()[run.problem._chosen[0]]).tolist() == [3, 3]
    with pytest.raises(ValueError, match="shots=7, but there are only 6 pictures of 'blue'"):
        Run(Settings(f"folder:{folder}", **SMALL | {"shots": 7}))


@pytest.mark.parametrize("engine", ["batched", "processes"])
def test_a_sweep_over_a_folder_keeps_what_it_trains(folder, tmp_path, engine):
    common = {name: SMALL[name] for name in ("size", "width", "batch", "steps")} | {"seeds": 2}
    found = sweep(f"folder:{folder}", "sgd,rwp", {"sigma": [0.01]}, engine=engine, workers=1 if engine == "processes" else None, out=tmp_path / "out", **common)
    assert [row["status"] for row in found.results()] == ["finished"] * 2
    told = []
    sweep(f"folder:{folder}", "sgd,rwp", {"sigma": [0.01]}, out=tmp_path / "out", told=lambda done, of: told.append(done), **common)
    assert told[0] == 2, "what was kept is not run again"


# Weights


def test_our_own_files_are_weights_to_start_from(tmp_path):
    run = Run(Settings("images", **TINY | {"width": 4, "train": 40, "batch": 10}))
    (path,) = checkpoint.save_networks(run, tmp_path)
    again = Run(Settings("images", **TINY | {"width": 4, "train": 40, "batch": 10, "seed": 5, "weights": str(path)}))
    assert torch.equal(again.engine.weights()[0, 0], run.engine.weights()[0, 0])


@pytest.mark.slow
def test_networks_of_large_pictures_see_pictures_as_they_know_them(folder, tmp_path):
    normal = {}
    for large in (False, True):
        torch.save(models.MODELS["resnet18"](2, channels=3, norm="batch", size=32, large=large).state_dict(), tmp_path / "w.pt")
        run = Run(Settings(f"folder:{folder}", **SMALL | {"model": "resnet18", "norm": "batch", "weights": str(tmp_path / "w.pt"), "size": 32}))
        normal[large] = run.problem._mean.flatten().tolist()
    assert normal[True] == pytest.approx([0.485, 0.456, 0.406]) and normal[False] != pytest.approx(normal[True], abs=0.01)


def test_which_network_the_weights_of_imagenet_are_for(folder):
    with pytest.raises(ValueError, match="set model=resnet18 or resnet34 and norm=batch"):
        Run(Settings(f"folder:{folder}", **SMALL | {"weights": models.ONLINE}))


def test_adamw_is_told_its_learning_rate():
    with pytest.raises(ValueError, match="choose lr <= 0.02 .* got lr=0.1"):
        Settings("images", base="adamw")
    assert Settings("images", base="adamw", lr=0.001).lr == 0.001


# BatchNorm


def test_statistics_count_every_picture_once():
    layer = nn.BatchNorm1d(3)
    x = torch.randn(151, 3) * torch.arange(1.0, 4.0) + 2
    host = SimpleNamespace(recalibrate=True, precision=lambda: torch.no_grad())
    with Networks.recalibrated(host, layer, [(part, torch.zeros(len(part)), None) for part in x.split((100, 50, 1))]):
        torch.testing.assert_close(layer.running_mean, x[:150].mean(0))
        torch.testing.assert_close(layer.running_var, (100 * x[:100].var(0) + 50 * x[100:150].var(0)) / 150)
        assert not layer.training
    assert layer.momentum == 0.1 and layer.num_batches_tracked == 0


def test_what_is_measured_is_cut_into_equal_parts():
    problem = Run(Settings("images", **TINY | {"train": 251, "norm": "batch", "width": 4})).problem
    assert [len(y) for _, y, _ in problem.held(0)["train"]] == [126, 125]


# Modules and loaders


class Takes(nn.Module):
    """A network that takes its features in the way they come."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        x = x["x"] if isinstance(x, dict) else sum(x) if isinstance(x, (tuple, list)) else x
        return self.layer(x)


def examples(n=24):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=g)
    return x, (x[:, 0] > 0).long()


@pytest.mark.parametrize("form", [lambda x: {"x": x}, lambda x: (x, x), lambda x: [x, 0 * x]])
def test_examples_in_any_form_with_every_measure(form, monkeypatch):
    x, y = examples()
    data = [(form(a), b.to(torch.int32)) for a, b in zip(x.split(8), y.split(8))]
    problems.add("mine", Takes, data, data)
    run = Run(Settings("mine", **TINY | {"methods": "sgd,lpf-sgd:k=2,m-rwp", "flatness_every": 4, "precision": "bfloat16"}))
    run.advance(4)
    assert np.isfinite(run.record.trace[-1]).all() and np.isfinite(run.record.train_loss[-1]).all()


class Stream(IterableDataset):
    def __iter__(self):
        return zip(*examples())


def test_a_dataset_that_does_not_know_its_length():
    loader = DataLoader(Stream(), batch_size=8)
    problems.add("mine", Takes, loader, loader)
    run = Run(Settings("mine", **TINY | {"flatness_every": 4}))
    run.advance(4)
    assert np.isfinite(run.record.pac_bayes[-1]).all()


def test_a_loader_with_a_generator_of_its_own_continues_bit_for_bit(tmp_path):
    def run_of(record_every=2):
        loader = DataLoader(TensorDataset(*examples()), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3))
        problems.add("mine", Takes, loader, loader)
        return Run(Settings("mine", methods="sgd,m-rwp", seeds=2, steps=12, record_every=record_every))

    whole, often, part = run_of(), run_of(1), run_of()
    whole.advance(12)
    often.advance(12)
    part.advance(5)
    checkpoint.save(part, tmp_path)
    again = checkpoint.load(tmp_path)
    again.advance(12)
    assert torch.equal(again.engine.weights(), whole.engine.weights()) and torch.equal(often.engine.weights(), whole.engine.weights())


def test_every_run_trains_a_module_of_its_own():
    x, y = examples()
    data, model = [(x, y)], Takes()
    with pytest.raises(TypeError, match="the same module again"):
        problems.add("mine", lambda: model, data, data)
    with pytest.raises(TypeError, match="must give a torch module, got int"):
        problems.add("mine", lambda: 3, data, data)
    problems.add("mine", model, data, data)
    before = model.layer.weight.detach().clone()
    run = Run(Settings("mine", **TINY | {"methods": "sgd,rwp:sigma=0.5", "seeds": 2}))
    run.advance(4)
    assert torch.equal(model.layer.weight, before) and not torch.equal(*run.engine.weights()[:, 0])


# Files that are not whole


def test_a_checkpoint_with_a_flipped_bit_is_refused(tmp_path):
    run = Run(Settings("digits", methods="rwp", seeds=2, steps=9))
    run.advance(3)
    path = checkpoint.save(run, tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="can be continued: it is damaged"):
        checkpoint.load(tmp_path)
    assert checkpoint.held(tmp_path) is None


def test_a_run_goes_on_with_as_many_threads(tmp_path):
    run = Run(Settings("images", **TINY | {"width": 4, "train": 40, "batch": 10}))
    run.engine.threads = 2
    checkpoint.save(run, tmp_path)
    assert checkpoint.load(tmp_path).engine.threads == 2


def test_a_disk_that_is_full_leaves_the_former_record(tmp_path, monkeypatch):
    run = Run(Settings("digits", methods="rwp", seeds=2, steps=9))
    train.save(run.record, tmp_path)
    former = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run.advance(9)

    class Full(files.csv.DictWriter):
        def writerows(self, rows):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.csv, "DictWriter", Full)
    with pytest.raises(Wrong, match="No space left"), checked():
        train.save(run.record, tmp_path)
    assert all((tmp_path / name).read_bytes() == former[name] for name in ("results.csv", "record.csv"))


@pytest.mark.slow
def test_tensorboard_after_a_resume_has_every_point_once(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = Run(Settings("digits", methods="sgd", seeds=1, steps=40))
    run.advance(20)
    train.keep(run, tmp_path)
    asked = ["--resume", str(tmp_path), "--tensorboard"]
    subprocess.run([*COMMAND, *asked], check=True, capture_output=True)
    folder = next(path for path in (tmp_path / "tensorboard").iterdir())

    def steps():
        found = events.EventAccumulator(str(folder)).Reload()
        return [event.step for event in found.Scalars("test_accuracy")]

    assert steps() == [0, 10, 20, 30, 40]
    subprocess.run([*COMMAND, *asked], check=True, capture_output=True)
    assert steps() == [0, 10, 20, 30, 40]


def test_a_regression_is_judged_by_its_loss(tmp_path):
    x, _ = examples(48)
    y = (x @ torch.tensor([[1.0], [-2.0], [0.5]])) ** 2
    data = list(zip(x.split(8), y.split(8)))
    problems.add("mine", lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), data[:3], data[3:], validation=data[3:4], loss=nn.functional.mse_loss)
    run = Run(Settings("mine", methods="sgd:lr=0.0001,sgd:lr=0.02", seeds=2, steps=40))
    run.advance(20)
    checkpoint.save(run, tmp_path)
    run = checkpoint.load(tmp_path)
    run.advance(20)
    assert run.record.problem.score.name == "test_loss" and "test_accuracy" not in run.record.columns
    assert "SGD (η 0.02) leads" in summary.summary(run.record) and np.isfinite(run.record.validation_loss[-1]).all()
    assert all(np.isfinite(t["y"]).all() for t in figures.traces(run.record) if t["mode"] == "lines")
    found = sweep("mine", "sgd", {"lr": [0.0001, 0.02]}, seeds=2, steps=40)
    assert {row["lr"]: row["chosen"] for row in found.results()} == {0.0001: False, 0.02: True}
    assert "validation loss" in found.rule


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 80

    def __getitem__(self, i):
        return torch.full((5,), float(i)), i % 2


FEW = [(torch.zeros(4, 5), torch.tensor([0, 1, 0, 1]))]


@pytest.mark.slow
def test_workers_that_persist_give_every_example_of_an_epoch(tmp_path):
    loader = DataLoader(Numbers(), 10, shuffle=True, num_workers=1, persistent_workers=True)
    problems.add("numbers", lambda: nn.Linear(5, 2), loader, FEW)
    try:
        runs = [Run(Settings("numbers", methods="sgd", seeds=1, steps=16, record_every=4, lr=1e-4)) for _ in range(2)]
        seen, draw = [], runs[0].problem.next
        runs[0].problem.next = lambda batches: (draw(batches), seen.extend(runs[0].problem.batch(0)[0][:, 0].tolist()))
        runs[0].advance(16)
        assert sorted(seen) == sorted([*range(80)] * 2)
        runs[1].advance(6)
        checkpoint.save(runs[1], tmp_path)
        again = checkpoint.load(tmp_path)
        again.advance(16)
        assert torch.equal(again.engine.weights(), runs[0].engine.weights())
    finally:
        problems.OWN.pop("numbers", None)


@pytest.mark.parametrize(
    "module, y, score",
    [
        (nn.Linear(5, 1), torch.tensor([0, 1, 0, 1]), "test_loss"),  # one logit
        (nn.Conv1d(1, 3, 1), torch.zeros(4, 5, dtype=torch.long), "test_loss"),  # a label for every place
        (nn.Linear(5, 2), torch.tensor([0, 1, 0, 1]), "test_accuracy"),
        (nn.Linear(5, 2), torch.tensor([0, 1, 0, 1], dtype=torch.uint8), "test_accuracy"),
    ],
)
def test_accuracy_is_for_those_who_choose_among_classes(module, y, score):
    x = torch.randn(4, 1, 5) if isinstance(module, nn.Conv1d) else torch.randn(4, 5)
    loss = nn.functional.cross_entropy if not isinstance(module, nn.Linear) or module.out_features > 1 else lambda o, y: nn.functional.mse_loss(o[:, 0], y.float())
    problems.add("whose", module, [(x, y)], [(x, y)], loss=loss)
    try:
        run = Run(Settings("whose", methods="sgd", seeds=1, steps=2, record_every=1))
        run.advance(2)
        assert run.record.problem.score.name == score and np.isfinite(getattr(run.record, score)).all()
    finally:
        problems.OWN.pop("whose", None)


def test_a_dataset_in_place_of_a_loader_is_told():
    with pytest.raises(TypeError, match="give batches, as a DataLoader of a dataset does"):
        problems.add("single", nn.Linear(5, 2), Numbers(), FEW)


def test_named_tuples_and_samplers_with_a_generator():
    from collections import namedtuple

    Pair = namedtuple("Pair", "a b")

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 2)

        def forward(self, x):
            return self.linear(x.a + x.b)

    x = torch.randn(12, 5)
    pairs = [(Pair(x, x), torch.arange(12) % 2)]
    g = torch.Generator().manual_seed(3)
    sampler = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(Numbers(), generator=g), 10, False)
    try:
        problems.add("pairs", Sum, pairs, pairs)
        Run(Settings("pairs", methods="sgd,lpf-sgd:k=2", seeds=1, steps=2)).advance(2)
        problems.add("sampled", lambda: nn.Linear(5, 2), DataLoader(Numbers(), batch_sampler=sampler), FEW)
        before, found = g.get_state(), []
        for _ in range(2):
            run = Run(Settings("sampled", methods="sgd", seeds=1, steps=10, lr=1e-4))
            run.advance(10)
            found.append(run.engine.weights())
        assert torch.equal(*found) and torch.equal(g.get_state(), before)
    finally:
        problems.OWN.pop("pairs", None), problems.OWN.pop("sampled", None)


def test_many_pictures_are_scaled_by_all_classes():
    dark, light = torch.zeros(6000, 3, 1, 1, dtype=torch.uint8), torch.full((6000, 3, 1, 1), 255, dtype=torch.uint8)
    pictures = datasets.Pictures(("dark", "light"), (torch.cat([dark, light]), torch.zeros(12000)), (dark, torch.zeros(6000)))
    mean, deviation = pictures.scale()
    assert mean.flatten().tolist() == pytest.approx([0.5] * 3) and deviation.flatten().tolist() == pytest.approx([0.5] * 3, abs=0.01)


def test_a_tar_gives_what_its_folder_gives_and_says_where_it_is_damaged(folder, tmp_path):
    first = sorted((folder / "train" / "blue").iterdir())[0]
    os.link(first, first.with_name("hard.png"))
    (first.with_name("soft.png")).symlink_to(first.name)
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        tar.add(folder, "pictures")
    with tarfile.open(tmp_path / "pictures.tar") as tar:
        at = tar.getmembers()[len(tar.getmembers()) // 2].offset
    whole, packed = (datasets.read_pictures(path, 8) for path in (folder, tmp_path / "pictures.tar"))
    assert len(packed.train[0]) == len(whole.train[0]) == 14 and torch.equal(packed.train[0].sum((1, 2, 3)).sort()[0], whole.train[0].sum((1, 2, 3)).sort()[0])
    with tarfile.open(tmp_path / "nowhere.tar", "w") as tar:
        link = tarfile.TarInfo("train/blue/lost.png")
        link.type, link.linkname = tarfile.SYMTYPE, "gone.png"
        tar.addfile(link)
    with pytest.raises(ValueError, match="gone.png"):
        datasets.read_pictures(tmp_path / "nowhere.tar", 8)
    data = bytearray((tmp_path / "pictures.tar").read_bytes())
    data[at : at + 512] = b"x" * 512
    (tmp_path / "damaged.tar").write_bytes(data)
    with pytest.raises(ValueError, match="damaged after pictures/"):
        datasets.read_pictures(tmp_path / "damaged.tar", 8)


@pytest.mark.slow
@pytest.mark.parametrize("problem, methods", [("images", "sgd,rwp"), ("digits", "sgd,nso")])
@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_run_that_was_interrupted_and_saved_goes_on_bit_for_bit(problem, methods, after, tmp_path, monkeypatch):
    """Wherever the interrupt comes: while batches are drawn, or between two networks, or in a gradient."""
    settings = Settings(problem, methods=methods, seeds=2, steps=5, batch=20, **({"width": 4} if problem == "images" else {}))
    whole, run = Run(settings), Run(settings)
    whole.advance(5)
    calls = 0

    def counted(of, name):
        called = getattr(of, name)

        def call(*given, **named):
            nonlocal calls
            calls += 1
            found = called(*given, **named)
            if calls == after:
                raise KeyboardInterrupt
            return found

        monkeypatch.setattr(of, name, call)

    run.advance(1)
    with monkeypatch.context() as monkeypatch:
        counted(run.problem, "next")
        if problem == "images":
            counted(run.problem, "loss")
        else:
            counted(run.problem, "gradients")
        with pytest.raises(KeyboardInterrupt):
            run.advance(4)
    run.complete()
    assert run.whole
    checkpoint.save(run, tmp_path)
    again = checkpoint.load(tmp_path)
    again.advance(5)
    assert torch.equal(again.engine.weights(), whole.engine.weights())


def test_a_run_goes_on_with_its_own_pictures_alone(folder, tmp_path):
    settings = Settings(f"folder:{folder}", **SMALL)
    run = Run(settings)
    run.advance(2)
    checkpoint.save(run, tmp_path / "out")
    checkpoint.load(tmp_path / "out").advance(2)
    datasets._kept.cache_clear()
    gone = folder / "train" / "red" / "0.png"
    picture = gone.read_bytes()
    gone.unlink()
    with pytest.raises(ValueError, match="are not those that it was trained on: put them back"):
        checkpoint.load(tmp_path / "out")
    gone.write_bytes(picture)
    datasets._kept.cache_clear()
    checkpoint.load(tmp_path / "out")
    datasets._kept.cache_clear()
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="there is no folder or tar"):
        checkpoint.load(tmp_path / "out")


def test_a_sweep_trains_again_what_stands_for_something_else(folder, tmp_path):
    def run(problem, **more):
        trained = []
        found = sweep(problem, "sgd", {"lr": [0.01, 0.02]}, out=tmp_path / "out", told=lambda done, of: trained.append(done), **{**more, "seeds": 1, "steps": 2})
        assert len(found.finished) == 2
        return trained[0] == 0

    name, small = f"folder:{folder}", {"size": 8, "width": 4, "batch": 4}
    assert run(name, **small) and not run(name, **small)
    picture = folder / "train" / "red" / "0.png"
    picture.write_bytes((folder / "train" / "blue" / "0.png").read_bytes())
    datasets._kept.cache_clear()
    assert run(name, **small) and not run(name, **small)
    x, y = torch.randn(8, 5), torch.arange(8) % 2
    try:
        for data in (x, x + 1):
            for module in (nn.Linear(5, 2), nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))):
                problems.add("stands", module, [(data, y)], [(data, y)])
                assert run("stands") and not run("stands")
    finally:
        problems.OWN.pop("stands", None)


@pytest.mark.parametrize("name", ["folder:/nowhere", "cifar10"])
def test_a_sweep_without_its_pictures_is_one_line(name, downloads, capsys):
    assert main(["sweep", name, "--methods", "sgd", "--grid", "lr=0.1,0.2"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_sweep_downloads_when_it_is_told_to(monkeypatch, downloads, capsys):
    def fetch(name):
        raise OSError(f"{name} could not be downloaded (no network)")

    monkeypatch.setattr(datasets, "fetch", fetch)
    assert main(["sweep", "cifar10", "--methods", "sgd", "--grid", "lr=0.1,0.2", "--download"]) == 2
    assert "cifar10 could not be downloaded" in capsys.readouterr().err


def test_a_closure_that_ignores_its_model_is_told():
    from rwp_edu.optim import MRWP, parallel

    model, x, y = nn.Linear(5, 2), torch.randn(8, 5), torch.arange(8) % 2
    optimizer = parallel.threads(MRWP(torch.optim.SGD(model.parameters(), lr=0.1), sigma=0.1), model)

    def closure(_):
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)  # one point after another, to learn which modules there are
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(TypeError, match="it has to evaluate that model"):
        optimizer.step(closure)
    assert all(map(torch.equal, model.parameters(), before))
