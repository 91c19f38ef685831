"""The screen of a race: ipywidgets on the left, one figure on the right, one live loop that alone draws.

Callbacks of widgets may come at any time, from any thread: they only store what was asked for. The loop, an asyncio task,
applies it, steps the run and draws, about ten times a second.
"""

from __future__ import annotations

import html
import weakref
from threading import get_ident
from typing import Any

import ipywidgets as w

from rwp_edu import methods, problems
from rwp_edu.lab.base.controls import STYLE, Chips, Control, Maker, plain, toggled
from rwp_edu.lab.base.event_loop import Live, complaint, told
from rwp_edu.lab.base.figure_view import FigureView
from rwp_edu.lab.race import summary
from rwp_edu.lab.race.dataset_picker import MEGABYTES, OTHER, Download, Opening
from rwp_edu.lab.race.state import PRESETS, VIEW
from rwp_edu.plotting import figures
from rwp_edu.training.run import threads
from rwp_edu.training.settings import parameters
from rwp_edu.utils import clock
from rwp_edu.utils.parameters import counted

PERTURBATION = ("kind", "law", "sigma", "rho", "lam", "k")
DETAILS = tuple(name for name in methods.PARAMETERS if name not in PERTURBATION)
TRAINING = ("lr", "weight_decay", "schedule", "momentum", "scale", "scale_start")
PROBLEM = ("seeds", "steps", "seed")
PACES = {"slow: 5 updates/s": 5, "20 updates/s": 20, "100 updates/s": 100, "as fast as it goes": 0}
SLICE = 0.03  # seconds of training between two looks at what was asked for
HEIGHT = 540
DRAW_EVERY, DRAW_EVERY_AT_FULL_SPEED = 0.1, 0.25

COPY = """<button class="jupyter-button" style="width: auto" title="it runs as pasted"
onclick="const t = this.closest('.rwp-code').querySelector('textarea'); t.select(); document.execCommand('copy');
this.innerText = 'Copied'; setTimeout(() => this.innerText = 'Copy', 1500)">Copy</button>"""

_running: weakref.ref[Screen] | None = None


class Screen(Live):
    """Widgets of one race and the loop that keeps them alive."""

    def __init__(self, race: Any):
        super().__init__(race)
        self.race, self.make = race, Maker()
        self._drawn: tuple | None = None
        self.running = False
        self._until: int | None = None  # where a single step ends
        self._around: Live | None = None
        self._clock = (0.0, 0)
        self._saved = ""
        self._switched: dict[str, None] = {}  # chips that were clicked: what was switched off can be switched on again
        self._buttons()
        self.chips = Chips(self.store, self.make)
        self.figure = self.make.widget(FigureView, self.from_page)
        self.says, self.status, self.counts = (self.make.HTML() for _ in range(3))
        self.left = self.make.VBox(layout={"width": "310px", "flex": "0 0 310px"})
        self.controls: dict[str, Control] = {}
        self._controls_for: tuple | None = None
        self._made: dict[tuple, tuple[dict[str, Control], list[w.Widget]]] = {}
        self.box = self._arrange()
        self.draw()

    # Widgets

    def _button(self, text: str, icon: str, tip: str, command: str) -> w.Button:
        button = self.make.Button(description=text, icon=icon, tooltip=tip, layout={"width": "auto"})
        button.on_click(lambda _: self.store(command, None))
        return button

    def _buttons(self) -> None:
        self.start = self._button("Start", "play", "train live with these settings", "start")
        self.pause = self._button("Pause", "pause", "stop after this update; nothing is lost", "pause")
        self.step = self._button("Step", "step-forward", "train up to the next record", "step")
        self.reset = self._button("Reset", "refresh", "begin again with these settings; this run stays as faint lines", "reset")
        self.look = self._button(
            "Look around", "search", "the loss around the runs as they are now, and the spectra of their Hessians", "look"
        )
        self.save = self._button("Save record", "download", "write the record so far as JSON into rwp_edu_runs/", "save")
        make, select = self.make, {"layout": {"width": "auto"}}
        self.preset = make.Dropdown(tooltip="a question with settings that answer it", **select)
        self.problem = make.Dropdown(options=self._problems(), value=self.race.state.problem,
                                     tooltip="what is trained; a run that is left waits here for you", **select)  # fmt: skip
        self.opening, self.download = Opening(self.store, make), None
        self.problem.observe(lambda change: self.store("problem", change["new"]), names="value")
        self.preset.observe(lambda change: change["new"] and self.store("preset", change["new"]), names="value")
        self.question = make.HTML()
        self.pace = make.Dropdown(options=list(PACES.items()), tooltip="how fast the live training goes", **select)
        self.axis = make.ToggleButtons(options=list(VIEW["x"].choices), value=self.race.state.x, style={"button_width": "auto"},
                                       tooltips=list(figures.X_AXES.values()))  # fmt: skip
        self.smoothing = Control(VIEW["smoothing"], self.race.state.smoothing, self.store, make, width="260px")
        self.third = make.Dropdown(tooltip=VIEW["third"].meaning, layout=w.Layout(width="auto", max_width="330px"))
        for name, widget in (("pace", self.pace), ("x", self.axis), ("third", self.third)):
            widget.observe(lambda change, name=name: self.store(name, plain(change["new"])), names="value")
        self.coded = make.Dropdown(description="method", layout={"width": "260px"})
        self.code = make.Textarea(layout={"width": "100%", "height": "330px"}, continuous_update=False)
        self.setting = make.Textarea(layout={"width": "100%", "height": "60px"}, continuous_update=False)
        self.coded.observe(lambda _: self.store("coded", None), names="value")

    def _problems(self) -> list[tuple[str, str]]:
        known = (*problems.PROBLEMS, *problems.OWN, *self.race.left, self.race.state.problem)
        return [*((problems.get(name).title, name) for name in dict.fromkeys(known)), (OTHER, OTHER)]

    def _make_controls(self) -> None:
        """The controls of the problem, with the presets and pictures that suit it; they are kept for the next time it comes back."""
        state = self.race.state
        key = state.problem, state.show
        if key == self._controls_for:
            return
        self._controls_for = key
        presets = ((p.title, name) for name, p in PRESETS.items() if p.suits(state.problem))
        self.preset.options = [("preset ...", ""), *presets]
        row = problems.get(state.problem)
        third = [(f"third: {row.metric(row.panels[2]).title}", ""), *((f"third: {m.title}", m.name) for m in row.flatness)]
        self.third.options, self.third.layout.display = third, None if row.flatness else "none"
        if key not in self._made:
            self._made[key] = self._grouped(state)
        self.controls, self.left.children = self._made[key]

    def _grouped(self, state: Any) -> tuple[dict[str, Control], list[w.Widget]]:
        """Sliders and menus for the settings of the problem: those that are in sight by name, and all in groups."""
        rows = parameters(state.problem)
        own = tuple(row.name for row in problems.get(state.problem).parameters)
        controls: dict[str, Control] = {}

        def column(names: tuple[str, ...]) -> list[w.Widget]:
            for name in names:
                value = getattr(self.race.state, name, rows[name].default)
                controls[name] = Control(rows[name], value, self.store, self.make)
            return [controls[name].box for name in names]

        def folded(title: str, names: tuple[str, ...]) -> list[w.Widget]:
            if not names:
                return []
            inside = self.make.VBox()
            fold = self.make.Accordion([inside], titles=[title], selected_index=None)

            def unfold() -> None:
                inside.children = inside.children or column(names)

            fold.observe(lambda _: self.store("unfold", unfold), names="selected_index")
            return [fold]

        def shown(*names: str) -> tuple[str, ...]:
            return tuple(name for name in names if not state.show or name in state.show)

        return controls, [
            *column(shown(*PERTURBATION, *TRAINING[:2])),
            *folded("more about the methods", shown(*DETAILS)), *folded("more about the training", shown(*TRAINING[2:])),
            *folded("the problem (acts at Reset)", shown(*own, *PROBLEM)),
        ]  # fmt: skip

    def _arrange(self) -> w.Widget:
        make, middle = self.make, {"flex_flow": "row wrap", "align_items": "center"}
        view = [make.HTML("<span class='rwp-counts'>x axis&nbsp;</span>"), self.axis, self.smoothing.box, self.third]
        right = make.VBox([self.figure, make.HBox(view, layout=middle), self.says], layout={"flex": "1 1 560px", "min_width": "480px"})
        self.around = make.VBox()
        top = [self.start, self.pause, self.step, self.reset, self.look, self.problem, self.preset, self.pace, self.counts]
        code = make.VBox([make.HBox([self.coded, make.HTML(COPY)]), self.code])
        code.add_class("rwp-code")
        record = make.VBox([self.setting, self.save])
        extras = make.Accordion([code, record], titles=["copy as code", "setting and record"], selected_index=None)
        body = make.HBox([self.left, right], layout={"flex_flow": "row wrap", "align_items": "flex-start"})
        top = make.HBox(top, layout=middle)
        box = make.VBox([make.HTML(STYLE), top, self.opening.box, self.chips.box, self.question, body, self.status, self.around, extras])
        box.add_class("rwp-lab")
        for widget, name in ((self.says, "rwp-says-box"), (self.status, "rwp-status-box")):
            widget.add_class(name)
        return box

    # What was asked for

    def apply(self, name: str, value: Any) -> None:
        race, self._saved = self.race, ""
        match name:
            case "start":
                self._begin()
            case "pause":
                self.stop("paused")
                race._run.complete()
            case "step" if race._run.finished:
                pass
            case "step":
                self._begin(until=race._run.updates + self._to_record)
            case "reset":
                race.reset()
            case "preset":
                race.preset(value)
                self._switched = {}
            case "problem" if value == OTHER:
                self.opening.show()
            case "problem":
                self._leave_for(value)
            case "open":
                self._open(value)
            case "download":
                self.download = self.download or Download(value, self.wake)
            case "look":
                self._look_around()
            case "save":
                self._saved = f" · saved as {race.save()}"
            case "coded":
                pass
            case "unfold":
                value()
            case "toggle":
                self._switched |= {value[0]: None}
                race.set(methods=toggled(race.state.methods, *value))
            case _:
                race.set(**{name: value})

    def _begin(self, until: int | None = None) -> None:
        """Train live, to the end or ``until`` so many updates."""
        global _running
        other = _running() if _running else None
        if other is not None and other is not self and other.running:
            other.stop("paused, because another race was started")
            other.wake()
        if self.race._run.finished:
            self.race.reset()
        _running = weakref.ref(self)
        self.running, self._until, self.race.status = True, until, "running"
        self.race._run.background = True
        self._clock = (clock.now(), self.race._run.updates + self._to_record)

    @property
    def _to_record(self) -> int:
        """Updates up to the next record: at a slow pace a start takes them at once, so that there is a line to see."""
        every = self.race.record.settings.record_every
        return every - self.race._run.updates % every

    def stop(self, status: str) -> None:
        if self.running:
            self.running, self.race.status, self.due = False, status, True

    def _leave_for(self, problem: str) -> None:
        self.race.set(problem=problem)
        self._switched = {}
        self.opening.show(False)

    def _open(self, name: str) -> None:
        name = name.strip()
        try:
            self._leave_for(name)
        except FileNotFoundError:
            self.opening.offer(name in MEGABYTES)
            if name not in MEGABYTES:
                raise
            self.race.status = f"{name} is not on this machine yet: Download gets it, about {MEGABYTES[name]} MB"

    def _receive(self) -> None:
        """Open what has come."""
        got = self.download
        if got and got.done:
            self.download = None
            try:
                if got.error:
                    raise got.error
                self._leave_for(got.name)
            except Exception as error:
                self.error = told(error)
            self.due = True

    def _look_around(self) -> None:
        """Open what is around the runs as they are now, in place of what was open."""
        self.race._run.complete()
        fresh = self.race.around().screen
        if self._around is not None:
            self._around.end()
        self._around, self.around.children = fresh, (fresh.box,)
        self._around_of = self.race.state.problem
        fresh.begin()

    def _leave_around(self) -> None:
        """What is around the runs of one problem is not shown under another."""
        if self._around is not None and self._around_of != self.race.state.problem:
            self._around.end()
            self._around, self.around.children = None, ()

    # The loop

    def turn(self) -> float | None:
        """What was asked for is shown at once, before the training goes on."""
        every = DRAW_EVERY if self.race.state.pace else DRAW_EVERY_AT_FULL_SPEED
        going = self.running
        if self.obey():
            self._next_draw, self.due = 0.0, True
            self.draw_in_time(self.running, every)
            if self.running and not going:
                self._next_draw = 0.0  # the first record is drawn as soon as it is there
        self._receive()
        if self.running:
            self._train()
            self.due = True
        if self.race._run.collect():
            self._next_draw, self.due = 0.0, True
        self.draw_in_time(self.running, every)
        if self.running:
            return 0.01 if self.race.state.pace else 0.001
        if self.race._run.looking or self.download:
            self.due = True
            return 0.05 if self.race._run.looking else 0.5
        return self.figure.wait or None

    def _train(self) -> None:
        run, pace = self.race._run, 0 if self._until else self.race.state.pace
        began, done = self._clock
        if pace and abs(run.updates - done - (clock.now() - began) * pace) > max(pace, self._to_record):
            self._clock = began, done = clock.now(), run.updates  # it was faster, or cannot keep up
        end = clock.now() + SLICE
        with threads(run.engine.threads):
            while not (run.finished and run.whole) and clock.now() < end:
                if run.whole and run.updates == self._until:
                    break
                if run.whole and pace and run.updates >= done + (clock.now() - began) * pace:
                    break
                run.piece()
        if run.finished and run.whole:
            self.stop("finished")
        elif run.whole and run.updates == self._until:
            self.stop("paused")

    def fail(self, error: Exception) -> None:
        """The record so far stays."""
        self.stop("stopped")
        super().fail(error)

    def end(self) -> None:
        self.stop("paused")
        if self._around is not None:
            self._around.end()
        super().end()

    # Drawing

    def draw(self) -> None:
        """Bring the figure in line with the record, and then every widget with the state."""
        race, state = self.race, self.race.state
        self._leave_around()
        self._showing = get_ident()
        try:
            self._make_controls()
            self._draw_figure()
            if self.problem.options != (known := tuple(self._problems())):
                self.problem.options = known
            self.problem.value = state.problem
            waiting = race.waiting
            for name, control in self.controls.items():
                if not self.asked(name):
                    control.show(getattr(state, name))
                unused = summary.unused(name, state)
                control.explain(unused or ("acts at Reset" if name in waiting else ""), off=bool(unused))
            if not self.asked("toggle"):
                self.chips.show(state, (*race.record.entrants, *self._switched))
            self.axis.value, self.preset.value = state.x, ""
            if not self.asked("smoothing"):
                self.smoothing.show(state.smoothing)
            self.third.value = state.third if any(state.third in option for option in self.third.options) else ""
            paces = PACES if state.pace in PACES.values() else PACES | {f"{state.pace} updates/s": state.pace}
            if self.pace.options != (paces := tuple(paces.items())):
                self.pace.options = paces
            self.pace.value = state.pace
            if self.coded.options != state.methods:
                chosen = self.coded.value
                self.coded.options = state.methods
                self.coded.value = chosen if chosen in state.methods else state.methods[-1]
            self.start.disabled, self.pause.disabled = self.running, not self.running
            self.code.value = race.code(self.coded.value)
            self.setting.value = race.snippet
        finally:
            self._showing = None
        self._say()
        self.due = False

    def _say(self) -> None:
        race = self.race
        self.says.value = f"<div class='rwp-says'>{race.summary}</div>"
        asked = PRESETS.get(race.asked)
        self.question.value = f"<div class='rwp-question'><b>{asked.heading}</b> {asked.question}</div>" if asked else ""
        shown = [group for group, name in zip(race._run.groups, race.record.entrants) if name in race.shown]
        gradients = int(sum(group.work for group in shown)) * race.record.settings.seeds
        spent = race._run.flatness_seconds
        flatness = f" · flatness {spent:.1f} s" if spent else ""
        self.counts.value = (
            f"<span class='rwp-counts'>&nbsp;{counted(race._run.updates, 'update')} · {gradients:,} gradients · "
            f"{sum(group.seconds for group in shown):.1f} s{flatness}</span>"
        )
        waits = f" · Reset applies: {', '.join(name.replace('_', ' ') for name in race.waiting)}" if race.waiting else ""
        waits += (f" · {self.download}" if self.download else "") + html.escape(self._saved, quote=False)
        said = f"<div class='rwp-status' role='status'>status: {html.escape(race.status, quote=False)}{waits}</div>"
        self.status.value = complaint(self.error + waits) if self.error else said

    def _draw_figure(self) -> None:
        race = self.race
        view = race._view()
        marks = race.record.marks
        now = (
            race.record,
            len(race.record.rows),
            len(marks),
            marks[-1:],
            race.shown,
            view["x"],
            view["smoothing"],
            view["ghost"],
            view["third"],
            race._run.looks,
            self.shown_values(),
        )
        if self._drawn and all(new is old or new == old for new, old in zip(now, self._drawn)):
            return self.figure.flush()
        plan = figures.layout(race.record, **{key: view[key] for key in ("x", "shown", "ghost", "third")}, height=HEIGHT)
        self.figure.show(figures.traces(race.record, **view), {**plan, "showlegend": False, "meta": self.shown_values()})
        self._drawn = now
