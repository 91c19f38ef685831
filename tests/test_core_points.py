import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rwp_edu.methods.points import At, Layout, drive, wide

SHAPES = {
    "conv": (4, 3, 2, 2),
    "matrix": (5, 3),
    "vector": (6,),
    "scalar": (),
    "nothing": (0,),
    "no rows": (0, 3),
    "no columns": (2, 0),
}

shapes = st.lists(st.lists(st.integers(0, 4), max_size=4).map(tuple), min_size=1, max_size=5)


def numbered(shapes):
    return [
        torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)
    ]


@given(shapes)
def test_flatten_then_split_is_the_identity(shapes):
    tensors = numbered(shapes)
    layout = Layout({str(i): shape for i, shape in enumerate(shapes)})
    flat = layout.flatten(tensors)
    assert flat.shape == (layout.size,) and layout.size == sum(t.numel() for t in tensors)
    for tensor, piece in zip(tensors, layout.split(flat), strict=True):
        assert piece.shape == tensor.shape and torch.equal(piece, tensor)


@given(shapes, st.integers(1, 3))
def test_split_of_many_runs_is_the_split_of_each(shapes, runs):
    layout = Layout({str(i): shape for i, shape in enumerate(shapes)})
    w = torch.arange(runs * layout.size, dtype=torch.float64).view(runs, layout.size)
    for r in range(runs):
        for together, alone in zip(layout.split(w), layout.split(w[r]), strict=True):
            assert torch.equal(together[r], alone)
        for together, alone in zip(layout.filters(w), layout.filters(w[r]), strict=True):
            assert torch.equal(together[r], alone)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_filters_are_the_slices_along_dimension_0(lead):
    layout = Layout(SHAPES)
    w = torch.randn(*lead, layout.size)
    for name, rows, value in zip(layout.names, layout.filters(w), layout.split(w), strict=True):
        if len(SHAPES[name]) > 1 and value.numel():
            assert torch.equal(rows, value.flatten(len(lead) + 1))
        else:
            assert torch.equal(rows, value.reshape(*lead, 1, -1) if value.numel() else rows.new_empty(*lead, 1, 0))


def test_split_and_filters_are_views():
    layout = Layout(SHAPES)
    flat = torch.zeros(layout.size)
    for view in layout.split(flat):
        view.fill_(1)
    assert flat.eq(1).all()
    for view in layout.filters(flat):
        view.fill_(2)
    assert flat.eq(2).all()


def test_flatten_copies_into_a_given_tensor_and_promotes_mixed_precision():
    layout = Layout({"a": (2,), "b": (1, 2)})
    mixed = [torch.tensor([1.5, 2.5], dtype=torch.bfloat16), torch.tensor([[0.1, 0.2]])]
    flat = layout.flatten(mixed)
    assert flat.dtype == torch.float32
    assert all(torch.equal(piece.to(t.dtype), t) for piece, t in zip(layout.split(flat), mixed))
    out = torch.empty(4)
    assert layout.flatten(mixed, out=out) is out and torch.equal(out, flat)
    flat.zero_()
    assert mixed[1][0, 0] != 0


@pytest.mark.parametrize("view", ["split", "filters"])
@pytest.mark.parametrize("size", [(3,), (2, 9)])
def test_a_wrong_size_is_an_error_that_names_both_sizes(view, size):
    layout = Layout({"weight": (2, 3), "bias": (2,)})
    with pytest.raises(ValueError, match=rf"8 entries.*{size[-1]}"):
        getattr(layout, view)(torch.zeros(size))


def test_drive_answers_every_round_and_returns_the_result():
    rounds = []

    def method(w):
        a, b = yield [At(w), At(w + 1, batch=1)]
        (c,) = yield [At(a + b)]
        return c

    def answer(points):
        rounds.append([at.batch for at in points])
        return [10 * at.w for at in points]

    assert drive(method(torch.tensor(1.0)), answer) == 10 * (10 + 20)
    assert rounds == [[0, 1], [0]]


def test_drive_of_a_method_that_asks_nothing():
    def method(w):
        return w
        yield

    assert drive(method(3), lambda points: pytest.fail("nothing was asked")) == 3


def test_drive_closes_the_conversation_when_an_answer_fails():
    closed = []

    def method(w):
        try:
            yield [At(w)]
        finally:
            closed.append(True)

    def answer(points):
        raise RuntimeError("no answer")

    conversation = method(torch.zeros(1))
    with pytest.raises(RuntimeError, match="no answer"):
        drive(conversation, answer)
    assert closed == [True]


@pytest.mark.parametrize("lazy", [False, True])
def test_points_of_a_generator_are_formed_one_by_one_for_an_engine_that_can_wait(lazy):
    """Any other engine gets them all at once, in a list; the gradients are the same."""
    events = []

    def method(w):
        def points():
            for n in range(3):
                events.append(f"form {n}")
                yield At(w + n)

        total = 0
        for g in (yield points()):
            events.append("hear")
            total = total + g
        return total

    def answer(points):
        assert isinstance(points, list) != lazy
        for at in points:
            events.append("ask")
            yield 10 * at.w

    assert drive(method(torch.tensor(1.0)), answer, lazy) == 10 * (1 + 2 + 3)
    one_by_one = [event for n in range(3) for event in (f"form {n}", "ask", "hear")]
    assert events == (one_by_one if lazy else ["form 0", "form 1", "form 2", *["ask", "hear"] * 3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_wide_is_at_least_float32(dtype):
    x = torch.ones(2, dtype=dtype)
    assert wide(x).dtype == torch.promote_types(dtype, torch.float32) and torch.equal(wide(x).to(dtype), x)
