"""What keeps a step of the optimizer safe: everything that a closure may move is remembered, and put back if it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

_Moved = tuple[dict[Tensor, Tensor], dict[tuple[torch.nn.Module, str], Tensor]]


class Guard:
    """Weights, module buffers, gradients and random states of one step, for which gradients are disabled.

    The first evaluation may move buffers such as BatchNorm statistics and draws its random numbers; later evaluations of the step
    see the same random numbers (so dropout has one mask) and move no buffers. After a failure all is as before the step.
    Buffers are found by a hook on the forward pass of every module, so any module in training mode counts. The weights are copied
    into ``clean``, tensors like the ``weights``, and put back from there.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        clean: Sequence[Tensor],
        parameters: list[Tensor],
        generator: torch.Generator | None,
        device: torch.device,
    ):
        self.weights, self.clean, self.parameters, self.generator = weights, clean, parameters, generator
        self.cuda = [device] if device.type == "cuda" else []
        self.gradients = [p.grad for p in parameters]
        self.noise = generator and generator.get_state()
        self.rng = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in self.cuda]
        self.first: _Moved | None = None
        self.moved: _Moved = {}, {}

    def __enter__(self) -> Self:
        self.enabled = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        torch._foreach_copy_(self.clean, self.weights)
        for p in self.parameters:
            p.grad = None
        self.hook = register_module_forward_pre_hook(self._remember)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.hook.remove()
        if error:
            self.undo()
        torch.set_grad_enabled(self.enabled)

    def put_back_weights(self) -> None:
        torch._foreach_copy_(self.weights, self.clean)

    def _set_rng(self) -> None:
        torch.set_rng_state(self.rng[0])
        for device, state in zip(self.cuda, self.rng[1]):
            torch.cuda.set_rng_state(state, device)

    def _remember(self, module: torch.nn.Module, _: Any) -> None:
        if module._buffers and module.training:
            values, places = self.moved
            for name, buffer in module._buffers.items():
                if buffer is not None and (module, name) not in places:
                    places[module, name] = buffer
                    if buffer not in values:
                        values[buffer] = buffer.detach().clone()

    def evaluate(self, closure: Callable[[], Any]) -> Any:
        """Call a closure with gradients enabled."""
        self.moved = {}, {}
        if self.first is None:
            self.first = self.moved
        else:
            self._set_rng()
        torch.set_grad_enabled(True)
        try:
            return closure()
        finally:
            torch.set_grad_enabled(False)
            if self.moved is not self.first:
                _put_back(*self.moved)

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


def _put_back(values: dict[Tensor, Tensor], places: dict[tuple[torch.nn.Module, str], Tensor]) -> None:
    for buffer, value in values.items():
        buffer.copy_(value)
    for (module, name), buffer in places.items():
        module._buffers[name] = buffer
