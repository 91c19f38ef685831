"""What every live screen shares: callbacks that only store what was asked for, and one loop that applies it and draws.

Callbacks of widgets may come at any time and, with some versions of ipykernel, from another thread. The loop is an asyncio
task; it sleeps while nothing is asked for.
"""

from __future__ import annotations

import asyncio
import html
from contextlib import suppress
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

from IPython import get_ipython

from rwp_edu.lab.base.static_figure import StaticFigure
from rwp_edu.utils import clock

POINTER = {"click": "clicked", "hover": "hovered"}
LONGEST = 0.3  # seconds between two pictures of work in progress, at most
BURST = 0.05  # seconds for which messages that arrive one after another are collected before they are applied


class Live:
    """A screen of ``owner``: ``box`` holds its widgets, which ``make`` made, among them ``figure`` and ``status``; ``apply`` does what was
    asked for; ``turn`` works, draws, and says after how many seconds to come again (None: when something is asked for)."""

    LOOKS: tuple[str, ...] = ()  # wishes that change nothing but what the pointer reads
    POINTED: tuple[str, ...] = ()  # names of the traces whose clicks and hovers are wishes
    box: Any
    controls: dict[str, Any]
    figure: Any
    make: Any
    status: Any

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.error = ""
        self._asked: list[tuple[str, Any]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None
        self._task: asyncio.Task | None = None
        self._obeying = False  # is it the loop that moves the owner?
        self._showing: int | None = None  # the thread that is moving the widgets itself
        self.still = StaticFigure(owner)
        self.due = True  # has anything changed since the last drawing?
        self._next_draw = 0.0  # when work in progress may be drawn again

    def store(self, name: str, value: Any) -> None:
        """Remember that something was asked for, unless the screen itself is moving its widgets: a hand on a slider may come
        from another thread meanwhile, and is heard."""
        if self._showing != get_ident():
            self._asked.append((name, value))
            self.wake()

    def asked(self, name: str) -> bool:
        """Is there a wish that the loop has not applied yet? Then what is shown is right, and the state is not."""
        return any(name == wanted for wanted, _ in list(self._asked))

    def obey(self) -> bool:
        """Apply what was asked for; was there anything? What cannot be done is said, and what goes on goes on."""
        anything, refused, self._obeying = bool(self._asked), "", True
        if any(name not in self.LOOKS for name, _ in self._asked):
            self.error = ""
        try:
            while self._asked:
                name, value = self._asked.pop(0)
                if self._asked and self._asked[0][0] == name and self.replaced(name):
                    continue
                try:
                    self.apply(name, value)
                except Exception as error:
                    refused = told(error)
        finally:
            self._obeying = False
        self.error = refused or self.error
        return anything

    def replaced(self, name: str) -> bool:
        """Is a wish void as soon as there is another of its name, as with a slider that is dragged?"""
        return name in self.LOOKS or name in vars(self.owner.state)

    def shown_values(self) -> dict[str, Any]:
        """The values of the controls that a figure was drawn for, its ``layout.meta``."""
        return {name: getattr(self.owner.state, name) for name in self.controls}

    def changed(self) -> None:
        """The owner has moved by other hands than those on the screen."""
        self.error, self.due = "", True
        if not self._obeying:
            self.wake()

    def from_page(self, message: dict[str, Any]) -> None:
        """Take a message of the figure; may be called from any thread."""
        kind = message["type"]
        if kind in POINTER:
            at = message["x"], message["y"]
            if message["trace"] in self.POINTED and None not in at:
                self.store(POINTER[kind], at)
        elif kind == "failed":
            self.due, self.error = True, html.escape(f"the page cannot draw this figure: {message['text']}", quote=False)
            self.wake()
        elif kind == "image":
            self.still.image(message["url"])
        else:
            self.wake()

    def wake(self) -> None:
        """Let the loop look again; may be called from any thread."""
        if self._loop is not None and not self._loop.is_closed() and self._event is not None:
            self._loop.call_soon_threadsafe(self._event.set)

    def show(self, **options: Any) -> Any:
        """The widgets for a notebook cell, in place of those that the same cell showed when it was run before."""
        _move_in(self)
        self.begin()
        self.draw()
        self.still.show(self.figure)
        return self.box._repr_mimebundle_(**options)

    def draw_in_time(self, working: bool, every: float) -> None:
        """Draw what is due, unless the page still draws the last frame, or a frame of work in progress would come too soon:
        most of the time the page is free for the hand."""
        began = clock.now()
        if self.figure.wait or working and began <= self._next_draw:
            return
        if not self.due:
            return self.figure.flush()
        self.draw()
        now = clock.now()
        self._next_draw = now + max(every, min(LONGEST, 4 * max(now - began, self.figure.took)))

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
        """Stop the loop and give the widgets back; the owner makes others when it is shown again."""
        if self._task is not None:
            self._task.cancel()
        self.still.close()
        self.figure.close()
        self.make.close()
        if self.owner._screen is self:
            self.owner._screen = None
        _places.pop(self, None)

    async def _live(self) -> None:
        while True:
            self._event.clear()
            try:
                pause = self.turn()
            except Exception as error:
                pause = None
                self.fail(error)
            if not self._asked:
                await self._rest(pause)
            await self._collect()

    async def _rest(self, pause: float | None) -> None:
        """Wait until something is asked for, at most ``pause`` seconds."""
        if pause is None and self.still.stale(self.figure):
            with suppress(TimeoutError):
                async with asyncio.timeout(self.still.AFTER):
                    await self._event.wait()
                    return
            self.still.ask(self.figure)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._event.wait()

    async def _collect(self) -> None:
        """Let in what arrives together: a burst of messages is applied at once."""
        await asyncio.sleep(0)
        until = clock.now() + BURST
        while self._event.is_set() and clock.now() < until:
            self._event.clear()
            await asyncio.sleep(0.002)

    def fail(self, error: Exception) -> None:
        """Show an error, if need be when nothing else can be drawn."""
        self.error = told(error)
        with suppress(Exception):
            self.draw()
        self.status.value = complaint(self.error)

    def apply(self, name: str, value: Any) -> None:
        raise NotImplementedError

    def turn(self) -> float | None:
        raise NotImplementedError

    def draw(self) -> None:
        raise NotImplementedError


def told(error: Exception) -> str:
    return html.escape(f"{type(error).__name__}: {error}", quote=False)


def complaint(text: str) -> str:
    return f"<div class='rwp-status error' role='status'>status: {text}</div>"


_places: WeakKeyDictionary[Live, tuple[str, str]] = WeakKeyDictionary()  # the cell in which each was shown last, and the run of it


def _move_in(screen: Live) -> None:
    """A cell that is run again shows another screen: the one before would live on, unseen."""
    parent = getattr(get_ipython(), "get_parent", dict)()
    cell, run = parent.get("metadata", {}).get("cellId"), parent.get("header", {}).get("msg_id")
    if not cell:  # not every front end says it
        return
    for other, place in list(_places.items()):
        if other is not screen and place[0] == cell and place[1] != run:
            other.end()
    _places[screen] = cell, run
