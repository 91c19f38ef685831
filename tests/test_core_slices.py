"""Slices against loops over modules and closed forms; directions, planes, coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rwp_edu.curvature import loss_slices, objective
from rwp_edu.curvature.lanczos import dense, eigenvalues
from rwp_edu.curvature.loss_slices import Plane, evaluate, line, plane_along, plane_through, random_directions
from rwp_edu.curvature.objective import Objective, of_model
from rwp_edu.methods.points import Layout
from rwp_edu.problems.mlp import MLP
from rwp_edu.problems.objectives import NetworkObjective
from rwp_edu.problems.surfaces import SHARP_AND_WIDE

DOUBLE = torch.float64
CRITERION = nn.CrossEntropyLoss()


def network(activation="relu", widths=(4, 5, 3), seed=3):
    g = torch.Generator().manual_seed(seed)
    net = MLP(widths, activation)
    w = net.init(g, DOUBLE)
    net.layout.split(w)[1].normal_(generator=g)
    x, y = torch.randn(20, widths[0], generator=g, dtype=DOUBLE), torch.randint(widths[-1], (20,), generator=g)
    with torch.random.fork_rng():
        model = of_model(net.module(w), CRITERION, [(x[:7], y[:7]), (x[7:], y[7:])])
    return NetworkObjective(net, w, x, y), model


# Directions


@pytest.mark.parametrize("law", ["gaussian", "rademacher"])
def test_directions_have_the_norms_of_the_weights(law):
    net, _ = network()
    w, layout = net.w, net.layout
    for d in random_directions(net, 3, law=law):
        for own, weights in zip(layout.filters(d), layout.filters(w)):
            torch.testing.assert_close(own.norm(dim=1), weights.norm(dim=1))
    for d in random_directions(net, 3, "layer-wise", law=law):
        for own, weights in zip(layout.split(d), layout.split(w)):
            torch.testing.assert_close(own.norm(), weights.norm())
    for d in random_directions(net, 3, "isotropic", law=law):
        torch.testing.assert_close(d.norm(), w.norm())


def test_directions_are_random_and_reproducible(global_random_state):
    net, _ = network(widths=(30, 40, 3))
    a, b = random_directions(net, kind="isotropic")
    several = torch.corrcoef(torch.stack([a, b, net.w])).triu(1).abs()
    assert several.max() < 4 / len(net.w) ** 0.5
    a, b = random_directions(net)
    assert torch.equal(random_directions(net), torch.stack([a, b])) and torch.equal(random_directions(net, 1)[0], a)
    assert not torch.equal(random_directions(net, seed=1)[0], a)


def test_filters_of_zeros_do_not_move_nor_do_vectors_if_left_out():
    net, _ = network()
    w = net.w.clone()
    net.layout.split(w)[0][2] = 0
    d = random_directions(net.at(w))
    assert not net.layout.split(d)[0][:, 2].any() and net.layout.split(d)[0][:, 3].all()
    weight, bias, *_ = net.layout.split(random_directions(net, perturb="matrices"))
    assert not bias.any() and weight.all()
    torch.testing.assert_close(weight[0].norm(dim=1), net.layout.split(net.w)[0].norm(dim=1))


# Planes


@pytest.fixture
def three():
    return torch.randn(3, 20, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def test_plane_through_three_points(three):
    plane = plane_through(*three)
    found, apart = plane.coordinates(three)
    torch.testing.assert_close(plane.axes @ plane.axes.T, torch.eye(2, dtype=DOUBLE))
    assert found[0] == pytest.approx(np.zeros(2)) and found[1, 1] == pytest.approx(0) and found[1, 0] > 0 and found[2, 1] > 0
    assert apart == pytest.approx(np.zeros(3), abs=1e-12)
    torch.testing.assert_close(plane.at(torch.tensor(found)), three)
    distances = torch.cdist(three, three).numpy()
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found[None], axis=2), distances, atol=1e-6)


def test_coordinates_are_those_of_the_nearest_point(three):
    plane = Plane(three[0], three[1:])  # not orthogonal
    other = torch.randn(4, 20, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    found, apart = plane.coordinates(other)
    rest = other - plane.at(torch.tensor(found))
    torch.testing.assert_close(rest @ plane.axes.T, torch.zeros(4, 2, dtype=DOUBLE))
    np.testing.assert_allclose(apart, rest.norm(dim=1))


def test_three_points_on_a_line_have_no_plane(three):
    for c in (three[0] + 2 * (three[1] - three[0]), three[0], three[1]):
        with pytest.raises(ValueError, match="the three weights lie on a line"):
            plane_through(three[0], three[1], c)
    with pytest.raises(ValueError, match="the three weights lie on a line"):
        plane_through(three[0], three[0], three[1])


# Values


@pytest.mark.parametrize("numbers", [1, 2**18])
@pytest.mark.parametrize("activation, widths", [("relu", (4, 5, 3)), ("tanh", (4, 5, 6, 3)), ("relu", (4, 3))])
def test_a_slice_is_a_loop_over_modules(activation, widths, numbers, monkeypatch):
    monkeypatch.setattr("rwp_edu.problems.objectives.NUMBERS", numbers)
    monkeypatch.setattr(objective, "free_memory", lambda device: 16 * 8 * 59 * 2)
    net, model = network(activation, widths)
    d, x, y = random_directions(net), np.linspace(-1, 1, 5), np.linspace(-0.5, 1, 4)
    loops = [[CRITERION(net.net.module(net.w + a * d[0] + b * d[1])(net.x[0]), net.y[0]).item() for a in x] for b in y]
    for loss in (net, model, Objective(lambda w: torch.cat([net.loss(row[None]) for row in w]), net.w)):
        found = evaluate(loss, plane_along(net, d), x, y)
        np.testing.assert_allclose(found.values, loops)
        np.testing.assert_array_equal(found.x, x), np.testing.assert_array_equal(found.y, y)
        assert found.values.dtype == float and not len(found.points)


def test_interpolation():
    net, _ = network()
    other = net.w + torch.randn(len(net.w), generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    between = line(net.w, other)
    found = evaluate(net, between, [0, 0.25, 1], points=torch.stack([net.w, other]))
    assert found.y is None and found.values[[0, 2]] == pytest.approx([net.value, net.at(other).value])
    assert found.values[1] == pytest.approx(net.at(0.75 * net.w + 0.25 * other).value)
    np.testing.assert_allclose(found.points, [[0], [1]], atol=1e-12)
    np.testing.assert_allclose(found.apart, 0, atol=1e-7)


def test_a_slice_along_eigenvectors_bends_as_they_say():
    net, _ = network("tanh")
    pairs = eigenvalues(net, 2, tol=1e-9)
    step = 1e-3
    found = evaluate(net, plane_along(net, pairs.vectors), [-step, 0, step], [-step, 0, step]).values
    assert (found[1, 0] - 2 * found[1, 1] + found[1, 2]) / step**2 == pytest.approx(pairs.values[0].item(), rel=1e-4)
    assert (found[0, 1] - 2 * found[1, 1] + found[2, 1]) / step**2 == pytest.approx(pairs.values[1].item(), rel=1e-4)
    assert (found[0, 0] - found[0, 2] - found[2, 0] + found[2, 2]) / step**2 == pytest.approx(0, abs=1e-4)


def test_a_random_direction_sees_the_average_curvature():
    net, _ = network("tanh")
    h = dense(net)
    d = random_directions(net, 2000, "isotropic")
    d /= d.norm(dim=1, keepdim=True)
    bent = ((d @ h) * d).sum(1)
    assert abs(bent.mean() - h.trace() / len(h)) < 4 * bent.std() / 2000**0.5


def test_the_plane_through_weights_has_their_losses(three):
    loss = Objective(lambda w: w.square().sum(-1), three[0])
    plane = plane_through(*three)
    points, _ = plane.coordinates(three)
    found = evaluate(loss, plane, points[:, 0], points[:, 1], three)
    np.testing.assert_allclose(found.values.diagonal(), three.square().sum(1))
    np.testing.assert_allclose(found.points, points)


def test_a_slice_of_a_surface_is_the_surface():
    loss = Objective(SHARP_AND_WIDE.value, torch.zeros(2, dtype=DOUBLE))
    found = evaluate(loss, plane_along(loss, torch.eye(2, dtype=DOUBLE)), [-0.5, 0.5], [0.0, 0.3, 0.1])
    expected = [[SHARP_AND_WIDE.value(torch.tensor([a, b], dtype=DOUBLE)).item() for a in (-0.5, 0.5)] for b in (0.0, 0.3, 0.1)]
    np.testing.assert_allclose(found.values, expected)


def test_overflow_shows_as_it_is():
    loss = Objective(lambda w: w.exp().sum(-1), torch.zeros(1))
    assert np.isinf(evaluate(loss, line(torch.zeros(1), torch.ones(1)), [0, 1000]).values).tolist() == [False, True]


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda o: random_directions(o, kind="element-wise"), "unknown kind 'element-wise'; did you mean 'layer-wise'"),
        (lambda o: random_directions(o, perturb="weights"), "unknown perturb 'weights'"),
        (lambda o: random_directions(o, law="normal"), "unknown law 'normal'"),
        (lambda o: random_directions(Objective(o.loss, o.w[None])), "a slice is of one run"),
        (lambda o: evaluate(o, line(o.w, 2 * o.w), [0, 1], [0, 1]), "x must be lists of coordinates, one for each of 1 axes"),
        (lambda o: evaluate(o, Plane(o.w, o.w.expand(2, -1)), [0, 1]), "x and y must be lists of coordinates, one for each of 2 axes"),
        (lambda o: evaluate(o, line(o.w, 2 * o.w), []), "x must be lists of coordinates"),
        (lambda o: evaluate(o, line(o.w[:2], o.w[1:3]), [0, 1]), "the plane lies among 2 weights, the objective has 43"),
    ],
)  # fmt: skip
def test_errors(call, says):
    with pytest.raises(ValueError, match=says):
        call(network()[0])


def test_a_layout_of_one_vector_is_one_filter():
    loss = Objective(lambda w: w.square().sum(-1), torch.arange(1.0, 5.0), Layout({"w": (4,)}))
    torch.testing.assert_close(random_directions(loss)[0].norm(), loss.w.norm())
    assert loss_slices.PARTS.keys() == {"isotropic", "layer-wise", "filter-wise"}
