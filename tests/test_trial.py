"""The live test of a claim, and its exercise."""

from __future__ import annotations

import numpy as np
import pytest

from rwp_edu.experiments import claims
from rwp_edu.experiments.claims.registry import CLAIMS
from rwp_edu.experiments.claims.verdicts import TOO_FEW
from rwp_edu.lab.exercises.paired import check_paired
from rwp_edu.lab.explorers.claim import STATEMENTS, trial


@pytest.fixture(scope="module")
def lab():
    lab = trial(claim="naive-noise-digits", seeds=5)
    lab.finish()
    return lab


@pytest.mark.slow
def test_one_seed_after_another_gives_what_all_at_once_give(lab):
    whole = claims.check(CLAIMS["naive-noise-digits"], seeds=5)
    for key, values in whole.values.items():
        assert lab.values[key] == pytest.approx(values, abs=0.02), key
    assert [j.status for j in lab.result().judgements] == [j.status for j in whole.judgements]


@pytest.mark.slow
def test_a_trace_per_quantity_and_an_interval_that_ends_at_the_judgement(lab):
    drawn = {trace["name"]: trace for trace in lab.traces()}
    assert len(drawn["one seed"]["x"]) == 4 * 5 and len(drawn["mean"]["x"]) == 4
    assert drawn["mean"]["x"][0] == pytest.approx(100 * lab.values["sgd", "test_accuracy"].mean())
    assert drawn["mean difference"]["x"] == (4, 5)
    judged = lab.result().judgements[0]
    assert drawn["mean difference"]["y"][-1] == pytest.approx(100 * judged.mean)
    assert 100 * judged.low == pytest.approx(drawn["95 % interval"]["y"][1]) and judged.status in lab.text


@pytest.mark.slow
def test_more_seeds_keep_what_is_known_and_another_first_seed_shares_it(lab):
    before = lab.values["sgd", "test_accuracy"]
    lab.set(seeds=6)
    assert np.array_equal(lab.values["sgd", "test_accuracy"], before)
    lab.finish()
    assert len(lab.values["sgd", "test_accuracy"]) == 6
    lab.set(first=lab.state.first + 1, seeds=5)
    assert np.array_equal(lab.values["sgd", "test_accuracy"][:4], before[1:])
    lab.set(first=lab.state.first - 1)


def test_the_budget_changes_the_updates():
    for claim, steps in (("naive-noise", 75), ("two-radii", 100), ("matrix-sensing", 250)):
        assert trial(claim=claim, budget="a quarter").settings["steps"] == steps
    assert trial(claim="smoothing-leaves-sharp-wells", budget="twice").settings["steps"] == 1200
    assert "steps" not in trial(claim="antithetic-pair").settings


def test_few_seeds_have_no_verdict_and_a_statement_that_is_not_there_is_the_last():
    lab = trial(claim="naive-noise-digits", seeds=2, statement=str(STATEMENTS), budget="a quarter")
    assert "No seed is done" in lab.text and lab.figure.data[0].name == "one seed"
    assert TOO_FEW in lab.text and "Statement 3 of 3" in lab.text
    assert all(len(claim.statements) <= STATEMENTS for claim in CLAIMS.values())


def test_claims_are_chosen_by_title_and_statements_in_words():
    lab = trial(claim="naive-noise-digits", seeds=2, statement="3", budget="a quarter")
    controls = lab.screen.controls
    assert controls["claim"].input.label == CLAIMS["naive-noise-digits"].title
    words = [label for label, _ in controls["statement"].input.options]
    assert len(words) == 3 and all(f"{k + 1}  " in w and s.left in w for k, (w, s) in enumerate(zip(words, lab.claim.statements)))
    lab.set(claim="m-rwp-and-rwp")
    lab.screen.draw()
    assert lab.state.statement == "1" and controls["claim"].input.label == CLAIMS["m-rwp-and-rwp"].title
    assert len(controls["statement"].input.options) == len(lab.claim.statements)


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_can_be_opened(claim):
    lab = trial(claim=claim)
    assert CLAIMS[claim].title in lab.text and lab.layout()["yaxis"]["ticktext"] == []


def right(a, b):
    d = a - b
    return d.mean(), d.std(ddof=1) / len(d) ** 0.5


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (right, "Right"),
        (lambda a, b: (right(b, a)[0], 0), "b - a"),
        (lambda a, b: ((a - b).mean(), (a - b).std(ddof=1)), "one seed"),
        (lambda a, b: ((a - b).mean(), (a - b).std() / len(a) ** 0.5), "ddof=1"),
        (lambda a, b: ((a - b).mean(), np.hypot(a.std(ddof=1), b.std(ddof=1)) / len(a) ** 0.5), "independent"),
        (lambda a, b: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_the_exercise_says_what_is_wrong(attempt, says, capsys):
    assert check_paired(attempt) == (attempt is right)
    assert says in capsys.readouterr().out
