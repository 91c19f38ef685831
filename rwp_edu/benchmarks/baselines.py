"""Flatness as a plain loop measures it, and as this project does: pairs of functions for ``rwp_edu.benchmarks.rows``.

The plain loops keep the graph of the gradient and take one product with the Hessian after another, parameter by parameter, as
released tools do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rwp_edu.curvature import lanczos, loss_slices
from rwp_edu.curvature import trace as traces
from rwp_edu.curvature.objective import of_model
from rwp_edu.problems.digits import Digits
from rwp_edu.problems.objectives import NetworkObjective

Pair = tuple[Callable[[], object], Callable[[], object]]
Apply = Callable[[Sequence[Tensor]], Sequence[Tensor]]
CRITERION = torch.nn.CrossEntropyLoss()


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return sum((x * y).sum() for x, y in zip(a, b))


def _unit(v: Sequence[Tensor]) -> list[Tensor]:
    length = _dot(v, v).sqrt()
    return [x / length for x in v]


class Plain:
    """A module on one batch; its gradient keeps its graph."""

    def __init__(self, model: torch.nn.Module, x: Tensor, y: Tensor):
        self.parameters = list(model.parameters())
        self.gradient = torch.autograd.grad(CRITERION(model(x), y), self.parameters, create_graph=True)

    def product(self, v: Sequence[Tensor]) -> Sequence[Tensor]:
        return torch.autograd.grad(self.gradient, self.parameters, v, retain_graph=True)

    def signs(self) -> list[Tensor]:
        return [torch.randint_like(p, 2).mul_(2).sub_(1) for p in self.parameters]

    def trace(self, draws: int) -> float:
        return float(np.mean([_dot(z, self.product(z)).item() for z in (self.signs() for _ in range(draws))]))

    def top(self, tol: float, most: int = 1000) -> float:
        """Power iteration until the value changes by less than ``tol`` of it."""
        v, value = _unit([torch.randn_like(p) for p in self.parameters]), 0.0
        for _ in range(most):
            hv = self.product(v)
            before, value = value, _dot(v, hv).item()
            if abs(value - before) < tol * abs(value):
                break
            v = _unit(hv)
        return value

    def density(self, steps: int, probes: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Lanczos quadrature with full orthogonalisation, once."""
        found = []
        for _ in range(probes):
            basis, alpha, beta = [_unit(self.signs())], [], []
            for _ in range(steps):
                r = list(self.product(basis[-1]))
                alpha.append(_dot(r, basis[-1]).item())
                for q in basis:
                    along = _dot(r, q)
                    r = [x - along * y for x, y in zip(r, q)]
                beta.append(_dot(r, r).sqrt().item())
                basis.append(_unit(r))
            values, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1))
            found.append((values, vectors[0] ** 2))
        return found


class TrainedDigits:
    """The network of the digits after a short training, and its objective on the first ``images`` of its training images."""

    def __init__(self, images: int = 300, steps: int = 300):
        problem = Digits([0])
        w = problem.init()
        for _ in range(steps):
            w = w - 0.1 * problem.network.gradient(w, problem.train_x, problem.train_y)
        self.w, self.net = w[0], problem.network
        self.x, self.y = problem.train_x[0, :images], problem.train_y[0, :images]
        self.model = self.net.module(self.w)

    def plain(self) -> Plain:
        return Plain(self.model, self.x, self.y)

    def ours(self) -> NetworkObjective:
        return NetworkObjective(self.net, self.w, self.x, self.y)


def trace(draws: int = 100) -> Pair:
    digits = TrainedDigits()
    return (lambda: digits.plain().trace(draws)), (lambda: traces.trace(digits.ours(), rtol=0, budget=draws))


def top() -> Pair:
    """Both are then 2e-4 off or less."""
    digits = TrainedDigits()
    return (lambda: digits.plain().top(1e-4)), (lambda: lanczos.eigenvalues(digits.ours(), tol=0.01))


def density(steps: int = 50, probes: int = 4) -> Pair:
    digits = TrainedDigits()
    return (lambda: digits.plain().density(steps, probes)), (lambda: lanczos.density(digits.ours(), steps, probes))


def convolutions(model: torch.nn.Module, x: Tensor, draws: int = 16) -> Pair:
    y = torch.randint(10, x.shape[:1], generator=torch.Generator().manual_seed(0))
    return (
        lambda: Plain(model, x, y).trace(draws),
        lambda: traces.trace(of_model(model, CRITERION, [(x, y)]), rtol=0, budget=draws),
    )


def plane(points: int = 41, images: int = 64) -> Pair:
    digits = TrainedDigits(images)
    axes, grid = loss_slices.random_directions(digits.ours()), np.linspace(-1, 1, points)
    model, flat = digits.net.module(digits.w), digits.w.clone()
    for parameter, view in zip(model.parameters(), digits.net.layout.split(flat)):
        parameter.data = view

    def passes() -> np.ndarray:
        found = []
        with torch.no_grad():
            for b in grid.tolist():
                for a in grid.tolist():
                    torch.add(digits.w, axes[0], alpha=a, out=flat).add_(axes[1], alpha=b)
                    found.append(CRITERION(model(digits.x), digits.y).item())
        return np.array(found).reshape(points, points)

    def ours() -> np.ndarray:
        objective = digits.ours()
        return loss_slices.evaluate(objective, loss_slices.plane_along(objective, axes), grid, grid).values

    return passes, ours


def many_runs(runs: int = 40, products: int = 8) -> Pair:
    """The exact trace and the top eigenvalue of runs, one by one and at once."""
    problem = Digits(range(runs))
    w = problem.init()
    for _ in range(100):
        w = w - 0.1 * problem.network.gradient(w, problem.train_x, problem.train_y)

    def flatness(some: slice) -> None:
        objective = NetworkObjective(problem.network, w[some], problem.train_x[some], problem.train_y[some])
        objective.traces()
        lanczos.eigenvalues(objective, tol=0, budget=products)

    return (lambda: [flatness(slice(r, r + 1)) for r in range(runs)]), (lambda: flatness(slice(runs)))
