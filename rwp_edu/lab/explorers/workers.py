"""Two gradients at once: the rounds of an update on several workers, beside the clock of this machine."""

from __future__ import annotations

import os
import statistics
from time import sleep
from typing import Any

from rwp_edu import methods
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.lab.race import summary
from rwp_edu.optim.parallel.timeline import Timeline, timeline
from rwp_edu.optim.parallel.timing import ORDER, QUIET, SETTINGS, WAYS, Sample, Team, disturbed, lacks, others, ratio, times
from rwp_edu.plotting import figures
from rwp_edu.plotting.plotly import AXIS, dots, heads, line, titled
from rwp_edu.utils.incremental import HEADLESS
from rwp_edu.utils.parameters import Parameter, Values, rounded, written

MOST, ROUNDS, PAUSE = 6, 3, 0.2
SPARE = {"wait": 1, "take shards": None}
TABLE: dict[str, Parameter] = {
    row.name: row
    for row in (
        Parameter("method", "", "m-rwp", "whose update is drawn", choices=tuple(methods.METHODS), title="method",
                  labels=tuple(row.label for row in methods.METHODS.values()), tips=summary.METHODS),
        Parameter("workers", "W", 2, "processes that share out the points of a round", low=1, high=MOST, slider=(1, MOST), step=1, title="workers"),
        Parameter("k", "k", 1, "draws of the noise per update", low=1, high=MOST, slider=(1, MOST), step=1, title="noise draws"),
        Parameter("spare", "", "wait", "what workers do for whom a round has no point", choices=tuple(SPARE), title="spare workers"),
        Parameter("batch", "B", "32", "pictures in a batch of the measurement", choices=("32", "128"), title="measured batch"),
        Parameter("measured", "", 0, "how often the clock was asked for", high=1000, title="measurements"),
    )
}  # fmt: skip
CLOCKED = {"one core": "one core", "two threads": "two threads", "two copies": "two threads,<br>a point each", "two workers": "two workers,<br>points", "two shards": "two workers,<br>shards"}


class WorkersState(Values):
    """All that the picture depends on; every field is a row of ``TABLE``."""

    TABLE = TABLE


class Workers(Explorer):
    """An update on several workers, and milliseconds per update of SGD, SAM and m-RWP as measured here.

    >>> lab = workers(method="sam")
    >>> lab.timeline.length, lab.timeline.idle
    (2.0, 0.5)
    """

    STATE, OPEN, CHOICE, SEED = WorkersState, "rwp_edu.lab.workers", "method", "measured"
    AGAIN = ("Measure", "clock-o", "start two processes and let them train a small network; takes about half a minute")

    def __init__(self, state: Values):
        super().__init__(state)
        self.samples: dict[str, list[Sample]] = {}
        self._team: Team | None = None
        self._todo: list[tuple[str, str]] = []
        self._warm, self._begun, self._why = 0, state.measured, ""

    @property
    def shown(self) -> tuple[str, ...]:
        uses_k = "k" in methods.get(self.state.method).parameters
        return ("workers", *(("k",) if uses_k else ()), "spare", "batch")

    @property
    def timeline(self) -> Timeline:
        s = self.state
        return timeline(s.method, s.workers, s.k, SPARE[s.spare])

    @property
    def snippet(self) -> str:
        changed = {name: value for name, value in self.state.changed().items() if name != self.SEED}
        return f"{self.OPEN}({written(changed)})"

    # The clock

    @property
    def updates(self) -> int:
        """Of one measurement; a single one where notebooks are run without a screen."""
        return 1 if os.environ.get(HEADLESS) else 3

    @property
    def pause(self) -> float:
        """Seconds until it is worth while to look again: whoever looks all the time is measured too."""
        return PAUSE if self._team is not None else super().pause

    def work(self) -> bool:
        if self._team is None:
            if self._begun >= self.state.measured:
                return False
            self._begun, self._why = self.state.measured, lacks()
            if self._why:
                return False
            rounds = 1 if os.environ.get(HEADLESS) else ROUNDS
            self._team, self._batch, self._warm = Team("cnn", int(self.state.batch)), self.state.batch, len(ORDER)
            self._todo = list(ORDER) * (rounds + 1)
            self._team.ask(*self._todo[0], updates=1)
            return True
        try:
            more = self._go_on(self._team)
        except BaseException:
            self.ended()
            raise
        if not more:
            self.ended()
        return more or self._begun < self.state.measured

    def _go_on(self, team: Team) -> bool:
        """Take what the processes have found, and ask for the next; is there more to do?"""
        found = team.answer()
        if found is None:
            return True
        if self._warm:
            self._warm -= 1
        else:
            self.samples.setdefault(self._batch, []).append(found)
        self._todo.pop(0)
        if self._todo:
            team.ask(*self._todo[0], updates=1 if self._warm else self.updates)
        return bool(self._todo)

    def ended(self) -> None:
        """A measurement that goes on is given up, and its processes end."""
        if self._team is not None:
            self._team.close()
            self._team = None

    def finish(self) -> None:
        while self.work():
            sleep(self.pause)

    def measure(self) -> list[Sample]:
        """Measure now, and wait for the result: every (method, way) in turn."""
        self.set(measured=self.state.measured + 1)
        self.finish()
        return self.clocked

    @property
    def clocked(self) -> list[Sample]:
        """What was measured with the chosen batch."""
        return self.samples.get(self.state.batch, [])

    # The picture

    def traces(self) -> list[dict[str, Any]]:
        t, colour, across = self.timeline, figures.LOOKS[self.state.method][0], self._across
        waits = [(w, begin, end) for w, begin, end in t.waits if end - begin > 1e-9]
        out = [
            {
                "type": "bar", "orientation": "h", "name": "waiting", "x": [end - begin for _, begin, end in waits], "base": [begin for _, begin, _ in waits],
                "y": [-w for w, *_ in waits], "width": [0.66] * len(waits), "hoverinfo": "name", "xaxis": "x", "yaxis": "y",
                "marker": {"color": "rgba(128,128,128,0.12)", "line": {"width": 1, "color": "rgba(128,128,128,0.35)"}, "pattern": {"shape": "/", "size": 7, "fgcolor": "rgba(128,128,128,0.35)"}},
            },
            {
                "type": "bar", "orientation": "h", "name": "points", "x": [b.length for b in t.bars], "base": [b.begin for b in t.bars],
                "y": [-b.worker for b in t.bars], "width": [0.66] * len(t.bars), "text": [b.label if b.length > 0.12 * across else "" for b in t.bars],
                "hovertext": [f"{b.label}: {b.about}" for b in t.bars], "hoverinfo": "text", "textposition": "inside", "insidetextanchor": "middle",
                "textangle": 0, "marker": {"color": colour, "opacity": 0.85, "line": {"width": 2, "color": "rgba(128,128,128,0.5)"}}, "xaxis": "x", "yaxis": "y",
            },
            line(
                [part for end in t.ends for part in (end, end, None)], [part for _ in t.ends for part in (0.5, 0.5 - t.workers, None)],
                "end of a round", figures.INK, "dot",
            ),
        ]  # fmt: skip
        found, ways = times(self.clocked), list(WAYS)
        for row, method in enumerate(SETTINGS):
            look = figures.LOOKS[method][0]
            y = {way: -ways.index(way) + 0.24 * (1 - row) for way in ways}
            each = [(v, y[way]) for way in ways for v in found.get((method, way), ())]
            middle = [(statistics.median(found[method, way]), y[way]) for way in ways if (method, way) in found]
            label = methods.get(method).label
            out.append(dots([v for v, _ in each], [at for _, at in each], f"{label}, each", look, size=5, panel="2", opacity=0.5, showlegend=False))
            out.append(dots([v for v, _ in middle], [at for _, at in middle], label, look, "diamond", 10, "2"))
        return out

    @property
    def _across(self) -> float:
        """The time that the picture shows: as long as one worker takes, so that more workers are seen to be faster."""
        return max(2.0, timeline(self.state.method, 1, self.state.k).length)

    def layout(self) -> dict[str, Any]:
        t, ways = self.timeline, list(WAYS)
        label = methods.get(self.state.method).label
        end = self._across
        notes = heads((f"One update of {label}", 0), (f"Measured here, batch {self.state.batch}", 0.62))
        if not self.clocked:
            notes.append({"text": self._doing or "press <b>Measure</b>", "showarrow": False, "xref": "x2 domain", "yref": "y2 domain", "x": 0.5, "y": 0.5})
        most = max((s.milliseconds for s in self.clocked), default=1.0)
        return {
            "xaxis": {**AXIS, **titled("time, in gradients of a batch"), "domain": [0.0, 0.5], "range": [0, 1.04 * end], "dtick": 1 if end <= 8 else 2},
            "yaxis": {**AXIS, "tickvals": [-w for w in range(t.workers)], "ticktext": [f"worker {w + 1}" for w in range(t.workers)],
                      "range": [-t.workers + 0.5, 0.5], "automargin": True},
            "xaxis2": {**AXIS, **titled("milliseconds per update"), "domain": [0.62, 1.0], "anchor": "y2", "range": [0, 1.08 * most], "showticklabels": bool(self.clocked)},
            "yaxis2": {**AXIS, "anchor": "x2", "tickvals": [-i for i in range(len(ways))], "ticktext": [CLOCKED[way] for way in ways],
                       "range": [-len(ways) + 0.5, 0.5]},
            "annotations": notes, "barmode": "overlay", "bargap": 0, "margin": {"l": 20, "r": 12, "t": 74, "b": 44}, "height": 400,
            "legend": {"orientation": "h", "y": 1.1, "x": 0, "yanchor": "bottom"},
        }  # fmt: skip

    @property
    def _doing(self) -> str:
        if self._why:
            return self._why
        if self._team is None:
            return ""
        method, way = self._todo[0]
        done = len(ORDER) - self._warm if self._warm else 0
        if self._warm == len(ORDER):
            return "two processes are starting"
        return f"measuring {methods.get(method).label}, {way}" + (f" (warming up, {done} of {len(ORDER)})" if self._warm else f" ({len(self._todo)} to go)")

    @property
    def text(self) -> str:
        s, t = self.state, self.timeline
        row = methods.get(s.method)
        cost = row.cost(k=s.k)
        rounds = f"{cost.points} point{'s' * (cost.points > 1)} in {cost.rounds} round{'s' * (cost.rounds > 1)}"
        crew = "one worker" if s.workers == 1 else f"{s.workers} workers" + (f", {t.shards} to a point" if t.shards > 1 else "")
        said = f"{row.label}: {rounds}. On {crew} an update takes as long as {_number(t.length)} gradient{'s' * (t.length != 1)} for a work of {_number(t.work)}"
        if s.workers > 1:
            said += f": {_number(t.speedup)} times as fast as on one" if t.speedup > 1.001 else ": no faster than on one"
        if s.workers == 1:
            return f"{said}. {self._clock()}"
        said += f"; {100 * t.idle:.0f} % of the workers' time is spent waiting." if t.idle > 1e-9 else "; nobody waits."
        return f"{said} {self._clock()}"

    def _clock(self) -> str:
        if self._doing:
            return f"Clock: {self._doing}."
        if not self.clocked:
            return ""
        if others(self.clocked) > QUIET:
            return f"Measured, but {disturbed(self.clocked)}."
        found, mixed = times(self.clocked), ("m-rwp", "two workers")
        told = {"one core": "on one core", "two threads": "on two threads", "two shards": "with half of the batch on each of two workers"}
        parts = [f"{ratio(found, mixed, ('sam', way)):.2f} times as long as SAM {name}" for way, name in told.items()]
        copies = ratio(found, ("m-rwp", "two copies"), ("sam", "one core"))
        return (
            f"Measured: m-RWP on two workers takes {', '.join(parts)}; in one process, with a point on each of two threads, {copies:.2f} times as long as SAM on one core; "
            f"{disturbed(self.clocked)}."
        )


def _number(value: float) -> str:
    return rounded(value)


def workers(*given: Any, **changes: Any) -> Workers:
    """Open the workers: ``workers(method="sam", workers=4, spare="take shards")``."""
    return Workers.open(*given, **changes)
