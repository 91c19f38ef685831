"""What there is to train on: the table of problems, with their settings and what is measured.

A problem of the batched engine is a class made for S seeds: ``layout`` (of the flat weights), ``init()`` (S, P), ``next(batches)`` before every update,
``gradients(points, groups)`` and ``measure(w)``, which gives a value (S,) for every metric; a curve that is not over time, such
as a spectrum, is a method of that name that gives (S, N); ``validate(w)`` measures what is ``held_back``. ``state()`` and ``restore(state)`` keep the order of batches in checkpoints. Networks that are trained one after
another are ``rwp_edu.problems.module_problem.Networks``.

``images`` has the bundled digits as pictures; the same row serves ``cifar10``, ``cifar100``, ``fashion-mnist`` and ``folder:PATH``, and
:func:`add` makes one of any module with any data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwp_edu.problems.custom import Own, fresh
from rwp_edu.problems.datasets import FOLDER, pictures
from rwp_edu.problems.digits import POOL, Digits
from rwp_edu.problems.fine_tuning import KNOWN, FineTuning
from rwp_edu.problems.fine_tuning import POOL as SHOTS
from rwp_edu.problems.images import Images
from rwp_edu.problems.matrix_sensing import Sensing
from rwp_edu.problems.models import MODELS, NORMS
from rwp_edu.problems.module_problem import BASES
from rwp_edu.utils.parameters import Parameter, rounded, unknown


@dataclass(frozen=True)
class Metric:
    """Something that is measured for every run; it is shown as ``unit`` times its value, ``digits`` after the point.

    ``first`` is the range a picture begins with and the step in which it grows: (low, high, step), or powers of ten where
    ``log``. ``noun`` is what a sentence calls it.
    """

    name: str
    title: str
    noun: str
    first: tuple[float, float, float]
    unit: float = 1.0
    digits: int = 3
    high_is_good: bool = False
    log: bool = False
    across: str = ""  # what the horizontal axis is, if not time

    def shown(self, value: float) -> str:
        """A value as text."""
        if not np.isfinite(value):
            return "not finite"
        if self.log:
            return rounded(self.unit * value, 2)
        return f"{self.unit * value:.{self.digits}f}{' %' if self.unit == 100 else ''}"

    def mean(self, values: np.ndarray, sign: bool = False) -> str:
        """Mean ± standard error of values (S,), as text; where ``log`` the geometric mean, times or divided by its standard error; ``-`` if
        a value is not finite."""
        values = np.log10(values) if self.log else self.unit * values
        mean, error = values.mean(), values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
        if not np.isfinite(mean):
            return "-"
        if self.log:
            return self.shown(10**mean) + ("" if error is None else f" ×/÷ {10**error:.2f}")
        spread = "" if error is None else f" ± {error:.{self.digits}f}"
        return f"{mean:{'+' * sign}.{self.digits}f}{spread}{' %' if self.unit == 100 else ''}"


PERTURBATION = Metric("perturbation", "size of the perturbation, ‖e‖ / ‖w‖", "perturbation", (0, 0.5, 0.25))
VALIDATION = Metric("validation_accuracy", "validation accuracy, %", "validation accuracy", (60, 95, 5), 100.0, 1, high_is_good=True)
VALIDATION_LOSS = Metric("validation_loss", "validation loss", "validation loss", (0, 2, 0.5))


FLATNESS = (
    Metric("trace", "trace of the Hessian (training loss)", "trace", (0, 120, 20), digits=1),
    Metric("top_eigenvalue", "largest eigenvalue of the Hessian", "largest eigenvalue", (0, 15, 5)),
    Metric("rise", "rise of the training loss under noise, filter-wise σ = 0.1", "rise", (0, 1.0, 0.25)),
    Metric("pac_bayes", "PAC-Bayes value √(tr H ‖w - w₀‖² / n)", "PAC-Bayes value", (0, 20, 5), digits=1),
)


@dataclass(frozen=True)
class Problem:
    """A row of the table. ``make(settings, seeds, device, dtype)`` builds it; ``wrong(settings)`` says what does not fit together.

    ``flatness`` are metrics that cost much more than an update: ``rwp_edu.problems.flatness`` measures them, when asked for. ``held_back`` are
    metrics on data that neither train nor test, measured once, after the last update; the first of them chooses settings.
    ``here`` has what common settings have in other ways: ``{"lr": {"default": 0.01}}``. The first metric decides who leads.
    ``pins`` are values for single methods that no common setting moves. ``engine`` is how its networks are trained. ``truth(problem)`` gives what the truth has of some metrics and profiles, if there is one.
    """

    name: str
    title: str
    make: Callable[..., Any]
    metrics: tuple[Metric, ...]
    panels: tuple[str, ...]
    methods: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    here: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    pins: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    profiles: tuple[Metric, ...] = ()
    flatness: tuple[Metric, ...] = ()
    held_back: tuple[Metric, ...] = ()
    wrong: Callable[[Any], str] = lambda settings: ""
    truth: Callable[[Any], dict[str, Tensor]] = lambda problem: {}
    engine: str = "batched"
    like: str = ""

    @property
    def family(self) -> str:
        """The row of the table that it was made from, if not itself one."""
        return self.like or self.name

    @property
    def score(self) -> Metric:
        return self.metrics[0]

    @property
    def measured(self) -> tuple[Metric, ...]:
        """All that a record has per run."""
        return (*self.metrics, *self.flatness, *self.held_back, PERTURBATION)

    def holds_back(self, settings: Any) -> bool:
        """Are there data that neither train nor test, to choose settings by?"""
        apart = settings.problem.startswith(FOLDER) and pictures(settings.problem, settings.size).validation is not None
        return bool(self.held_back) and bool(getattr(settings, "validation", True) or apart)

    def metric(self, name: str) -> Metric:
        return next(m for m in (*self.measured, *self.profiles) if m.name == name)


def _root_of_the_truth(problem: Sensing) -> dict[str, Tensor]:
    """What W = X^½ has, which solves the problem."""
    values, vectors = torch.linalg.eigh(problem.truth)
    w = ((vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT).flatten(1)
    return {name: problem.measure(w)[name] for name in ("trace", "nuclear")} | {"spectrum": problem.spectrum(w)}


def _images(s: Any, seeds: Any, device: Any, dtype: Any) -> Images:
    names = ("batch", "train", "shots", "test", "validation", "label_noise", "model", "norm", "width", "weights", "crop", "cutout", "label_smoothing", "base", "clip", "workers", "threads")
    on = {"flip": s.flip == "on", "recalibrate": s.recalibrate == "on", "bfloat16": s.precision == "bfloat16"}
    return Images(seeds, pictures(s.problem, s.size), **{name: getattr(s, name) for name in names}, **on, device=device, dtype=dtype)


ADAM = 0.02  # a learning rate beyond which AdamW leaves every minimum


def _wrong_of_networks(s: Any) -> str:
    if s.base == "adamw" and s.lr > ADAM:
        return f"with base=adamw choose lr <= {ADAM:g} (0.001 is usual; it diverges with those of SGD), got lr={s.lr:g}"
    return ""


PROBLEMS: dict[str, Problem] = {
    row.name: row
    for row in (
        Problem(
            "digits",
            "Digits with wrong labels",
            lambda s, *where: Digits(*where[:1], s.train, s.label_noise, s.width, s.batch, *where[1:]),
            metrics=(
                Metric("test_accuracy", "test accuracy, %", "test accuracy", (60, 95, 5), 100.0, 1, high_is_good=True),
                Metric("train_loss", "training loss (given labels)", "training loss", (0, 2, 0.5)),
                Metric("wrong_labels_learnt", "wrong labels learnt, %", "wrong labels learnt", (0, 100, 20), 100.0, 0),
            ),
            flatness=(
                Metric("trace", "trace of the Hessian (training loss)", "trace", (0, 80, 20), digits=1),
                Metric("top_eigenvalue", "largest eigenvalue of the Hessian", "largest eigenvalue", (0, 5, 1)),
                Metric("rise", "rise of the training loss under noise, filter-wise σ = 0.1", "rise", (0, 0.5, 0.25)),
            ),
            held_back=(VALIDATION,),
            panels=("test_accuracy", "train_loss", "wrong_labels_learnt", "perturbation"),
            methods=("sgd", "sam", "rwp", "m-rwp", "nso"),
            parameters=(
                Parameter("batch", "B", 30, "images per mini-batch", low=1, high=POOL, slider=(5, 100), step=5, live=False,
                          title="images per batch"),
                Parameter("train", "n", 300, "training images", low=1, high=POOL, slider=(50, 500), step=50, live=False,
                          title="training images"),
                Parameter("label_noise", "p", 0.3, "fraction of training labels replaced by a random class", high=1.0,
                          slider=(0.0, 0.6), step=0.05, live=False, title="label noise"),
                Parameter("width", "H", 64, "hidden units", low=1, high=4096, slider=(8, 128), step=8, live=False,
                          title="hidden units"),
            ),
            here={
                "sigma": {"ticks": ((0.0, "0"), (0.1, "RWP at best"), (0.2, "RWP fails"), (0.3, "0.3"))},
                "rho": {"default": 0.4, "ticks": ((0.05, "published"), (0.4, "best here"), (1.0, "1"))},
                "lam": {"ticks": ((0.0, "clean"), (0.5, "published"), (1.0, "RWP"))},
                "eta": {"default": 1.0, "ticks": ((0.1, "published"), (1.0, "here"), (5.0, "5"))},
                "beta": {"default": 0.9},
                "prior": {"default": 3.0},
                "lr": {"ticks": ((0.001, "0.001"), (0.01, "0.01"), (0.1, "preset"), (1.0, "1"))},
                "weight_decay": {"ticks": ((0.01, "preset"), (0.04, "best for SGD"), (0.1, "0.1"))},
            },
            wrong=lambda s: f"batch must not exceed train, got batch={s.batch}, train={s.train}" if s.batch > s.train else "",
        ),
        Problem(
            "fine-tuning",
            "Fine-tuning with few labels",
            lambda s, *where: FineTuning(*where[:1], s.shots, s.label_noise, s.width, s.batch, *where[1:]),
            metrics=(
                Metric("test_accuracy", "test accuracy on the new digits, %", "test accuracy", (60, 95, 5), 100.0, 1, high_is_good=True),
                Metric("train_loss", "training loss (given labels)", "training loss", (0, 1.5, 0.5)),
                Metric("wrong_labels_learnt", "wrong labels learnt, %", "wrong labels learnt", (0, 100, 20), 100.0, 0),
                Metric("distance", "distance from the start, ‖w - w₀‖", "distance", (0, 20, 5), digits=1),
            ),
            flatness=FLATNESS,
            held_back=(VALIDATION,),
            panels=("test_accuracy", "train_loss", "wrong_labels_learnt", "distance"),
            methods=("sgd", "sam", "rwp", "m-rwp", "nso"),
            parameters=(
                Parameter("batch", "B", 25, "images per mini-batch", low=1, high=SHOTS * KNOWN, slider=(5, 50), step=5, live=False,
                          title="images per batch"),
                Parameter("shots", "k", 20, "images of every new digit to train on", low=1, high=SHOTS, slider=(10, 50), step=5, live=False,
                          title="images per new digit"),
                Parameter("label_noise", "p", 0.3, "fraction of training labels replaced by a random one of the five", high=1.0,
                          slider=(0.0, 0.6), step=0.05, live=False, title="label noise"),
                Parameter("width", "H", 64, "hidden units in each of two layers", low=1, high=4096, slider=(8, 128), step=8, live=False,
                          title="hidden units"),
            ),
            here={
                "sigma": {"default": 0.15, "ticks": ((0.0, "0"), (0.15, "preset"), (0.3, "0.3"))},
                "rho": {"default": 0.5, "ticks": ((0.05, "published"), (0.5, "best here"), (1.0, "1"))},
                "lam": {"ticks": ((0.0, "clean"), (0.5, "published"), (1.0, "RWP"))},
                "eta": {"default": 1.0, "ticks": ((0.1, "published"), (1.0, "here"), (5.0, "5"))},
                "beta": {"default": 0.9},
                "prior": {"default": 3.0},
                "lr": {"default": 0.05, "slider": (0.0005, 0.5), "ticks": ((0.0005, "0.0005"), (0.05, "preset"), (0.5, "0.5"))},
                "weight_decay": {"default": 0.03, "slider": (0.0, 0.2), "ticks": ((0.03, "preset"), (0.1, "best for SGD"), (0.2, "0.2"))},
                "steps": {"default": 300},
            },
            wrong=lambda s: f"batch must not exceed {KNOWN} * shots, got batch={s.batch}, shots={s.shots}" if s.batch > KNOWN * s.shots else "",
        ),
        Problem(
            "sensing",
            "Matrix sensing",
            lambda s, seeds, *where: Sensing(seeds, s.d, s.rank, s.n, s.init, s.noise, *where),
            metrics=(
                Metric("distance", "squared distance to the truth", "distance²", (-4, 1, 1), log=True),
                Metric("train_error", "training error, relative", "training error", (-5, 1, 1), log=True),
                Metric("trace", "trace of the Hessian", "trace", (3, 5, 1), log=True),
                Metric("nuclear", "nuclear norm of WWᵀ", "nuclear norm", (1, 3, 1), log=True),
                Metric("rank", "eigenvalues above 1 %", "rank", (0, 30, 10), digits=1),
            ),
            profiles=(Metric("spectrum", "eigenvalues of WWᵀ", "spectrum", (-3, 2.5, 1), log=True, across="number of the eigenvalue"),),
            panels=("distance", "train_error", "trace", "spectrum"),
            methods=("sgd", "sam", "rwp", "nso"),
            parameters=(
                Parameter("d", "d", 30, "size of the matrices; the learning rate that suits goes with 1/d", low=1, high=200,
                          slider=(10, 50), step=5, live=False, title="size of the matrices"),
                Parameter("rank", "r", 2, "rank of the truth", low=1, high=200, slider=(1, 10), step=1, live=False, title="rank of the truth"),
                Parameter("n", "n", 300, "measurements; a symmetric matrix has d (d + 1)/2 unknowns", low=1, high=20_000,
                          slider=(60, 500), step=20, ticks=((180, "3dr"), (300, "5dr"), (460, "all")), live=False, title="measurements"),
                Parameter("init", "", 1.0, "standard deviation of the entries of the initial W", slider=(0.01, 1.0), log=True,
                          ticks=((0.01, "small"), (0.1, "0.1"), (1.0, "published")), live=False, title="scale of the start"),
                Parameter("noise", "", 0.0, "noise on the measurements, relative to their root mean square", slider=(0.0, 0.5),
                          step=0.05, live=False, title="noise on the measurements"),
            ),
            here={
                "kind": {"default": "isotropic"},
                "sigma": {"ticks": ((0.0, "0"), (0.1, "best here"), (0.2, "too strong"), (0.3, "0.3"))},
                "rho": {"default": 0.5, "slider": (0.0, 2.0), "ticks": ((0.5, "preset"), (2.0, "2"))},
                "lr": {"default": 0.0067, "slider": (0.00067, 0.067), "ticks": ((0.00067, "0.00067"), (0.0067, "preset"), (0.017, "diverges"))},
                "weight_decay": {"default": 0.0, "slider": (0.0, 1.0), "step": 0.01, "ticks": ((0.0, "none"), (0.45, "best for GD"))},
                "momentum": {"default": 0.0},
                "schedule": {"default": "constant"},
                "steps": {"default": 1000},
            },
            pins={"usam": {"rho": 0.001}, "bsam": {"lr": 0.003}},  # beyond, they diverge
            wrong=lambda s: f"rank must not exceed d, got rank={s.rank}, d={s.d}" if s.rank > s.d else "",
            truth=_root_of_the_truth,
        ),
        Problem(
            "images",
            "Pictures (bundled digits)",
            _images,
            metrics=(
                Metric("test_accuracy", "test accuracy, %", "test accuracy", (60, 100, 5), 100.0, 1, high_is_good=True),
                Metric("train_loss", "training loss (given labels)", "training loss", (0, 2, 0.5)),
                Metric("test_loss", "test loss", "test loss", (0, 2, 0.5)),
                Metric("train_accuracy", "training accuracy (given labels), %", "training accuracy", (0, 100, 20), 100.0, 1),
                Metric("wrong_labels_learnt", "wrong labels learnt, %", "wrong labels learnt", (0, 100, 20), 100.0, 0),
                Metric("distance", "distance from the start, ‖w - w₀‖", "distance", (0, 20, 5), digits=1),
            ),
            flatness=FLATNESS,
            held_back=(VALIDATION,),
            panels=("test_accuracy", "train_loss", "test_loss", "perturbation"),
            wrong=_wrong_of_networks,
            methods=("sgd", "sam", "rwp", "m-rwp"),
            parameters=(
                Parameter("batch", "B", 50, "pictures per mini-batch", low=1, slider=(10, 200), step=10, live=False, title="pictures per batch"),
                Parameter("train", "n", 300, "training pictures; 0: all", slider=(0, 1000), step=100, live=False, title="training pictures",
                          ticks=((0, "all"), (300, "preset"))),
                Parameter("shots", "", 0, "training pictures of every class, in place of n in all; 0: n in all", slider=(0, 50), step=5, live=False,
                          title="pictures of every class", ticks=((0, "n in all"),)),
                Parameter("test", "", 500, "test pictures that are measured; 0: all", slider=(0, 1000), step=100, live=False, title="test pictures",
                          ticks=((0, "all"),)),
                Parameter("validation", "", 200, "pictures of the training part that are held back: a sweep chooses by them", slider=(0, 500), step=50,
                          live=False, title="pictures held back", ticks=((0, "none"),)),
                Parameter("label_noise", "p", 0.3, "fraction of training labels replaced by a random class", high=1.0, slider=(0.0, 0.6),
                          step=0.05, live=False, title="label noise"),
                Parameter("model", "", "rescnn", "network", choices=tuple(MODELS), live=False, title="network"),
                Parameter("norm", "", "group", "normalisation layers", choices=tuple(NORMS), live=False, title="normalisation"),
                Parameter("width", "H", 8, "channels of rescnn (a multiple of 4), hidden units of mlp", low=1, high=4096, slider=(4, 64), step=4,
                          live=False, title="width"),
                Parameter("weights", "", "", "where to start: nothing, IMAGENET1K_V1 (ResNet), or a file with a state dict", live=False,
                          title="initial weights"),
                Parameter("crop", "", 0, "augmentation: shifts by up to so many pixels", high=64, slider=(0, 8), step=1, live=False, title="random shifts"),
                Parameter("flip", "", "off", "augmentation: mirror images", choices=("off", "on"), live=False, title="mirror images"),
                Parameter("cutout", "", 0, "augmentation: side of a black square (1708.04552)", high=256, slider=(0, 16), step=1, live=False, title="cutout"),
                Parameter("label_smoothing", "", 0.0, "part of a label that goes to all classes alike", high=1.0, slider=(0.0, 0.3), step=0.05,
                          live=False, title="label smoothing"),
                Parameter("base", "", "sgd", "base optimizer", choices=tuple(BASES), live=False, title="base optimizer"),
                Parameter("clip", "", 0.0, "largest norm of the combined gradient; 0: not clipped", slider=(0.0, 5.0), step=0.5, live=False,
                          title="gradient clipping"),
                Parameter("precision", "", "float32", "of the networks while they are evaluated (bfloat16: autocast)", choices=("float32", "bfloat16"),
                          live=False, title="precision"),
                Parameter("recalibrate", "", "on", "BatchNorm statistics found afresh at the clean weights when they are measured",
                          choices=("on", "off"), live=False, title="BatchNorm recalibration"),
                Parameter("workers", "", 1, "points of a round that are evaluated at once, in threads with a copy of the network each", low=1, high=64,
                          slider=(1, 4), step=1, live=False, title="points at once"),
                Parameter("threads", "", 1, "cores that share the work of a network; 0: all but one", high=1024, slider=(0, 16), step=1, live=False,
                          title="cores", ticks=((0, "all but one"),)),
                Parameter("size", "", 32, "side in pixels to which the pictures of a folder are brought", low=8, high=512, slider=(8, 256), step=8,
                          live=False, title="size of a folder's pictures"),
            ),
            here={
                "sigma": {"default": 0.03, "slider": (0.0, 0.1), "ticks": ((0.0, "0"), (0.03, "preset"), (0.06, "m-RWP at best"), (0.1, "RWP fails"))},
                "rho": {"default": 0.1, "slider": (0.0, 0.5), "ticks": ((0.05, "published"), (0.2, "0.2"), (0.5, "SAM fails"))},
                "lam": {"ticks": ((0.0, "clean"), (0.5, "published"), (1.0, "RWP"))},
                "steps": {"default": 200},
                "seeds": {"default": 2},
                "record_every": {"default": 20},
                "weight_decay": {"default": 0.001},
            },
            pins={"bsam": {"lr": 0.02}},
            engine="one by one",
        ),
    )
}  # fmt: skip


PICTURES = {
    "cifar10": ("CIFAR-10", {"width": 16, "crop": 4, "flip": "on"}),
    "cifar100": ("CIFAR-100", {"width": 16, "crop": 4, "flip": "on"}),
    "fashion-mnist": ("Fashion-MNIST", {"width": 16, "crop": 2}),
}
OWN: dict[str, Problem] = {}  # what :func:`add` has made


@cache
def _like_images(name: str, title: str, **defaults: Any) -> Problem:
    """The row of ``images`` for other pictures: all of them, BatchNorm, fewer runs of more updates, and the published strengths."""
    row, defaults = PROBLEMS["images"], {"train": 0, "test": 1000, "validation": 0, "threads": 0, "label_noise": 0.0, "batch": 100, "norm": "batch"} | defaults
    here = {
        **row.here,
        "sigma": {"default": 0.01, "slider": (0.0, 0.1), "ticks": ((0.0, "0"), (0.01, "published"), (0.05, "0.05"), (0.1, "0.1"))},
        "rho": {"default": 0.05, "slider": (0.0, 0.5), "ticks": ((0.05, "published"), (0.25, "0.25"), (0.5, "0.5"))},
        "steps": {"default": 1000},
        "seeds": {"default": 1},
        "record_every": {"default": 100},
    }
    own = tuple(_moved(p, defaults.get(p.name, p.default)) for p in row.parameters)
    return replace(row, name=name, title=title, parameters=own, here=here, like="images")


def _moved(p: Parameter, default: Any) -> Parameter:
    """The parameter with another default, to which its tick "preset" does not move."""
    return replace(p, default=default, ticks=tuple(tick for tick in p.ticks if tick[1] != "preset" or tick[0] == default))


# Of a problem of one's own nothing is known: ticks are numbers, and what holds for every problem.
OWN_HERE: Mapping[str, Mapping[str, Any]] = {
    "sigma": {"default": 0.03, "slider": (0.0, 0.1), "ticks": ((0.0, "0"), (0.03, "preset"), (0.1, "0.1"))},
    "rho": {"default": 0.1, "slider": (0.0, 0.5), "ticks": ((0.05, "published"), (0.1, "preset"), (0.5, "0.5"))},
    "lam": {"ticks": ((0.0, "clean"), (0.5, "published"), (1.0, "RWP"))},
    "steps": {"default": 200},
    "seeds": {"default": 1},
    "record_every": {"default": 20},
    "weight_decay": {"default": 0.001},
}
TRAINING = ("base", "clip", "precision", "recalibrate", "workers", "threads")


def add(
    name: str,
    build: Callable[[], torch.nn.Module] | torch.nn.Module,
    train: Iterable[Any],
    test: Iterable[Any],
    *,
    validation: Iterable[Any] | None = None,
    loss: Callable[[Any, Tensor], Tensor] = torch.nn.functional.cross_entropy,
    title: str = "",
) -> Problem:
    """Make a problem of any module and any data: ``race(problem=name)``, ``Run(Settings(name))`` and checkpoints then know it, in this process.

    ``build()`` makes the module with fresh weights (a module in its place is copied: all runs start from its weights); ``train`` and ``test`` give batches (x, y) again and again (a DataLoader or a list), so do ``validation`` data, by which a sweep chooses;
    ``loss(model(x), y)`` is a mean over the batch. Where y are class numbers accuracies are measured, and decide who leads; else the test loss does. The same name again replaces it.

    >>> data = [(torch.randn(8, 3), torch.randint(2, (8,)))]
    >>> add("mine", lambda: torch.nn.Linear(3, 2), data, data).engine
    'one by one'

    Errors: the name of a row of the table, a ``build`` that gives one module again and again, an iterator instead of something that can be gone through again.
    """
    if name in PROBLEMS or name in PICTURES or name.startswith(FOLDER) or not name:
        raise ValueError(f"{name!r} is taken by a problem of this project: choose another name")

    def make(s: Any, seeds: Any, device: Any, dtype: Any) -> Own:
        how = {"base": s.base, "clip": s.clip, "recalibrate": s.recalibrate == "on", "bfloat16": s.precision == "bfloat16", "workers": s.workers, "threads": s.threads}
        return Own(seeds, build, train, test, validation=validation, loss=loss, **how, device=device, dtype=dtype)

    build = fresh(build)
    classes = Own((), build, train, test, validation=validation).classes  # and says what is wrong with the data
    row = PROBLEMS["images"]
    of_labels = ("wrong_labels_learnt", *(("test_accuracy", "train_accuracy") if not classes else ()))
    metrics = tuple(m for m in row.metrics if m.name not in of_labels)
    OWN[name] = replace(
        row,
        name=name,
        title=title or name,
        make=make,
        metrics=metrics if classes else tuple(sorted(metrics, key=lambda m: m.name != "test_loss")),
        panels=row.panels if classes else ("test_loss", "train_loss", "distance", "perturbation"),
        parameters=tuple(_moved(p, 0) if p.name == "threads" else p for p in row.parameters if p.name in TRAINING),
        here=OWN_HERE,
        held_back=() if validation is None else row.held_back if classes else (VALIDATION_LOSS,),
        like="images",
    )
    return OWN[name]


def get(name: str) -> Problem:
    """The row called ``name``, or an error that lists what there is."""
    if name in PROBLEMS or name in OWN:
        return PROBLEMS.get(name) or OWN[name]
    if isinstance(name, str) and name.startswith(FOLDER):
        return _like_images(name, f"Pictures in {Path(name.removeprefix(FOLDER)).name}", width=16)
    if name in PICTURES:
        title, defaults = PICTURES[name]
        return _like_images(name, title, **defaults)
    raise unknown("problem", name, (*PROBLEMS, *PICTURES, f"{FOLDER}PATH", *OWN))
