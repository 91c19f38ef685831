"""What keeps a step of the optimizer safe: everything that a closure may move is remembered, and put back if it fails."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import register_module_forward_pre_hook

_Moved = tuple[dict[Tensor, Tensor], dict[tuple[Module, str], Tensor]]


COMPILES = "torch._dynamo.repro.after_dynamo"  # loaded by torch.compile, whatever its backend


class Again(Exception):
    """The step is to be undone and taken once more."""


def random_state(device: torch.device) -> Tensor:
    """The global random state of the CPU, followed by that of a GPU."""
    state = torch.get_rng_state()
    return torch.cat((state, torch.cuda.get_rng_state(device))) if device.type == "cuda" else state


class Watch:
    """The modules that closures call, with all inside them.

    They are found by a hook on the forward pass of every module. It slows modules down and has ``torch.compile`` compile anew, so it is
    used only while a closure is evaluated whose code, or a module in whose variables, was not met before, or as long as a parameter is in no
    module that was met. What is compiled calls no hooks: where ``torch.compile`` is in use the modules around the parameters are looked up, once, in some tenths of a
    second.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self.parameters = {id(p) for p in parameters}
        self.modules: dict[Module, None] = {}
        self.code: set[Any] = set()
        self.homeless, self.compiled = set(self.parameters), False

    def knows(self, closure: Callable[[], Any]) -> bool:
        """Whether an evaluation of this closure was watched before."""
        if self.homeless or self._strangers():
            return False
        code, held = _what(closure)
        return code in self.code and all(value in self.modules for value in held if isinstance(value, Module))

    def _strangers(self) -> list[Module]:
        """Modules that were put into those that were met."""
        known = self.modules
        return [inner for module in known for inner in module._modules.values() if inner is not None and inner not in known]

    def has_met(self, closure: Callable[[], Any]) -> None:
        """It was watched; modules in its variables that it did not call are known as well."""
        code, held = _what(closure)
        self.code.add(code)
        for module in (*(value for value in held if isinstance(value, Module)), *self._strangers()):
            self.add(module)

    def add(self, module: Module) -> list[Module]:
        """Those inside it that are new."""
        new = [m for m in module.modules() if m not in self.modules]
        self.modules.update(dict.fromkeys(new))
        self.homeless.difference_update(id(p) for m in new for p in m._parameters.values())
        return new

    def look_around(self) -> None:
        """Add the modules that hold the parameters, if anything was compiled."""
        if self.compiled or COMPILES not in sys.modules:
            return
        self.compiled = True
        for module in [o for o in gc.get_objects() if issubclass(type(o), Module)]:
            if module not in self.modules and any(id(p) in self.parameters for p in module.parameters()):
                self.add(module)


def _what(closure: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """The code of a closure and what its variables hold."""
    held: list[Any] = []
    while isinstance(closure, partial):
        held += closure.args
        closure = closure.func
    if (owner := getattr(closure, "__self__", None)) is not None:
        held += (owner, *getattr(owner, "__dict__", {}).values())
    for cell in getattr(closure, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # a variable that has no value yet
            continue
    return getattr(closure, "__code__", type(closure)), held


class Guard:
    """Weights, module buffers, gradients and random states of one step, for which gradients are disabled.

    The first evaluation may move buffers such as BatchNorm statistics and draws its random numbers; later evaluations of the step
    see the same random numbers (so dropout has one mask) and move no buffers. After a failure all is as before the step.
    The buffers are those of all modules that ``watch`` has met. The weights are copied into ``clean``, tensors like the
    ``weights``, and put back from there.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        clean: Sequence[Tensor],
        parameters: list[Tensor],
        generator: torch.Generator | None,
        device: torch.device,
        watch: Watch,
    ):
        self.weights, self.clean, self.parameters, self.generator, self.watch = weights, clean, parameters, generator, watch
        self.cuda = [device] if device.type == "cuda" else []
        self.gradients = [p.grad for p in parameters]
        self.noise = generator and generator.get_state()
        self.rng = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in self.cuda]
        self.thread = get_ident()
        self.first: _Moved | None = None
        self.moved: _Moved = {}, {}

    def __enter__(self) -> Self:
        self.enabled = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        torch._foreach_copy_(self.clean, self.weights)
        for p in self.parameters:
            p.grad = None
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error:
            self.undo()
        torch.set_grad_enabled(self.enabled)

    def put_back_weights(self) -> None:
        torch._foreach_copy_(self.weights, self.clean)

    def _set_rng(self) -> None:
        torch.set_rng_state(self.rng[0])
        for device, state in zip(self.cuda, self.rng[1]):
            torch.cuda.set_rng_state(state, device)

    def _remember(self, modules: Iterable[Module]) -> None:
        values, places = self.moved
        for module in modules:
            if module._buffers:
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        places[module, name] = buffer
                        if buffer not in values and _can_be_written(buffer):
                            values[buffer] = buffer.detach().clone()

    def evaluate(self, closure: Callable[[], Any]) -> Any:
        """Call a closure with gradients enabled."""
        self.moved = {}, {}
        if self.first is None:
            self.first = self.moved
        else:
            self._set_rng()
        torch.clear_autocast_cache()  # it holds the weights of the last point
        self.watch.look_around()
        self._remember(self.watch.modules)
        known = self.watch.knows(closure)
        torch.set_grad_enabled(True)
        try:
            if known:
                return closure()
            with self._meeting(closure):
                return closure()
        finally:
            torch.set_grad_enabled(False)
            if self.moved is not self.first:
                _put_back(*self.moved)

    @contextmanager
    def _meeting(self, closure: Callable[[], Any]) -> Iterator[None]:
        hook = register_module_forward_pre_hook(self._meet)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
                yield
            self.watch.has_met(closure)
        finally:
            hook.remove()

    def _meet(self, module: Module, _: Any) -> None:
        if not torch.compiler.is_compiling() and get_ident() == self.thread and module not in self.watch.modules:
            self._remember(self.watch.add(module))

    def undo(self) -> None:
        """Put back everything."""
        self.put_back_weights()
        if self.first is not None:
            _put_back(*self.first)
        self._set_rng()
        if self.generator:
            self.generator.set_state(self.noise)
        for p, gradient in zip(self.parameters, self.gradients):
            p.grad = gradient


def _can_be_written(buffer: Tensor) -> bool:
    """In place; what cannot, no closure has moved."""
    if buffer.is_inference():
        return False
    return buffer.layout is not torch.strided or buffer.is_contiguous() or all(s or n < 2 for s, n in zip(buffer.stride(), buffer.shape))


def _put_back(values: dict[Tensor, Tensor], places: dict[tuple[Module, str], Tensor]) -> None:
    for buffer, value in values.items():
        buffer.copy_(value)
    for (module, name), buffer in places.items():
        module._buffers[name] = buffer
