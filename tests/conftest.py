import itertools

import pytest
import torch
from hypothesis import settings
from torch import nn

from rwp_edu.methods import METHODS, PARAMETERS
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.points import Layout

settings.register_profile("reproducible", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def global_random_state():
    """The global random state must be the same after the test as before."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


BASES = {
    "sgd": lambda parameters, lr=0.1: torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters, lr=0.1: torch.optim.Adam(parameters, lr=lr),
    "adamw": lambda parameters, lr=0.1: torch.optim.AdamW(parameters, lr=lr, amsgrad=True),
}


class Toy:
    """A network with BatchNorm and dropout, two batches of data and an optimizer: whatever a step could disturb."""

    def __init__(self, name, base="sgd", lr=0.1, init=0, dtype=torch.float32, **hyper):
        g = torch.Generator().manual_seed(7)
        before = torch.get_rng_state()
        torch.manual_seed(init)
        layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.4), nn.Linear(4, 2)
        self.model = nn.Sequential(*layers).to(dtype)
        torch.set_rng_state(before)
        if "k" in METHODS[name].parameters:
            hyper = {"k": 2, **hyper}
        self.cost = METHODS[name].cost(**({"k": hyper["k"]} if "k" in hyper else {}))
        self.optimizer = OPTIMIZERS[name](BASES[base](self.model.parameters(), lr=lr), **hyper)
        self.data = [(torch.randn(8, 3, generator=g).to(dtype), torch.randn(8, 2, generator=g).to(dtype)) for _ in range(2)]

    def evaluate(self, batch=0):
        x, y = self.data[batch % len(self.data)]
        loss = nn.functional.mse_loss(self.model(x), y)
        loss.backward()
        return loss

    def step(self, wrap=lambda evaluate, call: evaluate()):
        """One step; ``wrap`` may do something around closure call number ``call``."""
        counter = itertools.count()
        closures = [lambda b=b: wrap(lambda: self.evaluate(b), next(counter)) for b in range(self.cost.slots)]
        return self.optimizer.step(*closures)

    def steps(self, seeds):
        """Steps whose dropout masks depend on the number of the step alone."""
        for seed in seeds:
            torch.manual_seed(seed)
            self.step()

    def state(self):
        """Copies of everything that the next step could depend on."""
        parameters, buffers = list(self.model.parameters()), list(self.model.buffers())
        return {
            "weights": [p.detach().clone() for p in parameters],
            "storage": [t.data_ptr() for t in parameters + buffers],
            "buffers": [b.clone() for b in buffers],
            "gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
            "random state": torch.get_rng_state(),
            "base": [dict(self.optimizer.base.state[p]) for p in parameters if p in self.optimizer.base.state],
            "own": self.optimizer.state_dict()["rwp_edu"],
        }


def _asks_at_the_weights_first(name):
    """Whether the first point of a step is the weights themselves, found by asking."""
    w, row = torch.ones(2), METHODS[name]
    given = {key: row.default(key) for key in PARAMETERS} | {"layout": Layout({"w": (2,)}), "memory": {}}
    talk = row.start(w, noise=torch.ones_like, normal=torch.ones_like, **given)
    return next(iter(next(talk))).w is w


def _same(a, b):
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


@pytest.fixture(scope="session")
def toy():
    return Toy


@pytest.fixture(scope="session")
def same():
    """Equality of nested lists, dicts and tensors, bit for bit."""
    return _same


@pytest.fixture(scope="session")
def clean_first():
    return _asks_at_the_weights_first


@pytest.fixture(params=sorted(BASES))
def base(request):
    return request.param
