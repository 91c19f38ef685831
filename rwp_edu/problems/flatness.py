"""How flat the weights of a run are, while it trains: all seeds of an entrant at once. The mean over 8 seeds is good to a few per cent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rwp_edu.curvature.lanczos import eigenvalues
from rwp_edu.curvature.objective import of_networks as objective_of_module
from rwp_edu.curvature.sharpness import average_rise
from rwp_edu.curvature.trace import trace as estimated
from rwp_edu.problems.objectives import NetworkObjective

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


def of_modules(problem: Any, w: Tensor) -> dict[str, Tensor]:
    """Those four of networks that do not batch, on their first 100 training examples; the trace is estimated (Hutchinson, 16 products)."""
    found: dict[str, list[float]] = {name: [] for name in ("trace", "top_eigenvalue", "rise", "pac_bayes")}
    for which, weights in enumerate(w):
        objective = objective_of_module(problem, weights, which)
        trace = estimated(objective, rtol=0, budget=DRAWS).value
        distance = float(torch.linalg.vector_norm(weights - problem.start(which)))
        found["trace"].append(trace)
        found["top_eigenvalue"].append(float(eigenvalues(objective, budget=PRODUCTS, tol=1e-2).values[0]))
        found["rise"].append(average_rise(objective, sigma=SIGMA, kind="filter-wise", rtol=0, budget=DRAWS).value)
        found["pac_bayes"].append((max(trace, 0.0) / problem.examples(which)) ** 0.5 * distance)
    return {name: w.new_tensor(values) for name, values in found.items()}


LOOKS: dict[str, Callable[[Any, Tensor], dict[str, Tensor]]] = {
    "digits": of_networks,
    "fine-tuning": of_fine_tuning,
    "images": of_modules,
}
