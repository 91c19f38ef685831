"""Every method, written once under its formula, and the table that everything else is made of.

A method takes the flat weights ``w`` and, by name, whatever it needs: its hyper-parameters, ``noise`` (a callable:
``noise(w)`` is a fresh perturbation), ``normal`` (standard normal draws), ``layout`` (``rwp_edu.methods.points.Layout``) or
``memory`` (a dict that lives as long as the run; put new tensors into it, never change them in place, and never ``w`` itself,
which the engine writes the next weights into). It yields the points of a round and returns the combined gradient. The base optimizer applies that gradient at the clean ``w``: learning rate,
momentum and weight decay are its business alone.

To add a method: one function, one row in ``METHODS`` (and a row in ``PARAMETERS`` for a new hyper-parameter); the optimizer,
the lab, the command line and the tests follow.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rwp_edu.methods import random_perturbation, sharpness_aware
from rwp_edu.methods.noise import KINDS, LAWS, Noise
from rwp_edu.methods.points import Conversation, Layout
from rwp_edu.utils.parameters import Parameter, unknown

PARAMETERS: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("sigma", "σ", 0.1, "scale of the random perturbation (standard deviation; times ‖filter‖ if filter-wise)",
                  slider=(0.0, 0.3), step=0.005, title="scale of the noise"),
        Parameter("rho", "ρ", 0.05, "radius of SAM's ascent step (Euclidean norm over all weights)",
                  slider=(0.0, 1.0), step=0.01, title="SAM's radius"),
        Parameter("lam", "λ", 0.5, "mixing coefficient: weight of the noisy gradient", high=1.0, title="mixing coefficient"),
        Parameter("k", "k", 1, "number of noise draws per update", low=1, high=64, slider=(1, 5), step=1, title="noise draws"),
        Parameter("kind", "", "published", "kind of perturbation; published: what the method's paper uses",
                  choices=("published", *KINDS), title="kind of perturbation"),
        Parameter("law", "", "gaussian", "law of the noise, mean 0 and variance 1", choices=tuple(LAWS), title="law of the noise"),
        Parameter("perturb", "", "all", "which parameters get noise: all (released code), or matrices: those with two or more dimensions",
                  choices=("all", "matrices"), title="perturbed parameters"),
        Parameter("eta", "η", 0.1, "ARWP: how strongly the history of gradients shrinks the noise", slider=(0.0, 5.0), step=0.1,
                  title="ARWP's adaptation"),
        Parameter("beta", "β", 0.99, "ARWP: decay of the history of squared gradients", high=1.0, title="ARWP's memory"),
        Parameter("exponent", "", 0.5, "ARWP: power of 1 + ηv that divides the noise: ½ in the released code, ¼ in the paper",
                  high=1.0, title="ARWP's exponent"),
        Parameter("granularity", "", "filter", "ARWP: the history per filter (released code) or per element (paper)",
                  choices=("filter", "element"), title="ARWP's granularity"),
        Parameter("lam_of", "", "noisy", "which gradient λ weighs", choices=("noisy", "clean"), title="λ weighs the gradient that is"),
        Parameter("signs", "", "two-point", "NSO: ask at w + u and w - u, or at w + u only", choices=("two-point", "one-point"),
                  title="NSO's points"),
        Parameter("clean", "", 0.0, "NSO: weight of an additional clean gradient", high=1.0, title="NSO's clean weight"),
        Parameter("floor", "η", 0.01, "ASAM: added to |w| in the scale of the ascent", slider=(0.0, 0.1), step=0.005, title="ASAM's floor"),
        Parameter("adapt", "", "matrices", "ASAM: which parameters scale the ascent (the others use T = 1)",
                  choices=("matrices", "all"), title="ASAM adapts"),
        Parameter("ema", "λ", 0.9, "F-SAM: decay of the moving average of gradients", high=1.0, title="F-SAM's memory"),
        Parameter("remove", "σ", 1.0, "F-SAM: how much of the moving average the ascent leaves out", slider=(0.0, 1.0),
                  title="F-SAM's removal"),
        Parameter("alpha", "α", 0.4, "GSAM: weight of the orthogonal part of the clean gradient", title="GSAM's weight"),
        Parameter("pull", "λ", 2.0, "R-SAM: weight of the gradient against the noise in the ascent", slider=(0.0, 10.0), step=0.1,
                  title="R-SAM's pull"),
        Parameter("examples", "N", 300, "bSAM: number of training examples", low=1, slider=(50, 500), step=50, title="bSAM's examples"),
        Parameter("prior", "", 40.0, "bSAM: precision of the prior; prior/N acts as weight decay", slider=(0.0, 50.0), step=0.5,
                  title="bSAM's prior"),
        Parameter("damping", "", 0.1, "bSAM: added to the precision s", title="bSAM's damping"),
        Parameter("beta1", "β₁", 0.9, "bSAM: momentum", high=0.9999, slider=(0.0, 0.99), title="bSAM's momentum"),
        Parameter("beta2", "β₂", 0.999, "bSAM: decay of the precision s", high=1.0, step=0.001, title="bSAM's memory"),
    )
}  # fmt: skip

NOISE_PARAMETERS = ("sigma", "kind", "law", "perturb")


@dataclass(frozen=True)
class Cost:
    """Per update: gradient calls (``points``), rounds of them, different batches, ``work`` in gradients of a whole batch, and
    ``slots``: different batches or parts of a batch, each with a closure of its own."""

    points: int
    rounds: int
    batches: int
    work: int
    slots: int

    def __str__(self) -> str:
        """The work, with ``∥`` where points of a round can be answered at once: ``2`` is two one after another, ``2∥`` two at once.

        >>> print(METHODS["sam"].cost(), METHODS["m-rwp"].cost())
        2 2∥
        """
        return f"{self.work}{'∥' if self.points > self.rounds else ''}"


@dataclass(frozen=True)
class Method:
    """A row of the table. ``kind`` is the perturbation its paper uses, if it uses noise.

    ``strength`` names the hyper-parameters that, all zero, leave the base optimizer; empty where none does. ``defaults`` are the
    published values where they differ from those of ``PARAMETERS``; ``pins`` are values a race gives this method instead of the
    common ones; ``optimizer`` names its class where that is not the label in capitals. ``copies`` of the weights is what a step of the
    optimizer needs beyond its base, history included: at its peak, and while a closure runs (``rwp_edu.benchmarks.memory`` measures them). ``begins`` is what
    histories begin with that do not begin with 0.
    """

    name: str
    label: str
    function: Callable[..., Conversation]
    source: str
    kind: str | None = None
    strength: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    pins: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = ""
    copies: tuple[int, int] | None = None
    begins: Mapping[str, float] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        """The name of its class in ``rwp_edu.optim``."""
        return self.optimizer or self.label.replace("-", "").upper()

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """What the function asks for beside ``w``."""
        return tuple(inspect.signature(self.function).parameters)[1:]

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the hyper-parameters that act on this method."""
        own = tuple(name for name in self.needs if name in PARAMETERS)
        return (*NOISE_PARAMETERS, *own) if "noise" in self.needs else own

    @cached_property
    def random(self) -> bool:
        """Whether it draws random numbers."""
        return "noise" in self.needs or "normal" in self.needs

    def default(self, name: str) -> Any:
        """Of a hyper-parameter; the published value, but for sigma: 0.1 is right for the small networks of this project, papers have 0.01 and less for large ones."""
        return self.defaults.get(name, PARAMETERS[name].default)

    @property
    def formula(self) -> str:
        return inspect.getdoc(self.function).split("\n")[0].split(": ")[0]

    @property
    def meaning(self) -> str:
        return inspect.getdoc(self.function).split("\n")[0].split(": ", 1)[1].rstrip(".")

    def start(self, w: Tensor, **given: Any) -> Conversation:
        """Begin a conversation at ``w`` with the things the function needs picked out of ``given``."""
        return self.function(w, **{name: given[name] for name in self.needs})

    def equip(
        self, layout: Layout, generators: list[torch.Generator], memory: dict[str, Any], hyper: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Everything a function may need: the hyper-parameters, and noise drawn from the generators as they say."""
        given = {**hyper, "layout": layout, "memory": memory}
        if "noise" in self.needs:
            kind = self.kind if hyper["kind"] == "published" else hyper["kind"]
            given["noise"] = Noise(layout, generators, hyper["sigma"], kind, hyper["law"], hyper["perturb"])
        if "normal" in self.needs:
            given["normal"] = Noise(layout, generators)
        return given

    def cost(self, **hyper: Any) -> Cost:
        """The cost of one update, counted by holding the conversation with zero gradients.

        >>> METHODS["nso"].cost(k=3)
        Cost(points=6, rounds=1, batches=1, work=6, slots=1)
        """
        return self._trial(hyper)[0]

    @property
    def history(self) -> int:
        """Vectors as long as the weights that a run remembers from step to step, counted likewise."""
        return self._trial({})[1]

    def _trial(self, hyper: Mapping[str, Any]) -> tuple[Cost, int]:
        memory: dict[str, Any] = {}
        zero = torch.zeros(1)
        given = {name: self.default(name) for name in PARAMETERS} | dict(hyper)
        talk = self.start(
            zero,
            **{"layout": Layout({"w": (1,)}), "memory": memory, "noise": torch.zeros_like, "normal": torch.zeros_like, **given},
        )
        points, rounds, batches, slots, work = 0, 0, set(), set(), Fraction(0)
        try:
            asked = list(next(talk))
            while True:
                points, rounds, batches = points + len(asked), rounds + 1, batches | {at.batch for at in asked}
                slots |= {(at.batch, at.part) for at in asked}
                work += sum(Fraction(1, at.of) for at in asked)
                asked = list(talk.send([zero] * len(asked)))
        except StopIteration:
            return Cost(points, rounds, len(batches), int(work), len(slots)), len(memory)

    def symbolic(self, what: str) -> str:
        """A field of the cost in symbols: ``1``, ``2`` or, where it depends on k, ``2k``.

        >>> METHODS["nso"].symbolic("points"), METHODS["lpf-sgd"].symbolic("points"), METHODS["lpf-sgd"].symbolic("work")
        ('2k', 'k', '1')
        """
        one, two = (getattr(self.cost(k=k), what) for k in (1, 2))
        return (
            str(one) if one == two else (f"{one}k" if one > 1 else "k") if two == 2 * one else f"{2 * one - two}+{two - one}k"
        )


BSAM_ALONE = {"momentum": 0.0, "weight_decay": 0.0, "rho": 0.01}

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method("sgd", "SGD", random_perturbation.sgd, "Robbins & Monro 1951", optimizer="Plain", copies=(2, 1)),
        Method("sam", "SAM", sharpness_aware.sam, "arXiv:2010.01412", strength=("rho",), copies=(2, 1)),
        Method("rwp", "RWP", random_perturbation.rwp, "arXiv:2201.08025, 2211.11489, 2404.00357", "filter-wise", ("sigma",), copies=(2, 1)),
        Method("m-rwp", "m-RWP", random_perturbation.m_rwp, "arXiv:2211.11489, 2404.00357", "filter-wise", ("sigma",), copies=(3, 2)),
        Method("nso", "NSO", random_perturbation.nso, "arXiv:2306.08553", "isotropic", ("sigma",), copies=(3, 2)),
        Method("arwp", "ARWP", random_perturbation.arwp, "arXiv:2404.00357", "filter-wise", ("sigma",), copies=(3, 2)),
        Method("m-arwp", "m-ARWP", random_perturbation.m_arwp, "arXiv:2404.00357", "filter-wise", ("sigma",), copies=(5, 3)),
        Method("a-rwp", "a-RWP", random_perturbation.a_rwp, "this project", "filter-wise", ("sigma",), optimizer="AntitheticRWP", copies=(3, 2)),
        Method("lpf-sgd", "LPF-SGD", random_perturbation.lpf_sgd, "arXiv:2201.08025", "filter-wise", ("sigma",), {"k": 8}, {"k": 5}, copies=(3, 2)),
        Method("usam", "USAM", sharpness_aware.usam, "arXiv:2206.06232", strength=("rho",), copies=(2, 1)),
        Method("asam", "ASAM", sharpness_aware.asam, "arXiv:2102.11600", strength=("rho",), defaults={"rho": 0.5}, pins={"rho": 1.0}, copies=(4, 1)),
        Method("fsam", "F-SAM", sharpness_aware.fsam, "arXiv:2403.12350", strength=("rho",), copies=(6, 3)),
        Method("gsam", "GSAM", sharpness_aware.gsam, "arXiv:2203.08065", strength=("rho",), pins={"rho": 0.2}, copies=(3, 2)),
        Method("rsam", "R-SAM", sharpness_aware.rsam, "Liu et al., NeurIPS 2022", "filter-wise", ("sigma", "rho"), {"sigma": 0.01}, {"sigma": 0.01}, copies=(4, 2)),
        Method("bsam", "bSAM", sharpness_aware.bsam, "arXiv:2210.01620", defaults={"rho": 0.01, "examples": 50_000}, pins=BSAM_ALONE, copies=(9, 4), begins={"s": 1.0}),
    )
}  # fmt: skip


def get(name: str) -> Method:
    """The row called ``name``, or an error that lists the table."""
    try:
        return METHODS[name]
    except (KeyError, TypeError):
        raise unknown("method", name, METHODS) from None
