"""The lab without a front end: the same state, run, record, figure and words that the screen shows."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
import threading

import ipywidgets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import rest, until

import rwp_edu
from rwp_edu.lab import PRESETS, RaceState, exercises
from rwp_edu.methods import METHODS
from rwp_edu.methods.points import At
from rwp_edu.training import Record

SMALL = {"seeds": 2, "steps": 30}


def test_run_set_and_reset():
    lab = rwp_edu.lab.race(**SMALL)
    lab.run(steps=10)
    assert (lab.status, lab.record.updates.tolist()) == ("paused", [0, 10])
    lab.set(sigma=0.2)
    lab.run()
    assert (lab.status, lab.record.updates[-1]) == ("finished", 30)
    assert [(m.update, m.name, m.old, m.new) for m in lab.record.marks] == [(10, "sigma", 0.1, 0.2)]
    former = lab.record
    lab.reset()
    assert lab.ghost is former and lab.record.updates.tolist() == [0] and lab.state.sigma == 0.2


def test_a_change_of_the_problem_waits_for_reset():
    lab = rwp_edu.lab.race(**SMALL)
    lab.run(10)
    lab.set(train=100, methods="sgd,asam")
    assert set(lab.waiting) == {"methods", "train"}
    assert lab.record.settings.train == 300
    lab.reset()
    assert lab.waiting == () and lab.record.settings.train == 100


def test_before_the_first_update_everything_acts_at_once():
    lab = rwp_edu.lab.race(**SMALL)
    lab.set(train=100, sigma=0.2, methods="sgd,rwp")
    assert lab.record.settings.train == 100 and lab.record.settings.sigma == 0.2 and lab.record.marks == []
    assert lab.record.entrants == ("sgd", "rwp")


def test_a_method_switched_off_disappears_at_once():
    lab = rwp_edu.lab.race(**SMALL)
    lab.run(10)
    lab.set(methods="sgd,rwp")
    assert lab.shown == ("sgd", "rwp") and lab.waiting == ()
    shown = {trace.name for trace in lab.figure.data if trace.visible and trace.mode == "lines"}
    assert {"SGD", "RWP"} <= shown and "SAM" not in shown


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"sigma": -1}, "sigma must be a finite number >= 0"),
        ({"lam": 2}, "lam must be a finite number from 0 to 1"),
        ({"k": 1.5}, "k must be a whole number"),
        ({"kind": "round"}, "kind must be one of published, isotropic, layer-wise, filter-wise"),
        ({"x": "weeks"}, "x must be one of updates, gradients, seconds"),
        ({"sgima": 1}, "did you mean 'sigma'"),
        ({"show": ("sgima",)}, "unknown control 'sgima'"),
        ({"methods": "sgd,smam"}, "unknown method 'smam'"),
        ({"methods": ()}, "choose at least one method"),
    ],
)
def test_impossible_values(changes, says):
    lab = rwp_edu.lab.race(**SMALL)
    before = lab.state
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        lab.set(**changes)
    assert lab.state == before


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        dict,
        sigma=st.floats(0, 1),
        lam=st.floats(0, 1),
        k=st.integers(1, 4),
        seeds=st.integers(1, 9),
        x=st.sampled_from(["updates", "gradients", "seconds"]),
        show=st.lists(st.sampled_from(["sigma", "rho", "lr"]), unique=True).map(tuple),
        methods=st.lists(st.sampled_from(list(METHODS)), min_size=1, unique=True).map(tuple),
    )
)
def test_state_round_trips_and_the_snippet_opens_it(values):
    state = RaceState(**values)
    assert RaceState.from_json(state.to_json()) == state
    race = rwp_edu.lab.race
    rwp_edu.lab.race = lambda **changes: RaceState().replace(**changes)
    try:
        assert eval(state.snippet(), {"rwp_edu": rwp_edu}) == state
    finally:
        rwp_edu.lab.race = race


VARIANTS = (
    "nso:k=2",
    "rwp:law=laplace:kind=isotropic",
    "sgd:weight_decay=0.04",
    "rwp:scale=linear:scale_start=0.5",
    "sam:scale=cosine",
    "rwp:swa=0.5",
)


def printed(code: str) -> float:
    """The last word of what a pasted program prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), torch.random.fork_rng():
        exec(compile(code, "copied", "exec"), {"__name__": "__main__"})
    return float(out.getvalue().split()[-1])


@pytest.mark.slow
def test_copied_code_is_a_program_of_its_own():
    lab = rwp_edu.lab.race(methods="m-rwp", seeds=1, steps=60, seed=3)
    lab.run()
    found = subprocess.run([sys.executable, "-c", lab.code()], capture_output=True, text=True, check=True)
    assert float(found.stdout.split()[-1]) == pytest.approx(lab.record.test_accuracy[-1, 0, 0], abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, *VARIANTS, "rsam:sigma=0.2:scale=cosine"])
def test_copied_code_runs_as_pasted_and_repeats_the_run(method):
    lab = rwp_edu.lab.race(methods=method, seeds=1, steps=60, seed=3)
    lab.run()
    assert printed(lab.code()) == pytest.approx(lab.record.test_accuracy[-1, 0, 0], abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgd", "nso:k=2", "m-rwp", "lpf-sgd:k=3", "sam:scale=cosine", "arwp", "rwp:swa=0.5"])
def test_copied_code_of_matrix_sensing_repeats_the_run(method):
    lab = rwp_edu.lab.race(problem="sensing", methods=method, seeds=1, steps=60, seed=3, d=10, n=60)
    lab.run()
    assert printed(lab.code()) == pytest.approx(lab.record.distance[-1, 0, 0], rel=2e-3)


def test_copied_code_of_fine_tuning_repeats_the_run():
    lab = rwp_edu.lab.race(problem="fine-tuning", methods="m-rwp", seeds=1, steps=60, seed=3)
    lab.run()
    assert printed(lab.code()) == pytest.approx(lab.record.test_accuracy[-1, 0, 0], abs=3e-3)


PICTURES = {"problem": "images", "seeds": 1, "steps": 20, "seed": 3, "train": 60, "test": 100, "batch": 20, "width": 4}


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": "m-rwp:swa=0.5", "crop": 1, "flip": "on", "cutout": 2, "label_smoothing": 0.1, "clip": 0.5},
        {"methods": "sgd", "norm": "batch", "precision": "bfloat16", "clip": 0.5, "schedule": "warm-up"},
        {"methods": "lpf-sgd:k=2", "model": "mlp", "base": "adamw", "lr": 0.01, "schedule": "steps"},
    ],
)
def test_copied_code_of_pictures_repeats_the_run(changes):
    lab = rwp_edu.lab.race(**PICTURES | changes)
    lab.run()
    assert printed(lab.code()) == pytest.approx(lab.record.test_accuracy[-1, 0, 0], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(name):
    lab = rwp_edu.lab.race(seeds=2)
    lab.preset(name)
    every = lab.record.settings.record_every
    lab.run(every)
    assert lab.record.updates[-1] == every and lab.figure.data


def test_summary_follows_the_record():
    lab = rwp_edu.lab.race(methods="sgd,rwp", **SMALL)
    assert lab.summary.startswith("Nothing has been trained yet")
    lab.run()
    mean = dict(zip(lab.record.entrants, lab.record.test_accuracy[-1].mean(1)))
    leader = max(mean, key=mean.get)
    assert f"{METHODS[leader].label} leads with {100 * mean[leader]:.1f} ±" in lab.summary


def test_summary_names_a_diverged_method():
    lab = rwp_edu.lab.race(methods="rwp,sgd:lr=1000000", **SMALL)
    lab.run()
    assert "Diverged and frozen: SGD (η 1e+06) (2 of 2)" in lab.summary


def test_an_error_keeps_the_record(monkeypatch):
    lab = rwp_edu.lab.race(**SMALL)
    lab.run(10)
    monkeypatch.setattr(type(lab._run.problem), "gradients", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lab.run(10)
    assert "ZeroDivisionError" in lab.status and lab.record.updates.tolist() == [0, 10]


def test_save_and_load(tmp_path):
    lab = rwp_edu.lab.race(**SMALL)
    lab.run()
    loaded = Record.load(lab.save(tmp_path / "record.json"))
    np.testing.assert_array_equal(loaded.test_accuracy, lab.record.test_accuracy)
    assert loaded.settings == lab.record.settings


# The screen, without a browser


def test_screen_dims_what_no_method_uses():
    lab = rwp_edu.lab.race(methods="sgd,sam", **SMALL)
    controls = lab.screen.controls
    assert controls["sigma"].input.disabled and "no chosen method uses σ" in controls["sigma"].head.value
    assert not controls["rho"].input.disabled and not controls["lr"].input.disabled


def test_screen_shows_only_the_controls_of_a_lesson():
    def count(widget) -> int:
        return (hasattr(widget, "readout")) + sum(map(count, getattr(widget, "children", ())))

    everything = count(rwp_edu.lab.race(**SMALL).screen.box)
    lesson = count(rwp_edu.lab.race(show=("sigma",), **SMALL).screen.box)
    assert lesson == 2 < everything  # sigma and the smoothing of the picture


def folds(screen) -> dict:
    """The accordions beside the picture, by title."""
    return {fold.titles[0]: fold for fold in screen.left.children if hasattr(fold, "titles")}


def test_folded_controls_are_made_when_they_are_opened():
    """A page that is loaded again waits for every widget that there is."""
    lab = rwp_edu.lab.race(**SMALL)
    screen = lab.screen
    assert "train" not in screen.controls and "momentum" not in screen.controls
    lab.set(train=120)
    fold = folds(screen)["the problem (acts at Reset)"]
    (inside,) = fold.children
    for open_or_closed in (0, None, 0):
        fold.selected_index = open_or_closed
        screen.turn()
    train = screen.controls["train"]
    assert train.input.value == 120 and train.box in inside.children and len(set(inside.children)) == len(inside.children) > 5
    train.input.value = 150
    screen.turn()
    assert lab.state.train == 150 and "momentum" not in screen.controls


def test_what_is_opened_after_the_problem_was_left_does_not_stop_the_race():
    lab = rwp_edu.lab.race(**SMALL)
    screen = lab.screen
    folds(screen)["the problem (acts at Reset)"].selected_index = 0
    lab.set(problem="sensing")
    screen.turn()
    lab.set(problem="digits")
    screen.draw()
    assert screen.controls["train"].input.value == lab.state.train


def test_widgets_that_look_alike_share_their_layout_and_style():
    before = ipywidgets.Widget.get_manager_state()["state"]
    rwp_edu.lab.race(**SMALL).screen.draw()
    made = [model for name, model in ipywidgets.Widget.get_manager_state()["state"].items() if name not in before]
    looks = [str(model) for model in made if model["model_name"].endswith(("LayoutModel", "StyleModel"))]
    assert len(looks) < len(made) / 4 and len(made) < 200  # 652 if all had their own and nothing was folded
    assert len(looks) - len(set(looks)) <= 3  # those that change


def test_a_lesson_with_one_slider_makes_nothing_that_is_folded():
    widgets = ipywidgets.Widget.get_manager_state
    before = widgets()["state"]
    rwp_edu.lab.race(show=("sigma",), **SMALL)._repr_mimebundle_()
    made = [model["model_name"] for name, model in widgets()["state"].items() if name not in before]
    assert made.count("AccordionModel") == 1  # the code and the record


@pytest.mark.slow
def test_live_loop_starts_obeys_and_stops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def scene():
        lab = rwp_edu.lab.race(seeds=2, steps=100_000, pace=0)
        lab.screen.show()
        lab.screen.start.click()
        await until(lambda: lab._run.updates > 10)
        assert lab.status == "running"
        lab.screen.controls["sigma"].input.value = 0.2
        await until(lambda: lab.record.marks)
        assert lab._run.groups[2].hyper["sigma"] == 0.2 and lab.record.marks[-1].new == 0.2
        lab.screen.pause.click()
        await rest(lab.screen)
        stopped = lab._run.updates
        lab.screen.save.click()
        await rest(lab.screen)
        assert lab._run.updates == stopped and list(tmp_path.glob("rwp_edu_runs/*.json"))
        monkeypatch.setattr(type(lab._run.problem), "gradients", lambda *_: 1 / 0)
        lab.screen.start.click()
        await rest(lab.screen)
        assert "ZeroDivisionError" in lab.screen.status.value and lab._run.updates == stopped
        monkeypatch.undo()
        lab.screen.reset.click()
        await rest(lab.screen)
        assert lab._run.updates == 0 and lab.ghost is not None and "ZeroDivisionError" not in lab.screen.status.value
        lab.screen._task.cancel()

    asyncio.run(scene())


def test_headless_display_trains_a_small_budget_and_raises_errors(monkeypatch):
    monkeypatch.setenv("RWP_EDU_HEADLESS_STEPS", "10")
    lab = rwp_edu.lab.race(**SMALL)
    lab._repr_mimebundle_()
    assert lab._run.updates == 10
    monkeypatch.setattr(type(lab._run.problem), "gradients", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lab._repr_mimebundle_()


# Exercises


def _solution(w, noise):
    (g,) = yield [At(w + noise(w))]
    return g


def _sgd(w, noise):
    (g,) = yield [At(w)]
    return g


def _subtracts(w, noise):
    (g,) = yield [At(w - noise(w))]
    return g


def _in_place(w, noise):
    (g,) = yield [At(w.add_(noise(w)))]
    return g


def _two_draws(w, noise):
    (g,) = yield [At(w + noise(w) + noise(w))]
    return g


def _pair(w, noise):
    u = noise(w)
    gs = yield [At(w + u), At(w - u)]
    return sum(gs)


def _nothing(w, noise):
    yield [At(w + noise(w))]


def _scaled(w, noise):
    (g,) = yield [At(w + noise(w))]
    return 0.1 * g


def _again(w, noise):
    yield [At(w + noise(w))]
    yield [At(w)]


def _bare(w, noise):
    g = yield w + noise(w)
    return g


@pytest.mark.parametrize(
    "attempt, says",
    [
        (_solution, "Right."),
        (_sgd, "no noise was drawn"),
        (_subtracts, "w - u"),
        (_in_place, "w itself was changed"),
        (_two_draws, "one draw per update"),
        (_pair, "asks for 2"),
        (_nothing, "return the gradient"),
        (_scaled, "as it came"),
        (_again, "a second time"),
        (_bare, "yield a list of points"),
        (lambda w, noise: w, "never yields"),
    ],
)
def test_exercise_says_what_is_wrong(attempt, says, capsys):
    assert exercises.check_rwp(attempt) is (attempt is _solution)
    assert says in capsys.readouterr().out


def test_copy_as_code_offers_the_chosen_methods_and_keeps_the_choice():
    lab = rwp_edu.lab.race(methods="sgd,sam,rwp", **SMALL)
    screen = lab.screen
    assert screen.coded.options == ("sgd", "sam", "rwp") and screen.coded.value == "rwp" and "import RWP" in screen.code.value
    screen.coded.value = "sam"
    lab.set(methods="sam,nso")
    screen.draw()
    assert screen.coded.value == "sam" and "import SAM" in screen.code.value
    lab.set(methods="nso")
    screen.draw()
    assert screen.coded.value == "nso"


def test_a_hand_on_a_slider_is_heard_while_the_screen_is_drawn(monkeypatch):
    """Some versions of ipykernel handle the messages of widgets in a thread of their own."""
    lab = rwp_edu.lab.race(**SMALL)
    screen, drawn = lab.screen, []

    def meanwhile(*_):
        if not drawn:
            drawn.append(1)
            hand = threading.Thread(target=lambda: setattr(screen.controls["sigma"].input, "value", 0.2))
            hand.start(), hand.join()

    monkeypatch.setattr(screen.controls["kind"], "explain", lambda *_, **__: meanwhile())
    screen.draw()
    assert drawn and screen.controls["sigma"].input.value == 0.2, "the slider was moved back under the hand"
    screen.turn()
    assert lab.state.sigma == 0.2


def test_pause_ends_between_two_updates():
    lab = rwp_edu.lab.race(**PICTURES | {"methods": "sgd,rwp,sam"})
    screen = lab.screen
    assert lab._run.piece() and not lab._run.whole
    screen.store("pause", None)
    screen.turn()
    assert lab._run.whole and lab._run.updates == 1
    assert {runner.updates for own in lab._run.engine.runners for runner in own} == {1}


def test_controls_are_there_again_when_a_problem_comes_back():
    lab = rwp_edu.lab.race(steps=10, seeds=1)
    screen, controls = lab.screen, lab.screen.controls
    lab.set(problem="sensing")
    screen.draw()
    assert screen.controls is not controls
    lab.set(problem="digits", sigma=0.2)
    screen.draw()
    assert screen.controls is controls and controls["sigma"].input.value == 0.2
    assert controls["sigma"].box in screen.left.children


def test_chips_are_kept_and_follow_the_state():
    lab = rwp_edu.lab.race(methods="sgd,rwp", **SMALL)
    screen = lab.screen
    screen.draw()
    chips = screen.chips._kept
    before, boxes = dict(chips), screen.chips.box.children
    assert {name for name, chip in chips.items() if chip.toggle.value} == {"sgd", "rwp"}
    chips["nso"].toggle.value = True  # a click
    screen.turn()
    lab.set(k=3)
    screen.draw()
    assert lab.state.methods == ("sgd", "rwp", "nso") and screen.chips.box.children == boxes and chips == before
    assert chips["nso"].toggle.description == "NSO  6∥" and "6 gradients per update at once" in chips["nso"].toggle.tooltip
    lab.set(methods="rwp,rwp:sigma=0.3")
    screen.draw()
    assert {name for name, chip in chips.items() if chip.toggle.value} == {"rwp", "rwp:sigma=0.3"}
    assert chips["rwp"] is before["rwp"] and len(screen.chips.box.children) == len(boxes) + 1


def test_the_last_method_cannot_be_switched_off():
    """What is refused is not shown either."""
    lab = rwp_edu.lab.race(methods="rwp", **SMALL)
    screen = lab.screen
    screen.draw()
    screen.chips._kept["rwp"].toggle.value = False

    async def scene():
        screen.show()
        await rest(lab.screen)
        screen._task.cancel()

    asyncio.run(scene())
    assert lab.state.methods == ("rwp",) and screen.chips._kept["rwp"].toggle.value
    assert "choose at least one method" in screen.status.value
