"""The optimizer on a GPU that need not be there: its tensors are pretended, so that whatever would read a number out of them fails."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rwp_edu.methods import METHODS
from rwp_edu.methods.noise import KINDS, generator
from rwp_edu.methods.points import FEW
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.optim import optimizer as optim

SMALL, LARGE = ((3, 4), (5,), (2, 2, 1), ()), ((200, 101), (30,))
VARIANTS = {
    "published": {},
    "element by element": {"granularity": "element", "law": "uniform", "adapt": "all"},
    "matrices alone": {"perturb": "matrices", "law": "rademacher", "kind": "layer-wise"},
    "three draws": {"k": 3, "clean": 0.3, "lam_of": "clean", "kind": "isotropic"},
}


@pytest.fixture
def gpu(monkeypatch):
    """Pretended tensors on ``cuda``; what a step would read at its end is counted."""
    reads = []
    monkeypatch.setattr(optim, "generator", lambda seed, *stream, device: generator(seed, *stream))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    monkeypatch.setattr(optim, "_check_all", lambda g, losses, name: reads.append((g.device.type, len(losses))))
    with FakeTensorMode():
        yield reads


def closure_of(parameters):
    """Gradients as if of a loss; backward itself wants a driver."""

    @torch.no_grad()
    def closure():
        for p in parameters:
            p.grad = 2 * p
        return sum(p.square().sum() for p in parameters)

    return closure


def trained(shapes, device="cuda"):
    return [nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]


def test_a_number_cannot_be_read_from_a_pretended_tensor(gpu):
    x = torch.ones(2, device="cuda")
    for read in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: x.nonzero(), lambda: x[x > 0], lambda: x + x.cpu()):
        with pytest.raises(Exception, match="_local_scalar_dense|nonzero|[Dd]ynamic|device"):
            read()


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", METHODS)
def test_a_step_reads_from_the_device_once_when_it_is_complete(gpu, name, variant, shapes):
    assert sum(map(torch.Size.numel, map(torch.Size, LARGE))) > FEW
    parameters = trained(shapes)
    hyper = {key: value for key, value in VARIANTS[variant].items() if key in METHODS[name].parameters}
    optimizer = OPTIMIZERS[name](torch.optim.SGD(parameters, lr=0.1, momentum=0.9), **hyper)
    points = METHODS[name].cost(**{key: value for key, value in hyper.items() if key in ("k", "clean")}).points
    for _ in range(3):
        optimizer.step(closure_of(parameters))
    assert gpu == [("cuda", points)] * 3
    assert all(p.grad.device.type == "cuda" for p in parameters)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_groups_of_their_own_and_moving_values_read_nothing_more(gpu, name, kind):
    parameters, row = trained(SMALL), METHODS[name]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
    optimizer = OPTIMIZERS[name](torch.optim.SGD(groups, lr=0.1), **({"kind": kind} if "kind" in row.parameters else {}))
    for step in range(3):
        for i, group in enumerate(optimizer.param_groups):
            group |= {key: row.default(key) / (2 + i + step) for key in row.parameters if type(row.default(key)) is float}
        optimizer.step(closure_of(parameters))
    assert len(gpu) == 3


@pytest.mark.slow
@pytest.mark.parametrize("stepped", [0, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_model_may_move_to_another_device_after_construction_and_after_steps(gpu, name, stepped, monkeypatch):
    """With a base that has no state; torch's own do not follow a model once they have one."""
    monkeypatch.setattr(optim, "READ_AT_ONCE", ())
    parameters = trained(SMALL, "cpu")
    optimizer = OPTIMIZERS[name](torch.optim.SGD(parameters, lr=0.1))
    for _ in range(stepped):
        optimizer.step(closure_of(parameters))
    assert {value.device.type for value in optimizer.memory.values()} <= {"cpu"}
    for p in parameters:
        p.grad, p.fake_device = None, torch.device("cuda", 0)  # as p.data = p.data.to("cuda") does to a tensor that is real
    for _ in range(2):
        optimizer.step(closure_of(parameters))
    assert {value.device.type for value in optimizer.memory.values()} <= {"cuda"}
    assert len(optimizer.memory) == METHODS[name].history
    assert [device for device, _ in gpu] == ["cpu"] * stepped + ["cuda"] * 2
