"""The race without a front end: its state, its run, its record, its figure. The screen is one way to look at it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rwp_edu.lab.base.explorer import opened
from rwp_edu.lab.race import code_export
from rwp_edu.lab.race import summary as words
from rwp_edu.lab.race.state import PRESETS, RaceState
from rwp_edu.plotting import figures
from rwp_edu.training import Record, Run
from rwp_edu.training.run import keep_freed_memory
from rwp_edu.training.settings import LIVE
from rwp_edu.utils.incremental import HEADLESS
from rwp_edu.utils.parameters import unknown

OF_A_PROBLEM = ("state", "_run", "ghost", "status", "asked")  # what waits while the race is at another problem


class Race:
    """Methods racing on the same problem, live in a notebook or headless.

    >>> lab = race(methods="sgd,rwp", seeds=2, steps=30)
    >>> lab.run(steps=10)
    >>> lab.set(sigma=0.15)
    >>> lab.run()
    >>> lab.status, lab.record.updates.tolist()
    ('finished', [0, 10, 20, 30])
    """

    def __init__(self, state: RaceState):
        self.state = state
        self.ghost: Record | None = None
        self.status = "ready"
        self.asked = ""  # the preset whose question is shown
        self._screen = None
        self._run = Run(state.settings)
        self.left: dict[str, dict[str, Any]] = {}  # problems that wait for the race to come back

    @property
    def record(self) -> Record:
        """What was measured so far."""
        return self._run.record

    @property
    def shown(self) -> tuple[str, ...]:
        """Entrants that are in the run and chosen."""
        return tuple(name for name in self.record.entrants if name in self.state.methods)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Settings that were changed and take effect with the next reset."""
        current = self._run.settings
        names = [n for n, value in vars(current).items() if n not in LIVE and getattr(self.state, n) != value]
        if "methods" in names and set(self.state.methods) <= set(current.methods):
            names.remove("methods")
        return tuple(names)

    @property
    def figure(self):
        """The picture as a plotly figure."""
        return figures.race(self.record, **self._view())

    def _view(self) -> dict[str, Any]:
        return {
            "x": self.state.x,
            "smoothing": self.state.smoothing,
            "shown": self.shown,
            "ghost": self.ghost,
            "third": self.state.third,
        }

    @property
    def summary(self) -> str:
        """The picture in a sentence or two."""
        return words.summary(self.record, self.shown)

    @property
    def snippet(self) -> str:
        """One line of Python that opens the lab in this state."""
        return self.state.snippet()

    def code(self, method: str | None = None) -> str:
        """The training of ``method`` (by default the last one chosen) as a plain loop that runs as pasted."""
        return code_export.code(self.state.settings, method or self.state.methods[-1])

    def set(self, **changes: Any) -> None:
        """Change the state. Live settings act from the next update on; others wait for :meth:`reset` once a run has begun.

        Another ``problem`` has a run of its own; the one left behind is there again when the race comes back to it.
        """
        state = self.state.replace(**changes)
        if state.problem != self.state.problem:
            back = set(changes) == {"problem"} and state.problem in self.left
            there = self.left[state.problem] if back else dict(zip(OF_A_PROBLEM, (state, Run(state.settings), None, "ready", "")))
            self._halt()
            self.left[self.state.problem] = {name: getattr(self, name) for name in OF_A_PROBLEM}
            vars(self).update(there)
            self._changed()
            return
        if not self._run.updates and not all(getattr(state, name) == value for name, value in vars(self._run.settings).items() if name not in LIVE):
            self._run = Run(state.settings)
        moved = {name: getattr(state, name) for name in LIVE}
        self._run.set(**{name: value for name, value in moved.items() if value != getattr(self._run.settings, name)})
        self.state = state
        self._changed()

    def preset(self, name: str) -> None:
        """Put the state to a preset (and start afresh, keeping the former run as a ghost)."""
        if name not in PRESETS:
            raise unknown("preset", name, PRESETS)
        show = self.state.show if PRESETS[name].suits(self.state.problem) else ()
        state = RaceState(pace=self.state.pace).replace(**PRESETS[name].state(self.state.problem), show=show)
        if state.problem != self.state.problem:
            self.set(problem=state.problem)
        fresh = Run(state.settings)
        self.state = state
        self._start(fresh)
        self.asked = name

    def reset(self) -> None:
        """Begin again with the present state; the run so far stays as faint lines."""
        self._start(Run(self.state.settings))

    def _start(self, fresh: Run) -> None:
        self._halt()
        if self._run.updates:
            self.ghost = self.record
        self._run, self.status = fresh, "ready"
        self._changed()

    def run(self, steps: int | None = None) -> None:
        """Train synchronously: ``steps`` more updates, or to the end. Errors are raised here and shown in the status."""
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 0):
            raise ValueError(f"steps must be a whole number >= 0, got {steps!r}")
        self._halt()
        try:
            self._run.advance(self._budget() if steps is None else steps)
        except BaseException as error:
            self.status = f"stopped by {type(error).__name__}: {error}".rstrip(": ")
            with suppress(Exception):  # what was trained so far is recorded, if it can be
                self._run.write()
            self._changed()
            raise
        self.status = "finished" if self._run.finished else "paused"
        self._changed()

    def _budget(self) -> int:
        """Updates up to the end; where notebooks are run without a screen, networks that are trained one after another, which takes minutes, stop sooner."""
        left, few = self._run.settings.steps - self._run.updates, os.environ.get(HEADLESS)
        return min(left, int(few)) if few and self.record.problem.engine == "one by one" else left

    def around(self, *given: Any, **changes: Any):
        """The loss around the runs as they are now, and the spectra of their Hessians: ``around(entrant="sam", along="eigenvectors")``."""
        from rwp_edu.lab.explorers.loss_landscape import Around, AroundState
        from rwp_edu.training.snapshot import Solutions

        solutions = Solutions(self._run)
        return Around(solutions, opened("around", AroundState(solutions.entrants[0]), "entrant", given, changes))

    @property
    def problem(self) -> Any:
        """The data that are trained on, by seed (``problem.train_x[0]``), and what the runs do with them."""
        return self._run.problem

    def objective(self, entrant: str, seed: int = 0, data: str = "train") -> Any:
        """The loss around the weights that ``entrant`` has now with seed number ``seed``: its value, gradient and Hessian products, for
        ``rwp_edu.curvature.trace``, ``spectra``, ``sharpness`` and ``slices``."""
        from rwp_edu.training.snapshot import Solutions

        return Solutions(self._run).objective(entrant, seed, data)

    def save(self, path: str | Path | None = None) -> Path:
        """Write the record as JSON (by default into ``rwp_edu_runs/``); :meth:`Record.load` reads it."""
        return self.record.save(path or Path("rwp_edu_runs") / time.strftime("race-%Y%m%d-%H%M%S.json"))

    def _halt(self) -> None:
        """What is done here is not done by the screen at the same time."""
        if self._screen is not None:
            self._screen.stop("paused")

    def _changed(self) -> None:
        if self._screen is not None:
            self._screen.changed()

    def close(self) -> None:
        """Take the screen away with its widgets; the run stays, and a screen is made again when the race is shown."""
        if self._screen is not None:
            self._screen.end()

    def __repr__(self) -> str:
        return f"<race: {self.status}. {self.summary}>"

    @property
    def screen(self):
        """The widgets, made when first asked for."""
        if self._screen is None:
            from rwp_edu.lab.race.view import Screen

            self._screen = Screen(self)
        return self._screen

    def _repr_mimebundle_(self, **options: Any) -> Any:
        budget = os.environ.get(HEADLESS)
        if budget:
            self.run(int(budget))
        return self.screen.show(**options)


def race(*given: Any, **changes: Any) -> Race:
    """Open the race lab: ``race(sigma=0.15, methods="sgd,rwp,m-rwp")``, or with a problem ``race("sensing", sigma=0.15)``. An unknown or
    impossible value names what is allowed."""
    state = opened("race", RaceState(), "problem", given, changes)
    keep_freed_memory()
    return Race(state)
