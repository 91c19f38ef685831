"""What torch's users expect of an optimizer, of every method."""

import warnings

import pytest
import torch
from torch import nn

from rwp_edu.methods import METHODS
from rwp_edu.optim import OPTIMIZERS

ANY_BASE = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    **{name: {} for name in ("Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Rprop", "Adafactor")},
    **{name: {} for name in ("RMSprop", "Adadelta", "ASGD")},
}


def sgd(parameters, lr=0.01, **hyper):
    return torch.optim.SGD(parameters, lr=lr, **hyper)


def quartic(*parameters):
    def closure():
        loss = sum((p.double() ** 4).sum() for p in parameters) / 4
        loss.backward()
        return loss

    return closure


def copies(parameters):
    return [p.detach().clone() for p in parameters]


def equal(one, other):
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- learning rates


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=8),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)], [3]
        ),
    ],
    ids=["one cycle", "plateau", "sequential"],
)
@pytest.mark.parametrize("name", METHODS)
def test_schedulers_move_it_as_they_move_the_base(toy, name, schedule):
    one, plain = toy(name), toy("sgd").optimizer.base
    keys, seen = ("lr", "momentum", "weight_decay"), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedulers = schedule(one.optimizer), schedule(plain)
        for _ in range(6):
            one.step()
            plain.step()
            for scheduler in schedulers:
                scheduler.step(*([1.0] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
            seen.append([[o.param_groups[0][key] for key in keys] for o in (one.optimizer.base, plain)])
    assert all(a == b for a, b in seen) and len({str(a) for a, _ in seen}) > 2


@pytest.mark.parametrize("name", METHODS)
def test_the_learning_rate_may_be_a_tensor(name):
    found = []
    for lr in (0.05, torch.tensor(0.05)):
        w = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = OPTIMIZERS[name](torch.optim.SGD([w], lr=lr, momentum=0.9))
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        for _ in range(5):
            optimizer.step(quartic(w))
            schedule.step()
        again = OPTIMIZERS[name](torch.optim.SGD([w], lr=lr, momentum=0.9))
        again.load_state_dict(optimizer.state_dict())
        assert float(again.param_groups[0]["lr"]) == float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05 / 4)
        found.append(w.detach())
    torch.testing.assert_close(*found)


# --- gradients and parameters of all sorts


@pytest.mark.parametrize("name", METHODS)
def test_zero_gradients_leave_the_weights_and_no_gradients_leave_even_the_gradient(name):
    """bSAM without its prior, which is a weight decay."""
    w, unused = nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor(3.0))
    hyper = {"prior": 0.0} if name == "bsam" else {}
    optimizer = OPTIMIZERS[name](sgd([w, unused]), **hyper)
    for _ in range(2):
        optimizer.step(quartic_times_zero(w))
    assert w.tolist() == [1.0, -2.0] and w.grad.eq(0).all()
    assert unused == 3.0 and unused.grad is None


def quartic_times_zero(w):
    def closure():
        loss = 0 * (w**4).sum()
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("name", METHODS)
def test_non_contiguous_and_0_dim_parameters_train_as_any_other(name):
    g = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=g) for shape in ((3, 4), (2, 3, 2, 2), ())]
    layouts = [
        lambda v: v.clone(),
        lambda v: (
            v.t().contiguous().t() if v.dim() == 2 else v.to(memory_format=torch.channels_last) if v.dim() == 4 else v.clone()
        ),
        lambda v: torch.stack([v, v], -1)[..., 0],
    ]
    found = []
    for layout in layouts:
        parameters = [nn.Parameter(layout(value)) for value in values]
        places = [(p.data_ptr(), p.stride()) for p in parameters]
        optimizer = OPTIMIZERS[name](sgd(parameters, momentum=0.9))
        for _ in range(3):
            optimizer.step(quartic(*parameters))
        assert [(p.data_ptr(), p.stride()) for p in parameters] == places
        found.append(copies(parameters))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other)
    assert not any(torch.equal(a, b) for a, b in zip(found[0], values))


@pytest.mark.parametrize("name", METHODS)
def test_named_parameters(toy, name):
    found = []
    for parameters in ("parameters", "named_parameters"):
        one = toy(name)
        own = {"k": 2} if "k" in METHODS[name].parameters else {}
        one.optimizer = OPTIMIZERS[name](sgd(getattr(one.model, parameters)(), momentum=0.9), **own)
        one.steps(range(2))
        one.optimizer.load_state_dict(one.optimizer.state_dict())
        one.steps(range(2))
        found.append(one.state()["weights"])
    assert equal(*found)
    assert one.optimizer.param_groups[0]["param_names"] == [n for n, _ in one.model.named_parameters()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_other_precisions_come_back_bit_for_bit_and_train(name, dtype):
    g = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=g).to(dtype)) for shape in ((4, 3), (5,))]
    start = copies(parameters)
    optimizer = OPTIMIZERS[name](sgd(parameters, lr=0.0))
    for lr in (0.0, 0.0, 0.05, 0.05):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step(quartic(*parameters))
        assert equal(parameters, start) == (lr == 0) and all(p.grad.dtype == p.dtype == dtype for p in parameters)
    if dtype == torch.float64:
        assert all(value.dtype == dtype for value in optimizer.memory.values())


@pytest.mark.parametrize("name", METHODS)
def test_several_precisions_in_one_model(name):
    g = torch.Generator().manual_seed(0)
    dtypes = (torch.bfloat16, torch.float32, torch.float64, torch.float16)
    parameters = [nn.Parameter(torch.randn(3, 2, generator=g).to(dtype)) for dtype in dtypes]
    start = copies(parameters)
    optimizer = OPTIMIZERS[name](sgd(parameters, lr=0.0))
    for lr in (0.0, 0.0, 0.05):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step(quartic(*parameters))
        assert [p.grad.dtype for p in parameters] == list(dtypes)
        assert all(torch.equal(p, s) == (lr == 0) for p, s in zip(parameters, start))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name in METHODS for key in METHODS[name].parameters if type(METHODS[name].default(key)) is float],
)
def test_any_number_may_differ_between_groups(name, key, dtype):
    """Equal values in all groups, given apart, are one value; different ones give something else and no error."""
    g = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=g).to(dtype) for shape in ((3, 2), (4,))]
    base, found = METHODS[name].default(key), []
    for own in ((base, base), (base / 2 or 0.5, base)):
        parameters = [nn.Parameter(value.clone()) for value in values]
        groups = [{"params": [p], key: value} for p, value in zip(parameters, own)]
        hyper = {"clean": 0.2} if name == "nso" and key != "clean" else {}
        optimizer = OPTIMIZERS[name](sgd(groups, lr=0.1), **hyper)
        for _ in range(3):
            optimizer.step(quartic(*parameters))
        found.append(copies(parameters))
    assert all(torch.isfinite(p).all() for p in found[1])
    assert dtype == torch.bfloat16 or key == "lam" or not equal(*found)


@pytest.mark.parametrize("name", METHODS)
def test_sparse_gradients_leave_no_trace(name):
    embedding = nn.Embedding(4, 2, sparse=True)
    before = copies(embedding.parameters())
    optimizer = OPTIMIZERS[name](sgd(embedding.parameters()))

    def closure():
        loss = embedding(torch.tensor([1])).square().sum()
        loss.backward()
        return loss

    with pytest.raises(TypeError, match="dense gradients.*sparse=False"):
        optimizer.step(closure)
    assert equal(embedding.parameters(), before) and embedding.weight.grad is None and optimizer.memory == {}


# --- bases


@pytest.mark.parametrize("base", ANY_BASE)
def test_any_base_optimizer_of_torch(base):
    """Without noise it is that optimizer bit for bit, also after its state was saved and loaded."""
    plain, ours = [], []
    for found, wrapped in ((plain, False), (ours, True)):
        w = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
        optimizer = getattr(torch.optim, base)([w], lr=0.01, **ANY_BASE[base])
        if wrapped:
            optimizer = OPTIMIZERS["rwp"](optimizer, sigma=0.0)
        for step in range(4):
            if wrapped:
                optimizer.step(quartic(w))
                optimizer.load_state_dict(optimizer.state_dict())
            else:
                optimizer.zero_grad()
                quartic(w)()
                optimizer.step()
            found.append(w.detach().clone())
    assert equal(plain, ours)


@pytest.mark.parametrize("base", ANY_BASE)
@pytest.mark.parametrize("name", METHODS)
def test_a_parameter_of_the_base_is_never_taken_for_one_of_the_method(name, base):
    """Adadelta has a rho, RMSprop and ASGD have an alpha: refused by name, or kept apart."""
    w = nn.Parameter(torch.ones(2))
    inner = getattr(torch.optim, base)([w], lr=0.01, **ANY_BASE[base])
    before = dict(inner.param_groups[0])
    clash = [key for key in METHODS[name].parameters if key in before]
    if not clash:
        OPTIMIZERS[name](inner)
        return
    with pytest.raises((TypeError, ValueError), match=clash[0]):
        OPTIMIZERS[name](inner)
    assert inner.param_groups[0] == before


@pytest.mark.parametrize("name", METHODS)
def test_clipping_by_a_hook_of_the_base_acts_on_the_final_gradient_alone(name):
    start, found, norms = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), [], []
    for clip in (False, True):
        w = nn.Parameter(start.clone())
        optimizer = OPTIMIZERS[name](sgd([w], lr=0.1))
        if clip:
            optimizer.base.register_step_pre_hook(lambda *_, w=w: norms.append(nn.utils.clip_grad_norm_([w], 0.25)))
        optimizer.step(quartic(w))
        found.append(w.detach() - start)
    plain, clipped = found
    torch.testing.assert_close(clipped, plain * (0.025 / plain.norm()).clamp(max=1), rtol=1e-4, atol=1e-7)
    (size,) = norms
    torch.testing.assert_close(size, plain.norm() / 0.1)


# --- mixed precision


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_autocast(toy, name):
    one = toy(name)

    def automatic(evaluate, call):
        with torch.autocast("cpu", torch.bfloat16):
            return evaluate()

    with torch.no_grad():
        one.model.eval()
        x, y = one.data[0]
        before = nn.functional.mse_loss(one.model(x), y)
    one.model.train()
    for seed in range(30):
        torch.manual_seed(seed)
        loss = one.step(automatic)
    assert loss.dtype == torch.float32 and {p.dtype for p in one.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in one.model.parameters()} == {torch.float32}
    with torch.no_grad():
        one.model.eval()
        assert nn.functional.mse_loss(one.model(x), y) < before or name == "bsam"


@pytest.mark.parametrize("name", METHODS)
def test_a_grad_scaler_is_refused_with_the_remedy(name):
    w = nn.Parameter(torch.ones(2))
    optimizer, scaler = OPTIMIZERS[name](sgd([w])), torch.amp.GradScaler("cpu")
    scaler.scale((w**2).sum()).backward()
    with pytest.raises(TypeError, match=r"GradScaler cannot pass one: use bfloat16 autocast, without a scaler"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="Closure"):
        scaler.step(optimizer, closure=quartic(w))
    assert w.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", [row.name for row in METHODS.values() if row.history])
def test_histories_of_bfloat16_parameters_are_kept_in_float32(name):
    w = torch.nn.Parameter(torch.full((3, 2), 0.5, dtype=torch.bfloat16))
    optimizer = OPTIMIZERS[name](torch.optim.SGD([w], lr=0.0))

    def closure():
        loss = (w.float() * 0.01).sum()
        loss.backward()
        return loss

    before = None
    for _ in range(300):
        optimizer.step(closure)
        assert all(value.dtype == torch.float32 for value in optimizer.memory.values())
        now = {key: value.clone() for key, value in optimizer.memory.items()}
        assert before is None or any(not torch.equal(now[key], before[key]) for key in now) or name == "fsam"
        before = now
    assert w.dtype == torch.bfloat16 and torch.equal(w, torch.full_like(w, 0.5))
