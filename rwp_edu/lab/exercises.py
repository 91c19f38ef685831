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
