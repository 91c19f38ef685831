"""What users ask of a screen, one wish after another, and what it tells them."""

from __future__ import annotations

import math

import pytest
import torch
from waiting import PATIENCE

import rwp_edu
from rwp_edu.lab.race import summary
from rwp_edu.lab.race.state import EVERY, PRESETS, RaceState
from rwp_edu.lab.race.view import SLICE
from rwp_edu.plotting import figures
from rwp_edu.training import Mark, Run
from rwp_edu.training.settings import Settings
from rwp_edu.utils.incremental import HEADLESS

SMALL = {"seeds": 2, "steps": 1000, "methods": "sgd,rwp", "pace": 0}


def turn(screen, *wishes):
    for name, value in wishes:
        screen.store(name, value)
    screen.turn()


# Wishes


def test_a_slider_that_is_dragged_is_one_wish_and_every_click_counts():
    lab = rwp_edu.lab.race(**SMALL)
    applied, apply = [], lab.screen.apply
    lab.screen.apply = lambda name, value: (applied.append((name, value)), apply(name, value))
    clicks = [("toggle", ("sam", True)), ("toggle", ("nso", True))]
    turn(lab.screen, ("train", 200), ("train", 250), ("train", 100), ("sigma", 0.2), ("train", 150), *clicks)
    assert applied == [("train", 100), ("sigma", 0.2), ("train", 150), *clicks]
    assert lab.state.methods == ("sgd", "rwp", "sam", "nso") and lab._run.settings.train == 150


def test_a_refusal_is_seen_until_something_else_is_done():
    lab = rwp_edu.lab.race(seeds=1, steps=100, methods="sgd")
    turn(lab.screen, ("toggle", ("sgd", False)), ("sigma", 0.2))
    assert "ValueError" in lab.screen.status.value and lab.state.sigma == 0.2
    turn(lab.screen)
    assert "ValueError" in lab.screen.status.value
    lab.run()
    turn(lab.screen)
    assert "status: finished" in lab.screen.status.value and not lab.screen.error


def test_a_pointer_that_moves_does_not_wipe_a_refusal_away():
    hills = rwp_edu.lab.landscape(methods="sgd", steps=20)
    turn(hills.screen, ("toggle", ("sgd", False)))
    turn(hills.screen, ("hovered", (0.1, 0.1)))
    assert "ValueError" in hills.screen.status.value
    hills.set(sigma=0.2)
    turn(hills.screen)
    assert not hills.screen.status.value


def test_saving_says_so_beside_what_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lab = rwp_edu.lab.race(**SMALL)
    turn(lab.screen, ("start", None), ("save", None))
    assert "status: running" in lab.screen.status.value and "saved as rwp_edu_runs" in lab.screen.status.value
    turn(lab.screen, ("sigma", 0.2))
    assert lab.status == "running" and "saved" not in lab.screen.status.value


def test_what_is_refused_before_the_first_update_changes_nothing():
    lab = rwp_edu.lab.race(problem="images", methods="sgd", seeds=1, steps=10)
    state, run = lab.state, lab._run
    with pytest.raises(FileNotFoundError):
        lab.set(weights="nofile.pt", model="resnet18")
    assert lab.state is state and lab._run is run
    lab.set(smoothing=0.5)
    assert lab.state.smoothing == 0.5


def test_methods_that_are_switched_off_before_the_start_are_not_trained_and_can_be_switched_on_again():
    lab = rwp_edu.lab.race(seeds=1, steps=20, methods="sgd,rwp,m-rwp:lam=0.3")
    turn(lab.screen, ("toggle", ("m-rwp:lam=0.3", False)))
    assert lab.record.entrants == ("sgd", "rwp")
    assert "m-rwp:lam=0.3" in lab.screen.chips._kept and lab.screen.chips._kept["m-rwp:lam=0.3"].box in lab.screen.chips.box.children
    turn(lab.screen, ("toggle", ("m-rwp:lam=0.3", True)))
    assert lab.record.entrants == ("sgd", "rwp", "m-rwp:lam=0.3")
    lab.run(10)
    turn(lab.screen, ("toggle", ("rwp", False)))
    assert lab.record.entrants == ("sgd", "rwp", "m-rwp:lam=0.3") and lab.shown == ("sgd", "m-rwp:lam=0.3")  # trained: kept


def test_start_goes_on_with_a_paused_run_whatever_waits_for_reset():
    lab = rwp_edu.lab.race(**SMALL)
    lab.run(50)
    record = lab.record
    turn(lab.screen, ("seeds", 3), ("toggle", ("sam", True)), ("start", None))
    assert lab.record is record and lab._run.updates > 50 and set(lab.waiting) == {"seeds", "methods"}
    assert "Reset applies: methods, seeds" in lab.screen.status.value or "Reset applies: seeds, methods" in lab.screen.status.value


def test_a_preset_of_another_problem_keeps_the_run_that_waited_there():
    lab = rwp_edu.lab.race(**SMALL)
    lab.run(50)
    record = lab.record
    lab.set(problem="sensing")
    lab.preset("too-much-noise")
    assert lab.ghost is record and lab.record.settings.sigma == 0.2 and lab.asked == "too-much-noise"


def test_a_step_ends_at_the_next_record_and_lets_others_in(ticks):
    ticks(0.6 * SLICE)  # a piece of an update in every turn
    lab = rwp_edu.lab.race(problem="images", methods="sgd,rwp", seeds=1, steps=20, record_every=4)
    turn(lab.screen, ("step", None))
    turns = 0
    while lab.screen.running:
        lab.screen.turn()
        turns += 1
    # three pieces an update, the first of which is done, and two of what is recorded
    assert turns == 4 * 3 - 1 + 2 and lab.record.updates.tolist() == [0, 4] and lab.status == "paused" and lab._run.whole
    turn(lab.screen, ("step", None))
    turn(lab.screen, ("pause", None))
    assert lab._run.updates == 5 and not lab.screen.running
    turn(lab.screen, ("step", None))
    while lab.screen.running:
        lab.screen.turn()
    assert lab._run.updates == 8
    lab.run()
    turn(lab.screen, ("step", None))
    assert lab.status == "finished" and lab._run.updates == 20


def test_what_is_around_the_runs_of_one_problem_is_not_shown_under_another():
    lab = rwp_edu.lab.race(**SMALL)
    lab.run(10)
    turn(lab.screen, ("look", None))
    assert lab.screen.around.children
    turn(lab.screen, ("sigma", 0.2))
    assert lab.screen.around.children
    turn(lab.screen, ("problem", "sensing"))
    assert not lab.screen.around.children and lab.screen._around is None


def test_a_closed_measurement_leaves_no_process():
    lab = rwp_edu.lab.workers()
    lab.screen  # noqa: B018
    if lab.set(measured=1) or not lab.work():
        pytest.skip(lab._why)
    team = lab._team
    lab.close()
    assert lab._team is None
    for process in team._processes:
        process.wait(PATIENCE)


# What is said


def test_a_race_in_which_all_diverge_is_recorded_and_marked():
    lab = rwp_edu.lab.race(problem="sensing", methods="sgd,rwp", seeds=2, steps=60, lr=0.017)
    lab.run()
    assert lab.status == "finished" and (lab.record.diverged >= 0).all()
    assert lab.record.updates.tolist() == [0, lab._run.updates] and lab._run.updates < 60
    assert "no method is left" in lab.summary and "Diverged and frozen: SGD (2 of 2), RWP (2 of 2)" in lab.summary
    marks = [t for t in figures.traces(lab.record) if t["name"] == "changes" and "x" in t["marker"]["symbol"]]
    assert marks and all(math.isfinite(v) for t in marks for v in (*t["x"], *t["y"]))


def test_what_has_diverged_does_not_lead():
    lab = rwp_edu.lab.race(methods="sgd:lr=1000000.0,rwp,sam:lr=1000000.0", seeds=2, steps=20)
    lab.run()
    assert lab.summary.startswith("After 20 updates RWP leads with") and lab.summary.endswith("SAM (η 1e+06) (2 of 2).")
    lab = rwp_edu.lab.race(methods="sgd:lr=1000000.0,sam:lr=1000000.0", seeds=2, steps=20)
    lab.run()
    assert "no method is left: try a smaller learning rate" in lab.summary


def test_lessons_without_a_screen_train_slow_networks_for_their_budget_alone(monkeypatch):
    monkeypatch.setenv(HEADLESS, "3")
    slow, fast = (rwp_edu.lab.race(problem=name, methods="sgd", seeds=1, steps=8) for name in ("images", "digits"))
    slow.run(), fast.run()
    assert slow._run.updates == 3 and fast._run.updates == 8
    slow.run(4)
    assert slow._run.updates == 7


def test_no_difference_is_no_lead():
    lab = rwp_edu.lab.race(methods="sgd,rwp", sigma=0, seeds=3, steps=20)
    lab.run()
    assert "too close to call (paired difference 0.0" in lab.summary


def test_counts_are_those_of_this_moment(ticks):
    lab = rwp_edu.lab.race(methods="sgd,sam", seeds=2, steps=100, record_every=50)
    ticks(0.01)
    lab.run(49)
    turn(lab.screen)
    assert "49 updates · 294 gradients" in lab.screen.counts.value and "· 0.0 s" not in lab.screen.counts.value


def test_the_axis_of_gradients_stays_where_it_is():
    """It moves once, with k, and not when a run diverges."""
    run, ends = Run(Settings(methods="sgd,nso", seeds=1, steps=100)), []
    run.advance(30)
    run.set(k=3)
    for _ in range(4):
        run.advance(10)
        ends.append(figures.layout(run.record, x="gradients")["xaxis"]["range"][1])
    assert ends == [30 * 2 + 70 * 6] * 4
    run = Run(Settings(methods="sgd:lr=1000000.0,sgd", seeds=1, steps=100))
    run.advance(50)
    assert (run.record.diverged >= 0).tolist() == [[True], [False]]
    assert [figures.layout(run.record, x="gradients", shown=(name,))["xaxis"]["range"][1] for name in run.record.entrants] == [100, 100]


def test_the_axis_of_the_loss_says_whose_loss():
    run = Run(Settings("sensing", methods="sgd", seeds=1, steps=2))
    assert figures.layout(run.record, x="loss")["xaxis3"]["title"]["text"] == run.record.problem.metrics[1].title != "training loss"


@pytest.mark.parametrize(
    "name, changes, why",
    [
        ("scale", {"methods": "sgd"}, "no chosen method uses σ or ρ"),
        ("scale", {"methods": "sgd,sam"}, ""),
        ("scale_start", {}, "the schedule of the scale does not grow"),
        ("scale_start", {"scale": "switch-off"}, "the schedule of the scale does not grow"),
        ("scale_start", {"scale": "linear"}, ""),
        ("scale_start", {"methods": "rwp:scale=cosine"}, ""),
        ("weight_decay", {"methods": "sgd:weight_decay=0.1,sam:weight_decay=0.2"}, "every chosen method that uses wd has a value of its own"),
        ("weight_decay", {"methods": "sgd:weight_decay=0.1,sam"}, ""),
        ("train", {}, ""),
    ],
)
def test_controls_without_effect_say_so(name, changes, why):
    assert summary.unused(name, Settings(**changes)) == why


def test_a_preset_is_offered_where_its_settings_exist():
    from rwp_edu import problems

    data = [(torch.zeros(2, 3), torch.tensor([0, 1]))]
    problems.add("little", lambda: torch.nn.Linear(3, 2), data, data)
    try:
        offered = [name for name, preset in PRESETS.items() if preset.suits("little")]
        assert "pictures-controls" in offered and "pictures-batch-norm" not in offered
        assert PRESETS["pictures-batch-norm"].suits("images")
    finally:
        problems.OWN.pop("little")


def test_flatness_for_a_picture_ends_with_the_picture():
    state = RaceState(third="trace")
    assert state.flatness_every == EVERY and state.replace(third="").flatness_every == 0
    assert state.replace(third="top_eigenvalue").flatness_every == EVERY
    assert RaceState(third="trace", flatness_every=50).replace(third="").flatness_every == 50
    assert state.replace(sigma=0.2).flatness_every == EVERY


def test_new_seeds_are_new():
    lab = rwp_edu.lab.trial(seeds=6)
    before = set(lab._seeds)
    lab.screen.again.click()
    lab.screen.obey()
    assert not before & set(lab._seeds)


def test_marks_and_k_of_an_entrant_of_its_own():
    run = Run(Settings(methods="nso:k=2", seeds=1, steps=10))
    run.record.marks.append(Mark(0, "k", 1, 5))
    assert figures.layout(run.record, x="gradients")["xaxis"]["range"][1] == 10 * 4
