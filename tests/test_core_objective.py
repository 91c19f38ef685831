"""Objectives against dense derivatives and finite differences; invariances; nothing of the caller's is touched."""

from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from rwp_edu.curvature import objective
from rwp_edu.curvature.objective import Objective, of_model
from rwp_edu.methods.noise import KINDS
from rwp_edu.methods.points import Layout
from rwp_edu.problems import objectives
from rwp_edu.problems.matrix_sensing import Sensing
from rwp_edu.problems.mlp import MLP
from rwp_edu.problems.objectives import NetworkObjective, of_sensing
from rwp_edu.problems.surfaces import SHARP_AND_WIDE

DOUBLE = torch.float64
CRITERION = nn.CrossEntropyLoss()
W = torch.tensor([0.5, -1.0, 1.5], dtype=DOUBLE)


def quartic(w):
    return w.pow(4).sum(-1) / 4 + (w[..., 0] * w[..., 1]).square()


def dense(f, w):
    return torch.autograd.functional.hessian(f, w)


def everything(loss):
    """The dense Hessian that an objective gives."""
    return loss.product(torch.eye(loss.layout.size, dtype=loss.w.dtype))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.encoder(x.view(len(x), 4, 4)).mean(1))


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(16, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
    "cnn": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    ),
    "dropout": lambda: nn.Sequential(nn.Linear(16, 5), nn.GELU(), nn.Dropout(0.4), nn.LayerNorm(5), nn.Linear(5, 3)),
    "attention": Attention,
}  # fmt: skip


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    return torch.randn(12, 16, generator=g, dtype=DOUBLE), torch.randint(3, (12,), generator=g)


def made(name):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MODELS[name]().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 0.3
            module.running_var *= 2
    return model


def cut(data, *sizes):
    return list(zip(*(part.split(sizes) for part in data)))


def check_by_differences(loss, step=1e-5, n=8):
    """The gradient from differences of losses, and products from those of gradients, along a few directions."""
    v = torch.randn(n, loss.layout.size, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    v /= v.norm(dim=1, keepdim=True)
    ahead, behind = loss.w + step * v, loss.w - step * v
    slope, hv = ((at(ahead) - at(behind)) / (2 * step) for at in (loss.loss, loss.gradient))
    torch.testing.assert_close(v @ loss.slope, slope, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(loss.product(v), hv, atol=1e-7, rtol=1e-6)


# Functions


def test_of_a_function_by_autograd():
    loss = Objective(quartic, W)
    torch.testing.assert_close(everything(loss), dense(quartic, W))
    torch.testing.assert_close(loss.slope, torch.autograd.functional.jacobian(quartic, W))
    assert loss.value == pytest.approx(quartic(W).item())
    torch.testing.assert_close(loss.curvatures(W[None]), (W @ dense(quartic, W) @ W)[None])


def test_runs_are_rows():
    rows = torch.stack([W, 2 * W])
    both, singles = Objective(quartic, rows), [Objective(quartic, w) for w in rows]
    v = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    for what in ("product", "loss", "gradient", "curvatures"):
        torch.testing.assert_close(getattr(both, what)(v), torch.stack([getattr(one, what)(u) for one, u in zip(singles, v)]))
    assert both.value == [one.value for one in singles]
    torch.testing.assert_close(both.slope, torch.stack([one.slope for one in singles]))


def test_given_derivatives_are_used():
    asked = []
    loss = Objective(
        quartic, W, gradient=lambda w: asked.append("gradient") or 7 * w, product=lambda w, v: asked.append("product") or 3 * v
    )
    assert torch.equal(loss.slope, 7 * W) and torch.equal(everything(loss), 3 * torch.eye(3, dtype=DOUBLE))
    assert asked == ["gradient", "product"]


def test_derivatives_that_vanish():
    assert not everything(Objective(lambda w: w.sum(-1), W)).any()
    assert not Objective(lambda w: torch.zeros(len(w), dtype=DOUBLE), W).slope.any()
    other = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    assert not everything(Objective(lambda w: (w * other).sum(-1), W)).any() and other.grad is None


def test_on_a_surface():
    w = torch.tensor([0.2, -0.1], dtype=DOUBLE)
    torch.testing.assert_close(everything(Objective(SHARP_AND_WIDE.value, w)), SHARP_AND_WIDE.hessian(w))


def test_many_rows_come_in_parts(monkeypatch):
    rows = []
    monkeypatch.setattr(objective, "PIECE", 7)
    loss = Objective(lambda w: rows.append(len(w)) or quartic(w), W)
    points = torch.randn(5, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss.loss(points), quartic(points))
    assert rows == [2, 2, 1]
    torch.testing.assert_close(loss.gradient(points)[4], Objective(quartic, points[4]).slope)


def test_scales():
    layout = Layout({"a": (2, 2), "b": (3,)})
    w = torch.arange(1.0, 8.0)
    loss = Objective(lambda w: w.sum(-1), w, layout)
    for kind in KINDS:
        torch.testing.assert_close(loss.scale(kind), KINDS[kind](torch.ones(7), w, layout))
    torch.testing.assert_close(Objective(loss._function, -w, layout).scale("element-wise"), w)
    assert torch.equal(loss.w, torch.arange(1.0, 8.0))


# Models


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
def test_of_a_model(name, mode, data):
    loss = of_model(made(name), CRITERION, cut(data, 5, 7), mode=mode)
    check_by_differences(loss)


def test_the_loss_is_that_of_the_module(data):
    for name in MODELS:
        model = made(name)
        loss = of_model(model, CRITERION, cut(data, 5, 7))
        assert loss.value == pytest.approx(CRITERION(model.eval()(data[0]), data[1]).item(), rel=1e-12)
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p in moved.parameters():
                p.mul_(1.1)
        assert loss.loss(1.1 * loss.w[None]).item() == pytest.approx(CRITERION(moved(data[0]), data[1]).item(), rel=1e-12)
        assert loss.at(1.1 * loss.w).value == loss.loss(1.1 * loss.w[None]).item()


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_batches_do_not_matter_in_eval_mode(name, data):
    model = made(name)
    whole = of_model(model, CRITERION, [data])
    for sizes in ((3, 4, 5), (5, 4, 3), (12, 0)):
        parts = cut(data, *sizes)
        for batches in (parts, parts[::-1]):
            other = of_model(model, CRITERION, batches)
            torch.testing.assert_close(everything(other), everything(whole))
            torch.testing.assert_close(other.slope, whole.slope)
    summed = of_model(model, nn.CrossEntropyLoss(reduction="sum"), cut(data, 3, 4, 5))
    torch.testing.assert_close(everything(summed), everything(whole))
    assert summed.value == pytest.approx(whole.value)


def test_batch_norm_in_train_mode_depends_on_the_batches(data):
    model = made("cnn")
    one, two = (of_model(model, CRITERION, batches, mode="train") for batches in ([data], cut(data, 6, 6)))
    assert (everything(one) - everything(two)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_chunks_and_held_graphs_do_not_matter(name, data):
    model, batches = made(name), cut(data, 5, 7)
    first = everything(of_model(model, CRITERION, batches, chunk=1, hold=False))
    for chunk in (None, 3, 1000):
        for hold in (True, False):
            loss = of_model(model, CRITERION, batches, chunk=chunk, hold=hold)
            torch.testing.assert_close(everything(loss), first)
            assert (loss._held is not None) == hold
            torch.testing.assert_close(everything(loss), first)
            assert loss.at(2 * loss.w)._held is None


def test_chunk_and_graphs_follow_the_memory(data, monkeypatch):
    model = made("mlp")
    loss = of_model(model, CRITERION, cut(data, 5, 7))
    first = everything(loss)
    assert loss.chunk == objective.MOST["cpu"] and loss._held
    monkeypatch.setattr(objective, "free_memory", lambda device: 1000)
    small = of_model(model, CRITERION, cut(data, 5, 7))
    torch.testing.assert_close(everything(small), first)
    assert small.chunk == 1 and small._held is None and small.piece == 1
    monkeypatch.undo()
    monkeypatch.setattr(objective, "CACHE", 10_000)
    small = of_model(model, CRITERION, [data])
    torch.testing.assert_close(everything(small), first)
    assert 1 <= small.chunk < objective.MOST["cpu"]


class Cube(torch.autograd.Function):
    """Differentiable twice, but not for several probes at once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return Slope.apply(x, g)


class Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        ctx.save_for_backward(x, g)
        return 3 * x**2 * g

    @staticmethod
    def backward(ctx, h):
        x, g = ctx.saved_tensors
        x.numpy(), h.numpy()
        return 6 * x * g * h, 3 * x**2 * h


def test_probes_go_one_by_one_where_they_cannot_go_together():
    loss = Objective(lambda w: Cube.apply(w).sum(-1), W, chunk=3)
    torch.testing.assert_close(everything(loss), torch.diag(6 * W))
    assert loss.chunk == 1


@pytest.mark.parametrize("names", [["2.weight"], ["0.bias", "2.bias"]])
def test_chosen_parameters(names, data):
    model = made("mlp")
    full, some = of_model(model, CRITERION, [data]), of_model(model, CRITERION, [data], parameters=names)
    where = torch.cat([torch.full((size,), name in names) for name, size in zip(full.layout.names, full.layout.sizes)])
    assert set(some.layout.names) == set(names)
    torch.testing.assert_close(everything(some), everything(full)[where][:, where])
    for name, p in model.named_parameters():
        p.requires_grad_(name in names)
    frozen = of_model(model, CRITERION, [data])
    assert frozen.layout.names == some.layout.names
    torch.testing.assert_close(everything(frozen), everything(some))
    torch.testing.assert_close(everything(of_model(model, CRITERION, [data], parameters=full.layout.names)), everything(full))


def test_tied_weights_are_one_parameter(data):
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)).double()
    model[2].weight = model[0].weight
    loss = of_model(model, CRITERION, [data])
    assert loss.layout.names == ("0.weight", "0.bias", "2.bias")
    check_by_differences(loss)


# Nothing is touched


class Shaky(Dataset):
    """Random crops, in the manner of data augmentation, with all three kinds of random numbers."""

    def __init__(self, data, fails=False):
        self.data, self.fails = data, fails

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, i):
        if self.fails and i == 7:
            raise KeyboardInterrupt
        noise = torch.randn(16, dtype=DOUBLE) + random.gauss(0, 1) + np.random.standard_normal()
        return self.data[0][i] + 0.1 * noise, self.data[1][i]


def states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()


def same_states(a, b):
    return torch.equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]


@pytest.fixture
def watched(same):
    """A model with a bit of everything; afterwards it must be as it was."""
    model = made("cnn")
    model.add_module("drop", nn.Dropout(0.2))
    model[2].eval()
    CRITERION(model(torch.ones(2, 16, dtype=DOUBLE)), torch.tensor([0, 1])).backward()
    model[1].weight.requires_grad_(False)

    def looked():
        return (
            copy.deepcopy(model.state_dict()),
            [p.grad.clone() for p in model.parameters()],
            [(p.requires_grad, p.data_ptr()) for p in model.parameters()],
            [module.training for module in model.modules()],
        )

    before = looked()
    yield model
    assert same(before, looked())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_model_and_random_states_are_untouched(watched, mode, data):
    g = torch.Generator().manual_seed(5)
    loader = DataLoader(Shaky(data), 5, shuffle=True, generator=g)
    before = g.get_state(), states()
    loss = of_model(watched, CRITERION, loader, mode=mode, hold=False)
    first = loss.value, loss.slope, loss.product(loss.w[None])
    assert torch.equal(g.get_state(), before[0]) and same_states(states(), before[1])
    with torch.random.fork_rng():
        torch.randn(3), random.random(), np.random.rand()
        again = loss.value, loss.slope, loss.product(loss.w[None])
    assert all(np.array_equal(a, b) for a, b in zip(first, again)), "every pass sees the same function"
    assert of_model(watched, CRITERION, loader, mode=mode, seed=1).value != first[0]


@pytest.fixture
def interrupted_criterion():
    calls = []

    def criterion(out, y):
        calls.append(len(y))
        if len(calls) == 2:
            raise RuntimeError("in the middle")
        return CRITERION(out, y)

    return criterion


@pytest.mark.parametrize("what", ["loss", "gradient", "product"])
def test_untouched_after_an_interrupt(watched, what, data, interrupted_criterion):
    g = torch.Generator().manual_seed(5)
    before, backends = (g.get_state(), states()), torch.backends.cuda.flash_sdp_enabled()
    loss = of_model(watched, CRITERION, DataLoader(Shaky(data, fails=True), 5, shuffle=True, generator=g), mode="train")
    with pytest.raises(KeyboardInterrupt):
        getattr(loss, what)(loss.w[None])
    assert torch.equal(g.get_state(), before[0]) and same_states(states(), before[1])
    loss = of_model(watched, interrupted_criterion, cut(data, 5, 7), mode="train")
    with pytest.raises(RuntimeError, match="in the middle"):
        getattr(loss, what)(loss.w[None])
    assert same_states(states(), before[1]) and torch.backends.cuda.flash_sdp_enabled() == backends and loss._held is None
    torch.testing.assert_close(loss.value, of_model(watched, CRITERION, cut(data, 5, 7), mode="train").value)


def test_the_model_may_train_on(data):
    model = made("cnn")
    loss = of_model(model, CRITERION, [data])
    before = loss.value, loss.product(loss.w[None])
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(1)
    assert loss.value == before[0] and torch.equal(loss.product(loss.w[None]), before[1])


# Networks, many at once


def network(activation="relu", widths=(6, 5, 4), runs=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    net = MLP(widths, activation)
    w = torch.randn(runs, net.layout.size, generator=g, dtype=DOUBLE)
    x, y = torch.randn(runs, 8, widths[0], generator=g, dtype=DOUBLE), torch.randint(widths[-1], (runs, 8), generator=g)
    return net, w, x, y


def plainly(net, w, x, y):
    return Objective(lambda v: net.loss(v, x.expand(len(v), -1, -1), y.expand(len(v), -1)), w, net.layout)


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [1, 150, 2**18])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("widths", [(6, 4), (6, 5, 4), (6, 5, 7, 4)])
def test_networks_are_what_autograd_says(activation, widths, numbers, monkeypatch):
    monkeypatch.setattr(objectives, "NUMBERS", numbers)
    net, w, x, y = network(activation, widths)
    v = torch.randn(3, 6, w.shape[1], generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    runs = NetworkObjective(net, w, x, y)
    for r in range(3):
        one, plain = NetworkObjective(net, w[r], x[r], y[r]), plainly(net, w[r], x[r], y[r])
        for what in ("loss", "gradient", "product", "curvatures"):
            expected = getattr(plain, what)(v[r])
            torch.testing.assert_close(getattr(runs, what)(v)[r], expected)
            torch.testing.assert_close(getattr(one, what)(v[r]), expected)
        blocks = [block.trace() for block in _diagonal_blocks(everything(plain), net.layout)]
        torch.testing.assert_close(torch.stack(list(one.traces().values())), torch.stack(blocks))
        torch.testing.assert_close(torch.stack([trace[r] for trace in runs.traces().values()]), torch.stack(blocks))
        assert tuple(one.traces()) == net.layout.names
        coefficients = torch.randn(7, 2, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
        torch.testing.assert_close(one.combined(v[r, :2], coefficients), plain.loss(coefficients @ v[r, :2]))
        assert one.value == pytest.approx(runs.value[r]) == pytest.approx(plain.value)
    assert runs.product(v[:, :0]).shape == (3, 0, w.shape[1])


def _diagonal_blocks(h, layout):
    ends = np.cumsum(layout.sizes)
    return [h[end - size : end, end - size : end] for size, end in zip(layout.sizes, ends)]


def test_networks_at_other_weights_and_on_shared_examples():
    net, w, x, y = network()
    runs = NetworkObjective(net, w, x, y)
    v = w.unsqueeze(1)
    runs.product(v)
    torch.testing.assert_close(runs.at(2 * w).product(v), NetworkObjective(net, 2 * w, x, y).product(v))
    shared = NetworkObjective(net, w, x[0], y[0])
    torch.testing.assert_close(shared.product(v)[2], NetworkObjective(net, w[2], x[0], y[0]).product(v[2]))
    torch.testing.assert_close(NetworkObjective(net, w, x.float(), y).value, runs.value, atol=1e-5, rtol=1e-5)


def test_a_network_is_its_module():
    net, w, x, y = network("tanh")
    ours, torchs = NetworkObjective(net, w[0], x[0], y[0]), of_model(net.module(w[0]), CRITERION, cut((x[0], y[0]), 3, 5))
    torch.testing.assert_close(everything(ours), everything(torchs))
    assert ours.layout.names == torchs.layout.names


@pytest.mark.parametrize("which", [0, 1])
def test_matrix_sensing(which):
    problem = Sensing([0, 1], d=4, rank=1, n=9, dtype=DOUBLE)
    w = problem.init()
    loss = of_sensing(problem, w[which], which)
    assert loss.value == pytest.approx(problem.loss(w)[which].item())
    torch.testing.assert_close(loss.slope, problem.gradient(w)[which])
    torch.testing.assert_close(everything(loss), dense(lambda v: loss._function(v[None])[0], w[which]))
    torch.testing.assert_close(everything(loss).trace(), problem.hessian_trace(w)[which])


# Errors


def linear(**options):
    return of_model(nn.Linear(2, 3), CRITERION, [(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))], **options)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: Objective(quartic, torch.arange(3)), "floating-point type, got torch.int64"),
        (lambda: Objective(quartic, W[None, None]), r"w must be flat weights \(P,\) or \(R, P\)"),
        (lambda: Objective(quartic, W, Layout({"w": (2,)})), "w has 3 weights and the layout 2"),
        (lambda: Objective(quartic, W[:0]), "more than none"),
        (lambda: Objective(quartic, W * torch.nan), "w has values that are not finite"),
        (lambda: Objective(quartic, W, chunk=0), "chunk must be a whole number >= 1, got 0"),
        (lambda: Objective(quartic, W).product(W), r"vectors must have shape \(N, 3\), got \(3,\)"),
        (lambda: Objective(quartic, W[None]).product(W[None]), r"vectors must have shape \(1, N, 3\), got \(1, 3\)"),
        (lambda: Objective(quartic, W).scale("filterwise"), "unknown kind 'filterwise'; did you mean 'filter-wise'"),
        (lambda: Objective(lambda w: w.sum(), W).value, r"the loss must give \(1,\) for weights \(1, 3\), it gave \(\)"),
        (lambda: Objective(lambda w: (w * torch.nan).sum(-1), W).value, "the loss at w is not finite"),
        (lambda: everything(Objective(lambda w: (w * torch.nan).sum(-1), W)), "the loss at w is not finite"),
        (lambda: Objective(lambda w: w.sqrt().sum(-1), 0 * W).slope, "the gradient at w is not finite"),
        (lambda: linear(mode="training"), "unknown mode 'training'; did you mean 'train'"),
        (lambda: linear(parameters=["wieght"]), "unknown parameter 'wieght'; did you mean 'weight'"),
        (lambda: linear(parameters=[]), "there is no direction to measure in"),
        (lambda: of_model(nn.ReLU(), CRITERION, []), "the model has no parameters: "),
        (lambda: of_model(nn.Linear(2, 3).requires_grad_(False), CRITERION, []), "no parameters that require a gradient"),
        (lambda: of_model(nn.Linear(2, 3), CRITERION, []).value, "the data has no examples"),
        (lambda: of_model(nn.Linear(2, 3), CRITERION, [torch.ones(2, 2)]).value, r"data must give batches \(x, y\), batch 0 is Tensor"),
        (lambda: of_model(nn.Linear(2, 3), nn.CrossEntropyLoss(reduction="none"), linear().data).value, r"one number, .* it gave shape \(4,\)"),
        (lambda: everything(of_model(nn.Linear(2, 3), lambda out, y: out.sum() * torch.nan, linear().data)), "the loss at w is not finite"),
        (lambda: NetworkObjective(MLP((2, 3)), W.repeat(3), torch.ones(4, 2), torch.zeros(5).long()), r"x must be \(..., B, 2\)"),
        (lambda: NetworkObjective(*network()).at(W), r"w must have shape \(3, 59\)"),
        (lambda: NetworkObjective(*network()).combined(W, W), "combinations are for one run"),
        (lambda: everything(NetworkObjective(MLP((2, 3)), W.repeat(3), torch.full((4, 2), torch.inf), torch.zeros(4).long())), "not finite"),
    ],
)  # fmt: skip
def test_errors(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_data_that_can_be_read_once():
    with pytest.raises(TypeError, match="again and again"):
        of_model(nn.Linear(2, 3), CRITERION, iter([]))


@pytest.mark.parametrize(
    ("criterion", "told"),
    [
        (nn.CrossEntropyLoss(), False),
        (nn.CrossEntropyLoss(label_smoothing=0.1), False),
        (nn.CrossEntropyLoss(reduction="sum"), False),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), reduction="sum"), False),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])), True),
        (nn.CrossEntropyLoss(ignore_index=1), True),
        (lambda output, y: output.std(), True),
    ],
    ids=["mean", "smoothed", "sum", "sum of weights", "weights", "ignored", "of a batch"],
)
def test_a_loss_that_is_no_mean_over_examples_is_told_once(criterion, told):
    torch.manual_seed(0)
    data = [(torch.randn(9, 4), torch.arange(9) % 3) for _ in range(3)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bowl = of_model(nn.Linear(4, 3), criterion, data)
        values = [bowl.value for _ in range(2)]
    assert len(caught) == told and all("depends on how they are batched" in str(warning.message) for warning in caught)
    assert values[0] == values[1]


def test_weights_of_bfloat16_are_told():
    data = [(torch.randn(4, 3).bfloat16(), torch.arange(4) % 2)]
    with pytest.warns(UserWarning, match=r"measure model.float\(\)"):
        of_model(nn.Linear(3, 2).bfloat16(), nn.functional.cross_entropy, data)
