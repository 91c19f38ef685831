"""Explorers: a picture that follows a few controls, without a front end or with one (``explorer_screen``)."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

from rwp_edu.plotting import figures
from rwp_edu.training.run import one_thread
from rwp_edu.utils.incremental import HEADLESS
from rwp_edu.utils.parameters import Parameter, Values, written


def opened(call: str, state: Any, first: str, given: tuple[Any, ...], changes: dict[str, Any]) -> Any:
    """Return ``state`` with the arguments of a call that opens a lab: settings by name and, in front, a state to begin with or the
    value of the setting ``first``."""
    name = call.rpartition(".")[2]
    row = state.TABLE.get(first)
    shown = {first: state.to_dict().get(first)} if first else {next(iter(state.TABLE)): next(iter(state.to_dict().values()))}
    usage = f"{name}() takes {f'{_article(first)} {first} such as {next(iter(shown.values()))!r}, or ' * bool(first)}settings by name: {name}({written(shown)})"
    if len(given) > 1:
        raise TypeError(f"{usage}; got {len(given)} arguments without a name")
    if given and isinstance(given[0], type(state)):
        state, given = given[0], ()
    if given and first in changes:
        raise TypeError(f"{usage}; got {first} twice")
    if given and not (first and isinstance(given[0], str)):
        raise TypeError(f"{usage}; got {given[0]!r}")
    if given and row is not None:
        row.parse(given[0])
    return state.replace(**({first: given[0]} if given else {}), **changes)


def _article(noun: str) -> str:
    return "an" if noun[:1] in "aeiou" else "a"


class Explorer:
    """A picture of a small state. A subclass has a ``STATE`` (a frozen ``Values``) and says what is drawn.

    ``OPEN`` is the call that opens it, ``FIRST`` the setting whose value may come first in it (by default ``CHOICE``). ``CHOICE`` names the parameter that is a row of buttons on top, ``SEED`` the one that a button
    counts up: ``AGAIN`` is its label, icon and tooltip.

    ``traces`` and ``layout`` are plain dictionaries for plotly; a live screen updates traces in place as long as their names and
    order stay. ``text`` is the sentence below. ``shown`` names the controls that matter now.
    """

    STATE: ClassVar[type[Values]]
    OPEN: ClassVar[str]
    CHOICE: ClassVar[str] = ""
    FIRST: ClassVar[str] = ""
    SEED: ClassVar[str] = "seed"
    AGAIN: ClassVar[tuple[str, str, str]] = ("New draw", "random", "draw other noise")

    def __init__(self, state: Values):
        self.state = state
        self._screen = None

    @classmethod
    def open(cls, *given: Any, **changes: Any) -> Self:
        """Open it with settings by name; the first may be the value of ``FIRST``, without a name."""
        return cls(opened(cls.OPEN, cls.STATE(), cls.FIRST or cls.CHOICE, given, changes))

    def traces(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def layout(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def text(self) -> str:
        raise NotImplementedError

    @property
    def shown(self) -> tuple[str, ...]:
        return tuple(name for name in self.state.TABLE if name not in (self.CHOICE, self.SEED))

    @property
    def noisy(self) -> bool:
        """Does the picture depend on the seed?"""
        return self.SEED in self.state.TABLE

    @property
    def next_seed(self) -> int:
        """What the button takes the seed to."""
        return getattr(self.state, self.SEED) + 1

    @property
    def rows(self) -> dict[str, Parameter]:
        """The rows of the controls as they are now: a tick may depend on the state."""
        return dict(self.state.TABLE)

    def work(self) -> bool:
        """Do a little of what takes long (some hundredths of a second), and say whether there is more to do."""
        return False

    @property
    def pause(self) -> float:
        """Seconds between two turns of ``work`` on a screen."""
        return 0.01

    def finish(self) -> None:
        """Do all of the work."""
        with one_thread():
            while self.work():
                pass

    def ended(self) -> None:
        """The screen was closed: give back what is held for it."""

    def clicked(self, x: float, y: float) -> None:
        """A point of a trace that is called *surface* was clicked."""

    def hovered(self, x: float, y: float) -> None:
        """The pointer is at a point of a trace that is called *surface*."""

    def set(self, **changes: Any) -> None:
        """Change the state; a value that is not possible is an error that names what is."""
        self.state = self.state.replace(**changes)
        if self._screen is not None:
            self._screen.changed()

    def close(self) -> None:
        """Take the screen away with its widgets; another is made when the picture is shown again."""
        if self._screen is not None:
            self._screen.end()

    @property
    def snippet(self) -> str:
        """One line of Python that opens this picture in its present state."""
        return f"{self.OPEN}({written(self.state.changed())})"

    @property
    def figure(self):
        """The picture as a plotly figure, finished."""
        import plotly.graph_objects as go

        self.finish()
        return go.Figure(data=self.traces(), layout={**figures.PLAIN, **self.layout()})

    def __repr__(self) -> str:
        return f"<{self.OPEN.rpartition('.')[2]}: {self.text}>"

    @property
    def screen(self):
        """The widgets, made when first asked for."""
        if self._screen is None:
            from rwp_edu.lab.base.explorer_view import ExplorerScreen

            self._screen = ExplorerScreen(self)
        return self._screen

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if os.environ.get(HEADLESS):
            self.finish()
        return self.screen.show(**options)
