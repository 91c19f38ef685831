"""What the screen of a race does with wishes, errors, values it did not expect, and cells that are run again."""

from __future__ import annotations

import asyncio

import ipywidgets
import pytest
from waiting import rest

import rwp_edu
from rwp_edu.lab import PRESETS
from rwp_edu.lab.base import controls, event_loop
from rwp_edu.lab.explorers import landscape
from rwp_edu.plotting import figures
from rwp_edu.training.settings import Entrant
from rwp_edu.utils import clock
from rwp_edu.utils.parameters import Parameter

SMALL = {"seeds": 2, "steps": 100_000, "methods": "sgd,rwp"}


def running(**changes):
    """A race that trains on its screen, without an event loop."""
    lab = rwp_edu.lab.race(**SMALL | {"pace": 0} | changes)
    turn(lab.screen, "start")
    assert lab.screen.running and lab._run.updates
    return lab


def turn(screen, name: str = "", value=None) -> None:
    if name:
        screen.store(name, value)
    screen.turn()


# From Python, while it trains


@pytest.mark.slow
@pytest.mark.parametrize(
    "call, status",
    [
        (lambda lab: lab.run(10), "paused"),
        (lambda lab: lab.reset(), "ready"),
        (lambda lab: lab.set(problem="sensing"), "ready"),
        (lambda lab: lab.preset("too-much-noise"), "ready"),
        (lambda lab: lab.preset("switch-off"), "ready"),
    ],
)
def test_what_python_asks_for_is_done_once_and_not_by_the_screen_too(call, status):
    lab = running()
    call(lab)
    at = lab._run.updates
    turn(lab.screen)
    assert lab.status == status and not lab.screen.running and lab._run.updates == at and not lab.screen.start.disabled


def test_an_interrupt_stops_the_screen(monkeypatch):
    lab = running()
    monkeypatch.setattr(type(lab._run.problem), "gradients", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        lab.run(1)
    assert lab.status == "stopped by KeyboardInterrupt" and not lab.screen.running


def test_what_was_left_while_it_trained_waits_as_paused():
    lab = running()
    lab.set(problem="sensing")
    lab.set(problem="digits")
    assert lab.status == "paused" and lab._run.updates


@pytest.mark.slow
def test_going_slower_goes_on_from_here(ticks):
    ticks(0.0002)
    lab = running()
    turns_for(1, lab)
    at = lab._run.updates
    assert at > 60
    turn(lab.screen, "pace", 20)
    turns_for(1, lab)
    assert 15 <= lab._run.updates - at <= 25


def turns_for(seconds, lab):
    """What the loop does in so many seconds."""
    end = clock.now() + seconds
    while clock.now() < end:
        turn(lab.screen)


# What cannot be done


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("open", "nowhere", "unknown problem 'nowhere'"),
        ("toggle", ("sgd", False), "choose at least one method"),
        ("sigma", -1.0, "sigma must be a finite number &gt;= 0, got -1.0"),
    ],
)
def test_a_wish_that_is_refused_does_not_stop_the_training(name, value, says):
    lab = running(methods="sgd")
    at = lab._run.updates
    turn(lab.screen, name, value)
    assert says in lab.screen.status.value and lab.screen.running and lab._run.updates > at
    turn(lab.screen, "smoothing", 0.1)
    assert says not in lab.screen.status.value


def test_a_wish_that_is_refused_does_not_stop_an_explorer(ticks):
    ticks(landscape.SLICE)  # a few updates in every turn
    hills = rwp_edu.lab.landscape(methods="rwp", sigma=0.1)
    screen = hills.screen
    turn(screen, "toggle", ("rwp", False))
    assert "choose at least one method" in screen.status.value and hills.state.methods == ("rwp",)
    assert screen.turn() is not None, "its runs go on"
    turn(screen, "sigma", 0.2)
    assert hills.state.sigma == 0.2 and not screen.status.value


def test_a_picture_that_fails_once_does_not_end_the_loop(monkeypatch):
    async def scene():
        lab = rwp_edu.lab.smoothing()
        screen = lab.screen
        screen.begin()
        await rest(screen)
        monkeypatch.setattr(type(lab), "traces", lambda self: 1 / 0)
        lab.set(sigma=0.3)
        await rest(screen)
        assert "ZeroDivisionError" in screen.status.value
        monkeypatch.undo()
        screen.store("sigma", 0.2)
        await rest(screen)
        assert not screen.status.value and not screen._task.done() and lab.state.sigma == 0.2
        lab.close()

    asyncio.run(scene())


def test_errors_are_text():
    assert event_loop.told(TypeError("got <class 'str'>")) == "TypeError: got &lt;class 'str'&gt;"


# What the widgets show


@pytest.mark.slow
def test_a_measure_that_a_problem_does_not_have():
    lab = rwp_edu.lab.race(problem="fine-tuning", third="pac_bayes", **SMALL)
    lab.screen.draw()
    assert lab.screen.third.value == "pac_bayes"
    lab.set(problem="digits")
    lab.screen.draw()
    assert lab.screen.third.value == ""


@pytest.mark.parametrize("lr", [2.0, 1e-4, 0.3])
def test_logarithmic_sliders_reach_values_that_are_set(lr):
    for lab in (rwp_edu.lab.race(lr=lr, **SMALL), rwp_edu.lab.race(**SMALL)):
        control = lab.screen.controls["lr"]
        lab.set(lr=lr)
        lab.screen.draw()
        assert control.input.value == lab.state.lr == lr


def test_zero_on_a_logarithmic_slider_is_shown():
    lab = rwp_edu.lab.race(**SMALL)
    lab.set(lr=0.0)
    lab.screen.draw()
    assert lab.screen.controls["lr"].input.index == 0 and lab.screen.controls["lr"].input.options[0] == ("0", 0.0) and lab.state.lr == 0


def test_pace_smoothing_and_presets_are_as_they_are():
    lab = rwp_edu.lab.race(**SMALL)
    screen = lab.screen
    lab.set(pace=2)
    screen.draw()
    assert screen.pace.value == 2 and ("2 updates/s", 2) in screen.pace.options
    turn(screen, "pace", 20)
    assert lab.state.pace == 20 and len(screen.pace.options) == 4
    screen.smoothing.input.value = 0.3
    turn(screen)
    assert lab.state.smoothing == 0.3
    lab.set(smoothing=0.33)
    screen.draw()
    assert screen.smoothing.input.value == 0.33
    for _ in range(2):
        screen.preset.value = "too-much-noise"
        turn(screen)
        assert lab.state.sigma == 0.2 and screen.preset.value == "" and "Too much noise." in screen.question.value
        lab.set(sigma=0.01)
    lab.preset("clean-labels")
    screen.draw()
    assert "Clean labels." in screen.question.value
    lab.set(problem="sensing")
    screen.draw()
    assert screen.question.value == ""
    lab.set(problem="digits")
    screen.draw()
    assert "Clean labels." in screen.question.value


def test_a_lesson_may_show_other_sliders_later():
    lab = rwp_edu.lab.race(show="sigma", **SMALL)
    lab.screen.draw()
    assert tuple(lab.screen.controls) == ("sigma",)
    lab.set(show="lr,rho")
    lab.screen.draw()
    assert set(lab.screen.controls) == {"lr", "rho"}


def test_meanings_with_apostrophes_are_whole_in_tooltips():
    control = rwp_edu.lab.race(methods="sam", seeds=1).screen.controls["rho"]
    assert "title='radius of SAM&#x27;s ascent step" in control.head.value


@pytest.mark.parametrize("ticks", [((0.01, "published"), (0.1, "here")), ((0.0, "left"), (0.5, "middle"), (1.0, "right")), ((0.4, "a long label"), (0.5, "another one"))])
def test_labels_of_ticks_do_not_overlap(ticks):
    import re

    drawn = controls._ticks(Parameter("x", "", 0.1, "", slider=(0.0, 1.0), ticks=ticks))
    spans = re.findall(r'class="(\w+)" style="left:([\d.]+)%;top:(\d+)px">([^<]+)<', drawn)
    assert [text for *_, text in spans] == [text for _, text in ticks]
    shift = {"start": 0, "mid": 0.5, "end": 1}
    places = sorted((int(top), float(at) - shift[kind] * (width := controls.LETTER * len(text)), width) for kind, at, top, text in spans)
    for (line, left, width), (other, right, _) in zip(places, places[1:]):
        assert line != other or left + width <= right
    assert (" tall" in drawn) == (len({line for line, *_ in places}) > 1)


# Lines of chips and curves


def drawn(lab) -> dict[str, str]:
    """The lines of the mean curves, as chips show them."""
    found = {t["legendgroup"]: (t["line"]["color"], t["line"]["dash"]) for t in lab.screen.figure.data if t["mode"] == "lines" and t["line"]["width"] == 2.2}
    return {name: figures.swatch(look) for name, look in found.items()}


def lines_of_chips(screen) -> dict[str, str]:
    return {name: chip.line.value for name, chip in screen.chips._kept.items() if chip.box in screen.chips.box.children}


@pytest.mark.parametrize("begun", [0, 1])
@pytest.mark.parametrize("name", PRESETS)
def test_a_chip_has_the_line_of_its_curve(name, begun):
    lab = rwp_edu.lab.race(seeds=1)
    lab.preset(name)
    lab.run(begun)
    lab.screen.draw()
    further = f"{lab.state.methods[-1].partition(':')[0]}:lr=0.001"
    for methods in (lab.state.methods, (*lab.state.methods, further), ("rwp", "m-rwp", "sgd"), (further, *reversed(lab.state.methods))):
        lab.set(methods=methods)
        lab.screen.draw()
        chips = lines_of_chips(lab.screen)
        curves = drawn(lab)
        assert set(curves) == set(lab.record.entrants)
        assert {name: chips[name] for name in curves} == curves
        assert all(chips[name] not in curves.values() for name in set(chips) - set(curves))
    lab.close()


def test_chips_of_a_landscape_have_the_lines_of_its_paths():
    hills = rwp_edu.lab.landscape(methods="rwp:sigma=0.3,rwp,sam")
    chips = lines_of_chips(hills.screen)
    paths = {t["name"]: (t["line"]["color"], t["line"]["dash"]) for t in hills.traces() if t.get("line", {}).get("width") == 1.3 and t["type"] == "scatter"}
    assert len(paths) == 3
    for name in hills.state.methods:
        assert chips[name] == figures.swatch(paths[Entrant.parse(name).label])


def test_gridlines_of_all_panels_are_alike():
    assert ".gridlayer path {" in controls.STYLE and ".xgrid" not in controls.STYLE
    rule = next(line for line in controls.STYLE.splitlines() if ".gridlayer" in line)
    assert "stroke-opacity: 1 " in rule, "plotly's own opacity would make the theme's colour fainter still"


# Cells that are run again


class Shell:
    """What IPython knows of the cell that is being run."""

    def __init__(self):
        self.cell, self.run = "first", 0

    def get_parent(self):
        return {"metadata": {"cellId": self.cell} if self.cell else {}, "header": {"msg_id": str(self.run)}}


@pytest.fixture
def shell(monkeypatch):
    shell = Shell()
    monkeypatch.setattr(event_loop, "get_ipython", lambda: shell)
    return shell


def widgets() -> int:
    return len(ipywidgets.Widget.get_manager_state()["state"])


@pytest.mark.slow
@pytest.mark.parametrize("open_lab", [lambda: rwp_edu.lab.race(**SMALL), lambda: rwp_edu.lab.landscape(methods="sgd,rwp")])
def test_a_cell_that_is_run_again_closes_what_it_showed_before(shell, open_lab):
    async def scene():
        seen = []
        for shell.run in range(4):
            lab = open_lab()
            lab._repr_mimebundle_()
            await rest(lab.screen)
            seen.append((widgets(), len(asyncio.all_tasks())))
        assert seen[1] == seen[2] == seen[3]
        lab.close()
        assert widgets() < seen[-1][0] - 30
        lab.close()  # once more does no harm
        assert "application/vnd.jupyter.widget-view+json" in lab._repr_mimebundle_()
        lab.close()

    asyncio.run(scene())


def test_what_is_shown_elsewhere_or_by_the_same_run_stays(shell):
    def shown(*labs):
        for lab in labs:
            lab._repr_mimebundle_()
        return labs

    one, two = shown(rwp_edu.lab.race(**SMALL), rwp_edu.lab.smoothing())
    screens = one.screen, two.screen
    shell.cell = "second"
    shown(one)  # again, in another cell
    shell.cell, shell.run = "first", 1
    (three,) = shown(rwp_edu.lab.smoothing())
    assert one._screen is screens[0] and two._screen is None and three._screen is not None
    shell.cell, shell.run = None, 2  # a front end that does not say where
    shown(rwp_edu.lab.smoothing())
    assert one._screen is screens[0] and three._screen is not None


def test_a_run_outlives_its_screen(shell):
    lab = running()
    lab._repr_mimebundle_()
    shell.run += 1
    rwp_edu.lab.smoothing()._repr_mimebundle_()
    assert lab._screen is None and lab.status == "paused"
    at = lab._run.updates
    lab.run(5)
    assert lab._run.updates == at + 5 and not lab.screen.running
