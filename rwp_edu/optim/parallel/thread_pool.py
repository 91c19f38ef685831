"""The points of a round at once in one process: every further point on a copy of the model, in a thread of its own."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from rwp_edu.methods import METHODS
from rwp_edu.methods.points import At
from rwp_edu.optim.optimizer import READ_AT_ONCE, check_loss, flat_gradient, slot_of
from rwp_edu.optim.step_guard import Again, random_state


class Copy:
    """A copy of a model with the thread that evaluates it; on a GPU this has a stream of its own."""

    def __init__(self, model: nn.Module):
        self.source, self.model = model, _copied(model)
        self.latest: Future | None = None
        self.thread = ThreadPoolExecutor(1, "rwp_edu point")
        self.stream: torch.cuda.Stream | None = None

    def follow(self) -> dict[Tensor, Tensor]:
        """Be as the model is now, in all but the weights of a point; gives its parameters for those of the model."""
        if not _alike(self.source, self.model):
            self.model = _copied(self.source)
        for module, own in zip(self.source.modules(), self.model.modules()):
            own.training = module.training
        for p, own in zip(self.source.parameters(), self.model.parameters()):
            own.requires_grad_(p.requires_grad)
        if buffers := list(self.source.buffers()):
            torch._foreach_copy_(list(self.model.buffers()), buffers)
        return dict(zip(self.source.parameters(), self.model.parameters()))

    def ask(self, at: At, closure: Callable[[nn.Module], Any], plan: Any, name: str, threads: int) -> Future:
        """Begin to evaluate ``closure`` at a point; the result is the loss, the flat gradient, and which parameters have one."""
        if self.latest:
            wait([self.latest])  # it may still be at work if a step was interrupted
        own, wanted = self.follow(), set(plan.trained)
        if lost := sum(p not in own for p in plan.trained):
            raise ValueError(f"the optimizer trains {lost} parameters that are not in the model any more: make an optimizer for those it has now")
        trained = [own[p] for p in plan.trained]
        if rest := [(mine, p) for p, mine in own.items() if p not in wanted]:
            torch._foreach_copy_(*map(list, zip(*rest)))
        device = plan.w.device
        autocast = torch.autocast(
            device.type, torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type), torch.is_autocast_cache_enabled()
        )
        ready = None
        if device.type == "cuda":  # from here on: what the other point does meanwhile is not waited for
            ready = torch.cuda.current_stream(device).record_event()
            self.stream = self.stream or torch.cuda.Stream(device)

        def evaluate() -> tuple[Any, Tensor, set[int]]:
            torch.get_num_threads()  # a new thread takes the common number when it is first asked for, over what it was set to
            torch.set_num_threads(threads)
            seen: set[int] = set()
            with torch.no_grad(), autocast, torch.cuda.stream(self.stream):
                if ready:
                    self.stream.wait_event(ready)
                torch._foreach_copy_(trained, plan.views(at.w))
                for p in trained:
                    p.grad = None
                with torch.enable_grad():
                    loss = closure(self.model)
                return loss, flat_gradient(plan, trained, seen, name), seen

        self.latest = self.thread.submit(evaluate)
        return self.latest

    def hand_over(self, g: Tensor) -> Tensor:
        """For whoever goes on with it, on another stream."""
        if g.device.type == "cuda":
            torch.cuda.current_stream(g.device).wait_stream(self.stream)
            g.record_stream(torch.cuda.current_stream(g.device))
        return g


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise TypeError(
            f"{type(model).__name__} cannot be copied ({error}), so that its points cannot be evaluated at once: leave out rwp_edu.optim.parallel.threads"
        ) from error


def _alike(model: nn.Module, other: nn.Module) -> bool:
    """Have two modules tensors of the same kind in the same places?"""

    def kinds(module: nn.Module) -> list[tuple]:
        return [(name, t.shape, t.dtype, t.device) for name, t in (*module.named_parameters(), *module.named_buffers())]

    return kinds(model) == kinds(other)


class Together:
    """The threads that answer for one optimizer: this one and ``number`` - 1 others.

    The first step evaluates one point after another, to learn which modules its closures call and whether they draw random numbers.
    """

    def __init__(self, optimizer: Any, model: nn.Module, number: int):
        self.optimizer, self.model, self.number = optimizer, model, number
        cost = METHODS[optimizer.method].cost(k=optimizer.param_groups[0].get("k", 1))
        self.copies: list[Copy] = []
        self._need(min(number, cost.points // cost.rounds))
        self.draws = False
        self.evaluated = 0  # points, by the copies
        self._given: tuple[Callable, ...] = ()
        self._own: tuple[Callable, ...] = ()
        self._takes: set[Any] = set()

    def closures(self, given: tuple[Callable, ...]) -> tuple[Callable, ...]:
        """The closures for this thread, which evaluates the model itself."""
        for closure in given:
            if (code := getattr(closure, "__code__", type(closure))) not in self._takes:
                try:
                    inspect.signature(closure).bind(self.model)
                except TypeError:
                    raise TypeError(
                        "with rwp_edu.optim.parallel.threads a closure takes the model that it is to evaluate, which may be a copy: "
                        "def closure(model): loss = criterion(model(x), y); loss.backward(); return loss"
                    ) from None
                self._takes.add(code)
        self._given, self._own = given, tuple(partial(closure, self.model) for closure in given)
        return self._own

    def answer(
        self,
        points: list[At] | Iterator[At],
        gradients: Callable[[Iterator[At]], Iterator[Tensor]],
        losses: list[Tensor],
        seen: set[int],
        plan: Any,
    ) -> Iterable[Tensor]:
        """The gradients at all points of a round, in their order."""
        at_once = not self.draws and all(map(plan.watch.knows, self._own))
        asked, number = iter(points), self.number if at_once else 1

        def answers() -> Iterator[Tensor]:
            state, before = self._random(), len(losses)
            while some := list(islice(asked, number)):
                yield from self._at_once(some, gradients, losses, seen, plan) if len(some) > 1 else gradients(iter(some))
            if len(losses) > before + 1 and not torch.equal(self._random(), state):
                self._drew()
                if at_once:
                    raise Again  # nobody knows which point has got which numbers

        return list(answers()) if isinstance(points, list) else answers()

    def _at_once(
        self, points: list[At], gradients: Callable, losses: list[Tensor], seen: set[int], plan: Any
    ) -> list[Tensor]:
        name, threads = type(self.optimizer).__name__, torch.get_num_threads()
        share = max(1, threads // len(points))
        asked: list[Future] = []
        self._need(len(points))
        torch.set_num_threads(share)
        try:
            for at, of in zip(points[1:], self.copies):
                asked.append(of.ask(at, self._given[slot_of(at, self._given)], plan, name, share))
            found = list(gradients(iter(points[:1])))
        finally:
            try:
                wait(asked)
            finally:
                torch.set_num_threads(threads)
        for future, of in zip(asked, self.copies):
            loss, g, have = future.result()
            found.append(of.hand_over(g))
            check_loss(loss, name, plan.w.device.type in READ_AT_ONCE)
            if seen and not have:
                raise TypeError("a closure gave no gradient to the model that it was given: it has to evaluate that model, not one that it knows from elsewhere")
            losses.append(loss)
            seen |= have
        self.evaluated += len(asked)
        return found

    def _need(self, points: int) -> None:
        """Copies for so many points at once; the first point is for the model itself."""
        self.copies += [Copy(self.model) for _ in range(points - 1 - len(self.copies))]

    def _random(self) -> Tensor:
        return random_state(next(self.model.parameters()).device)

    def _drew(self) -> None:
        if not self.draws:
            warnings.warn(
                "the closures draw random numbers, as dropout does: their points are evaluated one after another, since at once they would "
                "not all see the same ones",
                stacklevel=2,
            )
        self.draws = True

    def settle(self) -> None:
        """Nothing is left to do at the end of a step."""
