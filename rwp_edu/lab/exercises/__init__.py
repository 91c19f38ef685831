"""Exercises of the notebooks: each check says what is wrong, not just that it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rwp_edu.methods.points import At, Conversation


def verdict(problem: Callable[..., str], answer: Callable[..., Any], *cases: tuple[Any, ...]) -> bool:
    """Print what is wrong with an answer in the first of the ``cases`` in which something is, also that it raised an error; is it right?"""
    try:
        wrong = next(filter(None, (problem(answer, *case) for case in cases or ((),))), "")
    except Exception as error:  # noqa: BLE001
        wrong = f"it raised {type(error).__name__}: {error}."
    print(f"Not yet: {wrong}" if wrong else "Right.")
    return not wrong


def numbers(answer: Any) -> Tensor | None:
    """A tensor, an array, a number, or a list or tuple of these of one shape, as a tensor in float64; None where it is something else.

    >>> numbers((1, torch.tensor(2.5)))
    tensor([1.0000, 2.5000], dtype=torch.float64)
    """
    try:
        if isinstance(answer, (list, tuple)):
            return torch.stack([numbers(part) for part in answer])
        return torch.as_tensor(answer).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        return None


def parts(answer: Any) -> list[Tensor]:
    """What a tuple or list holds, or the rows of one tensor or array, each as ``numbers``; nothing where one of them is something else."""
    if not isinstance(answer, (list, tuple)):
        whole = numbers(answer)
        answer = () if whole is None else torch.atleast_1d(whole)
    found = [numbers(part) for part in answer]
    return [] if any(part is None for part in found) else found


def pair(answer: Any) -> list[float] | None:
    """An answer of two numbers; None where it is something else."""
    found = numbers(answer)
    return found.flatten().tolist() if found is not None and found.numel() == 2 else None


def near(answer: Any, right: Tensor) -> bool:
    """Is an answer, of whatever type, that tensor, as well as float32 can tell?"""
    found = numbers(answer)
    return found is not None and found.shape == right.shape and torch.allclose(found, right.double(), rtol=1e-4, atol=1e-6)


def check_rwp(method: Callable[..., Conversation]) -> bool:
    """Is ``method(w, noise)`` random weight perturbation? Prints what is wrong; returns whether it is right."""
    return verdict(_rwp_problem, method)


def check_nso(method: Callable[..., Conversation]) -> bool:
    """Is ``method(w, noise)`` two-point noise injection with one draw? Prints what is wrong; returns whether it is right."""
    return verdict(_nso_problem, method)


def _are_points(yielded: Any) -> bool:
    return isinstance(yielded, (list, tuple)) and all(isinstance(at, At) and isinstance(at.w, Tensor) for at in yielded)


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
    if not _are_points(points):
        return f"yield a list of points, `yield [At(...), At(...)]`; it yielded {points!r}."
    if len(points) == 1:
        return "it asks for one point in its first round; ask for both in the same list, so that they can be answered at once."
    if len(points) > 2:
        return f"two points are enough; it asks for {len(points)}."
    if len(drawn) > 1:
        return "both points need the *same* u: draw it once, `u = noise(w)`, and use it twice."
    if len({at.batch for at in points}) > 1:
        return "NSO asks on one batch; two batches make it the antithetic pair a-RWP."
    found, both = [at.w for at in points], [torch.stack(sides) for sides in ((w + u, w - u), (w - u, w + u))]
    if not any(near(found, sides) for sides in both):
        return f"with w = {w.tolist()} and u = {u.tolist()} it should ask at w + u and w - u; it asks at {[at.tolist() for at in found]}."
    g = [torch.tensor([3.0, -1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])]
    try:
        talk.send(g)
    except StopIteration as end:
        mean = (g[0] + g[1]) / 2
        if not isinstance(end.value, Tensor) or not near(end.value, mean):
            return f"return the mean of the two gradients ({mean.tolist()}), not {end.value!r}."
        return ""
    return "it asks a second time; the two points belong to one round."


def _rwp_problem(method: Callable[..., Conversation]) -> str:
    w = torch.tensor([1.0, -2.0, 0.5])
    u = torch.tensor([0.1, 0.2, -0.3])
    before, drawn = w.clone(), []

    def noise(at: Tensor) -> Tensor:
        drawn.append(at)
        return u.clone()

    if not inspect.isgeneratorfunction(method):
        return "write a function that asks with `yield [At(...)]`; this one never yields."
    talk = method(w, noise)
    try:
        points = next(talk)
    except StopIteration:
        return "it returned before it asked for any gradient."
    if not _are_points(points):
        return f"yield a list of points, `yield [At(...)]`; it yielded {points!r}."
    if not torch.equal(w, before):
        return "w itself was changed; build a new tensor, `w + u`, and leave w alone."
    if len(points) != 1:
        return f"RWP asks for one gradient per update; this asks for {len(points)} in its first round."
    if not drawn:
        return "no noise was drawn, so this asks at the clean weights, as SGD does: draw `u = noise(w)`."
    if len(drawn) > 1:
        return f"one draw per update is enough; noise was called {len(drawn)} times."
    if near(points[0].w, w - u):
        return "it asks at w - u. By symmetry that is as good, but the convention is w + u."
    if not near(points[0].w, w + u):
        return f"with w = {w.tolist()} and u = {u.tolist()} the point should be {(w + u).tolist()}, not {points[0].w.tolist()}."
    g = torch.tensor([3.0, -1.0, 2.0])
    try:
        talk.send([g])
    except StopIteration as end:
        if not isinstance(end.value, Tensor):
            return f"return the gradient that came back; it returned {end.value!r}."
        if not near(end.value, g):
            return f"return the gradient as it came ({g.tolist()}), not {end.value.tolist()}: the base optimizer does the rest."
        return ""
    return "it asks a second time; RWP needs one round only."


def check_smoothed_loss(function: Callable[..., Any]) -> bool:
    """Is ``function(f, w, sigma, draws)`` an average of f(w + u)? Prints what is wrong; returns whether it is right."""
    return verdict(_sampled_problem, function, (_smoothed_loss_problem,))


def check_two_point(function: Callable[..., Any]) -> bool:
    """Is ``function(gradient, w, sigma, k)`` the two-point gradient with k draws? Prints what is wrong; returns whether it is right."""
    return verdict(_sampled_problem, function, (_two_point_problem,))


_PLACE, _SIGMA = (1.0, -2.0, 0.5), 0.3


class _Listener:
    """A function that remembers where it was asked and what it said."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function, self.asked, self.said = function, [], []

    def __call__(self, at: Tensor) -> Tensor:
        said = self.function(at)
        self.asked.append(at.detach().clone().reshape(-1, at.shape[-1]))
        self.said.append(said.detach().clone())
        return said


def _sampled_problem(function: Callable[..., Any], problem: Callable[..., str]) -> str:
    """What is wrong, with numbers that repeat; w must stay as it is."""
    w = torch.tensor(_PLACE, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = problem(function, w)
    if not torch.equal(w, torch.tensor(_PLACE, dtype=torch.float64)):
        return "w itself was changed; build new tensors, `w + u`, and leave w alone."
    return found


def _noise_problem(u: Tensor) -> str:
    """Do the rows of ``u`` (N, P) look like noise of standard deviation σ, a number of its own for every weight?"""
    if not u.any():
        return "it asks at w itself: no noise was added."
    if len(u) > 1 and torch.equal(u, u[:1].expand_as(u)):
        return "every draw is the same; draw other noise each time."
    if torch.allclose(u, u[:, :1].expand_as(u)):
        return "all weights get the same number; every weight needs noise of its own, of the shape of w."
    scale = u.square().mean().sqrt().item()
    if not abs(u.mean().item()) <= 5 * scale / u.numel() ** 0.5:
        return f"the noise has mean {u.mean().item():.2f}; it must be 0, as that of torch.randn."
    if not abs(scale / _SIGMA - 1) <= 5 / u.numel() ** 0.5:
        return f"with sigma = {_SIGMA} the noise has standard deviation {scale:.2f}: multiply standard normal numbers by sigma, once."
    return ""


def _smoothed_loss_problem(function: Callable[..., Any], w: Tensor) -> str:
    f, draws = _Listener(lambda at: at.pow(4).sum(-1)), 4000
    result = function(f, w, _SIGMA, draws)
    if not f.asked:
        return "it never asks f."
    u = torch.cat(f.asked) - w
    if result is None:
        return "it returns nothing: end with `return`."
    values, found = torch.cat([said.reshape(-1) for said in f.said]).double(), numbers(result)
    moved = u.any(1)
    problem = _noise_problem(u[moved] if moved.any() else u)
    if problem:
        return problem
    if found is None or found.numel() != 1:
        what = f"{result!r:.60}" if found is None else f"shape {tuple(found.shape)}"
        return f"return one number, the mean over the draws; it returns {what}."
    found = found.reshape(())
    if moved.sum() < draws:
        return f"with draws = {draws} it asks f at {int(moved.sum())} perturbed points."
    mean = values[moved].mean()
    for value, wrong in (
        (values[moved].sum(), "that is the sum over the draws; divide it by their number."),
        (mean - f.function(w), "that is the rise; the smoothed loss is the mean of f(w + u) alone."),
        (f.function(w), "that is f(w), without noise."),
    ):
        if near(found, value):
            return wrong
    return "" if near(found, mean) else f"the values of f have mean {mean:.3f}; it returns {found.item():.3f}."


def _two_point_problem(function: Callable[..., Any], w: Tensor) -> str:
    gradient, k = _Listener(lambda at: 4 * at**3), 50
    result = function(gradient, w, _SIGMA, k)
    if not gradient.asked:
        return "it never asks for a gradient."
    u = torch.cat(gradient.asked) - w
    if len(u) != 2 * k:
        return f"k = {k} pairs are {2 * k} gradients; it asks for {len(u)}."
    alone = int(((u[:, None] + u[None]).abs().amax(2).amin(1) > 1e-6).sum())
    if alone:
        return f"{alone} of {2 * k} points w + u have no partner w - u: draw u once for both."
    if u.any() and len({tuple(row) for row in u.abs().mul(1e6).round().tolist()}) < k:
        return "some pairs are the same; draw new noise for each."
    problem = _noise_problem(u)
    if problem:
        return problem
    said, found = torch.cat([s.reshape(-1, len(w)) for s in gradient.said]), numbers(result)
    if found is None or found.shape != w.shape:
        return f"return one gradient of the shape of w, {tuple(w.shape)}, not {getattr(found, 'shape', result)}."
    if near(found, said.sum(0) / k):
        return "that is twice the mean: every pair has two gradients, so divide by 2 k."
    if near(found, said.sum(0)):
        return "that is the sum; divide it by 2 k."
    return "" if near(found, said.mean(0)) else f"the mean of its gradients is {said.mean(0).tolist()}; it returns {found.tolist()}."


def check_sensing_gradient(function: Callable[..., Any]) -> bool:
    """Is ``function(W, A, y)`` the gradient of 1/(4n) Σᵢ (<Aᵢ, WWᵀ> - yᵢ)²? Prints what is wrong; returns whether it is right."""
    return verdict(_sensing_gradient_problem, function)


_TIMES = {
    -1.0: "that is minus the gradient: it leads uphill.",
    2.0: "that is twice the gradient: the loss has 1/(4n), and the symmetric part of A is (A + Aᵀ)/2.",
    4.0: "that is four times the gradient: the 1/4 of the loss got lost.",
    0.5: "that is half of the gradient: W stands twice in <A, WWᵀ>, whose derivative is 2 A W for a symmetric A.",
    0.25: "that is a quarter of the gradient: a square and W standing twice give a factor 2 each.",
}


def _sensing_gradient_problem(function: Callable[..., Any]) -> str:
    g, n = torch.Generator().manual_seed(0), 7
    w, a, y = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((4, 3), (n, 4, 4), (n,)))
    given = [x.clone() for x in (w, a, y)]
    result = function(*given)
    if not all(map(torch.equal, given, (w, a, y))):
        return "W, A or y was changed; build new tensors and leave them alone."
    found = numbers(result)
    if found is None or found.shape != w.shape:
        return f"return one gradient of the shape of W, {tuple(w.shape)}, not {getattr(found, 'shape', result)}."
    if not found.any():
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
        times = round(((found * form).sum() / form.square().sum()).item(), 5)
        if near(found, times * form):
            if why or times == 1:
                return why
            if times == n:
                return f"that is the sum over the measurements; divide it by their number, here {n}."
            return _TIMES.get(times, f"that is {times:.4g} times the gradient.")
    return f"the gradient should be {right.tolist()}; it returns {found.tolist()}."


def check_smoothed_well(function: Callable[..., tuple[float, float]]) -> bool:
    """Is ``function(depth, width, sigma)`` the (depth, width) of a smoothed well in 2-D? Prints what is wrong; returns whether it is right."""
    return verdict(_smoothed_well_problem, function, (0.8, 0.12, 0.2), (1.0, 0.9, 0.5), (2.0, 0.5, 0.0))


def _smoothed_well_problem(function: Callable[..., tuple[float, float]], a: float, s: float, sigma: float) -> str:
    result = function(a, s, sigma)
    found = pair(result)
    if found is None:
        return f"return two numbers, the depth and the width; it returns {result!r}."
    v = s**2 + sigma**2
    widths = {
        s: "the width is unchanged; noise of scale sigma widens the well.",
        s + sigma: "variances add, not standard deviations: width² + sigma².",
        v: "width² + sigma² is the variance; its root is the width.",
    }
    depths = {
        a: "the depth is unchanged; the same hole spread over more ground is shallower.",
        a * s / v**0.5: "that is the depth in one dimension; in two, each direction brings a factor width/√(width² + sigma²).",
        a * s**2: "divide the depth by the new variance, width² + sigma².",
        a * v / s**2: "smoothing makes the well shallower, this deeper: turn the fraction over.",
    }
    for name, value, right, known in (("width", found[1], v**0.5, widths), ("depth", found[0], a * s**2 / v, depths)):
        if not abs(value - right) < 1e-5:
            called = f"with depth {a}, width {s} and sigma {sigma} the {name} should be {right:.4f}; it returns {value:.4f}."
            return next((text for form, text in known.items() if abs(value - form) < 1e-5), called)
    return ""
