"""What may surround a step: autocast, bases that walk raw memory, modules that come later, other threads, closures of every kind."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from rwp_edu.optim import MRWP, NSO, OPTIMIZERS, RWP, SAM
from rwp_edu.optim.schedules import ScaleSchedule

X, Y = torch.linspace(-1, 1, 32).view(8, 4), torch.arange(8) % 3


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def losses_of(model, optimizer, bf16: bool | None = None) -> list[float]:
    """The losses of the evaluations of one step, with autocast within the closure if asked for."""
    seen = []

    def closure():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16) if bf16 is not None else nullcontext():
            loss = F.cross_entropy(model(X), Y)
        loss.backward()
        seen.append(loss.item())
        return loss

    optimizer.step(closure)
    return seen


@pytest.mark.parametrize("method, scale", [(SAM, {"rho": 1.0}), (MRWP, {"sigma": 0.5}), (NSO, {"sigma": 0.5})])
def test_autocast_around_the_step_evaluates_every_point_at_its_weights(method, scale):
    """Autocast keeps what it has cast until its outermost context ends."""
    inside, around = [], []
    for found, outer in ((inside, False), (around, True)):
        model = network()
        optimizer = method(SGD(model.parameters(), lr=0.1), **scale)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=outer):
                found += losses_of(model, optimizer, bf16=None if outer else True)
    assert inside == around and len(set(inside)) == len(inside) == 4


@pytest.mark.parametrize("base", [SGD, Adam])
@pytest.mark.parametrize("fused", [False, True])
def test_a_base_that_walks_raw_memory_trains_as_alone(base, fused):
    x, after = torch.linspace(-1, 1, 300).view(4, 3, 5, 5), []
    for wrap in (lambda own: own, OPTIMIZERS["sgd"]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 3)).to(memory_format=torch.channels_last)
        optimizer = wrap(base(model.parameters(), lr=0.05, fused=fused))

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), Y[:4])
            loss.backward()
            return loss

        for _ in range(4):
            optimizer.step(closure)
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(after[0], after[1], rtol=1e-5, atol=1e-6)


def test_batch_norm_that_is_put_in_later_counts_a_step_once():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Identity())
    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    losses_of(model, optimizer)
    fresh = nn.BatchNorm1d(3)
    fresh.weight, fresh.bias = model[1].weight, model[1].bias
    model[1], model[2] = fresh, nn.BatchNorm1d(3, affine=False)
    for steps in (1, 2):
        losses_of(model, optimizer)
        assert [int(model[i].num_batches_tracked) for i in (1, 2)] == [steps, steps]
    assert optimizer._plan.watch.knows(lambda: None) is False and not optimizer._plan.watch._strangers()


class Trainer:
    """A training whose closure is a method and looks at a network that is in no other's hands."""

    def __init__(self):
        self.model, self.teacher = network(), nn.BatchNorm1d(3, affine=False)

    def closure(self):
        loss = F.mse_loss(self.model(X), self.teacher(self.model(X)).detach())
        loss.backward()
        return loss


def test_a_teacher_that_a_method_holds_may_be_replaced():
    trainer = Trainer()
    optimizer = SAM(SGD(trainer.model.parameters(), lr=0.1))
    for _ in range(2):
        trainer.teacher = nn.BatchNorm1d(3, affine=False)
        optimizer.step(trainer.closure)
        assert int(trainer.teacher.num_batches_tracked) == 1


def test_the_modules_of_other_threads_are_left_alone():
    model, others = network(), [nn.BatchNorm1d(3)]

    def closure():
        thread = threading.Thread(target=lambda: others[0](torch.randn(4, 3)))
        thread.start(), thread.join()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    optimizer = SAM(SGD(model.parameters(), lr=0.1))
    for _ in range(2):
        optimizer.step(closure)
    assert int(others[0].num_batches_tracked) == 4


@pytest.mark.parametrize("method", ["rwp", "m-rwp", "nso", "sam"])
def test_a_closure_may_use_one_buffer_for_all_its_gradients(method):
    after = []
    for buffer in (None, torch.zeros(2)):
        w = nn.Parameter(torch.tensor([1.0, -0.5]))

        def closure(w=w, buffer=buffer):
            g = torch.tensor([1.0, 3.0]) * w.detach()
            w.grad = g if buffer is None else buffer.copy_(g)
            return (w.detach() * g).sum() / 2

        scale = {"rho": 0.5} if method == "sam" else {"sigma": 0.5, "kind": "isotropic"}
        OPTIMIZERS[method](SGD([w], lr=0.1), **scale).step(closure)
        after.append(w.detach())
    assert torch.equal(*after)


@pytest.mark.parametrize("method", ["rwp", "sam", "nso"])
def test_buffers_that_cannot_be_written_to(method):
    model = network()
    model.register_buffer("expanded", torch.ones(4).expand(4, 4))
    with torch.inference_mode():
        model.register_buffer("constant", torch.ones(2))
    optimizer = OPTIMIZERS[method](SGD(model.parameters(), lr=0.1))
    losses_of(model, optimizer)
    before = model.weight.detach().clone()
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: model(X).sum() + 1 / 0)
    assert torch.equal(model.weight, before)


def test_the_end_of_the_data_in_a_closure_is_the_end_of_the_data():
    model, batches = network(), iter([(X, Y)])
    optimizer = SAM(SGD(model.parameters(), lr=0.1))

    def closure():
        x, y = next(batches)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    before = model.weight.detach().clone()
    with pytest.raises(StopIteration):
        optimizer.step(closure)
    assert torch.equal(model.weight, before)


def test_a_base_that_is_wrapped_again_after_loading_has_the_values_of_its_new_method():
    base = SGD(network().parameters(), lr=0.1)
    first = RWP(base, sigma=0.1)
    first.load_state_dict(first.state_dict())
    assert RWP(base, sigma=0.2).param_groups[0]["sigma"] == 0.2


def test_a_schedule_leaves_exempt_groups_alone():
    model = network()
    optimizer = RWP(SGD([{"params": [model.weight]}, {"params": [model.bias], "sigma": 0}], lr=0.1), sigma=0.1)
    schedule = ScaleSchedule(optimizer, "sigma", shape="linear", start=0.0, end=0.2, steps=2)
    schedule.step()
    assert [group["sigma"] for group in optimizer.param_groups] == [0.1, 0.0]
    later = ScaleSchedule(RWP(SGD(network().parameters(), lr=0.1), sigma=0.0), "sigma", end=0.2, steps=1)  # nothing is exempt where all have 0
    later.step()
    assert later.optimizer.param_groups[0]["sigma"] == 0.2
    again = ScaleSchedule(optimizer, "sigma", shape="linear", start=0.0, end=0.2, steps=2)
    again.load_state_dict(schedule.state_dict())
    again.step()
    assert [group["sigma"] for group in optimizer.param_groups] == [0.2, 0.0]
