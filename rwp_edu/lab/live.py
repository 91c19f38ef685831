"""What every live screen shares: callbacks that only store what was asked for, and one loop that applies it and draws.

Callbacks of widgets may come at any time and, with some versions of ipykernel, from another thread. The loop is an asyncio
task; it sleeps while nothing is asked for.
"""

from __future__ import annotations

import asyncio
from threading import get_ident
from typing import Any

HEADLESS = (
    "RWP_EDU_HEADLESS_STEPS"  # set where notebooks are run without a screen: work is done at once, races take so many steps
)


class Live:
    """A screen: ``box`` holds its widgets, which ``make`` made, among them ``figure``; ``turn`` applies, works, draws, and says after how many seconds to come again (None:
    when something is asked for); ``fail`` shows an error."""

    box: Any
    figure: Any
    make: Any

    def __init__(self) -> None:
        self._asked: list[tuple[str, Any]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None
        self._task: asyncio.Task | None = None
        self._showing: int | None = None  # the thread that is moving the widgets itself

    def store(self, name: str, value: Any) -> None:
        """Remember that something was asked for, unless the screen itself is moving its widgets: a hand on a slider may come
        from another thread meanwhile, and is heard."""
        if self._showing != get_ident():
            self._asked.append((name, value))
            self.wake()

    def asked(self, name: str) -> bool:
        """Is there a wish that the loop has not applied yet? Then what is shown is right, and the state is not."""
        return any(name == wanted for wanted, _ in list(self._asked))

    def wake(self) -> None:
        """Let the loop look again; may be called from any thread."""
        if self._loop is not None and not self._loop.is_closed() and self._event is not None:
            self._loop.call_soon_threadsafe(self._event.set)

    def show(self, **options: Any) -> Any:
        """The widgets for a notebook cell."""
        self.begin()
        self.draw()
        return self.box._repr_mimebundle_(**options)

    def begin(self) -> None:
        """Start the loop, if there is a running event loop and it has not been started."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not None and (self._task is None or self._task.done()):
            self._loop, self._event = loop, asyncio.Event()
            self._task = loop.create_task(self._live())

    def end(self) -> None:
        """Stop the loop and give the widgets back."""
        if self._task is not None:
            self._task.cancel()
        self.figure.close()
        self.make.close()

    async def _live(self) -> None:
        while True:
            try:
                pause = self.turn()
            except Exception as error:
                pause = None
                self.fail(error)
            if pause is not None:
                await asyncio.sleep(pause)
            elif not self._asked:
                self._event.clear()
                await self._event.wait()

    def turn(self) -> float | None:
        raise NotImplementedError

    def draw(self) -> None:
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        raise NotImplementedError
