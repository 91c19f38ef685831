"""The optimizer engine, one network after another: any torch module, stepped by ``rwp_edu.optim`` as in a loop of one's own.

Convolutions do not gain from batching over runs on a CPU, and running statistics, dropout and mixed precision are not functions of flat
weights. So every run of a race has its own module and its own optimizer here, on the same batches, noise and dropout masks as those of
the same seed that train by other methods.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rwp_edu.methods import METHODS, Cost
from rwp_edu.methods.noise import generator
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.training.batched import Group
from rwp_edu.utils import clock
from rwp_edu.utils.cpu import cores
from rwp_edu.utils.pytree import cut


class Runner:
    """One network that is trained by one method: seed number ``which`` of a problem (``rwp_edu.problems.module_problem``)."""

    def __init__(self, problem: Any, which: int, method: str):
        self.problem, self.which, self.row = problem, which, METHODS[method]
        self.seed, self.device = problem.seeds[which], problem.device
        self.model = problem.module(which)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        base = problem.base(self.parameters)
        base.register_step_pre_hook(self._clip)
        self.optimizer = OPTIMIZERS[method](base, seed=self.seed)
        self.updates, self.alive, self.displacement = 0, True, float("nan")
        self.cut = lambda x, y: (x, y)
        self.farthest: list[float] = []
        if problem.workers > 1:
            from rwp_edu.optim import parallel

            parallel.threads(self.optimizer, self.model, problem.workers)
        self.average: list[Tensor] | None = None
        self.averaged = 0
        self.found: tuple[tuple[int, int], dict[str, float]] | None = None
        self.clean: list[Tensor] | None = None
        start = generator(self.seed, "dropout").initial_seed()
        with self._forked():
            torch.default_generator.manual_seed(start)
            if self.device.type == "cuda":
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(start)
            self.random = self._random()

    def _forked(self) -> Any:
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    def _random(self) -> list[Tensor]:
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [])]

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        """Dropout draws from the run's own state; the global one is as before afterwards."""
        with self._forked():
            torch.set_rng_state(self.random[0])
            for state in self.random[1:]:
                torch.cuda.set_rng_state(state, self.device)
            yield
            self.random = self._random()

    def settle(self, hyper: Mapping[str, Any], lr: float) -> None:
        """Hand the values of this update to the optimizer; a base without momentum has none."""
        values = {"lr": lr} | {name: hyper[name] for name in ("momentum", "weight_decay", *self.row.parameters)}
        for group in self.optimizer.param_groups:
            group.update({name: value for name, value in values.items() if name in group})

    def _clip(self, *_: Any) -> None:
        if self.problem.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.problem.clip)

    def _closures(self, cost: Cost) -> list[Any]:
        """A closure for each batch, or part of a batch, that the method asks for."""
        if cost.slots == cost.batches:
            return [partial(self._loss, *self.problem.batch(self.which, number)) for number in range(cost.slots)]
        x, y = self.problem.batch(self.which)
        if cost.slots > len(y):
            raise ValueError(f"a batch of {len(y)} cannot be cut into {cost.slots} parts: choose batch >= k (a DataLoader: drop_last=True, too)")
        cuts = [len(y) * part // cost.slots for part in range(cost.slots + 1)]
        return [partial(self._loss, cut(x, a, b), y[a:b]) for a, b in zip(cuts, cuts[1:])]

    def _loss(self, x: Tensor, y: Tensor, model: torch.nn.Module | None = None) -> Tensor:
        """Of the run's own network, or of a copy of it."""
        model = self.model if model is None else model
        x, y = self.cut(x, y)
        with self.problem.precision():
            loss = self.problem.loss(model(x), y)
        loss.backward()
        if self.clean is not None:
            now = [p.detach() for p in model.parameters() if p.requires_grad]
            self.farthest.append(float(torch.stack(torch._foreach_norm(torch._foreach_sub(now, self.clean))).norm()))
        return loss

    def step(self, hyper: Mapping[str, Any], cost: Cost, lr: float, averages: bool, measure: bool) -> None:
        """One update; a loss or gradient that is not finite ends the run with the weights it had."""
        self.settle(hyper, lr)
        self.model.train()
        self.clean = None
        if measure:
            self.clean, self.farthest = [p.detach().clone() for p in self.parameters], []
        with self._own_random():
            try:
                self.optimizer.step(*self._closures(cost))
            except FloatingPointError:
                self.alive = False
        if self.clean is not None:
            self.displacement = max(self.farthest, default=0.0) / float(torch.stack(torch._foreach_norm(self.clean)).norm())
        self.updates += 1
        if averages:
            self._average()

    def _average(self) -> None:
        """The mean of the weights after every update since averaging began."""
        now, self.averaged = [p.detach() for p in self.parameters], self.averaged + 1
        if self.average is None:
            self.average = [p.clone() for p in now]
        else:
            torch._foreach_lerp_(self.average, now, 1 / self.averaged)

    @contextmanager
    def measured(self) -> Iterator[torch.nn.Module]:
        """The network as it is measured: with the average of its weights where there is one."""
        if self.average is None:
            yield self.model
            return
        with torch.no_grad():
            kept = [p.detach().clone() for p in self.parameters]
            torch._foreach_copy_(self.parameters, self.average)
            try:
                yield self.model
            finally:
                torch._foreach_copy_(self.parameters, kept)

    @contextmanager
    def as_measured(self) -> Iterator[torch.nn.Module]:
        """That network with the BatchNorm statistics it is measured with, for whoever wants to keep it."""
        with self.measured() as model, torch.no_grad(), self.problem.recalibrated(model, self.problem.held(self.which)["train"]):
            yield model

    def look(self) -> dict[str, float]:
        """The metrics of the network as it is; the same weights are not measured twice."""
        at = self.updates, self.averaged
        if self.found is None or self.found[0] != at:
            with self.measured() as model:
                self.found = at, self.problem.measure(model, self.which)
        return self.found[1]

    def validate(self) -> dict[str, float]:
        """The metrics on what is held back."""
        with self.measured() as model:
            return self.problem.validate(model, self.which)

    def state(self) -> dict[str, Any]:
        return {
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "random": self.random,
            "updates": self.updates,
            "alive": self.alive,
            "average": self.average,
            "averaged": self.averaged,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.random, self.updates, self.alive = state["random"], state["updates"], state["alive"]
        self.average = state["average"] and [v.to(self.device) for v in state["average"]]
        self.averaged, self.found = state["averaged"], None


class OneByOne:
    """The engine of a race whose networks are trained one after another; what it offers is said in ``rwp_edu.training.batched.Batched``."""

    title = "one network after another"

    def __init__(self, problem: Any, groups: Sequence[Group]):
        self.threads = problem.threads or max(1, cores() - 1)
        self.problem, self.groups, self.seeds = problem, groups, len(problem.seeds)
        self.runners = [[Runner(problem, which, group.method) for which in range(self.seeds)] for group in groups]

    @property
    def _all(self) -> list[Runner]:
        return [runner for own in self.runners for runner in own]

    def share(self, shards: int = 1) -> None:
        """Share out the points of every round over the ranks of ``rwp_edu.optim.parallel.workers()``, ``shards`` ranks to a point; on all ranks alike."""
        from rwp_edu.optim import parallel

        self.threads = self.problem.threads or max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        for runner in self._all:
            parallel.points(runner.optimizer, runner.model, shards=shards)
            runner.cut = partial(parallel.shard, runner.optimizer)

    @property
    def alive(self) -> Tensor:
        return torch.tensor([runner.alive for runner in self._all])

    def settle(self) -> None:
        """What an update costs; the rest is handed to the optimizers at their next update, so that all take it at the same one."""
        self.costs = [METHODS[group.method].cost(k=group.hyper["k"]) for group in self.groups]

    def update(self, alive: Sequence[int], lr_factor: float, progress: float, measure: bool) -> Iterator[None]:
        done = min((runner.updates for e in alive for runner in self.runners[e] if runner.alive), default=0)
        settled = [(self.groups[e], self.groups[e].hyper, self.costs[e]) for e in alive]
        for e, (group, hyper, cost) in zip(alive, settled):
            todo = [runner for runner in self.runners[e] if runner.alive and runner.updates == done]
            for runner in todo:
                began = clock.now()
                runner.step(hyper, cost, hyper["lr"] * lr_factor, hyper["swa"] < 1 and progress >= hyper["swa"], measure)
                group.seconds += clock.now() - began
                yield
            group.work += cost.work if todo else 0
            if measure:
                group.displacement = torch.tensor([runner.displacement for runner in self.runners[e]])

    def weights(self) -> Tensor:
        """The weights (E, S, P) that are measured."""
        rows = []
        for runner in self._all:
            with runner.measured():
                rows.append(torch.cat([p.detach().flatten() for p in runner.parameters]))
        return torch.stack(rows).view(len(self.groups), self.seeds, -1)

    def look(self) -> Iterator[None]:
        for runner in self._all:
            runner.look()
            yield

    def measure(self) -> list[dict[str, Tensor]]:
        return self._gathered(Runner.look)

    def validate(self) -> list[dict[str, Tensor]]:
        return self._gathered(Runner.validate)

    def _gathered(self, of: Callable[[Runner], dict[str, float]]) -> list[dict[str, Tensor]]:
        found = [[of(runner) for runner in own] for own in self.runners]
        return [{name: torch.tensor([f[name] for f in own], dtype=torch.float64) for name in own[0]} for own in found]

    def state(self) -> list[list[dict[str, Any]]]:
        return [[runner.state() for runner in own] for own in self.runners]

    def restore(self, state: list[list[dict[str, Any]]]) -> None:
        for own, kept in zip(self.runners, state, strict=True):
            for runner, known in zip(own, kept, strict=True):
                runner.restore(known)
