import json
import threading

import numpy as np
import pytest
import torch
from waiting import PATIENCE

from rwp_edu.methods import METHODS
from rwp_edu.problems import PROBLEMS
from rwp_edu.training import Mark, Record, Run
from rwp_edu.training.run import DEVICES, device_named
from rwp_edu.training.settings import LIVE, TRAINING, WATCHED, Settings, parameters

PARAMETERS = parameters()
OWN = ("batch", "train", "label_noise", "width")
METRICS = tuple(metric.name for metric in PROBLEMS["digits"].metrics)

SMALL = {"train": 60, "batch": 20, "width": 8, "record_every": 5}


def small(**changes):
    return Settings(**{"methods": tuple(METHODS), "seeds": 2, "steps": 23, **SMALL, **changes})


def trained(settings, updates=None):
    run = Run(settings)
    run.advance(settings.steps if updates is None else updates)
    return run


def weights(run):
    return run.base.w.clone()


def without_time(record):
    return {key: value for key, value in record.to_dict().items() if key != "seconds"}


@pytest.fixture(scope="module")
def finished():
    return trained(small(k=2))


# --- the record


def test_shapes_of_the_record(finished):
    record, entrants, seeds = finished.record, len(METHODS), 2
    assert record.updates.tolist() == [0, 5, 10, 15, 20, 23]
    for name in ("gradient_evaluations", "seconds"):
        assert getattr(record, name).shape == (6, entrants)
    for name in (*METRICS, "perturbation"):
        assert getattr(record, name).shape == (6, entrants, seeds)
    assert record.diverged.shape == (entrants, seeds) and (record.diverged == -1).all()
    assert record.entrants == tuple(METHODS) and record.seeds == (0, 1) and record.marks == []
    assert record.settings == small(k=2)


def test_gradient_evaluations_are_updates_times_cost(finished):
    costs = [METHODS[name].cost(k=METHODS[name].pins.get("k", 2)).work for name in METHODS]
    assert finished.record.gradient_evaluations.tolist() == np.outer(finished.record.updates, costs).tolist()


def test_seconds_only_grow(finished):
    seconds = finished.record.seconds
    assert (seconds[0] == 0).all() and (np.diff(seconds, axis=0) > 0).all()


def test_metrics_are_in_their_range(finished):
    record = finished.record
    assert (record.train_loss > 0).all()
    for name in ("test_accuracy", "wrong_labels_learnt"):
        assert ((getattr(record, name) >= 0) & (getattr(record, name) <= 1)).all()


def test_the_first_record_is_the_common_start_and_the_last_the_weights_now(finished):
    record = finished.record
    for name in METRICS:
        first = getattr(record, name)[0]
        assert (first == first[:1]).all()
        for e, w in enumerate(finished.base.w.view(len(METHODS), 2, -1)):
            np.testing.assert_array_equal(getattr(record, name)[-1, e], finished.problem.measure(w)[name].numpy())


def test_perturbation_is_relative_to_the_weights(finished):
    perturbation = finished.record.perturbation
    assert np.isnan(perturbation[0]).all() and np.isfinite(perturbation[1:]).all()
    for e, name in enumerate(METHODS):
        assert (perturbation[1:, e] > 0).all() == (name != "sgd")
    run = Run(small(methods="sam,rwp", steps=1, rho=0.7, kind="isotropic", law="rademacher", sigma=0.1))
    size = run.base.w[:2].norm(dim=1).numpy()
    run.step()
    entries = run.base.w.shape[1]
    np.testing.assert_allclose(run.record.perturbation[1], [0.7 / size, 0.1 * entries**0.5 / size], rtol=1e-4)


def test_results_are_the_latest_means_and_standard_errors(finished):
    rows, record = finished.record.results(), finished.record
    assert [row["method"] for row in rows] == list(METHODS)
    for e, row in enumerate(rows):
        a, b = record.test_accuracy[-1, e]
        assert row["test_accuracy_mean"] == pytest.approx((a + b) / 2)
        assert row["test_accuracy_se"] == pytest.approx(abs(a - b) / 2)
        assert row["train_loss_mean"] == pytest.approx(record.train_loss[-1, e].mean())
        assert (row["seeds"], row["updates"], row["diverged"]) == (2, 23, 0)
        assert row["gradient_evaluations"] == 23 * METHODS[row["method"]].cost(k=2).work
    assert json.loads(json.dumps(rows)) == rows
    assert Run(small(seeds=1)).record.results()[0]["test_accuracy_se"] is None


def test_an_unknown_column_lists_what_there_is(finished):
    with pytest.raises(AttributeError, match="no 'accuracy' .*test_accuracy"):
        _ = finished.record.accuracy


def test_a_record_is_saved_and_loaded_unchanged(tmp_path):
    run = trained(small(methods=("sgd", "rwp:sigma=0.2", "sgd:lr=1000000")), 8)
    run.set(sigma=0.3, law="uniform")
    run.advance(100)
    path = run.record.save(tmp_path / "new" / "record.json")
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]
    loaded = Record.load(path)
    assert loaded.settings == run.record.settings and loaded.marks == run.record.marks
    np.testing.assert_array_equal(loaded.diverged, run.record.diverged)
    for name in run.record.columns:
        was = np.asarray(getattr(run.record, name), dtype=float)
        np.testing.assert_array_equal(getattr(loaded, name), np.where(np.isfinite(was), was, np.nan))
    assert loaded.to_dict() == run.record.to_dict()
    assert json.dumps(loaded.results()) == json.dumps(run.record.results())
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


def test_saving_replaces_the_former_file(finished, tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")
    finished.record.save(path)
    assert Record.load(path).updates[-1] == 23


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: json.dumps({**json.loads(text), "marks": [{"when": 1}]}),
        lambda text: json.dumps({**json.loads(text), "marks": None}),
        lambda text: json.dumps({**json.loads(text), "settings": {"sigma": -1}}),
        lambda text: json.dumps({**json.loads(text), "settings": 3}),
        lambda text: json.dumps({**json.loads(text), "train_loss": [[1.0]]}),
        lambda text: json.dumps({**json.loads(text), "train_loss": "high"}),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "updates"}),
    ],
)
def test_a_file_that_is_no_record_says_so(finished, tmp_path, damage):
    path = finished.record.save(tmp_path / "record.json")
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=r"record\.json is not a record of rwp_edu"):
        Record.load(path)


def test_a_binary_file_is_no_record(tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(b"\xff\xfe\x00PK")
    with pytest.raises(ValueError, match="is not a record of rwp_edu"):
        Record.load(path)


# --- steps


def test_steps_one_by_one_are_the_steps_together(finished):
    run = Run(small(k=2))
    while not run.finished:
        run.step()
    assert torch.equal(run.base.w, finished.base.w)
    np.testing.assert_equal(without_time(run.record), without_time(finished.record))


def test_a_finished_run_stays(finished):
    before, records = weights(finished), len(finished.record.rows)
    assert finished.finished
    finished.advance(10)
    finished.step()
    assert finished.updates == 23 and len(finished.record.rows) == records and torch.equal(finished.base.w, before)


def test_recording_does_not_disturb_the_training():
    assert torch.equal(trained(small(record_every=1)).base.w, trained(small(record_every=1000)).base.w)


def test_advance_leaves_the_number_of_threads_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Run(small()).advance(1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- changing settings on the way


def test_a_change_acts_from_the_next_update_and_leaves_a_mark():
    changed, plain = trained(small(methods="sgd,rwp"), 7), trained(small(methods="sgd,rwp"), 7)
    changed.set(sigma=0.3)
    assert torch.equal(changed.base.w, plain.base.w)
    assert changed.record.marks == [Mark(update=7, name="sigma", old=0.1, new=0.3)]
    assert changed.settings.sigma == 0.3 and changed.record.settings.sigma == 0.1
    for run in (changed, plain):
        run.step()
    (sgd, rwp), (plain_sgd, plain_rwp) = (run.base.w.view(2, 2, -1) for run in (changed, plain))
    assert torch.equal(sgd, plain_sgd) and not torch.equal(rwp, plain_rwp)


@pytest.mark.parametrize(
    "changes", [{"sigma": 0.3, "law": "laplace"}, {"lr": 0.01, "momentum": 0.5, "schedule": "constant"}, {"k": 3}]
)
def test_a_change_before_the_first_update_is_a_run_that_began_with_it(changes):
    changed = Run(small())
    changed.set(**changes)
    changed.advance(23)
    plain = trained(small(**changes))
    assert torch.equal(changed.base.w, plain.base.w)
    np.testing.assert_equal(without_time(changed.record), without_time(plain.record))


def test_each_value_that_changes_leaves_one_mark():
    run = trained(small(), 3)
    run.set(sigma=0.1, rho=0.2, lr="0.05")
    run.set(rho=0.2)
    run.set()
    assert run.record.marks == [Mark(3, "rho", 0.4, 0.2), Mark(3, "lr", 0.1, 0.05)]


def test_a_learning_rate_of_zero_stops_all_but_those_that_pin_it():
    run = trained(small(methods="sgd,rwp,sgd:lr=0.05"), 3)
    run.set(lr=0.0)
    before = weights(run).view(3, 2, -1)
    run.advance(4)
    after = run.base.w.view(3, 2, -1)
    assert torch.equal(after[:2], before[:2]) and not torch.equal(after[2], before[2])


def test_more_draws_cost_more_from_then_on():
    run = trained(small(methods="nso"), 5)
    run.set(k=3)
    run.advance(5)
    assert run.record.gradient_evaluations[:, 0].tolist() == [0, 5 * 2, 5 * 2 + 5 * 6]


@pytest.mark.parametrize("name", [*(name for name in TRAINING if not TRAINING[name].live), *OWN, "methods", "problem"])
def test_a_setting_that_is_not_live_says_so(name):
    run = Run(small())
    with pytest.raises(ValueError, match=f"{name} changes the problem: start a new run") as error:
        run.set(**{name: getattr(run.settings, name)})
    assert all(live in str(error.value) for live in LIVE)


def test_a_refused_change_changes_nothing():
    run, plain = trained(small(), 3), trained(small(), 3)
    for bad in ({"sigma": 0.2, "rho": -1}, {"sigma": 0.2, "steps": 5}, {"sigma": 0.2, "sgima": 1}):
        with pytest.raises(ValueError):
            run.set(**bad)
    with pytest.raises(ValueError, match="unknown setting 'sgima'; did you mean 'sigma'"):
        run.set(sgima=1)
    assert run.settings == plain.settings and run.record.marks == []
    for each in (run, plain):
        each.advance(3)
    assert torch.equal(run.base.w, plain.base.w)


def acts_on(name, entrant):
    """Whether a common setting moves an entrant: its method has the parameter and does not pin it."""
    row = METHODS[entrant]
    if name == "scale":
        return any(key in row.parameters and row.default(key) for key in ("sigma", "rho"))
    return name not in row.pins and (name in row.parameters or (name in TRAINING and name != "scale_start"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LIVE if name not in WATCHED])
def test_a_live_setting_acts_on_those_that_have_it_and_do_not_pin_it_and_on_nobody_else(name):
    """``beta`` and ``eta`` act through the history, ``scale_start`` through a schedule that grows."""
    row = PARAMETERS[name]
    if row.choices:
        new = next(c for c in ("layer-wise", "switch-off", "linear", *reversed(row.choices)) if c in row.choices and c != row.default)
    else:
        new = next(v for v in (row.slider[1], row.slider[0]) if v != row.default)
    growing = {"scale": "linear"} if name == "scale_start" else {}
    changed, plain = (trained(small(clean=0.1, lam=0.3, **growing), 3) for _ in range(2))
    changed.set(**{name: new})
    for run in (changed, plain):
        run.advance(20)
    for entrant, a, b in zip(METHODS, *(run.engine.weights() for run in (changed, plain))):
        acts = acts_on(name if name != "scale_start" else "scale", entrant)
        assert torch.allclose(a, b, rtol=0, atol=1e-6) == (not acts), entrant


def test_the_cosine_schedule_ends_near_zero_and_the_constant_one_does_not():
    def last_move(schedule):
        run = trained(small(methods="sgd", steps=200, schedule=schedule, momentum=0.0), 199)
        before = weights(run)
        run.step()
        return (run.base.w - before).norm()

    assert last_move("cosine") < 1e-3 * last_move("constant")


# --- divergence


@pytest.fixture(scope="module")
def diverging():
    return trained(small(methods=("rwp", "sgd:lr=1000000", "m-rwp", "sgd"), steps=40))


def test_a_run_that_diverges_is_frozen_at_finite_weights_and_labelled(diverging):
    record = diverging.record
    assert torch.isfinite(diverging.base.w).all()
    assert (record.diverged[1] > 0).all() and (record.diverged[[0, 2, 3]] == -1).all()
    assert [row["diverged"] for row in record.results()] == [0, 2, 0, 0]
    assert record.updates[-1] == 40 and np.isfinite(record.train_loss[:, [0, 2, 3]]).all()


def test_a_diverged_run_stays_where_it_was_frozen():
    run = Run(small(methods=("sgd:lr=1000000", "sgd"), steps=40))
    while not (run._died >= 0).view(2, 2)[0].all():
        run.step()
    at, frozen = run._died.tolist()[:2], weights(run).view(2, 2, -1)[0]
    assert max(at) == run.updates
    run.advance(40)
    assert torch.equal(run.base.w.view(2, 2, -1)[0], frozen)
    assert run.record.diverged[0].tolist() == at


def test_the_others_go_on_as_in_a_race_without_it(diverging):
    alone = trained(small(methods=("rwp", "m-rwp", "sgd"), steps=40))
    together = diverging.base.w.view(4, 2, -1)[[0, 2, 3]]
    torch.testing.assert_close(together, alone.base.w.view(3, 2, -1), rtol=0, atol=1e-6)


def test_one_diverged_seed_does_not_stop_the_other():
    run, plain = Run(small(methods="rwp", seeds=3)), trained(small(methods="rwp", seeds=3))
    run.base.w[1] = 1e30
    run.advance(23)
    assert run.record.diverged[0, 1] > 0 and run.record.diverged[0, [0, 2]].tolist() == [-1, -1]
    torch.testing.assert_close(run.base.w[[0, 2]], plain.base.w[[0, 2]], rtol=0, atol=1e-6)


def test_a_race_of_diverged_runs_is_finished():
    run = trained(small(methods="sgd:lr=1000000", steps=1000))
    assert run.finished and run.updates < 1000 and (run.record.diverged >= 0).all()
    assert run.record.updates[-1] == run.updates


# --- devices


def test_devices():
    assert device_named("cpu").type == "cpu"
    assert device_named("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="unknown device 'gpu'") as error:
        device_named("gpu")
    assert all(name in str(error.value) for name in DEVICES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="no CUDA device.*cpu or auto"):
        Run(small(), device="cuda")


# --- the result the project is about


@pytest.mark.slow
def test_flat_minima_generalise_on_noisy_labels():
    record = trained(Settings(methods="sgd,rwp,nso", seeds=8, steps=400)).record
    sgd, rwp, nso = (row["test_accuracy_mean"] for row in record.results())
    assert rwp - sgd >= 0.04 and nso - sgd >= 0.03
    learnt = record.wrong_labels_learnt[-1].mean(1)
    assert learnt[1] < learnt[0]


# --- flatness


def test_what_is_held_back_is_measured_after_the_last_update_only(finished):
    values = finished.record.validation_accuracy
    assert np.isnan(values[:-1]).all() and ((values[-1] > 0) & (values[-1] <= 1)).all()


def test_flatness_is_measured_when_asked_and_changes_nothing():
    plain, watched = trained(small(methods="sgd,rwp")), trained(small(methods="sgd,rwp", flatness_every=10))
    assert torch.equal(plain.base.w, watched.base.w)
    assert np.isnan(plain.record.trace).all()
    when = [0, 10, 20, 23]
    for metric in watched.record.problem.flatness:
        values = getattr(watched.record, metric.name)
        assert np.isfinite(values[np.isin(watched.record.updates, when)]).all()
        assert np.isnan(values[~np.isin(watched.record.updates, when)]).all()
    assert watched.record.marks == [] and watched.flatness_seconds > 0 and watched.looks == 4


@pytest.mark.slow
def test_flatness_agrees_with_the_dense_hessian():
    run = trained(small(methods="sgd", flatness_every=100, seeds=4))
    problem, w = run.problem, run.base.w.double()
    for s in range(4):
        x, y = problem.train_x[s].double(), problem.train_y[s]
        net = problem.network

        def loss(flat):
            return torch.nn.functional.cross_entropy(net.logits(flat[None], x[None])[0], y)

        hessian = torch.autograd.functional.hessian(loss, w[s])
        top = torch.linalg.eigvalsh(hessian)[-1].item()
        assert run.record.top_eigenvalue[-1, 0, s] == pytest.approx(top, rel=0.02)
        spread = (2 * (hessian.square().sum() - hessian.diagonal().square().sum()) / 16).sqrt().item()
        assert abs(run.record.trace[-1, 0, s] - hessian.trace().item()) < 4 * spread


def test_flatness_beside_the_training_enters_the_record_later():
    run = Run(small(methods="sgd,rwp", flatness_every=23))
    run.background = True
    run.advance(22)
    run.step()
    assert run.finished
    assert run.collect(wait=True) or np.isfinite(run.record.trace[-1]).all()
    assert np.isfinite(run.record.trace[-1]).all() and not run.looking
    assert not run.collect(wait=True)


def test_turning_flatness_on_later():
    run = trained(small(methods="sgd"), 8)
    run.set(flatness_every=1)
    run.advance(100)
    assert np.isfinite(run.record.trace).all((1, 2)).tolist() == [False, False, True, True, True, True]


def test_an_interrupted_update_is_taken_again_as_if_nothing_had_happened(monkeypatch):
    whole, run = (Run(small(methods="rwp,sam,m-arwp,nso", steps=20)) for _ in range(2))
    whole.advance(6)
    run.advance(3)
    found = run.problem.gradients
    for interrupted_round in (1, 2):
        rounds = []

        def gradients(*asked, rounds=rounds, interrupted_round=interrupted_round):
            rounds.append(1)
            if len(rounds) == interrupted_round:
                raise KeyboardInterrupt
            return found(*asked)

        monkeypatch.setattr(run.problem, "gradients", gradients)
        with pytest.raises(KeyboardInterrupt):
            run.advance(1)
        monkeypatch.undo()
        run.advance(1)
    run.advance(1)
    assert run.updates == whole.updates == 6 and torch.equal(weights(run), weights(whole))
    assert [group.work for group in run.groups] == [group.work for group in whole.groups]


def test_flatness_at_the_end_is_measured_even_if_an_earlier_measurement_goes_on(monkeypatch):
    run = Run(small(methods="sgd", steps=30, record_every=10, flatness_every=10))
    run.background = True
    held, look = threading.Event(), run._flatness
    monkeypatch.setattr(run, "_flatness", lambda w: held.wait(PATIENCE) and look(w))
    for _ in range(30):
        run.step()
    held.set()
    run.collect(wait=True)
    there = np.isfinite(run.record.trace).all((1, 2)).tolist()  # at 0, 10 (the long one), 20 (nobody was free) and 30
    assert there == [True, True, False, True] and not run.looking
