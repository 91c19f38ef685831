"""Tests wait for what they want to see, never for so long: and the labs can be run as on a machine of another speed."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 600  # seconds; only a test that fails waits for their end


def wait_until(holds: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What ``holds`` returns, when that is true."""
    end = time.monotonic() + patience
    while not (found := holds()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


async def until(holds: Callable[[], Any]) -> None:
    """Let the live loops work until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.01)


async def rest(screen: Any) -> None:
    """Let the live loop work until it has done all that was asked for, and sleeps."""
    turn, pauses = screen.turn, []

    def watched() -> float | None:
        pauses.append(None)
        pauses[-1] = turn()
        return pauses[-1]

    screen.turn = watched
    screen.wake()
    try:
        await until(lambda: pauses and pauses[-1] is None and not screen._asked)
    finally:
        del screen.turn


class _Selector(selectors.DefaultSelector):
    factor = 1.0

    def select(self, timeout: float | None = None) -> Any:
        return super().select(timeout / self.factor if timeout else timeout)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock goes ``factor`` times as fast: to whoever sleeps, the work seems to take so many times as long."""

    def __init__(self, factor: float):
        self.factor = factor
        selector = _Selector()
        selector.factor = factor
        super().__init__(selector)

    def time(self) -> float:
        return self.factor * super().time()
