"""The optimizer around what ``torch.compile`` has compiled, in each of the three ways to say it."""

import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rwp_edu.optim import OPTIMIZERS
from rwp_edu.optim.step_guard import COMPILES


@pytest.fixture(scope="module", autouse=True)
def only_here():
    """Where something was compiled every new optimizer looks through the heap once, a quarter of a second: not in all other tests, please."""
    yield
    sys.modules.pop(COMPILES, None)

FORMS = {
    "plain": lambda model, loss_of: (model, loss_of),
    "torch.compile(model)": lambda model, loss_of: (torch.compile(model, backend="eager"), loss_of),
    "model.compile()": lambda model, loss_of: (model.compile(backend="eager"), (model, loss_of))[1],
    "torch.compile(loss_of)": lambda model, loss_of: (model, torch.compile(loss_of, backend="eager")),
}


def training(name, form):
    """A step as a function, which may fail after ``backward``; and what a step changes."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(8, 4), torch.randint(3, (8,))
    forward, loss_of = FORMS[form](model, lambda model, x, y: cross_entropy(model(x), y))
    optimizer = OPTIMIZERS[name](torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))

    def step(fails=False):
        def closure():
            loss = loss_of(forward, x, y)
            loss.backward()
            if fails:
                raise RuntimeError("on purpose")
            return loss

        return optimizer.step(closure)

    return step, lambda: [t.detach().clone() for t in (*model.parameters(), *model.buffers())]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["sam", "m-rwp", "nso"])
def test_a_compiled_model_trains_as_one_that_is_not_and_is_compiled_no_more_than_twice(same, name, form):
    found = {}
    for f in ("plain", form):
        step, state = training(name, f)
        for _ in range(5):
            step()
        found[f] = state()
    torch.testing.assert_close(found[form], found["plain"], rtol=1e-5, atol=1e-6)
    assert found[form][-1] == 5  # batches that BatchNorm has counted: one a step
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2 * (form != "plain")
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("form", FORMS)
def test_a_fault_leaves_no_trace_in_a_compiled_model(same, form, before):
    step, state = training("sam", form)
    for _ in range(before):
        step()
    was = state()
    with pytest.raises(RuntimeError, match="on purpose"):
        step(fails=True)
    assert same(state(), was)
