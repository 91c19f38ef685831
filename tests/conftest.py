import asyncio
import itertools
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn
from waiting import Loop

from rwp_edu.methods import METHODS, PARAMETERS
from rwp_edu.methods.points import Layout
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.utils import clock

settings.register_profile(
    "reproducible", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, max_examples=50
)
settings.load_profile("reproducible")


BOTH_CORES = ("test_browser", "test_parallel", "test_workers", "13_two_gradients", "two-workers")
ALONE = ("test_notebook_runs", "test_copied_code")  # long, and sharing nothing with their neighbours


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files are tested side by side; what needs two cores itself, one after another."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            if any(name in nodeid for name in BOTH_CORES):
                return "both cores"
            return nodeid if any(name in nodeid for name in ALONE) else nodeid.partition("::")[0]

    return Scheduler(config, log)


SLOW_EXAMPLES = ("rwp_edu.experiments.claims.check", "rwp_edu.lab.trial.Trial", "rwp_edu.problems.fine_tuning.FineTuning")  # in docstrings, where no mark can be


def pytest_collection_modifyitems(items):
    for item in items:
        if item.name in SLOW_EXAMPLES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


# RWP_EDU_TEST_CLOCK=20 pytest ...: the clocks of the labs go 20 times as fast, as on a machine that is so much slower; 0.05: on one
# that is 20 times faster. The tests must not mind.
SPEED = float(os.environ.get("RWP_EDU_TEST_CLOCK", 1))


@pytest.fixture(autouse=True, scope="session")
def speed():
    if SPEED == 1:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        now = clock.now
        patch.setattr(clock, "now", lambda: SPEED * now())
        patch.setattr(asyncio.events, "new_event_loop", lambda: Loop(SPEED))
        yield


@pytest.fixture
def ticks(monkeypatch):
    """``ticks(seconds)``: from now on the clock of the labs moves by so much whenever it is read, and no more."""

    def begin(seconds):
        start, readings = clock.now(), itertools.count(1)
        monkeypatch.setattr(clock, "now", lambda: start + seconds * next(readings))

    return begin


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


@pytest.fixture
def folder(tmp_path):
    """Pictures of two classes in the layout of ImageFolder."""
    from PIL import Image

    for part, n in (("train", 6), ("val", 3)):
        for c, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            (tmp_path / "pictures" / part / c).mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (9, 7), tuple(max(v - i, 0) for v in colour)).save(
                    tmp_path / "pictures" / part / c / f"{i}.png"
                )
    return tmp_path / "pictures"


@pytest.fixture(scope="session")
def made_up():
    return _made_up


def _made_up(folder, name):
    """Files of the published formats, with few made-up pictures."""
    r = np.random.default_rng(0)
    if name == "fashion-mnist":
        raw = folder / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for part, n in (("train", 50), ("t10k", 20)):
            x, y = r.integers(0, 256, (n, 28, 28), dtype=np.uint8), r.integers(0, 10, n, dtype=np.uint8)
            (raw / f"{part}-images-idx3-ubyte").write_bytes(b"".join(v.to_bytes(4, "big") for v in (2051, n, 28, 28)) + x.tobytes())
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"".join(v.to_bytes(4, "big") for v in (2049, n)) + y.tobytes())
        return
    ten = name == "cifar10"
    base = folder / ("cifar-10-batches-py" if ten else "cifar-100-python")
    base.mkdir(parents=True)
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"] if ten else ["train", "test"]
    for file in files:
        data = {"data": r.integers(0, 256, (10, 3072), dtype=np.uint8), "labels" if ten else "fine_labels": list(range(10))}
        (base / file).write_bytes(pickle.dumps(data))
    key = "label_names" if ten else "fine_label_names"
    (base / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps({key: [f"class {i}" for i in range(10 if ten else 100)]}))


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """A place of its own for downloads, without a network, where checksums of made-up files are not those of the published ones."""
    from torchvision.datasets import cifar

    from rwp_edu.problems import datasets

    monkeypatch.setenv(datasets.PLACE, str(tmp_path / "downloads"))
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: os.path.isfile(path))
    datasets.downloaded.cache_clear()
    yield tmp_path / "downloads"
    datasets.downloaded.cache_clear()
