"""The points of a round at once, on copies of the model in threads: the numbers, the faults, and that it is really at once."""

import threading
import warnings

import pytest
import torch
from torch import nn
from waiting import PATIENCE

from rwp_edu.methods import METHODS
from rwp_edu.optim import OPTIMIZERS, parallel
from rwp_edu.training import Run
from rwp_edu.training.settings import Settings

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
AT_ONCE = [name for name in METHODS if METHODS[name].cost(k=3).points > METHODS[name].cost(k=3).rounds]


class Training:
    """A small network, batches that depend on the number of the update, and an optimizer that shares its points with threads, or not."""

    def __init__(self, method="m-rwp", workers=0, extras=(), device="cpu", **hyper):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), *extras, nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.Linear(4, 4)
        self.model = nn.Sequential(*layers).to(device)
        if "k" in METHODS[method].parameters:
            hyper = {"k": 3, **hyper}
        self.slots = METHODS[method].cost(k=hyper.get("k", 1)).slots
        self.optimizer = OPTIMIZERS[method](torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9), **hyper)
        self.number, self.device, self.workers = 0, device, workers
        if workers:
            parallel.threads(self.optimizer, self.model, workers)

    def loss(self, slot, model):
        g = torch.Generator().manual_seed(100 * self.number + slot)
        x, y = torch.randn(6, 1, 6, 6, generator=g), torch.randint(4, (6,), generator=g)
        return nn.functional.cross_entropy(model(x.to(self.device)), y.to(self.device))

    def step(self, updates=1, spoil=lambda loss, slot, model: loss):
        for _ in range(updates):
            self.number += 1

            def closure(slot, model=self.model):
                loss = spoil(self.loss(slot, model), slot, model)
                loss.backward()
                return loss

            loss = self.optimizer.step(*(lambda model=self.model, slot=slot: closure(slot, model) for slot in range(self.slots)))
        return loss

    @property
    def evaluated(self):
        return self.optimizer._shared.evaluated

    def standing(self):
        state = [*self.model.state_dict().values(), *(v["momentum_buffer"] for v in self.optimizer.state.values() if v)]
        memory = [v for v in self.optimizer.memory.values() if isinstance(v, torch.Tensor)]
        return [t.clone() for t in (*state, *memory, torch.get_rng_state())]


def same(a, b):
    return all(map(torch.equal, a.standing(), b.standing()))


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_numbers_are_those_without_threads(method, workers, device):
    alone, ours = Training(method, device=device), Training(method, workers, device=device)
    for _ in range(4):
        assert torch.equal(alone.step(), ours.step())
    assert same(alone, ours)
    cost = METHODS[method].cost(k=3)
    others = cost.points - -(-cost.points // workers) if method in AT_ONCE else 0
    assert ours.evaluated == 3 * others  # all but the first step, which learns


@pytest.mark.parametrize("method", ["m-rwp", "nso", "lpf-sgd"])
def test_two_points_are_evaluated_at_the_same_time(method):
    """Each waits in its closure for the other."""
    ours = Training(method, 2, **({"k": 2} if method != "m-rwp" else {}))
    ours.step()
    meet, who = threading.Barrier(2, timeout=PATIENCE), set()

    def wait(loss, slot, model):
        meet.wait()
        who.add((threading.get_ident(), id(model)))
        return loss

    ours.step(2, wait)
    assert len(who) == 2 and (threading.get_ident(), id(ours.model)) in who


def test_the_copies_follow_the_model():
    """In weights that are not trained, in buffers, in training or not, and in what is trained at all."""
    alone, ours = Training(), Training(workers=2)
    for t in (alone, ours):
        conv, norm, last = t.model[0], t.model[1], t.model[-1]
        last.requires_grad_(False)
        t.step(2)
        with torch.no_grad():
            last.weight.mul_(3.0)
            norm.running_mean.add_(1.0)
        norm.eval()
        t.step(2)
        last.requires_grad_(True)
        conv.bias.requires_grad_(False)
        t.step(2)
        t.model.double()
        t.model.float().register_buffer("more", torch.zeros(2))
        t.step(2)
    assert same(alone, ours) and ours.evaluated > 4


@pytest.mark.parametrize("method", ["m-rwp", "nso", "a-rwp"])
def test_dropout_has_one_mask(method):
    """Points of a network that draws are not evaluated at once, and whoever uses it is told."""
    alone, ours = (Training(method, workers, extras=[nn.Dropout(0.3)]) for workers in (0, 2))
    torch.manual_seed(5)
    alone.step(3)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match="one after another") as told:
        ours.step(3)
    assert torch.equal(torch.get_rng_state(), after)
    assert same(alone, ours) and ours.evaluated == 0 and len(told) == 1


@pytest.mark.parametrize("method", ["m-rwp", "nso"])
def test_dropout_that_begins_later(method):
    """The step that finds it out is undone and taken once more."""
    trainings = [Training(method, workers, extras=[nn.Dropout(0.3)]) for workers in (0, 2)]
    for t in trainings:
        t.model[2].eval()
        t.step(2)
        t.model[2].train()
        torch.manual_seed(5)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            t.step(2)
        t.after = torch.get_rng_state()
        assert len(told) == (1 if t.workers else 0)
    assert same(*trainings) and torch.equal(trainings[0].after, trainings[1].after)


class Broken(Exception):
    pass


def spoiled_by(what, where):
    def spoil(loss, slot, model):
        if where(model):
            if isinstance(what, float):
                return loss * what
            raise what
        return loss

    return spoil


@pytest.mark.parametrize("where", ["the model", "a copy", "both"])
@pytest.mark.parametrize("what", [Broken("no such picture"), KeyboardInterrupt(), float("nan")], ids=["error", "interrupt", "nan"])
def test_a_fault_undoes_the_step(what, where):
    alone, ours = Training("m-arwp"), Training("m-arwp", 2)
    for t in (alone, ours):
        t.step(2)
    before = ours.standing()
    here = {"the model": lambda m: m is ours.model, "a copy": lambda m: m is not ours.model, "both": lambda m: True}[where]
    with pytest.raises(FloatingPointError if isinstance(what, float) else type(what)):
        ours.step(1, spoiled_by(what, here))
    assert all(map(torch.equal, ours.standing(), before))
    assert torch.get_num_threads() == 1
    ours.number -= 1
    for t in (alone, ours):
        t.step(2)
    assert same(alone, ours)


def test_a_closure_that_returns_no_loss():
    ours = Training(workers=2)
    ours.step()
    with pytest.raises(TypeError, match="must return the loss"):
        ours.optimizer.step(lambda model: ours.loss(0, model).backward())


def test_autocast_around_the_step_reaches_the_threads():
    ours, seen = Training(workers=2), []
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            ours.step(1, lambda loss, slot, model: seen.append((model is ours.model, model(torch.zeros(2, 1, 6, 6)).dtype)) or loss)
            ours.step(1, lambda loss, slot, model: seen.append((model is ours.model, model(torch.zeros(2, 1, 6, 6)).dtype)) or loss)
    assert {dtype for own, dtype in seen[-2:]} == {torch.bfloat16} and {own for own, _ in seen[-2:]} == {True, False}
    assert (False, torch.float32) in seen


def test_what_is_wrong_is_said():
    ours, model = Training(workers=2), nn.Linear(2, 2)
    with pytest.raises(TypeError, match="def closure\\(model\\)"):
        ours.optimizer.step(lambda: ours.loss(0, ours.model))
    with pytest.raises(TypeError, match="optimizer of rwp_edu.optim"):
        parallel.threads(torch.optim.SGD(model.parameters(), lr=0.1), model)
    for workers in (0, 1.5, "2"):
        with pytest.raises(ValueError, match="whole number >= 1"):
            parallel.threads(ours.optimizer, ours.model, workers)
    with pytest.raises(ValueError, match="trains 8 parameters that are not in this model"):
        parallel.threads(ours.optimizer, model)
    with pytest.raises(RuntimeError, match="shares nothing with other processes"):
        parallel.check(ours.optimizer)
    assert parallel.place(ours.optimizer) == parallel.Place()
    ours.step()
    ours.model[1] = nn.BatchNorm2d(3)
    ours.step()  # one point after another, as always where a module is new
    before = ours.standing()
    with pytest.raises(ValueError, match="trains 2 parameters that are not in the model any more"):
        ours.step()
    assert all(map(torch.equal, ours.standing(), before))


def test_a_model_that_cannot_be_copied():
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("not me")

    model = Stubborn(2, 2)
    with pytest.raises(TypeError, match=r"Stubborn cannot be copied \(not me\)"):
        parallel.threads(OPTIMIZERS["m-rwp"](torch.optim.SGD(model.parameters(), lr=0.1)), model)


def test_a_model_that_keeps_what_it_has_computed():
    """Once it has, torch does not copy it any more."""

    class Keeps(nn.Linear):
        def forward(self, x):
            self.latest = super().forward(x)
            return self.latest

    def closure(model):
        loss = model(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    ends = []
    for workers in (1, 2):
        torch.manual_seed(0)
        model = Keeps(2, 2)
        optimizer = parallel.threads(OPTIMIZERS["nso"](torch.optim.SGD(model.parameters(), lr=0.1)), model, workers)
        for _ in range(4):
            optimizer.step(closure)
        ends.append(model.weight.detach().clone())
    assert torch.equal(*ends) and optimizer._shared.evaluated == 3


def test_alone_again():
    alone, ours = Training(), Training(workers=2)
    ours.step(2), alone.step(2)
    parallel.alone(ours.optimizer)
    ours.step(2), alone.step(2)
    assert same(alone, ours)
    with pytest.raises(TypeError):
        ours.optimizer.step(lambda model: ours.loss(0, model))


def test_cores_are_shared_out_and_given_back():
    ours, seen = Training(workers=2), set()
    torch.set_num_threads(4)
    try:
        ours.step()
        ours.step(1, lambda loss, slot, model: seen.add((model is ours.model, torch.get_num_threads())) or loss)
        assert seen == {(True, 2), (False, 2)} and torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(1)


@pytest.mark.slow
def test_a_race_with_points_at_once_is_the_same_race(tmp_path):
    from rwp_edu.training import checkpoint

    def settings(workers):
        own = {"train": 40, "batch": 10, "steps": 6, "record_every": 2, "seeds": 1, "norm": "batch", "width": 4, "test": 20}
        return Settings("images", methods="sam,m-rwp,nso", workers=workers, **own)

    one, two = Run(settings(1)), Run(settings(2))
    for run in (one, two):
        run.advance(4)
    checkpoint.save(two, tmp_path)
    again = checkpoint.load(tmp_path, "cpu")
    for run in (one, two, again):
        run.advance(2)
    for name in ("test_loss", "train_loss", "distance", "perturbation"):
        for run in (two, again):
            assert (getattr(one.record, name) == getattr(run.record, name))[1:].all(), name
    evaluated = [runner.optimizer._shared.evaluated for runner in two.engine._all]
    assert evaluated == [0, 5, 5]
