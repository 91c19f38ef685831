"""Every method as a ``torch.optim.Optimizer`` for your own training loop.

It wraps an *instance* of any torch optimizer and is stepped with a closure that returns the loss after ``backward``:

    optimizer = RWP(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), sigma=0.01)

    def closure():
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)

The method asks for gradients at points near the weights; each point is copied into the parameters, the closure is called,
the gradients are read, and the weights are copied back bit for bit, also when anything fails. The combined gradient goes
to the wrapped optimizer, so learning rate, momentum, weight decay and schedulers work as ever. ``m-rwp`` takes two
batches: ``optimizer.step(closure, other_closure)``; with one closure both of its points use the same batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer

from rwp_edu import methods
from rwp_edu.noise import generator
from rwp_edu.parameters import unknown
from rwp_edu.points import At, Layout, drive


class PerturbedOptimizer(Optimizer):
    """What all methods share; ``SAM``, ``RWP``, ``MRWP``, ``NSO`` differ only in their row of the table of methods.

    Args:
        base: an instance of any torch optimizer that steps without a closure; it is used, not copied.
        seed: of the noise; the global random state is never drawn from.
        **hyper: the method's own hyper-parameters. A parameter group of ``base`` may carry its own sigma, rho or lam.

    A step with a loss or gradient that is not finite raises ``FloatingPointError``; then, as after any exception in a
    closure, weights, module buffers, gradients and random states are as before the step. Dropout sees the same mask at
    every point of a step, and buffers such as BatchNorm statistics are updated by the first evaluation only.
    """

    method: str

    def __init__(self, base: Optimizer, *, seed: int = 0, **hyper: Any):
        name = type(self).__name__
        if not isinstance(base, Optimizer):
            raise TypeError(
                f"{name} wraps an instance of a torch optimizer, as in {name}(torch.optim.SGD(model.parameters(), lr=0.1)); "
                f"got {type(base).__name__}"
            )
        if isinstance(base, (PerturbedOptimizer, torch.optim.LBFGS)):
            raise TypeError(f"{name} cannot wrap {type(base).__name__}: it needs an optimizer that steps without a closure")
        row = methods.get(self.method)
        for key in hyper:
            if key not in row.parameters:
                raise unknown(f"parameter of {name}", key, (*row.parameters, "seed"))
        self.base, self.seed, self.memory = base, int(seed), {}
        self._generator: torch.Generator | None = None
        self._sizes: tuple[int, ...] = ()
        own = {key: hyper.get(key, row.default(key)) for key in row.parameters}
        self.defaults = {**base.defaults, **own}
        for group, keys in getattr(base, "_filled_by_rwp_edu", ()):  # wrapped before: forget that wrapper's defaults
            for key in keys:
                group.pop(key, None)
        filled = [(group, [key for key in own if key not in group]) for group in base.param_groups]
        for group in base.param_groups:
            self._own(group)
        super().__init__(base.param_groups, self.defaults)
        base._filled_by_rwp_edu = filled

    param_groups = property(lambda self: self.base.param_groups, lambda self, _: None)
    state = property(lambda self: self.base.state, lambda self, _: None)

    def __repr__(self) -> str:
        return f"{type(self).__name__} around {self.base!r}"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        param_group.update(self._own(param_group))
        if not any(param_group is group for group in self.base.param_groups):
            self.base.add_param_group(param_group)

    def _own(self, group: dict[str, Any]) -> dict[str, Any]:
        """The method's hyper-parameters in a parameter group, or an error that names what is allowed."""
        return {
            key: methods.PARAMETERS[key].parse(group.get(key, self.defaults[key]))
            for key in methods.get(self.method).parameters
        }

    def _hyper(self, w: Tensor) -> dict[str, Any]:
        """Scalars, or flat ``(P,)`` tensors for values that differ between parameter groups."""
        counts = [sum(p.numel() for p in group["params"] if p.requires_grad) for group in self.param_groups]
        own = [self._own(group) for group in self.param_groups]
        dtype = torch.promote_types(w.dtype, torch.float32)
        hyper = {}
        for key in own[0]:
            values = [group[key] for group in own]
            if all(value == values[0] for value in values):
                hyper[key] = values[0]
            elif isinstance(values[0], float):
                hyper[key] = torch.cat([torch.full((n,), v, dtype=dtype, device=w.device) for n, v in zip(counts, values)])
            else:
                raise ValueError(f"{key} must be the same in all parameter groups, got {values}")
        return hyper

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None, *others: Callable[[], Tensor]) -> Tensor:
        """One update; returns the loss of the first evaluation.

        Each closure computes the loss of its batch, calls ``backward`` and returns the loss; gradients are cleared before every
        call. A method that asks for several batches (m-RWP) or for parts of one (LPF-SGD) takes one closure for each; with a
        single closure all its points use the same data.
        """
        row, name = methods.get(self.method), type(self).__name__
        closures = (closure, *others)
        if not all(callable(c) for c in closures):
            raise TypeError(
                f"{name}.step needs a closure that computes the loss, calls backward() and returns the loss: it is called at "
                "every point the method asks for. (torch.amp.GradScaler cannot pass one: use bfloat16 autocast, without a scaler.)"
            )
        everything = [p for group in self.param_groups for p in group["params"]]
        parameters = [p for p in everything if p.requires_grad]
        if not parameters:
            raise ValueError(f"{name} has no parameter that requires a gradient")
        layout = Layout({str(i): p.shape for i, p in enumerate(parameters)})
        w = layout.flatten([p.detach() for p in parameters])
        hyper = self._hyper(w)
        sizes = tuple(p.numel() if p.requires_grad else 0 for p in everything)
        if sizes != self._sizes:  # other parameters are trained now: a history of the former ones says nothing about them
            self.memory, self._sizes = {}, sizes
        if self._generator is None or self._generator.device != w.device:
            self._generator = generator(self.seed, "noise", device=w.device)
        slots = row.cost(**{key: hyper[key] for key in ("k",) if key in hyper}).slots
        if len(closures) not in (1, slots):
            several = f"one closure, or {slots}: one for each of its batches or parts of a batch"
            raise TypeError(f"{name}.step takes {several if slots > 1 else 'one closure'}; got {len(closures)} closures")
        losses: list[Tensor] = []
        seen: set[int] = set()

        def answer(points: list[At]) -> list[Tensor]:
            gradients = []
            for at in points:
                if at.w is not w or losses:
                    torch._foreach_copy_(parameters, layout.split(at.w))
                for p in everything:
                    p.grad = None
                with torch.enable_grad(), guard.evaluation():
                    loss = closures[at.batch * at.of + at.part if len(closures) > 1 else 0]()
                losses.append(_checked_loss(loss, name))
                seen.update(i for i, p in enumerate(parameters) if p.grad is not None)
                gradients.append(_flat_gradient(parameters, layout, w, name))
            return gradients

        with _Guard(self, parameters, layout, w, everything) as guard:
            g = drive(row.start(w, **row.equip(layout, [self._generator], self.memory, hyper)), answer)
            if not torch.isfinite(g).all():
                raise FloatingPointError(f"the combined gradient of {name} is not finite; the weights are as before this step")
            guard.restore()
            for i, (p, piece) in enumerate(zip(parameters, layout.split(g))):
                p.grad = piece.to(p.dtype) if i in seen else None
            self.base.step()
        return losses[0]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state dict plus the method's own: noise generator, memory, seed."""
        own = {
            "method": self.method,
            "seed": self.seed,
            "memory": dict(self.memory),
            "sizes": list(self._sizes),
            "device": str(self._generator.device) if self._generator else None,
            "generator": self._generator.get_state() if self._generator else None,
        }
        return {**self.base.state_dict(), "rwp_edu": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the saved optimizer was; a state of another method is an error."""
        own = state_dict.get("rwp_edu")
        if own is None or own["method"] != self.method:
            found = f"method {own['method']!r}" if own else "an optimizer that is not of rwp_edu"
            raise ValueError(f"this state belongs to {found}, not to method {self.method!r}")
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != "rwp_edu"})
        self.seed, self.memory, self._sizes = own["seed"], dict(own["memory"]), tuple(own["sizes"])
        self._generator = None
        if own["generator"] is not None:
            self._generator = torch.Generator(own["device"]).set_state(own["generator"].cpu())

    def __getstate__(self) -> dict[str, Any]:
        generator_state = self._generator and (str(self._generator.device), self._generator.get_state())
        kept = {key: self.__dict__[key] for key in ("base", "seed", "memory", "defaults", "_sizes")}
        return {**kept, "_generator": generator_state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if saved := state["_generator"]:
            self._generator = torch.Generator(saved[0]).set_state(saved[1])
        super().__setstate__({})


def _checked_loss(loss: Any, name: str) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise TypeError(f"the closure given to {name}.step must return the loss, a tensor with one element; got {loss!r}")
    if not torch.isfinite(loss.detach()):
        raise FloatingPointError(
            f"the loss is {loss.item()} at a point that {name} asked for; the weights are as before this step"
        )
    return loss


def _flat_gradient(parameters: list[Tensor], layout: Layout, like: Tensor, name: str) -> Tensor:
    flat = torch.zeros_like(like)
    for p, slot in zip(parameters, layout.split(flat)):
        if p.grad is not None:
            if p.grad.is_sparse:
                raise TypeError(f"{name} needs dense gradients; build the embedding with sparse=False")
            slot.copy_(p.grad)
    return flat


class _Guard:
    """Puts the weights back bit for bit at the end of a step; after a failure also buffers, gradients and random states."""

    def __init__(
        self, optimizer: PerturbedOptimizer, parameters: list[Tensor], layout: Layout, w: Tensor, everything: list[Tensor]
    ):
        self.everything = everything
        self.optimizer, self.parameters, self.layout, self.w = optimizer, parameters, layout, w
        self.cuda = [w.device] if w.device.type == "cuda" else []

    def __enter__(self) -> _Guard:
        own = self.optimizer
        self.noise = own._generator and own._generator.get_state()
        self.memory = dict(own.memory)
        self.rng = self._rng()
        self.gradients = [p.grad for p in self.everything]
        self.first = None
        return self

    def _rng(self) -> tuple[Tensor, list[Tensor]]:
        return torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self.cuda]

    def _set_rng(self) -> None:
        torch.set_rng_state(self.rng[0])
        for device, state in zip(self.cuda, self.rng[1]):
            torch.cuda.set_rng_state(state, device)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """One call of a closure: the first one may move buffers, later ones see the same random numbers and move none."""
        values: dict[Tensor, Tensor] = {}
        places: dict[tuple[torch.nn.Module, str], Tensor] = {}

        def remember(module: torch.nn.Module, _: Any) -> None:
            if module.training:
                for name, buffer in module._buffers.items():
                    if buffer is not None and (module, name) not in places:
                        places[module, name] = buffer
                        if buffer not in values:
                            values[buffer] = buffer.detach().clone()

        later = self.first is not None
        if later:
            self._set_rng()
        else:
            self.first = values, places
        handle = register_module_forward_pre_hook(remember)
        try:
            yield
        finally:
            handle.remove()
            if later:
                self._put_back(values, places)

    @staticmethod
    def _put_back(values: dict[Tensor, Tensor], places: dict[tuple[torch.nn.Module, str], Tensor]) -> None:
        with torch.no_grad():
            for buffer, value in values.items():
                buffer.copy_(value)
        for (module, name), buffer in places.items():
            module._buffers[name] = buffer

    def restore(self) -> None:
        torch._foreach_copy_(self.parameters, self.layout.split(self.w))

    def __exit__(self, failed: type[BaseException] | None, *_: Any) -> None:
        if failed:
            self.restore()
            if self.first is not None:
                self._put_back(*self.first)
            self._set_rng()
            self.optimizer.memory = self.memory
            if self.optimizer._generator is not None:
                self.optimizer._generator.set_state(self.noise)
            for p, gradient in zip(self.everything, self.gradients):
                p.grad = gradient


def _optimizer_class(name: str, row: methods.Method) -> type[PerturbedOptimizer]:
    empty, keyword = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
    doc = inspect.getdoc(row.function)
    hyper = "\n".join(
        f"    {key}: {methods.PARAMETERS[key].meaning}; {methods.PARAMETERS[key].allowed}." for key in row.parameters
    )
    own = type(name, (PerturbedOptimizer,), {"method": row.name, "__module__": __name__})
    own.__doc__ = f"{doc}\n\nArgs:\n    base: an instance of a torch optimizer.\n{hyper}\n    seed: of the noise.\n"
    own.__signature__ = inspect.Signature(
        [inspect.Parameter("base", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        + [inspect.Parameter(key, keyword, default=row.default(key)) for key in row.parameters]
        + [inspect.Parameter("seed", keyword, default=0, annotation=empty)]
    )
    return own


OPTIMIZERS: dict[str, type[PerturbedOptimizer]] = {
    row.name: _optimizer_class(row.class_name, row) for row in methods.METHODS.values()
}
globals().update({own.__name__: own for own in OPTIMIZERS.values()})
__all__ = ["PerturbedOptimizer", "OPTIMIZERS", *(own.__name__ for own in OPTIMIZERS.values())]
