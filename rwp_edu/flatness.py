"""How flat the weights of a run are, while it trains: all seeds of an entrant at once. The mean over 8 seeds is good to a few per cent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rwp_edu.handwritten import NetworkObjective
from rwp_edu.sharpness import average_rise
from rwp_edu.spectra import eigenvalues

DRAWS, PRODUCTS, SIGMA = 16, 12, 0.1


def objective_of(problem: Any, w: Tensor) -> NetworkObjective:
    """The training loss, with the given labels, at weights (S, P)."""
    return NetworkObjective(problem.network, w, problem.train_x, problem.train_y)


def of_networks(problem: Any, w: Tensor) -> dict[str, Tensor]:
    """At weights (S, P), of the training loss: ``trace`` (exactly) and ``top_eigenvalue`` of the Hessian and the ``rise`` E L(w + u) - L(w)
    for filter-wise noise with σ = 0.1, the noise of RWP, each (S,)."""
    objective = objective_of(problem, w)
    rises = average_rise(objective, sigma=SIGMA, kind="filter-wise", rtol=0, budget=DRAWS)
    return {
        "trace": sum(objective.traces().values()).to(w),
        "top_eigenvalue": w.new_tensor([float(pairs.values[0]) for pairs in eigenvalues(objective, budget=PRODUCTS, tol=1e-2)]),
        "rise": w.new_tensor([rise.value for rise in rises]),
    }


def of_fine_tuning(problem: Any, w: Tensor) -> dict[str, Tensor]:
    """Those of a network, and ``pac_bayes``, √(tr H |w - w0|² / n), zero where the trace is negative."""
    found = of_networks(problem, w)
    distance = problem.measure(w)["distance"]
    return found | {"pac_bayes": (found["trace"].clamp(min=0) / problem.train_y.shape[1]).sqrt() * distance}


LOOKS: dict[str, Callable[[Any, Tensor], dict[str, Tensor]]] = {"digits": of_networks, "fine-tuning": of_fine_tuning}
