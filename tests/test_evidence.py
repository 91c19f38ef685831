"""Claims: how verdicts are counted, what every row of the table needs, the report and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rwp_edu.benchmarks.browser import browser, chromium
from rwp_edu.cli import main
from rwp_edu.experiments import claims as evidence
from rwp_edu.experiments.claims import report
from rwp_edu.experiments.claims.experiments import EXPERIMENTS
from rwp_edu.experiments.claims.registry import CLAIMS, Claim
from rwp_edu.experiments.claims.verdicts import (
    CONTROL,
    FAILS,
    HOLDS,
    NOT_SHOWN,
    PART,
    REFUTED,
    TOO_FEW,
    VERDICTS,
    Statement,
    judge,
    robust,
    t_quantile,
    verdict,
)

BETTER = np.array([1.0, 1.1, 0.9, 1.2, 1.0, 0.8])
BASE = np.array([0.5, 0.7, 0.4, 0.8, 0.4, 0.4])
VALUES = {("a", "x"): BETTER, ("b", "x"): BASE, ("noisy", "x"): np.array([-9, 9, -8, 8.5, 9, -9.0])}


def status(*statement, values=VALUES, **options):
    return judge(Statement(*statement, metric="x", **options), values).status


def test_what_is_larger_by_much_holds_and_the_contrary_is_refuted():
    assert status("a", ">", "b") == HOLDS and status("a", "<", "b") == REFUTED
    assert status("a", ">", "noisy") == NOT_SHOWN


def test_differences_are_paired():
    drift = np.linspace(0, 100, 6)
    values = {("a", "x"): drift + BETTER, ("b", "x"): drift + BASE}
    assert status("a", ">", "b", values=values) == HOLDS
    assert status("a", ">", "b", values={**values, ("b", "x"): values["b", "x"][::-1]}) == NOT_SHOWN


def test_factor_margin_number_and_logarithm():
    assert status("b", "<", "a", factor=0.9) == HOLDS and status("b", "<", "a", factor=0.2) == REFUTED
    assert status("a", ">", "b", margin=0.3) == HOLDS and status("a", ">", "b", margin=2.0) == REFUTED
    assert status("a", ">", "b", margin=-3.0) == HOLDS and status("a", ">", 0.7) == HOLDS
    found = judge(Statement("a", ">", "b", "x", log=True), VALUES)
    assert found.mean == pytest.approx(np.log10(BETTER / BASE).mean())


def test_equality_needs_the_whole_interval_within_the_margin():
    near = {("a", "x"): BETTER, ("b", "x"): BETTER + np.array([0.01, -0.01, 0.02, -0.02, 0.0, 0.01])}
    assert status("a", "=", "b", values=near, margin=0.1) == HOLDS
    assert status("a", "=", "b", margin=0.1) == REFUTED and status("a", "=", "noisy", margin=0.1) == NOT_SHOWN


def test_a_run_that_diverged_shows_nothing():
    values = {**VALUES, ("a", "x"): np.where(np.arange(6) == 2, np.nan, BETTER)}
    assert status("a", ">", "b", values=values) == NOT_SHOWN == status("a", "<", "b", values=values)


def test_verdicts():
    holds, refuted, open_ = (judge(Statement(*s, "x"), VALUES) for s in (("a", ">", "b"), ("a", "<", "b"), ("a", ">", "noisy")))
    few = judge(Statement("a", ">", "b", "x"), {key: v[:3] for key, v in VALUES.items()})
    assert few.status == TOO_FEW and few.mean > 0
    assert verdict([holds]) == HOLDS and verdict([holds, refuted]) == verdict([holds, open_]) == PART
    control = judge(Statement("a", ">", "b", "x", role=CONTROL), VALUES)
    assert verdict([refuted, control]) == FAILS and verdict([open_, control]) == NOT_SHOWN and verdict([holds, control]) == HOLDS
    assert (
        verdict([refuted, open_]) == FAILS and verdict([open_]) == NOT_SHOWN and verdict([holds, few]) == verdict([]) == TOO_FEW
    )


def test_what_is_as_far_apart_as_the_margin_is_rarely_called_equal():
    g = np.random.default_rng(0)
    draws = 0.5 + 0.3 * g.normal(size=(4000, 8))
    equal = [status("a", "=", 0.0, values={("a", "x"): d}, margin=0.5) == HOLDS for d in draws]
    assert abs(np.mean(equal) - 0.025) < 4 * np.sqrt(0.025 * 0.975 / 4000)


def test_many_statements_need_more_each():
    clear, close = np.array([1.0, 1.1, 0.9, 1.2, 1.0, 0.8]), np.array([1.0, 0.1, 0.9, 0.2, 0.7, 0.4])
    judged = [judge(Statement("a", ">", 0.0, "x"), {("a", "x"): d}) for d in (clear, close, -clear)]
    assert [j.status for j in judged] == [HOLDS, HOLDS, REFUTED]
    assert robust(judged[:1]) == (1, 1) and robust(judged * 20) == (40, 20)


@pytest.mark.parametrize("df", [3, 5, 7, 15, 31])
def test_quantiles_of_student(df):
    stats = pytest.importorskip("scipy.stats")
    for p in (0.9, 0.975):
        assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=4e-3)


def test_the_interval_covers_as_often_as_it_says():
    g = np.random.default_rng(0)
    draws = g.normal(size=(4000, 6))
    covered = [(j := judge(Statement("a", ">", 0.0, "x"), {("a", "x"): d})).low < 0 < j.high for d in draws]
    assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


SHORT = {"race": {"steps": 3}, "optimum": {"steps": 3}, "surface": {"steps": 3}, "radius": {"steps": 20, "widths": (8, 64, 256)},
         "noise_as_trace": {"steps": 5, "draws": 2}, "two_points": {}, "update_variance": {"draws": 2}, "clock": {"updates": 1},
         "side_by_side": {"updates": 1}}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
def test_every_statement_is_about_something_that_is_measured(claim):
    found = EXPERIMENTS[claim.experiment](2, 5, **{**claim.settings, **claim.quick, **SHORT[claim.experiment]})
    assert {len(v) for v in found.values()} == {2}
    for statement in claim.statements:
        assert len(statement.differences(found)) == 2
    assert claim.title and claim.source and claim.published and claim.seconds > 0 and json.dumps(dict(claim.settings))


def test_the_race_gives_what_a_run_gives_and_x2_has_twice_the_updates():
    from rwp_edu.training import Run
    from rwp_edu.training.settings import Settings

    found = EXPERIMENTS["race"](2, 7, problem="digits", methods=("sgd", "sgd x2", "rwp"), steps=20)
    assert list(dict.fromkeys(who for who, _ in found)) == ["sgd", "sgd x2", "rwp"]
    for steps, methods, which, key in ((20, ["sgd", "rwp"], 1, "rwp"), (40, ["sgd"], 0, "sgd x2")):
        run = Run(Settings("digits", methods=methods, seeds=2, seed=7, steps=steps, record_every=10_000))
        run.advance(steps)
        for metric in ("test_accuracy", "validation_accuracy"):
            assert np.array_equal(found[key, metric], run.record.rows[-1][metric][which])


def test_the_optimum_is_chosen_on_images_held_back(monkeypatch):
    from rwp_edu.experiments.claims import experiments

    held = {"rwp:sigma=0.1": [0.9, 0.5], "rwp:sigma=0.2": [0.8, np.nan], "rwp:sigma=0.1 x2": [0.1, 0.2], "rwp:sigma=0.2 x2": [0.2, 0.1]}
    tested = {who: [1.0 + k, 2.0 + k] for k, who in enumerate(held)}
    made = {(who, name): np.array(v) for name, rows in (("validation_accuracy", held), ("test_accuracy", tested)) for who, v in rows.items()}
    monkeypatch.setattr(experiments, "race", lambda seeds, first, methods, **more: made if set(methods) == set(held) else None)
    found = experiments.optimum(2, 0, ("rwp", "rwp x2"), (0.1, 0.2))
    assert found["rwp", "best_sigma"].tolist() == [0.1, 0.1] and found["rwp x2", "best_sigma"].tolist() == [0.2, 0.1]
    assert found["rwp", "test_accuracy"].tolist() == [1.0, 2.0] and found["rwp x2", "test_accuracy"].tolist() == [4.0, 4.0]


def test_a_diverged_run_has_no_value():
    found = EXPERIMENTS["race"](2, 7, problem="sensing", methods=("sgd", "sgd:lr=0.06"), steps=60, d=10, rank=1, n=40)
    assert np.isnan(found["sgd:lr=0.06", "distance"]).all() and np.isfinite(found["sgd", "distance"]).all()


def test_a_claim_whose_run_diverged_says_so_and_has_no_verdict_of_its_own(tmp_path):
    claim = Claim("x", "x", "s", "p", "race", {"problem": "sensing", "steps": 60, "d": 10, "rank": 1, "n": 40, "methods": ("sgd", "sgd:lr=0.06")},
                  (Statement("sgd:lr=0.06", "<", "sgd", "distance", log=True),), 1)  # fmt: skip
    result = evidence.check(claim, seeds=4)
    assert result.verdict == NOT_SHOWN
    report.write([result], tmp_path)
    assert " of 4 diverged" in (tmp_path / "report.md").read_text() and "a run diverged" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)["claims"][0]["statements"][0]["mean"] is None


@pytest.mark.slow
def test_one_claim_for_real():
    """Its published direction is far outside any noise: with six seeds the difference is over 30 standard errors."""
    result = evidence.check(CLAIMS["matrix-sensing-small-start"], quick=True)
    assert result.verdict == FAILS and result.seeds == 6 and result.judgements[0].mean > 0.5


def test_unknown_claims_and_seeds():
    with pytest.raises(ValueError, match="matrix-sensing"):
        evidence.reproduce(["matrix-sensin"])
    with pytest.raises(ValueError, match="from 1 to 256"):
        evidence.check(CLAIMS["naive-noise"], seeds=0)


@pytest.fixture(scope="module")
def results():
    return evidence.reproduce(["naive-noise-digits", "two-radii"], seeds=4, quick=True)


@pytest.mark.slow
def test_the_report_says_what_was_measured(results, tmp_path):
    assert {path.name for path in report.write(results, tmp_path)} == set(report.NAMES)
    text = (tmp_path / "report.md").read_text()
    kept = json.loads((tmp_path / "report.json").read_text())["claims"]
    for result, plain in zip(results, kept):
        assert result.claim.title in text and plain["verdict"] == result.verdict and f"**{result.verdict}**" in text
        assert all(s["status"] == j.status for s, j in zip(plain["statements"], result.judgements))
        (first, *_), first_plain = result.values.values(), plain["values"][0]
        assert first_plain["values"] == first.tolist()
    accuracy = results[0].values["sgd", "test_accuracy"]
    assert f"{100 * accuracy.mean():.1f} ±" in text
    assert [s["role"] for s in kept[0]["statements"]] == ["claim", "claim", "equal gradients"]
    assert kept[0]["expected_seconds"] == CLAIMS["naive-noise-digits"].seconds * 4 / 32 and kept[0]["seconds"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(report.NAMES)


@pytest.mark.slow
def test_a_report_can_be_read_back_and_is_judged_anew(results, tmp_path, monkeypatch):
    report.write(results, tmp_path)
    for kept, result in zip(report.read(tmp_path), results, strict=True):
        assert kept.claim is result.claim and kept.judgements == result.judgements and kept.seeds == result.seeds
        assert all(np.array_equal(kept.values[key], result.values[key]) for key in result.values)
    assert report.markdown(report.read(tmp_path)) == (tmp_path / "report.md").read_text()
    (tmp_path / "report.json").write_text('{"claims": [{"name": "no-such-claim"}]}')
    with pytest.raises(ValueError, match="cannot be read as a report"):
        report.read(tmp_path)
    with pytest.raises(ValueError, match="--out .*nowhere"):
        report.read(tmp_path / "nowhere")


def test_a_title_is_text_and_not_html():
    claim = Claim("x", "a < b & <i>c</i>", "s", "p", "race", {}, (Statement("a", ">", "b", "x"),), 1)
    made = evidence.Result(claim, {"problem": "digits", "first_seed": 0}, {("a", "test_accuracy"): BETTER, ("b", "test_accuracy"): BASE},
                           (judge(Statement("a", ">", "b", "test_accuracy"), {("a", "test_accuracy"): BETTER, ("b", "test_accuracy"): BASE}),), 1.0, False)  # fmt: skip
    object.__setattr__(claim, "statements", (made.judgements[0].statement,))
    assert "<i>c" not in report.page([made]) and "a &lt; b &amp;" in report.page([made])


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
def test_the_page_opens_without_a_network(results, tmp_path):
    report.write(results, tmp_path)
    with browser() as page:
        page.context.set_offline(True)
        errors = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg .scatterlayer').length >= 2")
        assert errors == [] and page.locator("h2").count() == 2


def command(capsys, *arguments):
    code = main(["reproduce", *arguments])
    return code, *capsys.readouterr()


@pytest.mark.slow
def test_the_command_writes_a_report(tmp_path, capsys):
    code, out, _ = command(capsys, "naive-noise-digits", "--seeds", "4", "--out", str(tmp_path / "new"))
    assert code == 0 and "naive-noise-digits" in out and (tmp_path / "new" / "report.html").exists()


@pytest.mark.slow
def test_a_report_grows_and_is_never_replaced(tmp_path, capsys):
    asked = ("--seeds", "2", "--out", str(tmp_path))
    assert command(capsys, "naive-noise-digits", *asked)[0] == 0
    first = json.loads((tmp_path / "report.json").read_text())["claims"]
    code, out, err = command(capsys, "naive-noise-digits", "two-point-variance", *asked)
    both = json.loads((tmp_path / "report.json").read_text())["claims"]
    assert code == 0 and "1 of 2 claims are in" in err and "naive-noise-digits:" not in out
    assert both[0] == first[0] and both[1]["name"] == "two-point-variance"  # not even its seconds are new
    code, _, err = command(capsys, "two-point-variance", "--seeds", "3", "--out", str(tmp_path))
    assert code == 2 and "holds a report of naive-noise-digits with other seeds" in err
    for others in (["train", "digits", "--steps", "2"], ["sweep", "digits", "--methods", "sgd", "--steps", "2"]):
        assert main([*others, "--out", str(tmp_path)]) == 2
        assert "holds a report: give --out another folder" in capsys.readouterr().err
    assert json.loads((tmp_path / "report.json").read_text())["claims"] == both and {p.name for p in tmp_path.iterdir()} == set(report.NAMES)


@pytest.mark.slow
def test_the_command_gives_one_json_object():
    asked = [sys.executable, "-m", "rwp_edu", "reproduce", "naive-noise-digits", "--seeds", "2", "--json"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    (claim,) = json.loads(found.stdout, parse_constant=pytest.fail)["claims"]
    assert claim["verdict"] == TOO_FEW and claim["settings"]["seeds"] == 2 and claim["statements"][0]["low"] is None


def test_without_names_claims_are_listed(capsys):
    code, out, _ = command(capsys)
    assert code == 0 and all(name in out and claim.title in out for name, claim in CLAIMS.items())
    code, out, _ = command(capsys, "--json")
    assert [row["name"] for row in json.loads(out)["claims"]] == list(CLAIMS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("naive-nois",), "naive-noise"),
        (("naive-noise", "--all"), "leave out"),
        (("--quick",), "--quick is for claims that are tested"),
        (("naive-noise", "--seeds", "0"), "seeds"),
        (("naive-noise", "--seeds", "four"), "seeds"),
        (("naive-noise", "--out", "/dev/null/results"), "cannot write to /dev/null/results"),
    ],
)
def test_errors_of_the_command(arguments, says, capsys):
    code, out, err = command(capsys, *arguments)
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and says in err


def test_the_table_that_is_shown_is_one_of_the_report():
    readme = Path(evidence.__file__).with_name("README.md").read_text()
    head = "| " + " | ".join(report.HEADS) + " |"
    rows = [line[2:-2].split(" | ") for line in readme.partition(head)[2].partition("\n\n")[0].splitlines()[2:]]
    titles = {claim.title for claim in CLAIMS.values()}
    assert len(rows) > 20 and all(row[0] in titles and row[1] in VERDICTS and len(row) == len(report.HEADS) for row in rows)
