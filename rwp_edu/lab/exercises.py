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
