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

import functools
import inspect
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.autograd import _profiler_enabled
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from rwp_edu import methods
from rwp_edu.methods.noise import generator
from rwp_edu.methods.points import FEW, At, Layout, drive
from rwp_edu.optim.step_guard import Again, Guard, Watch
from rwp_edu.utils.parameters import unknown

_WRAPPER = Optimizer.profile_hook_step(lambda self: None).__code__  # what torch puts around every step: hooks, and word to a profiler
_GLOBAL_HOOKS = torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks
FILLED = "filled_by_rwp_edu"  # in a parameter group: hyper-parameters that nobody gave it
READ_AT_ONCE = ("cpu",)  # kinds of devices that a number is read from without waiting


def _of_base(name: str) -> property:
    """An attribute of the base. Torch sets those that it has, too, when it makes an optimizer: only later does that mean anything."""

    def put(self: PerturbedOptimizer, value: Any) -> None:
        if vars(self).get("_made"):
            setattr(self.base, name, value)

    return property(lambda self: getattr(self.base, name), put)


class PerturbedOptimizer(Optimizer):
    """What all methods share; ``SAM``, ``RWP``, ``MRWP``, ``NSO`` differ only in their row of the table of methods.

    Args:
        base: an instance of any torch optimizer that steps without a closure; it is used, not copied.
        seed: of the noise; the global random state is never drawn from.
        **hyper: the method's own hyper-parameters. A parameter group of ``base`` may carry its own sigma, rho or lam.

    A step with a loss or gradient that is not finite raises ``FloatingPointError``; then, as after any exception in a
    closure, weights, module buffers, gradients and torch's random states are as before the step. Dropout sees the same mask at
    every point of a step (what a closure draws from NumPy or ``random``, for mixup say, differs: draw that before the step), and buffers such as BatchNorm statistics are updated by the first evaluation only.

    On a CPU a loss is looked at before the next point is asked. Elsewhere a step waits for the device once: when it is complete,
    its losses and its gradient are looked at together, by a single read.
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
        for key in row.parameters:
            if key in base.defaults:
                raise TypeError(f"{name} cannot wrap {type(base).__name__}: both have a {key!r} in their parameter groups")
        for key in hyper:
            if key not in row.parameters:
                raise unknown(f"parameter of {name}", key, (*row.parameters, "seed"))
        self.base, self.seed, self.memory = base, int(seed), {}
        self._generator: torch.Generator | None = None
        self._sizes: tuple[int, ...] = ()
        self._plan: _Plan | None = None
        self._left: set[tuple[int, int]] | None = set()  # identity and version of the gradients of the latest step
        self._shared: Any = None  # who else answers: rwp_edu.optim.parallel
        own = {key: hyper.get(key, row.default(key)) for key in row.parameters}
        self.defaults = {**base.defaults, **own}
        for group in base.param_groups:
            for key in group.pop(FILLED, ()):  # wrapped before: forget that wrapper's defaults
                group.pop(key, None)
            self._own(group)
        super().__init__(base.param_groups, self.defaults)
        self._made = True

    param_groups, state = _of_base("param_groups"), _of_base("state")
    register_state_dict_pre_hook = _of_base("register_state_dict_pre_hook")
    register_state_dict_post_hook = _of_base("register_state_dict_post_hook")
    register_load_state_dict_pre_hook = _of_base("register_load_state_dict_pre_hook")
    register_load_state_dict_post_hook = _of_base("register_load_state_dict_post_hook")

    def __repr__(self) -> str:
        return f"{type(self).__name__} around {self.base!r}"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        own = self._own(param_group)
        param_group.update({FILLED: [key for key in own if key not in param_group]} | own)
        if not any(param_group is group for group in self.base.param_groups):
            self.base.add_param_group(param_group)

    def _own(self, group: dict[str, Any]) -> dict[str, Any]:
        """The method's hyper-parameters in a parameter group, or an error that names what is allowed."""
        if group.get("maximize") and methods.get(self.method).cost().rounds > 1:
            raise TypeError(f"{type(self).__name__} climbs to where the loss is worst, which maximize=True would take for the best: minimize the negative instead")
        return {
            key: methods.PARAMETERS[key].parse(group.get(key, self.defaults[key]))
            for key in methods.get(self.method).parameters
        }

    def step(self, closure: Callable[[], Tensor] | None = None, *others: Callable[[], Tensor]) -> Tensor:
        """One update; returns the loss of the first evaluation.

        Each closure computes the loss of its batch, calls ``backward`` and returns the loss; gradients are cleared before every
        call. A method that asks for several batches (m-RWP) or for parts of one (LPF-SGD) takes one closure for each; with a
        single closure all its points use the same data.
        """
        return (self._watched_step if _watched(self) else self._step)(closure, *others)

    step.hooked = True  # torch would wrap it, to run hooks and tell a profiler: only a step that is watched has to pay for that

    def _step(self, *closures: Callable[[], Tensor] | None) -> Tensor:
        name = type(self).__name__
        if not all(map(callable, closures)):
            raise TypeError(
                f"{name}.step needs a closure that computes the loss, calls backward() and returns the loss: it is called at "
                "every point the method asks for. (torch.amp.GradScaler cannot pass one: use bfloat16 autocast, without a scaler.)"
            )
        plan = self._planned()
        row = methods.get(self.method)
        if len(closures) not in (1, plan.slots):
            several = f"one closure, or {plan.slots}: one for each of its batches or parts of a batch"
            raise TypeError(f"{name}.step takes {several if plan.slots > 1 else 'one closure'}; got {len(closures)} closures")
        w, at_once = plan.w, plan.w.device.type in READ_AT_ONCE
        losses: list[Tensor] = []
        seen: set[int] = set()
        given, closures = closures, closures if self._shared is None else self._shared.closures(closures)

        def gradients(points: Iterator[At]) -> Iterator[Tensor]:
            for at in points:
                if at.w is not w or losses:
                    plan.put(at.w)
                slot = slot_of(at, closures)
                del at  # its weights are not needed any more
                losses.append(guard.evaluate(closures[slot]))
                check_loss(losses[-1], name, at_once)
                yield flat_gradient(plan, plan.trained, seen, name)

        def answer(points: list[At] | Iterator[At]) -> list[Tensor] | Iterator[Tensor]:
            if self._shared is not None:
                return self._shared.answer(points, gradients, losses, seen, plan)
            if isinstance(points, list):
                return list(gradients(points.pop(0) for _ in range(len(points))))
            return gradients(points)

        self._warn_of_lost_gradients(plan)
        memory, sizes = self.memory, self._sizes
        self.memory, self._sizes = dict(memory) if plan.sizes == sizes else _carried(memory, row.begins, sizes, plan.sizes), plan.sizes
        try:
            with Guard(plan.trained, plan.clean, plan.parameters, plan.noise, w.device, plan.watch) as guard:
                g = drive(row.start(w, **{**plan.given, "memory": self.memory}), answer, lazy=True)
                _check_all(g, [] if at_once else losses, name)
                guard.put_back_weights()
                for i, (p, piece) in enumerate(zip(plan.trained, plan.views(g))):
                    if i in seen:
                        p.grad = piece if (piece.dtype, piece.stride()) == (p.dtype, p.stride()) else torch.empty_like(p).copy_(piece)
                _bare_step(self.base)()
                if self._shared is not None:
                    self._shared.settle()
                if self._left is not None:
                    self._left = {(id(p.grad), p.grad._version) for p in plan.trained if p.grad is not None}
        except BaseException as error:
            self.memory, self._sizes = memory, sizes
            if isinstance(error, Again):
                return self._step(*given)
            if isinstance(error.__cause__, StopIteration):  # of a closure: what runs here are generators, in which it is another error
                raise error.__cause__
            raise
        return losses[0]

    _watched_step = Optimizer.profile_hook_step(_step)

    def _warn_of_lost_gradients(self, plan: _Plan) -> None:
        """A step starts from no gradients; tell whoever has collected some since the last one."""
        if self._left is None:
            return
        found = [p.grad for p in plan.trained if p.grad is not None and (id(p.grad), p.grad._version) not in self._left]
        lost = any(gradient.any() for gradient in found)
        if lost:
            warnings.warn(
                f"{type(self).__name__}.step discards gradients that were collected before it: call backward() only in the closure "
                "(to accumulate over several batches, loop over them there)",
                stacklevel=4,
            )
        if lost or (found and plan.w.device.type not in READ_AT_ONCE):  # a device is waited for once, not at every step
            self._left = None

    def _planned(self) -> _Plan:
        """What the next step needs and former steps have worked out already, unless parameters or hyper-parameters changed."""
        groups, names = self.base.param_groups, methods.METHODS[self.method].parameters
        parameters = [p for group in groups for p in group["params"]]
        kinds = [(p.requires_grad, p.dtype, p.device) for p in parameters]
        values = [[v.item() if isinstance(v := group.get(key, self.defaults[key]), Tensor) else v for key in names] for group in groups]
        plan = self._plan
        if plan is None or plan.kinds != kinds or any(map(operator.is_not, plan.parameters, parameters)):
            plan = self._plan = _Plan(self, parameters, kinds)
            self.memory = _moved(self.memory, plan.w.device)
        if plan.values != values:  # a schedule may move them at every step
            plan.equip(self, values)
        return plan

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
        device = next((p.device for group in self.param_groups for p in group["params"]), torch.device("cpu"))
        drawn = own["generator"] is not None
        elsewhere = drawn and torch.device(own["device"]).type != device.type
        if elsewhere and methods.get(self.method).random:
            raise ValueError(
                f"this state was saved with the noise generator of {own['device']}, the parameters are on {device}: move the model to "
                "the same kind of device first (the streams of random numbers of CPU and GPU have nothing in common)"
            )
        noise = torch.Generator(device).set_state(own["generator"].cpu()) if drawn and not elsewhere else None
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != "rwp_edu"})
        self.seed, self._sizes, self._generator, self._plan = own["seed"], tuple(own["sizes"]), noise, None
        self.memory = _moved(own["memory"], device)

    def __getstate__(self) -> dict[str, Any]:
        generator_state = self._generator and (str(self._generator.device), self._generator.get_state())
        kept = {key: self.__dict__[key] for key in ("base", "seed", "memory", "defaults", "_sizes")}
        return {**kept, "_generator": generator_state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._plan, self._left, self._shared, self._made = None, set(), None, True
        if saved := state["_generator"]:
            self._generator = torch.Generator(saved[0]).set_state(saved[1])
        super().__setstate__({})


class _Plan:
    """Layout and checked hyper-parameters for the parameters that are trained now; ``kinds`` and ``values`` are what they depend on."""

    def __init__(self, optimizer: PerturbedOptimizer, parameters: list[Tensor], kinds: list[tuple]):
        self.kinds, self.parameters, self.values, self.k = kinds, parameters, None, None
        self.trained = [p for p in parameters if p.requires_grad]
        if not self.trained:
            raise ValueError(f"{type(optimizer).__name__} has no parameter that requires a gradient")
        if any(p.is_complex() for p in self.trained):
            raise TypeError(f"{type(optimizer).__name__} needs real parameters: train torch.view_as_real of the complex ones")
        self.layout = Layout({str(i): p.shape for i, p in enumerate(self.trained)})
        self.sizes = tuple(p.numel() if p.requires_grad else 0 for p in parameters)
        self.dtype = functools.reduce(torch.promote_types, (p.dtype for p in self.trained))
        self.uniform = len({(p.dtype, p.device) for p in self.trained}) == 1
        device = self.trained[0].device
        if optimizer._generator is None or optimizer._generator.device != device:
            optimizer._generator = generator(optimizer.seed, "noise", device=device)
        self.noise = optimizer._generator if methods.get(optimizer.method).random else None  # what it draws from
        self.w = torch.empty(self.layout.size, dtype=self.dtype, device=device)
        self.clean = self.views(self.w)  # what the weights are put back from
        self.watch = Watch(self.trained)
        self.point = torch.empty_like(self.w) if self.layout.size < FEW else None
        self.pieces = () if self.point is None else self.views(self.point)

    def equip(self, optimizer: PerturbedOptimizer, values: list[list]) -> None:
        row, hyper = methods.get(optimizer.method), self._hyper(optimizer)
        k = {"k": hyper["k"]} if "k" in hyper else {}
        if self.k != k:
            self.k, self.slots = k, row.cost(**k).slots
        self.given, self.values = row.equip(self.layout, [optimizer._generator], {}, hyper), values

    def _hyper(self, optimizer: PerturbedOptimizer) -> dict[str, Any]:
        """Scalars, or flat ``(P,)`` tensors for values that differ between parameter groups."""
        groups = optimizer.param_groups
        counts = [sum(p.numel() for p in group["params"] if p.requires_grad) for group in groups]
        own = [optimizer._own(group) for group in groups]
        dtype = torch.promote_types(self.dtype, torch.float32)
        hyper = {}
        for key in own[0]:
            values = [group[key] for group in own]
            if all(value == values[0] for value in values):
                hyper[key] = values[0]
            elif isinstance(values[0], float):
                device = self.trained[0].device
                hyper[key] = torch.cat([torch.full((n,), v, dtype=dtype, device=device) for n, v in zip(counts, values)])
            else:
                raise ValueError(f"{key} must be the same in all parameter groups, got {values}")
        return hyper

    def put(self, flat: Tensor) -> None:
        """Set the parameters to flat weights; where there are few, one more copy is cheaper than cutting them up."""
        if self.point is not None:
            self.point.copy_(flat)
        torch._foreach_copy_(self.trained, self.pieces or self.views(flat))

    def views(self, flat: Tensor) -> Sequence[Tensor]:
        return _unflatten_dense_tensors(flat, self.trained)


def _carried(memory: dict[str, Tensor], begins: Mapping[str, float], before: Sequence[int], now: Sequence[int]) -> dict[str, Tensor]:
    """Histories (P,) where other parameters are trained now: those of the ones that still are, and for new ones what a history begins with."""
    shared = [(sum(before[:i]), sum(now[:i]), n) for i, (b, n) in enumerate(zip(before, now)) if b == n and n]
    carried = {}
    for key, history in memory.items() if shared else ():
        carried[key] = history.new_full((sum(now),), begins.get(key, 0.0))
        for old, new, n in shared:
            carried[key][new : new + n] = history[old : old + n]
    return carried


def _moved(memory: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in memory.items()}


def _watched(optimizer: Optimizer) -> Any:
    """Whether somebody wants to hear of its steps."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return own or any(_GLOBAL_HOOKS) or _profiler_enabled()


def _bare_step(base: Optimizer) -> Callable[[], Any]:
    """Its step, if nobody watches without torch's wrapper, which takes as long as the update of a small network."""
    step = type(base).step
    wrapped = getattr(step, "__code__", None) is _WRAPPER and "step" not in vars(base)
    return step.__wrapped__.__get__(base) if wrapped and not _watched(base) else base.step


def slot_of(at: At, closures: Sequence[Any]) -> int:
    """Which of the closures is for this point."""
    return at.batch * at.of + at.part if len(closures) > 1 else 0


def check_loss(loss: Any, name: str, read: bool = True) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise TypeError(f"the closure given to {name}.step must return the loss, a tensor with one element; got {loss!r}")
    if read and not math.isfinite(value := loss.item()):
        raise FloatingPointError(f"the loss is {value} at a point that {name} asked for; the weights are as before this step")


def _check_all(g: Tensor, losses: list[Tensor], name: str) -> None:
    """The sum of all is a single number to read; only if it is not finite, as with an overflow, each is looked at."""
    if not math.isfinite(sum((loss.sum().to(g.device) for loss in losses), g.sum())):
        for loss in losses:
            check_loss(loss, name)
        if not torch.isfinite(g).all():
            raise FloatingPointError(f"the combined gradient of {name} is not finite; the weights are as before this step")


def flat_gradient(plan: _Plan, trained: Sequence[Tensor], seen: set[int], name: str) -> Tensor:
    """The gradients just found, one after another; zero for a parameter that has none. They leave ``.grad``."""
    gradients = [p.grad for p in trained]
    layouts = {None if gradient is None else gradient.layout for gradient in gradients}
    if not layouts <= {torch.strided, None}:
        raise TypeError(f"{name} needs dense gradients; build the embedding with sparse=False")
    for p in trained:
        p.grad = None
    have = [i for i, gradient in enumerate(gradients) if gradient is not None]
    seen.update(have)
    if plan.uniform and None not in layouts:
        flat = _flatten_dense_tensors(gradients)
        return flat.clone() if len(gradients) == 1 else flat  # a single one would stay the closure's own
    flat = torch.zeros_like(plan.w)
    if have:
        views = plan.views(flat)
        torch._foreach_copy_([views[i] for i in have], [gradients[i] for i in have])
    return flat


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
