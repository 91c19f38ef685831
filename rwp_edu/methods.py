"""Every method, written once under its formula, and the table that everything else is made of.

A method takes the flat weights ``w`` and, by name, whatever it needs: ``rho``, ``lam`` or ``k`` (its hyper-parameters),
``noise`` (a callable: ``noise(w)`` is a fresh perturbation) or ``memory`` (a dict that lives as long as the run). It yields
the points of a round and returns the combined gradient (``rwp_edu.points``). The base optimizer applies that gradient at
the clean ``w``: learning rate, momentum and weight decay are its business alone.

To add a method: one function, one row in ``METHODS``; the optimizer, the lab, the command line and the tests follow.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rwp_edu.noise import KINDS, LAWS
from rwp_edu.parameters import Parameter, unknown
from rwp_edu.points import At, Conversation


def norm(g: Tensor) -> Tensor:
    """||g||_2 of every run, plus 1e-12 so that a zero gradient gives a zero step."""
    return torch.linalg.vector_norm(g, dim=-1, keepdim=True) + 1e-12


def sgd(w: Tensor) -> Conversation:
    """g = ∇L(w): the base optimizer itself."""
    (g,) = yield [At(w)]
    return g


def sam(w: Tensor, rho: float) -> Conversation:
    """g = ∇L(w + ρ ∇L(w)/‖∇L(w)‖): the gradient at the worst point of a ball, found in one step of ascent.

    Sharpness-aware minimization, 2010.01412. Both gradients are of the same batch; the norm is over all parameters.
    Two rounds, because the second point needs the first answer. Differs from the authors' JAX code, as all PyTorch
    versions do: weight decay is not part of the ascent direction, and 1e-12 guards the norm.
    """
    (g,) = yield [At(w)]
    (g,) = yield [At(w + g * (rho / norm(g)))]
    return g


def rwp(w: Tensor, noise: Callable) -> Conversation:
    """g = ∇L(w + u): random weight perturbation, one noisy gradient.

    Minimises E_u L(w + u), about L + σ²/2 tr H for isotropic noise. 2201.08025 (LPF-SGD), 2211.11489, 2404.00357; with
    isotropic noise it is also called weight-perturbed SGD or noise injection. The released code restores w by
    subtracting u, which drifts; here w is never touched.
    """
    (g,) = yield [At(w + noise(w))]
    return g


def m_rwp(w: Tensor, noise: Callable, lam: float) -> Conversation:
    """g = (1-λ) ∇L(w; B₀) + λ ∇L(w + u; B₁): mixed RWP, a clean and a noisy gradient on two batches.

    2404.00357. One round of two independent points: two workers answer it in the time of one. λ weighs the *noisy*
    gradient, as in the released code (a secondary source has it the other way round; at the recommended 0.5 it is the same).
    """
    clean, noisy = yield [At(w, batch=0), At(w + noise(w), batch=1)]
    return (1 - lam) * clean + lam * noisy


def nso(w: Tensor, noise: Callable, k: int) -> Conversation:
    """g = 1/(2k) Σⱼ [∇L(w + uⱼ) + ∇L(w - uⱼ)]: two-point noise injection with k draws.

    Noise stability optimization, 2306.08553. The pair ±u cancels the first-order noise of RWP exactly. All points use the
    same batch. Differs from the released code, which always evaluates a clean gradient too, even when its weight is 0.
    """
    draws = [noise(w) for _ in range(k)]
    gradients = yield [At(point) for u in draws for point in (w + u, w - u)]
    return sum(gradients[1:], gradients[0]) / (2 * k)


PARAMETERS: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("sigma", "σ", 0.1, "scale of the random perturbation (standard deviation; times ‖filter‖ if filter-wise)",
                  slider=(0.0, 0.3), step=0.005, title="scale of the noise"),
        Parameter("rho", "ρ", 0.05, "radius of SAM's ascent step (Euclidean norm over all weights)",
                  slider=(0.0, 1.0), step=0.01, title="SAM's radius"),
        Parameter("lam", "λ", 0.5, "mixing coefficient: weight of the noisy gradient", high=1.0, title="mixing coefficient"),
        Parameter("k", "k", 1, "number of noise draws per update", low=1, high=64, slider=(1, 4), step=1, title="noise draws"),
        Parameter("kind", "", "published", "kind of perturbation; published: what the method's paper uses",
                  choices=("published", *KINDS), title="kind of perturbation"),
        Parameter("law", "", "gaussian", "law of the noise, mean 0 and variance 1", choices=tuple(LAWS), title="law of the noise"),
    )
}  # fmt: skip

NOISE_PARAMETERS = ("sigma", "kind", "law")


@dataclass(frozen=True)
class Cost:
    """Per update: gradient evaluations, how many rounds of them, and how many different batches."""

    points: int
    rounds: int
    batches: int

    def __str__(self) -> str:
        """``2`` for two after another, ``2∥`` for two at once.

        >>> print(METHODS["sam"].cost(), METHODS["m-rwp"].cost())
        2 2∥
        """
        return f"{self.points}{'∥' if self.points > self.rounds else ''}"


@dataclass(frozen=True)
class Method:
    """A row of the table. ``kind`` is the perturbation its paper uses, if it uses noise."""

    name: str
    label: str
    function: Callable[..., Conversation]
    source: str
    kind: str | None = None

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """What the function asks for beside ``w``."""
        return tuple(inspect.signature(self.function).parameters)[1:]

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the hyper-parameters that act on this method."""
        own = tuple(name for name in self.needs if name in PARAMETERS)
        return (*NOISE_PARAMETERS, *own) if "noise" in self.needs else own

    @property
    def formula(self) -> str:
        return inspect.getdoc(self.function).split("\n")[0].split(": ")[0]

    @property
    def meaning(self) -> str:
        return inspect.getdoc(self.function).split("\n")[0].split(": ", 1)[1].rstrip(".")

    def start(self, w: Tensor, **given) -> Conversation:
        """Begin a conversation at ``w`` with the things it needs picked out of ``given``."""
        return self.function(w, **{name: given[name] for name in self.needs})

    def cost(self, **hyper) -> Cost:
        """Points, rounds and batches of one update, counted by holding the conversation with zero gradients.

        >>> METHODS["nso"].cost(k=3)
        Cost(points=6, rounds=1, batches=1)
        """
        defaults = {name: row.default for name, row in PARAMETERS.items()}
        talk = self.start(torch.zeros(1), **{**defaults, "noise": torch.zeros_like, "memory": {}, **hyper})
        points, rounds, batches = 0, 0, set()
        try:
            asked = next(talk)
            while True:
                points, rounds, batches = points + len(asked), rounds + 1, batches | {at.batch for at in asked}
                asked = talk.send([torch.zeros(1)] * len(asked))
        except StopIteration:
            return Cost(points, rounds, len(batches))

    @property
    def points(self) -> str:
        """Gradient evaluations per update in symbols: ``1``, ``2`` or, where it depends on k, ``2k``."""
        one, two = self.cost(k=1).points, self.cost(k=2).points
        return str(one) if one == two else f"{two - one}k" if two == 2 * one else f"{2 * one - two}+{two - one}k"


METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method("sgd", "SGD", sgd, "Robbins & Monro 1951"),
        Method("sam", "SAM", sam, "arXiv:2010.01412"),
        Method("rwp", "RWP", rwp, "arXiv:2201.08025, 2211.11489, 2404.00357", kind="filter-wise"),
        Method("m-rwp", "m-RWP", m_rwp, "arXiv:2211.11489, 2404.00357", kind="filter-wise"),
        Method("nso", "NSO", nso, "arXiv:2306.08553", kind="isotropic"),
    )
}


def get(name: str) -> Method:
    """The row called ``name``, or an error that lists the table."""
    try:
        return METHODS[name]
    except (KeyError, TypeError):
        raise unknown("method", name, METHODS) from None
