"""The two radii: the screen and the exercise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rwp_edu.curvature.objective import Objective
from rwp_edu.curvature.sharpness import average_rise, radius_of_rise, sam_rise
from rwp_edu.lab.exercises.radius import CASES, check_radius_ratio
from rwp_edu.lab.explorers.radii import WIDTHS, DistancesState, distances


@pytest.fixture(scope="module")
def lab():
    lab = distances(width="16", updates="30", rise=0.2)
    lab.finish()
    return lab


def test_at_the_distances_the_loss_has_risen_as_asked(lab):
    objective, found = lab.objective("16"), lab.radii("16")
    assert sam_rise(objective, found["sam"]) == pytest.approx(0.2, rel=0.03)
    sigma = found["noise"] / objective.layout.size**0.5
    noise = average_rise(objective, sigma, rtol=0, budget=400)
    assert abs(noise.value - 0.2) < 0.03 * 0.2 + 6 * noise.error
    assert found["worst"] <= 1.02 * found["sam"]


def test_noise_goes_farther_and_the_more_weights_the_farther(lab):
    p, ratio, limit = zip(*lab.ratios())
    assert len(p) == len(WIDTHS) and list(p) == sorted(p) and p[2] == 16 * 65 + 170
    assert ratio[-1] > 2 * ratio[1] > 4 and limit[-1] > limit[1]


def test_curves_rise_and_meet_the_points(lab):
    drawn = {trace["name"]: trace for trace in lab.traces()}
    for name in ("SAM's step", "noise, on average"):
        (at,), (rise,) = (drawn[f"{name}, at the rise"][axis] for axis in "xy")
        curve = drawn[name]
        assert np.interp(math.log(at), np.log(curve["x"]), np.log(curve["y"])) == pytest.approx(math.log(rise), abs=0.35)


def test_another_rise_needs_no_new_training(lab):
    nets = [key for key in lab._kept if key[0] == "net"]
    lab.set(rise=0.5)
    lab.finish()
    assert [key for key in lab._kept if key[0] == "net"] == nets
    assert "for a rise of 0.5" in lab.text
    lab.set(rise=0.2)


@pytest.mark.slow
def test_all_images_and_a_mini_batch_differ(lab):
    other = distances(width="16", updates="30", data="all images")
    assert "Training" in other.text
    other.work()
    other.finish()
    assert other.objective("16").x.shape[1] == 300 and lab.objective("16").x.shape[1] == 30


def test_state():
    assert DistancesState(rise=1).changed() == {"rise": 1.0} and distances(rise=1).snippet == "rwp_edu.lab.distances(rise=1.0)"
    with pytest.raises(ValueError, match="width must be one of 4, 8"):
        distances(width="5")


def right(trace, along, size):
    return math.sqrt(size * along / trace)


def test_the_exercise_is_what_the_library_measures(capsys):
    assert check_radius_ratio(right) and capsys.readouterr().out == "Right.\n"
    h = torch.tensor([4.0, 1.0, 0.5, 0.5])
    bowl = Objective(lambda w: (w.square() @ h) / 2, torch.tensor([1e-9, 0.0, 0.0, 0.0]))
    sam, noise = (radius_of_rise(bowl, 0.5, how, tol=1e-6) for how in ("sam", "noise"))
    assert abs(noise.distance / sam.distance - right(6.0, 4.0, 4)) < 5 * noise.error


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda t, a, p: p * a / t, "the square of it"),
        (lambda t, a, p: math.sqrt(t / (p * a)), "the other way round"),
        (lambda t, a, p: math.sqrt(a / t), "√P σ"),
        (lambda t, a, p: math.sqrt(2 * p * a / t), "it cancels"),
        (lambda t, a, p: 1.0, "set both rises equal"),
        (lambda t, a, p: None, "return one number; it returned None"),
    ],
)
def test_wrong_answers(wrong, says, capsys):
    assert not check_radius_ratio(wrong)
    assert says in capsys.readouterr().out


def test_cases_have_answers_that_differ():
    assert len({round(right(*case), 3) for case in CASES}) == len(CASES)
