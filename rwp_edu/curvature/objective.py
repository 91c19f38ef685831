"""A loss as a function of flat weights, at a point: values, gradients and products with its Hessian, of a function or a torch model.

What measures flatness (``rwp_edu.curvature.lanczos``, ``sharpness``, ``slices``) asks for nothing else, so it works on any of these:

    Objective(loss, w)                     a batched loss (N, P) -> (N,), by autograd or with derivatives that are given
    of_model(model, criterion, data)       a torch model over a data set in mini-batches, without holding graphs
    rwp_edu.problems.objectives                    R networks at once, and matrix sensing, with derivatives written by hand

Derivatives see no kinks: of a ReLU network they are those of the smooth pieces.
"""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from rwp_edu.curvature.smoothing import PIECE
from rwp_edu.methods.noise import KINDS
from rwp_edu.methods.points import Layout
from rwp_edu.utils.parameters import unknown
from rwp_edu.utils.pytree import cut

Scale = Callable[[Tensor, Tensor, Layout], Tensor]
SCALES: dict[str, Scale] = {**KINDS, "element-wise": lambda z, w, layout: z.mul_(w.abs())}
"""The scales s(w) of ``rwp_edu.methods.noise``, and |w| itself, that of adaptive sharpness (2102.11600)."""
MODES = ("eval", "train")
NO_MEAN = (
    "the loss of a batch is not the mean over its examples (class weights, or ignore_index?): what is measured depends on how they are batched; "
    "with reduction='sum' it does not"
)
MOST = {"cpu": 16, "cuda": 64}  # probes at once
CACHE = 2**22  # bytes: on a CPU probes together pay only where what they need stays in the cache


def free_memory(device: torch.device) -> int:
    """Bytes that are free; 1 GiB where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**30


class Objective:
    """A loss at weights ``w``: (P,), or (R, P) for R points of it at once, which then stand in front of every shape below.

    ``loss``: a batched function (N, P) -> (N,) whose rows do not influence each other. ``gradient`` (N, P) -> (N, P) and
    ``product``, which gives H(w) V for w (P,) and V (N, P), may be given; else they come from autograd. ``layout`` says where
    parameters and filters lie, for scales and traces by layer. ``chunk`` is how many probes go through a graph at once.

    >>> bowl = Objective(lambda w: w.pow(4).sum(-1), torch.tensor([1.0, 2.0]))
    >>> bowl.value, bowl.product(torch.eye(2))
    (17.0, tensor([[12.,  0.],
            [ 0., 48.]]))
    """

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor],
        w: Tensor,
        layout: Layout | None = None,
        gradient: Callable[[Tensor], Tensor] | None = None,
        product: Callable[[Tensor, Tensor], Tensor] | None = None,
        chunk: int | None = None,
    ):
        self._function, self._given_gradient, self._given_product = loss, gradient, product
        self._place(w, layout or Layout({"w": w.shape[-1:]}), chunk)

    def _place(self, w: Tensor, layout: Layout, chunk: int | None) -> None:
        if w.dim() not in (1, 2) or not w.is_floating_point():
            raise ValueError(f"w must be flat weights (P,) or (R, P) of a floating-point type, got {w.dtype} {tuple(w.shape)}")
        if w.shape[-1] != layout.size or not w.numel():
            raise ValueError(
                f"w has {w.shape[-1]} weights and the layout {layout.size}: they must agree, and be more than none"
            )
        if not torch.isfinite(w).all():
            raise ValueError("w has values that are not finite")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be a whole number >= 1, got {chunk}")
        self.w, self.layout, self.chunk = w.detach(), layout, chunk

    def at(self, w: Tensor) -> Self:
        """The same loss at other weights."""
        other = copy.copy(self)
        other._place(w, self.layout, self.chunk)
        return other

    def scale(self, kind: str) -> Tensor:
        """s(w), in the shape of w: by how much noise of this kind is scaled at every entry."""
        if kind not in SCALES:
            raise unknown("kind", kind, SCALES)
        return SCALES[kind](torch.ones_like(self.w, memory_format=torch.contiguous_format), self.w, self.layout)

    @property
    def value(self) -> float | list[float]:
        """The loss at w, which must be finite."""
        return self._finite(self.loss(self.w[..., None, :])[..., 0], "loss at w").tolist()

    @property
    def slope(self) -> Tensor:
        """The gradient at w, in its shape; it must be finite."""
        return self._finite(self.gradient(self.w[..., None, :])[..., 0, :], "gradient at w")

    @property
    def piece(self) -> int:
        """How many vectors of P numbers a measurement should hold at once: 1/16 of the free memory, at most 256."""
        return max(1, min(256, free_memory(self.w.device) // (16 * self.w.shape[-1] * self.w.element_size())))

    @staticmethod
    def _finite(found: Tensor, what: str) -> Tensor:
        if not torch.isfinite(found).all():
            raise ValueError(f"the {what} is not finite: choose other weights, or data and a criterion without NaN")
        return found

    def _checked(self, points: Tensor) -> Tensor:
        if points.shape[:-2] != self.w.shape[:-1] or points.shape[-1:] != self.w.shape[-1:] or points.dim() != self.w.dim() + 1:
            wanted = "".join(f"{n}, " for n in self.w.shape[:-1])
            raise ValueError(f"vectors must have shape ({wanted}N, {self.w.shape[-1]}), got {tuple(points.shape)}")
        return points

    def loss(self, points: Tensor) -> Tensor:
        """The loss (N,) at weights (N, P); not finite where it overflows."""
        return self._loss(self._checked(points).flatten(0, -2)).view(points.shape[:-1])

    def gradient(self, points: Tensor) -> Tensor:
        """∇loss (N, P) at weights (N, P)."""
        return self._gradient(self._checked(points).flatten(0, -2)).view(points.shape)

    def product(self, vectors: Tensor) -> Tensor:
        """H v (N, P), with the Hessian at ``w``, for every v of (N, P)."""
        self._checked(vectors)
        if self.w.dim() == 1:
            return self._finite(self._product(self.w, vectors), "Hessian at w")
        found = []
        for w, v in zip(self.w, vectors):
            one = self.at(w)
            found.append(one.product(v))
            self.chunk = one.chunk
        return torch.stack(found)

    def curvatures(self, vectors: Tensor) -> Tensor:
        """vᵀH v (N,) for every v of (N, P), in float64."""
        return (vectors * self.product(vectors)).sum(-1, dtype=torch.float64)

    def combined(self, points: Tensor, coefficients: Tensor) -> Tensor:
        """The loss (N,) at the combinations ``coefficients`` (N, M) of ``points`` (M, P)."""
        return torch.cat([self.loss(c @ points) for c in coefficients.split(self.piece)])

    def _loss(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._call(part) for part in self._parts(rows)])

    def _gradient(self, rows: Tensor) -> Tensor:
        if self._given_gradient is not None:
            return torch.cat([self._given_gradient(part) for part in self._parts(rows)])
        leaves = [part.detach().clone().requires_grad_() for part in self._parts(rows)]
        with torch.enable_grad():
            return torch.cat([_slope(self._call(leaf).sum(), leaf, False) for leaf in leaves])

    @staticmethod
    def _parts(rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(max(1, PIECE // rows.shape[1]))

    def _call(self, rows: Tensor) -> Tensor:
        found = self._function(rows)
        if found.shape != rows.shape[:1]:
            raise ValueError(f"the loss must give ({len(rows)},) for weights {tuple(rows.shape)}, it gave {tuple(found.shape)}")
        return found

    def _product(self, w: Tensor, vectors: Tensor) -> Tensor:
        if self._given_product is not None:
            return self._given_product(w, vectors)

        def loss(leaf: Tensor) -> Tensor:
            return self._call(leaf[None])[0]

        if self.chunk is None:
            self.chunk = _chunk(_saved(loss, w), w.device)
        return self._probed(*self._through(loss, w), vectors)

    def _through(self, loss: Callable[[Tensor], Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of a loss (P,) -> () with its graph, and the leaf that it belongs to."""
        leaf = w.detach().clone().requires_grad_()
        with torch.enable_grad():
            return _slope(self._finite(loss(leaf), "loss at w"), leaf, True), leaf

    def _probed(self, g: Tensor, leaf: Tensor, vectors: Tensor) -> Tensor:
        """H v (N, P): all v through the graph of the gradient, some at a time; one by one where they cannot go together."""

        def through(part: Tensor) -> Tensor:
            several = len(part) > 1
            outer = part if several else part[0]
            found = torch.autograd.grad(g, leaf, outer, retain_graph=True, allow_unused=True, is_grads_batched=several)[0]
            return torch.zeros_like(part) if found is None else found.view(part.shape)

        if not g.requires_grad:
            return torch.zeros_like(vectors)
        try:
            return torch.cat([through(part) for part in vectors.split(self.chunk)])
        except RuntimeError:
            if self.chunk == 1:
                raise
            self.chunk = 1
        return self._probed(g, leaf, vectors)


def _slope(value: Tensor, leaf: Tensor, more: bool) -> Tensor:
    """∇value, zero where ``value`` does not depend on ``leaf``."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(value, leaf, create_graph=more, materialize_grads=True)[0]


def _saved(loss: Callable[[Tensor], Tensor], w: Tensor) -> int:
    """About how many bytes the graph of a gradient keeps: twice what that of the loss does, which is counted."""
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t.detach()

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        value = loss(w.detach().clone().requires_grad_())  # lives until all are counted, so that no address is used twice
    del value
    return 2 * sum(sizes.values())


def _chunk(saved: int, device: torch.device) -> int:
    """How many probes may go through a graph at once: each needs about what the graph has saved."""
    room = free_memory(device) // 4
    if device.type == "cpu":
        room = min(room, CACHE)
    several = min(room // max(1, saved), MOST.get(device.type, 1))
    return several if several > 2 else 1


class ModelObjective(Objective):
    """What ``of_model`` gives."""

    def __init__(
        self,
        model: torch.nn.Module,
        criterion: Callable[[Any, Any], Tensor],
        data: Iterable[tuple[Any, Any]],
        parameters: Collection[str] | None = None,
        mode: str = "eval",
        seed: int = 0,
        chunk: int | None = None,
        hold: bool = True,
    ):
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        if isinstance(data, Iterator):
            raise TypeError("data must give its batches again and again (a DataLoader or a list of (x, y)), got an iterator")
        named = dict(model.named_parameters())
        for name in parameters or ():
            if name not in named:
                raise unknown("parameter", name, named)
        chosen = {name: p for name, p in named.items() if (p.requires_grad if parameters is None else name in parameters)}
        if not sum(p.numel() for p in chosen.values()):
            what = "no parameters that require a gradient" if named else "no parameters"
            raise ValueError(f"the model has {what}: there is no direction to measure in; name some with parameters=[...]")
        if half := {p.dtype for p in chosen.values()} & {torch.bfloat16, torch.float16}:
            warnings.warn(f"{half.pop()} rounds the loss to two or three digits, and small rises to nothing: measure model.float()", stacklevel=3)
        self.criterion, self.data, self.seed, self.hold = criterion, data, seed, hold
        self._sums, self._looked_at = getattr(criterion, "reduction", "mean") == "sum", 0  # batches whose loss was checked
        self.model = copy.deepcopy(model).train(mode == "train")
        self._types = {name: p.dtype for name, p in chosen.items()}
        self._buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        layout = Layout({name: p.shape for name, p in chosen.items()})
        self._place(layout.flatten(list(chosen.values())), layout, chunk)

    def _place(self, w: Tensor, layout: Layout, chunk: int | None) -> None:
        super()._place(w, layout, chunk)
        self._held: list[tuple[Tensor, Tensor, int, int]] | None = None

    @contextmanager
    def _randomness(self) -> Iterator[None]:
        """Random numbers from the seed; afterwards all states are as before."""
        states = [(np.random.set_state, np.random.get_state()), (random.setstate, random.getstate())]
        for owner in (self.data, getattr(self.data, "sampler", None)):
            if isinstance(own := getattr(owner, "generator", None), torch.Generator):
                states.append((own.set_state, own.get_state()))
        with torch.random.fork_rng([self.w.device] if self.w.is_cuda else []):
            try:
                random.seed(self.seed)
                np.random.seed(self.seed % 2**32)
                self._restart(self.seed)
                yield
            finally:
                for put_back, state in states:
                    put_back(state)

    def _restart(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)
        if self.w.is_cuda:
            with torch.cuda.device(self.w.device):
                torch.cuda.manual_seed(seed)

    def _batches(self) -> Iterator[tuple[Callable[[Tensor], Tensor], int, int]]:
        """Of every batch the loss (P,) -> (), its weight in the sum over examples, and their number."""
        seen = 0
        with self._randomness():
            for number, batch in enumerate(self.data):
                if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                    raise ValueError(f"data must give batches (x, y), batch {number} is {type(batch).__name__}")
                x, y = (part.to(self.w.device) if isinstance(part, Tensor) else part for part in batch)
                seen += (n := len(y))
                if n:
                    yield partial(self._batch_loss, x, y, number), 1 if self._sums else n, n
        if not seen:
            raise ValueError("the data has no examples")

    def _batch_loss(self, x: Any, y: Any, number: int, w: Tensor) -> Tensor:
        """The loss of a batch; dropout draws the same mask at all weights, and buffers move in copies."""
        tensors = {name: b.clone() for name, b in self._buffers.items()}
        tensors |= {name: view.to(kind) for (name, kind), view in zip(self._types.items(), self.layout.split(w))}
        self._restart(self.seed + number)
        output = functional_call(self.model, tensors, (x,))
        found = self.criterion(output, y)
        if found.dim():
            raise ValueError(
                f"the criterion must give one number, the mean over the batch; it gave shape {tuple(found.shape)} "
                "(reduction='mean' makes one)"
            )
        if number == self._looked_at:
            self._looked_at += 1
            if found.isfinite() and not self._adds_up(found.detach(), output, y):
                warnings.warn(NO_MEAN, stacklevel=2)
                self._looked_at = -1
        return found

    @torch.no_grad()
    def _adds_up(self, whole: Tensor, output: Any, y: Any) -> bool:
        """Is the loss of a batch what those of its parts come to?"""
        if not (isinstance(output, Tensor) and isinstance(y, Tensor) and output.dim() and len(output) == len(y) > 1):
            return True
        n, tolerance = len(y), 1e-3 if whole.dtype in (torch.float32, torch.float64) else 0.05
        for cut_at in {1, n // 2}:
            parts = [self.criterion(output[part], y[part]) * (1 if self._sums else n_part) for part, n_part in ((slice(cut_at), cut_at), (slice(cut_at, n), n - cut_at))]
            if not torch.isclose(sum(parts) / (1 if self._sums else n), whole, rtol=tolerance, atol=1e-6):
                return False
        return True

    def _mean(self, each: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> Tensor:
        total, count = 0, 0
        with closing(self._batches()) as batches:
            for loss, weight, n in batches:
                total, count = total + weight * each(loss), count + n
        return total / count

    def _loss(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return self._mean(lambda loss: torch.stack([loss(row).double() for row in rows]))

    def _gradient(self, rows: Tensor) -> Tensor:
        def slopes(loss: Callable[[Tensor], Tensor]) -> Tensor:
            leaves = (row.detach().clone().requires_grad_() for row in rows)
            return torch.stack([_slope(loss(leaf), leaf, False) for leaf in leaves])

        with torch.enable_grad():
            return self._mean(slopes)

    def _product(self, w: Tensor, vectors: Tensor) -> Tensor:
        total, count = torch.zeros_like(vectors), 0
        with closing(self._graphs(w)) as graphs:
            for g, leaf, weight, n in graphs:
                total.add_(self._probed(g, leaf, vectors), alpha=weight)
                count += n
        return total.div_(count)

    def _graphs(self, w: Tensor) -> Iterator[tuple[Tensor, Tensor, int, int]]:
        """Of every batch the gradient with its graph, the leaf, the weight and the number of examples. They are held if all fit."""
        if self._held is not None:
            yield from self._held
            return
        held, room, each = [], free_memory(w.device) // 4 if self.hold else -1, None
        with closing(self._batches()) as batches, sdpa_kernel(SDPBackend.MATH):  # others can be differentiated only once
            for loss, weight, n in batches:
                if each is None:
                    saved = _saved(loss, w)
                    self.chunk, each = self.chunk or _chunk(saved, w.device), saved / n
                graph = (*self._through(loss, w), weight, n)
                room -= each * n
                held = [*held, graph] if room >= 0 else []
                yield graph
        self._held = held if room >= 0 else None


def of_networks(problem: Any, w: Tensor, which: int, data: str = "train", most: int = 100) -> ModelObjective:
    """The loss of a network of ``rwp_edu.problems.module_problem`` at weights (P,), on its first ``most`` examples, as it predicts:
    BatchNorm statistics are those of the weights ``w``, also around them."""
    batches, left = [], most
    for x, y, _ in problem.held(which)[data]:
        batches.append((cut(x, 0, left), y[:left]))
        left -= len(y)
        if left <= 0:
            break
    model = problem.at(w, which)
    with torch.no_grad(), problem.recalibrated(model, problem.held(which)["train"]):
        return of_model(model.eval(), problem.measured_loss, batches)


def of_model(
    model: torch.nn.Module,
    criterion: Callable[[Any, Any], Tensor],
    data: Iterable[tuple[Any, Any]],
    parameters: Collection[str] | None = None,
    mode: str = "eval",
    seed: int = 0,
    chunk: int | None = None,
    hold: bool = True,
) -> ModelObjective:
    """The mean loss of a torch model over all examples of ``data``, at the weights that the model has now.

    ``data``: anything that gives batches (x, y) again and again, as a DataLoader or a list; sizes may differ. The loss of a batch
    is ``criterion(model(x), y)``, a mean over the batch, or a sum where ``criterion.reduction`` says so; a warning if it is neither, as with class weights. ``parameters``: names of
    those that count as weights; without, all that require a gradient.

    ``mode="eval"`` is the network as it predicts. ``mode="train"`` is a choice to state: BatchNorm normalises by the batch, so the
    loss depends on the batch size, and dropout draws one mask per batch, the same at all weights. Random numbers, those of the
    loader's order and of augmentation included, start from ``seed`` in every pass: it is one function, for one draw of the
    augmentation.

    The model is copied, so that it may train on and is never touched. The global random states are put back after every call, also
    after an exception.

    A product goes through the data once; the graphs of all batches are kept for the next product if they fit a quarter of the free
    memory, unless ``hold=False``. ``chunk`` probes go through a graph at once: by default as many as fit the cache, or a quarter of
    the free memory of a GPU; one by one where the backward pass of a layer cannot take several.

    Errors: no parameters, a name that does not exist, data that is empty or can be read only once, a loss that is not one number
    or not finite at the weights.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> data = [(torch.ones(2, 1), torch.zeros(2, 1)), (torch.full((1, 1), 4.0), torch.zeros(1, 1))]
    >>> of_model(model, torch.nn.MSELoss(), data).product(torch.ones(1, 1))  # 2 (1 + 1 + 16) / 3
    tensor([[12.]])
    """
    return ModelObjective(model, criterion, data, parameters, mode, seed, chunk, hold)
