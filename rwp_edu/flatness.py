"""How flat the weights of a run are, while it trains: all seeds of an entrant at once. The mean over 8 seeds is good to a few per cent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rwp_edu.handwritten import NetworkObjective
from rwp_edu.objective import Objective
from rwp_edu.sharpness import average_rise
from rwp_edu.spectra import eigenvalues
from rwp_edu.traces import trace

DRAWS, PRODUCTS, SIGMA = 16, 12, 0.1


def objective_of(problem: Any, w: Tensor) -> Objective:
    """The training loss of the digits, with their given labels, at weights (S, P)."""
    return NetworkObjective(problem.network, w, problem.train_x, problem.train_y)


def of_digits(problem: Any, w: Tensor) -> dict[str, Tensor]:
    """At weights (S, P), of the training loss: ``trace`` and ``top_eigenvalue`` of the Hessian and the ``rise`` E L(w + u) - L(w) for
    filter-wise noise with σ = 0.1, the noise of RWP, each (S,)."""
    objective = objective_of(problem, w)
    return {
        "trace": _plain(objective, trace, rtol=0, budget=DRAWS),
        "top_eigenvalue": w.new_tensor([float(pairs.values[0]) for pairs in eigenvalues(objective, budget=PRODUCTS, tol=1e-2)]),
        "rise": _plain(objective, average_rise, sigma=SIGMA, kind="filter-wise", rtol=0, budget=DRAWS),
    }


def _plain(objective: Objective, measure: Callable[..., Any], **options: Any) -> Tensor:
    return objective.w.new_tensor([float(found.value) for found in measure(objective, **options)])


LOOKS: dict[str, Callable[[Any, Tensor], dict[str, Tensor]]] = {"digits": of_digits}
