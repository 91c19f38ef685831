"""The exercise of *Two gradients at once*: share out the points of a round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rwp_edu.lab.exercises import verdict

CASES = ((2, 2), (5, 2), (4, 3), (1, 2))  # points, workers


class _Asked(Exception):
    """A rank has come to the exchange."""


def check_round(my_round: Callable[..., Any]) -> bool:
    """Does ``my_round(points, rank, workers, evaluate, gather)`` evaluate this rank's share and return all answers in the order of the points?

    ``gather(mine)`` takes a list and gives the lists of all ranks. Prints what is wrong; returns whether it is right.
    """
    return verdict(_problem, my_round, *CASES)


def _problem(my_round: Callable[..., Any], count: int, workers: int) -> str:
    points = [f"w{j}" for j in range(count)]
    right, where = [f"g({p})" for p in points], f"{count} points on {workers} workers"
    evaluated: list[list[str]] = [[] for _ in range(workers)]
    given: list[Any] = []

    def call(rank: int, gather: Callable[[Any], Any], seen: list[str]) -> Any:
        return my_round(list(points), rank, workers, lambda p: seen.append(p) or f"g({p})", gather)

    def ask(mine: Any) -> None:
        given.append(list(mine))
        raise _Asked

    for rank in range(workers):
        try:
            call(rank, ask, evaluated[rank])
        except _Asked:
            continue
        except Exception as error:  # noqa: BLE001
            return f"{where}: rank {rank} raised {type(error).__name__}: {error}."
        return f"{where}: rank {rank} never calls gather; every rank has to, also one without a point, or the others wait for ever."
    most, least = -(-count // workers), [p for p in points if not any(p in seen for seen in evaluated)]
    if workers > 1 and count > 1 and all(len(seen) == count for seen in evaluated):
        return f"{where}: every rank evaluates all points; nothing is shared."
    if least:
        return f"{where}: nobody evaluates {', '.join(least)}."
    if sum(map(len, evaluated)) > count:
        return f"{where}: {sum(map(len, evaluated))} gradients are computed, {count} are enough."
    if max(map(len, evaluated)) > most:
        return f"{where}: one rank has {max(map(len, evaluated))} points; {most} at most are needed, so the others wait for it."
    for rank in range(workers):
        try:
            found = call(rank, lambda mine: [list(part) for part in given], [])
        except Exception as error:  # noqa: BLE001
            return f"{where}: after gather rank {rank} raised {type(error).__name__}: {error}."
        found = list(found) if isinstance(found, Iterable) and not isinstance(found, str) else found
        if found == right:
            continue
        if isinstance(found, list) and sorted(map(str, found)) == sorted(right):
            return f"{where}: all answers are there, but as {found}; the method expects them in the order of its points."
        return f"{where}: rank {rank} returns {found!r}, expected {right}: every rank needs all answers."
    return ""
