"""Exercises of the notebooks: each check says what is wrong, not just that it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch

from rwp_edu.points import At, Conversation


def _verdict(problem: str) -> bool:
    print(f"Not yet: {problem}" if problem else "Right.")
    return not problem


def check_rwp(method: Callable[..., Conversation]) -> bool:
    """Is ``method(w, noise)`` random weight perturbation? Prints what is wrong; returns whether it is right."""
    return _verdict(_rwp_problem(method))


def check_nso(method: Callable[..., Conversation]) -> bool:
    """Is ``method(w, noise)`` two-point noise injection with one draw? Prints what is wrong; returns whether it is right."""
    return _verdict(_nso_problem(method))


def _nso_problem(method: Callable[..., Conversation]) -> str:
    w, u = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.1, 0.2, -0.3])
    drawn = []
    if not inspect.isgeneratorfunction(method):
        return "write a function that asks with `yield [At(...), At(...)]`; this one never yields."
    talk = method(w, lambda at: drawn.append(at) or u * len(drawn))
    try:
        points = next(talk)
    except StopIteration:
        return "it returned before it asked for any gradient."
    if not isinstance(points, (list, tuple)) or not all(isinstance(at, At) for at in points):
        return f"yield a list of points, `yield [At(...), At(...)]`; it yielded {points!r}."
    if len(points) == 1:
        return "it asks for one point in its first round; ask for both in the same list, so that they can be answered at once."
    if len(points) > 2:
        return f"two points are enough; it asks for {len(points)}."
    if len(drawn) > 1:
        return "both points need the *same* u: draw it once, `u = noise(w)`, and use it twice."
    if len({at.batch for at in points}) > 1:
        return "NSO asks on one batch; two batches make it the antithetic pair a-RWP."
    found = sorted(tuple(at.w.tolist()) for at in points)
    if found != sorted(tuple(v.tolist()) for v in (w + u, w - u)):
        return f"with w = {w.tolist()} and u = {u.tolist()} it should ask at w + u and w - u; it asks at {found}."
    g = [torch.tensor([3.0, -1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])]
    try:
        talk.send(g)
    except StopIteration as end:
        mean = (g[0] + g[1]) / 2
        if not isinstance(end.value, torch.Tensor) or not torch.allclose(end.value, mean):
            return f"return the mean of the two gradients ({mean.tolist()}), not {end.value!r}."
        return ""
    return "it asks a second time; the two points belong to one round."


def _rwp_problem(method: Callable[..., Conversation]) -> str:
    w = torch.tensor([1.0, -2.0, 0.5])
    u = torch.tensor([0.1, 0.2, -0.3])
    before, drawn = w.clone(), []

    def noise(at: torch.Tensor) -> torch.Tensor:
        drawn.append(at)
        return u.clone()

    if not inspect.isgeneratorfunction(method):
        return "write a function that asks with `yield [At(...)]`; this one never yields."
    talk = method(w, noise)
    try:
        points = next(talk)
    except StopIteration:
        return "it returned before it asked for any gradient."
    if not isinstance(points, (list, tuple)) or not all(isinstance(at, At) for at in points):
        return f"yield a list of points, `yield [At(...)]`; it yielded {points!r}."
    if not torch.equal(w, before):
        return "w itself was changed; build a new tensor, `w + u`, and leave w alone."
    if len(points) != 1:
        return f"RWP asks for one gradient per update; this asks for {len(points)} in its first round."
    if not drawn:
        return "no noise was drawn, so this asks at the clean weights, as SGD does: draw `u = noise(w)`."
    if len(drawn) > 1:
        return f"one draw per update is enough; noise was called {len(drawn)} times."
    if torch.equal(points[0].w, w - u):
        return "it asks at w - u. By symmetry that is as good, but the convention is w + u."
    if not torch.allclose(points[0].w, w + u):
        return f"with w = {w.tolist()} and u = {u.tolist()} the point should be {(w + u).tolist()}, not {points[0].w.tolist()}."
    g = torch.tensor([3.0, -1.0, 2.0])
    try:
        talk.send([g])
    except StopIteration as end:
        if not isinstance(end.value, torch.Tensor):
            return f"return the gradient that came back; it returned {end.value!r}."
        if not torch.equal(end.value, g):
            return f"return the gradient as it came ({g.tolist()}), not {end.value.tolist()}: the base optimizer does the rest."
        return ""
    return "it asks a second time; RWP needs one round only."


def check_smoothed_loss(function: Callable[..., torch.Tensor]) -> bool:
    """Is ``function(f, w, sigma, draws)`` an average of f(w + u)? Prints what is wrong; returns whether it is right."""
    return _verdict(_sampled_problem(_smoothed_loss_problem, function))


def check_two_point(function: Callable[..., torch.Tensor]) -> bool:
    """Is ``function(gradient, w, sigma, k)`` the two-point gradient with k draws? Prints what is wrong; returns whether it is right."""
    return _verdict(_sampled_problem(_two_point_problem, function))


_PLACE, _SIGMA = (1.0, -2.0, 0.5), 0.3


class _Listener:
    """A function that remembers where it was asked and what it said."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        self.function, self.asked, self.said = function, [], []

    def __call__(self, at: torch.Tensor) -> torch.Tensor:
        said = self.function(at)
        self.asked.append(at.detach().clone().reshape(-1, at.shape[-1]))
        self.said.append(said.detach().clone())
        return said


def _sampled_problem(problem: Callable[..., str], function: Callable[..., torch.Tensor]) -> str:
    """What is wrong, with numbers that repeat; w must stay as it is."""
    w = torch.tensor(_PLACE, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = problem(function, w)
    if not torch.equal(w, torch.tensor(_PLACE, dtype=torch.float64)):
        return "w itself was changed; build new tensors, `w + u`, and leave w alone."
    return found


def _noise_problem(u: torch.Tensor) -> str:
    """Do the rows of ``u`` (N, P) look like noise of standard deviation σ, a number of its own for every weight?"""
    if not u.any():
        return "it asks at w itself: no noise was added."
    if len(u) > 1 and torch.equal(u, u[:1].expand_as(u)):
        return "every draw is the same; draw other noise each time."
    if torch.allclose(u, u[:, :1].expand_as(u)):
        return "all weights get the same number; every weight needs noise of its own, of the shape of w."
    scale = u.square().mean().sqrt().item()
    if abs(u.mean().item()) > 5 * scale / u.numel() ** 0.5:
        return f"the noise has mean {u.mean().item():.2f}; it must be 0, as that of torch.randn."
    if abs(scale / _SIGMA - 1) > 5 / u.numel() ** 0.5:
        return f"with sigma = {_SIGMA} the noise has standard deviation {scale:.2f}: multiply standard normal numbers by sigma, once."
    return ""


def _smoothed_loss_problem(function: Callable[..., torch.Tensor], w: torch.Tensor) -> str:
    f, draws = _Listener(lambda at: at.pow(4).sum(-1)), 4000
    result = function(f, w, _SIGMA, draws)
    if not f.asked:
        return "it never asks f."
    u = torch.cat(f.asked) - w
    if result is None:
        return "it returns nothing: end with `return`."
    values, result = torch.cat([said.reshape(-1) for said in f.said]), torch.as_tensor(result)
    moved = u.any(1)
    problem = _noise_problem(u[moved] if moved.any() else u)
    if problem:
        return problem
    if result.numel() != 1:
        return f"return one number, the mean over the draws; it returns shape {tuple(result.shape)}."
    if moved.sum() < draws:
        return f"with draws = {draws} it asks f at {int(moved.sum())} perturbed points."
    mean = values[moved].mean()
    for value, wrong in (
        (values[moved].sum(), "that is the sum over the draws; divide it by their number."),
        (mean - f.function(w), "that is the rise; the smoothed loss is the mean of f(w + u) alone."),
        (f.function(w), "that is f(w), without noise."),
    ):
        if torch.allclose(result, value):
            return wrong
    return "" if torch.allclose(result, mean) else f"the values of f have mean {mean:.3f}; it returns {result.item():.3f}."


def _two_point_problem(function: Callable[..., torch.Tensor], w: torch.Tensor) -> str:
    gradient, k = _Listener(lambda at: 4 * at**3), 50
    result = function(gradient, w, _SIGMA, k)
    if not gradient.asked:
        return "it never asks for a gradient."
    u = torch.cat(gradient.asked) - w
    if len(u) != 2 * k:
        return f"k = {k} pairs are {2 * k} gradients; it asks for {len(u)}."
    alone = int(((u[:, None] + u[None]).abs().amax(2).amin(1) > 1e-9).sum())
    if alone:
        return f"{alone} of {2 * k} points w + u have no partner w - u: draw u once for both."
    if u.any() and len({tuple(row) for row in u.abs().mul(1e6).round().tolist()}) < k:
        return "some pairs are the same; draw new noise for each."
    problem = _noise_problem(u)
    if problem:
        return problem
    said = torch.cat([s.reshape(-1, len(w)) for s in gradient.said])
    if not isinstance(result, torch.Tensor) or result.shape != w.shape:
        return f"return one gradient of the shape of w, {tuple(w.shape)}, not {getattr(result, 'shape', result)}."
    if torch.allclose(result, said.sum(0) / k):
        return "that is twice the mean: every pair has two gradients, so divide by 2 k."
    if torch.allclose(result, said.sum(0)):
        return "that is the sum; divide it by 2 k."
    return (
        ""
        if torch.allclose(result, said.mean(0))
        else f"the mean of its gradients is {said.mean(0).tolist()}; it returns {result.tolist()}."
    )


def check_sensing_gradient(function: Callable[..., torch.Tensor]) -> bool:
    """Is ``function(W, A, y)`` the gradient of 1/(4n) Σᵢ (<Aᵢ, WWᵀ> - yᵢ)²? Prints what is wrong; returns whether it is right."""
    return _verdict(_sensing_gradient_problem(function))


_TIMES = {
    -1.0: "that is minus the gradient: it leads uphill.",
    2.0: "that is twice the gradient: the loss has 1/(4n), and the symmetric part of A is (A + Aᵀ)/2.",
    4.0: "that is four times the gradient: the 1/4 of the loss got lost.",
    0.5: "that is half of the gradient: W stands twice in <A, WWᵀ>, whose derivative is 2 A W for a symmetric A.",
    0.25: "that is a quarter of the gradient: a square and W standing twice give a factor 2 each.",
}


def _sensing_gradient_problem(function: Callable[..., torch.Tensor]) -> str:
    g, n = torch.Generator().manual_seed(0), 7
    w, a, y = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((4, 3), (n, 4, 4), (n,)))
    given = [x.clone() for x in (w, a, y)]
    result = function(*given)
    if not all(map(torch.equal, given, (w, a, y))):
        return "W, A or y was changed; build new tensors and leave them alone."
    if not isinstance(result, torch.Tensor) or result.shape != w.shape:
        return f"return one gradient of the shape of W, {tuple(w.shape)}, not {getattr(result, 'shape', result)}."
    if not result.any():
        return "it returns zero."
    values = torch.einsum("nij,ij->n", a, w @ w.T)
    symmetric = (a + a.mT) / 2
    right = torch.einsum("n,nij->ij", values - y, symmetric) @ w / n
    skewed = "one of its A is not symmetric. <A, WWᵀ> sees the symmetric part only: use (A + Aᵀ)/2."
    for form, why in (
        (right, ""),
        (torch.einsum("n,nij->ij", values, symmetric) @ w / n, "y is missing: weigh the Aᵢ by <Aᵢ, WWᵀ> - yᵢ."),
        (torch.einsum("n,nij->ij", values, a) @ w / n, "y is missing: weigh the Aᵢ by <Aᵢ, WWᵀ> - yᵢ."),
        (torch.einsum("n,nij->ij", values - y, a) @ w / n, skewed),
        (torch.einsum("n,nij->ij", values - y, a.mT) @ w / n, skewed),
    ):
        times = ((result * form).sum() / form.square().sum()).item()
        if torch.allclose(result, times * form):
            if why or abs(times - 1) < 1e-9:
                return why
            if abs(times - n) < 1e-9:
                return f"that is the sum over the measurements; divide it by their number, here {n}."
            return _TIMES.get(round(times, 9), f"that is {times:.4g} times the gradient.")
    return f"the gradient should be {right.tolist()}; it returns {result.tolist()}."


def check_smoothed_well(function: Callable[..., tuple[float, float]]) -> bool:
    """Is ``function(depth, width, sigma)`` the (depth, width) of a smoothed well in 2-D? Prints what is wrong; returns whether it is right."""
    return _verdict(_smoothed_well_problem(function))


def _smoothed_well_problem(function: Callable[..., tuple[float, float]]) -> str:
    for a, s, sigma in ((0.8, 0.12, 0.2), (1.0, 0.9, 0.5), (2.0, 0.5, 0.0)):
        result = function(a, s, sigma)
        try:
            depth, width = map(float, result)
        except (TypeError, ValueError):
            return f"return two numbers, the depth and the width; it returns {result!r}."
        v = s**2 + sigma**2
        widths = {
            s: "the width is unchanged; noise of scale sigma widens the well.",
            s + sigma: "variances add, not standard deviations: width² + sigma².",
            v: "width² + sigma² is the variance; its root is the width.",
        }
        depths = {
            a: "the depth is unchanged; the same hole spread over more ground is shallower.",
            a
            * s
            / v**0.5: "that is the depth in one dimension; in two, each direction brings a factor width/√(width² + sigma²).",
            a * s**2: "divide the depth by the new variance, width² + sigma².",
            a * v / s**2: "smoothing makes the well shallower, this deeper: turn the fraction over.",
        }
        for name, value, right, wrong in (("width", width, v**0.5, widths), ("depth", depth, a * s**2 / v, depths)):
            if not abs(value - right) < 1e-6:
                near = [text for form, text in wrong.items() if abs(value - form) < 1e-6]
                called = (
                    f"with depth {a}, width {s} and sigma {sigma} the {name} should be {right:.4f}; it returns {value:.4f}."
                )
                return near[0] if near else called
    return ""
