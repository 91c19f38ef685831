"""Long measurements that can be done a little at a time, between two looks at a screen."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from typing import Any

from rwp_edu.utils import clock

HEADLESS = "RWP_EDU_HEADLESS_STEPS"  # set where notebooks run without a screen: work is done at once, races take so many steps


def stepwise(function: Callable[..., Generator[None, None, Any]]) -> Callable[..., Any]:
    """Of a generator that yields between two pieces of work and returns the result: a function that gives the result. ``.steps`` begins
    the generator.

    >>> @stepwise
    ... def total(numbers):
    ...     found = 0
    ...     for number in numbers:
    ...         found += number
    ...         yield
    ...     return found
    >>> total([1, 2, 3]), go_on(total.steps([1, 2, 3]), 60)
    (6, [6])
    """

    @functools.wraps(function)
    def whole(*arguments: Any, **options: Any) -> Any:
        return go_on(function(*arguments, **options))[0]

    whole.steps = function
    return whole


def go_on(steps: Generator[None, None, Any], seconds: float = float("inf")) -> list[Any]:
    """Go on for about so many seconds, a step at least; the result in a list, which is empty as long as there is none."""
    until = clock.now() + seconds
    try:
        next(steps)
        while clock.now() < until:
            next(steps)
        return []
    except StopIteration as end:
        return [end.value]
