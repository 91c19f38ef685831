"""The whole state of the race screen: the settings of the race plus how it is looked at. And the presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rwp_edu.plotting.figures import X_AXES
from rwp_edu.problems import PROBLEMS, get
from rwp_edu.training.settings import DEFAULT, Settings, parameters
from rwp_edu.utils.parameters import Parameter, sentence, unknown, written

FLATNESS = {metric.name: metric.title for row in PROBLEMS.values() for metric in row.flatness}
EVERY = 20  # updates between measurements of flatness, where a picture asks for them
VIEW: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("x", "", "updates", "horizontal axis", choices=tuple(X_AXES)),
        Parameter(
            "third", "", "", "what the third picture shows instead of its own: a measure of flatness", choices=("", *FLATNESS)
        ),
        Parameter("smoothing", "", 0.0, "moving average over the records; 0 is off", high=0.95, slider=(0.0, 0.95), step=0.05),
        Parameter(
            "pace", "", 20, "updates per second while it runs live; 0 is as fast as it goes", high=10_000, slider=(0, 200)
        ),
    )
}


class RaceState(Settings):
    """``show`` names the controls on the screen; empty means all. A lesson may show a single slider.

    >>> RaceState(x="weeks")
    Traceback (most recent call last):
        ...
    ValueError: x must be one of updates, gradients, seconds, loss, got 'weeks'
    """

    MORE = VIEW
    show: tuple[str, ...]

    def __init__(self, problem: str = DEFAULT, show: Any = (), **values: Any):
        super().__init__(problem, **values)
        names = show.split(",") if isinstance(show, str) else show
        for name in names:
            if name not in parameters(problem):
                raise unknown("control", name, parameters(problem))
        vars(self)["show"] = tuple(names)
        if self.third and not self.flatness_every:
            vars(self)["flatness_every"] = EVERY

    def replace(self, **changes: Any) -> RaceState:
        """Flatness that was measured for a picture alone is measured no longer when the picture goes."""
        if self.third and changes.get("third") == "" and self.flatness_every == EVERY:
            changes = {"flatness_every": 0} | changes
        return super().replace(**changes)

    @property
    def settings(self) -> Settings:
        """The part that a run depends on."""
        return Settings(**{name: value for name, value in vars(self).items() if name not in (*VIEW, "show")})

    def snippet(self) -> str:
        """One line of Python that opens the lab in this state.

        >>> RaceState(sigma=0.2, methods="sgd,rwp").snippet()
        "rwp_edu.lab.race(methods='sgd,rwp', sigma=0.2)"
        """
        return f"rwp_edu.lab.race({written(self.changed())})"


@dataclass(frozen=True)
class Preset:
    """``changes`` from the defaults of a problem, or of another one of the same family; ``twice`` as many updates, where it says so."""

    title: str
    question: str
    changes: dict[str, Any]
    twice: bool = False

    @property
    def heading(self) -> str:
        """The title as a sentence before the question."""
        return sentence(self.title)

    @property
    def problem(self) -> str:
        return self.changes.get("problem", DEFAULT)

    def suits(self, problem: str) -> bool:
        return get(problem).family == self.problem and {*self.changes} - {"problem", "methods", *VIEW} <= {*parameters(problem)}

    def state(self, problem: str) -> dict[str, Any]:
        """The changes of a state that is at ``problem`` now."""
        problem = problem if self.suits(problem) else self.problem
        more = {"steps": 2 * parameters(problem)["steps"].default} if self.twice else {}
        return self.changes | {"problem": problem} | more


PRESETS: dict[str, Preset] = {
    "noisy-labels": Preset(
        "Noisy labels", "Three labels in ten are random. Who learns the digits, and who learns the mistakes?", {}
    ),
    "too-much-noise": Preset(
        "Too much noise",
        "σ is twice as large as RWP can bear. What does mixing in a clean gradient change?",
        {"methods": "sgd,rwp,m-rwp,m-rwp:lam=0.3", "sigma": 0.2},
    ),
    "equal-cost": Preset(
        "Equal cost",
        "Set the axis to gradient evaluations: who leads when every gradient counts?",
        {"x": "gradients"},
    ),
    "controls": Preset(
        "Is it the noise?",
        "m-RWP sees two batches per update. With σ = 0 only the second batch is left: does it explain the gain?",
        {"methods": "sgd,m-rwp:sigma=0,m-rwp:sigma=0.15,rwp"},
    ),
    "weight-decay": Preset(
        "Just weight decay?",
        "A well-chosen weight decay is a strong rival on noisy labels. How much is left of the gain?",
        {"methods": "sgd,sgd:weight_decay=0.04,rwp,sam"},
    ),
    "clean-labels": Preset(
        "Clean labels",
        "100 images, every label right. Does it still pay to look for flat minima?",
        {"train": 100, "label_noise": 0.0, "weight_decay": 0.0005, "lr": 0.05, "sigma": 0.05, "rho": 0.1, "batch": 20},
    ),
    "few-clean-labels": Preset(
        "Clean labels",
        "Ten images of every new digit, every label right. What is there to gain, and does a smaller trace mean a better network?",
        {"problem": "fine-tuning", "shots": 10, "label_noise": 0.0, "weight_decay": 0.005, "sigma": 0.05, "rho": 0.2, "third": "trace"},
    ),
    "fine-tuning-weight-decay": Preset(
        "Just weight decay?",
        "With three times the weight decay SGD learns fewer of the wrong labels. How much is left of the gain?",
        {"problem": "fine-tuning", "methods": "sgd,sgd:weight_decay=0.1,sam,rwp,nso"},
    ),
    "pictures-controls": Preset(
        "Is it the noise?",
        "m-RWP sees two batches per update. With σ = 0 only the second batch is left: does it explain the gain?",
        {"problem": "images", "methods": "sgd,m-rwp:sigma=0,m-rwp,rwp"},
    ),
    "pictures-twice": Preset(
        "Twice the updates",
        "SGD with the gradients that SAM and m-RWP cost. Look at the faint lines of the run before: who leads at equal cost?",
        {"problem": "images", "methods": "sgd", "x": "gradients"},
        twice=True,
    ),
    "pictures-batch-norm": Preset(
        "BatchNorm",
        "Running statistics are gathered at the perturbed weights. Measured as they are, without recalibration, whose accuracy suffers?",
        {"problem": "images", "norm": "batch", "recalibrate": "off"},
    ),
    "too-few-measurements": Preset(
        "Zero loss, useless",
        "180 measurements instead of 300: gradient descent fits every one of them. How far from the truth does it end?",
        {"problem": "sensing", "n": 180, "sigma": 0.12},
    ),
    "sensing-weight-decay": Preset(
        "Just weight decay?",
        "On average over the measurements, noise with σ = 0.1 is a weight decay of σ² (2d + 1) = 0.61. Is the noise itself any good?",
        {"problem": "sensing", "methods": "sgd,sgd:weight_decay=0.61,rwp,nso"},
    ),
    "switch-off": Preset(
        "Switch the noise off",
        "Twice the noise, and none at all for the last fifth of the run. What happens at the switch?",
        {"problem": "sensing", "methods": "sgd,rwp,nso,nso:scale=constant", "sigma": 0.2, "scale": "switch-off"},
    ),
    "small-start": Preset(
        "Start small",
        "From a start near zero gradient descent finds the low rank by itself. What is left for the noise to do?",
        {"problem": "sensing", "methods": "sgd,rwp,nso", "init": 0.01},
    ),
    "noisy-measurements": Preset(
        "Noisy measurements",
        "Every measurement is off by about 30 %. Who still comes near the truth, and is the second gradient of NSO worth it?",
        {"problem": "sensing", "noise": 0.3},
    ),
    "more-draws": Preset(
        "More draws",
        "NSO with four pairs per update instead of one costs four times as much. What does it buy?",
        {"problem": "sensing", "methods": "rwp,nso,nso:k=4"},
    ),
}
