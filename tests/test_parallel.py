"""Points shared out over real processes: gloo on this machine, NCCL where there are GPUs."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from waiting import PATIENCE
from workers import ranks

import rwp_edu
from rwp_edu.methods import METHODS
from rwp_edu.optim import OPTIMIZERS, parallel
from rwp_edu.optim.parallel.ranks import Shared

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with ranks(2, tmp_path_factory.mktemp("two")) as everywhere:
        yield everywhere


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    with ranks(4, tmp_path_factory.mktemp("four")) as everywhere:
        yield everywhere


# ---------------------------------------------------------------------------------------- a network, its data, its training


def training(method="m-rwp", seed=0, extras=(), device="cpu", lr=0.1, **hyper):
    """A small network with its optimizer, and ``step`` for one update on batches that depend on the number of the update."""
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 5), *extras, nn.Tanh(), nn.Linear(5, 3)]
    model = nn.Sequential(*layers).to(device)
    made = SimpleNamespace(model=model, asked=[], number=0)
    made.optimizer = OPTIMIZERS[method](torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), **hyper)
    slots = METHODS[method].cost(k=hyper.get("k", METHODS[method].default("k"))).slots

    def closure(slot, net):
        g = torch.Generator().manual_seed(made.number * 10 + slot)
        x = (X + 0.1 * torch.randn(X.shape, generator=g)).to(device)
        x, y = parallel.shard(made.optimizer, x, Y.to(device))
        made.asked.append(flat(model).clone())
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    def step(wrap=lambda closure: closure, net=None):
        made.number += 1
        one = [lambda slot=slot: closure(slot, net or model) for slot in range(slots)]
        return made.optimizer.step(*map(wrap, one))

    made.step = step
    return made


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def noisy_layers():
    return nn.BatchNorm1d(5), nn.Dropout(0.3)


def standing(made):
    """All that a step changes: weights, buffers, momentum, random numbers."""
    momentum = [made.optimizer.state[p].get("momentum_buffer") for p in made.model.parameters()]
    return [
        *made.model.state_dict().values(),
        *filter(lambda m: m is not None, momentum),
        torch.get_rng_state(),
        *([made.optimizer._generator.get_state()] if made.optimizer._generator else []),
    ]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


# ------------------------------------------------------------------------------------------------------- as one process does


def compared(rank, methods, steps, hyper, device="cpu"):
    """Per method: do weights, buffers, momentum, random numbers and losses equal those of one process, bit for bit?"""
    out = {}
    for name in methods:
        own = {key: value for key, value in hyper.items() if key in METHODS[name].parameters}
        one = training(name, extras=noisy_layers(), device=device, **own)
        losses = [one.step().item() for _ in range(steps)]
        alone = [t.clone() for t in standing(one)]
        all_ = training(name, extras=noisy_layers(), device=device, **own)
        parallel.points(all_.optimizer, all_.model)
        shared = [all_.step().item() for _ in range(steps)]
        out[name] = same(alone, standing(all_)) and losses == shared, all_.optimizer._shared.evaluated
    return out


@pytest.mark.slow
def test_every_method_equals_one_process_bit_for_bit(two):
    found = two(compared, list(METHODS), 4, {"k": 3})
    for name, row in METHODS.items():
        points = row.cost(k=3).points
        equal, evaluated = zip(*(own[name] for own in found))
        assert equal == (True, True), name
        assert sum(evaluated) == 4 * points, name
        if row.cost(k=3).rounds == 1:
            assert evaluated[0] - evaluated[1] in (0, 4), name


@pytest.mark.slow
def test_more_ranks_than_points(four):
    found = four(compared, ["sam", "m-rwp", "nso"], 3, {"k": 3})
    assert all(equal for own in found for equal, _ in own.values())
    assert [own["m-rwp"][1] for own in found] == [3, 3, 0, 0] and [own["sam"][1] for own in found] == [6, 0, 0, 0]
    assert [own["nso"][1] for own in found] == [6, 6, 3, 3]


def long(rank, steps):
    made = training("m-rwp", sigma=0.05, lr=0.01)
    parallel.points(made.optimizer, made.model)
    hashes = []
    for number in range(steps):
        made.step()
        if number % 100 == 99:
            parallel.check(made.optimizer)
            hashes.append(parallel._hash(made.model.parameters()))
    return hashes


@pytest.mark.slow
def test_replicas_are_bit_identical_after_1000_steps(two):
    first, second = two(long, 1000)
    assert first == second and len(set(first)) == 10


def places(rank):
    made = training("nso", k=2, sigma=0.1)
    parallel.points(made.optimizer, made.model)
    before = flat(made.model).clone()
    made.step()
    noise = [w - before for w in made.asked]
    one = training("nso", k=2, sigma=0.1)
    one.step()
    return noise, [w - before for w in one.asked]


@pytest.mark.slow
def test_every_point_has_its_own_noise_and_each_is_asked_once(two):
    (a, wanted), (b, _) = two(places)
    assert len(a) == len(b) == 2
    assert all(torch.equal(*pair) for pair in zip((a[0], b[0], a[1], b[1]), wanted))
    assert torch.allclose(a[0], -b[0], atol=1e-6) and not torch.allclose(a[0].abs(), a[1].abs(), atol=1e-3)


def standing_still(rank):
    made = training("m-arwp", sigma=0.3, lr=0.0)
    parallel.points(made.optimizer, made.model)
    before = [p.detach().clone() for p in made.model.parameters()]
    places = [p.data_ptr() for p in made.model.parameters()]
    for _ in range(50):
        made.step()
    return same(before, [p.detach() for p in made.model.parameters()]) and places == [
        p.data_ptr() for p in made.model.parameters()
    ]


@pytest.mark.slow
def test_no_drift(two):
    assert two(standing_still) == [True, True]


def counted(rank, method):
    made, calls = training(method, extras=noisy_layers(), k=2) if method == "nso" else training(method, extras=noisy_layers()), []
    parallel.points(made.optimizer, made.model)
    gather, kept = Shared._gather, {name: getattr(dist, name) for name in ("broadcast", "all_gather_object", "all_reduce")}
    try:
        Shared._gather = lambda self, sent: calls.append("gather") or gather(self, sent)
        for name in kept:
            setattr(dist, name, lambda *a, name=name, **o: calls.append(name))
        for _ in range(3):
            made.step()
    finally:
        Shared._gather = gather
        for name, function in kept.items():
            setattr(dist, name, function)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("method", ["m-rwp", "sam", "nso"])
def test_one_collective_per_round(two, method):
    assert two(counted, method) == [["gather"] * 3 * METHODS[method].cost().rounds] * 2


# ------------------------------------------------------------------------------------------------------- what may go wrong


def failing(rank, method, who, call, error):
    """The closure of rank ``who`` raises at its evaluation number ``call`` of the third step; then all go on."""
    hyper = {"k": 2} if method == "nso" else {}
    made = training(method, extras=noisy_layers(), **hyper)
    parallel.points(made.optimizer, made.model)
    for _ in range(2):
        made.step()
    before, evaluations = [t.clone() for t in standing(made)], []

    def spoilt(closure):
        def evaluate():
            evaluations.append(1)
            torch.rand(1)
            if rank == who and len(evaluations) == call:
                closure()
                if error != "raise":
                    return {"nan": torch.tensor(float("nan")), "none": None, "vector": torch.ones(3)}[error]
                raise KeyError("the data are gone")
            return closure()

        return evaluate

    said = None
    try:
        made.step(spoilt)
    except Exception as raised:  # noqa: BLE001
        said = type(raised).__name__, str(raised)
    undone = same(before, standing(made))
    made.number -= 1
    for _ in range(2):
        made.step()
    one = training(method, extras=noisy_layers(), **hyper)
    for _ in range(4):
        one.step()
    ours = {key: value.clone() for key, value in made.model.state_dict().items()}
    return said, undone, same(list(ours.values()), list(one.model.state_dict().values()))


@pytest.mark.slow
@pytest.mark.parametrize("method, who, call", [("m-rwp", 1, 1), ("m-rwp", 0, 1), ("sam", 0, 2), ("nso", 1, 2), ("nso", 0, 1)])
def test_a_closure_that_raises_undoes_the_step_on_all(two, method, who, call):
    found = two(failing, method, who, call, "raise")
    for rank, (said, undone, goes_on) in enumerate(found):
        kind, text = said
        assert undone and goes_on, rank
        assert kind == ("KeyError" if rank == who else "RuntimeError")
        assert rank == who or f"rank {who} raised KeyError: 'the data are gone'" in text


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_the_same_error_everywhere(two):
    found = two(failing, "m-rwp", 1, 1, "nan")
    assert [said[0] for said, *_ in found] == ["FloatingPointError"] * 2 and all(undone and on for _, undone, on in found)
    assert "rank 1 raised FloatingPointError: the loss is nan" in found[0][0][1]


@pytest.mark.slow
@pytest.mark.parametrize("error, got", [("none", "got None"), ("vector", "got tensor")])
def test_a_closure_that_returns_no_loss_is_told_of_on_all(two, error, got):
    found = two(failing, "m-rwp", 1, 1, error)
    assert [said[0] for said, *_ in found] == ["RuntimeError", "TypeError"] and all(undone and on for _, undone, on in found)
    assert all("must return the loss" in said[1] and got in said[1] for said, *_ in found)


def unequal(rank, what):
    made = training("rwp" if what == "method" and rank else "m-rwp", seed=rank if what == "weights" else 0,
                    extras=noisy_layers(), sigma=0.1 + (what == "hyper") * rank / 10)  # fmt: skip
    if what == "noise" and rank:
        made.step()
        made.model.load_state_dict(training("m-rwp", extras=noisy_layers()).model.state_dict())
    if what == "momentum":
        made.step()
        for p in made.model.parameters():
            made.optimizer.state[p]["momentum_buffer"] += rank
    if what == "buffers" and rank:
        made.model[1].running_mean += 1
    try:
        parallel.points(made.optimizer, made.model)
    except ValueError as error:
        return str(error), made.optimizer._shared


@pytest.mark.parametrize(
    "what, says",
    [("weights", "other weights (call torch.manual_seed"), ("hyper", "other hyper-parameters"), ("method", "another method"),
     ("noise", "another state of the noise"), ("buffers", "other buffers"), ("momentum", "another state of the base optimizer")],
)  # fmt: skip
@pytest.mark.slow
def test_an_unequal_start_is_an_error_on_all_ranks(two, what, says):
    (said, left), (other, _) = two(unequal, what)
    assert said == other and f"rank 1 has {says}" in said and left is None


def test_errors_without_workers():
    made = training()
    with pytest.raises(RuntimeError, match="torchrun"):
        parallel.points(made.optimizer, made.model)
    with pytest.raises(TypeError, match="MRWP"):
        parallel.points(torch.optim.SGD(made.model.parameters(), lr=0.1), made.model)
    with pytest.raises(RuntimeError, match="torchrun"), parallel.workers():
        pass
    with pytest.raises(RuntimeError, match="points"):
        parallel.check(made.optimizer)
    assert parallel.shard(made.optimizer, X, Y)[0] is not None and parallel.place(made.optimizer) == parallel.Place()


def loaded(rank):
    """A state loaded after ``points``; two optimizers in one group; a copy that is not shared; ``alone``."""
    saved = training("m-rwp", extras=noisy_layers())
    for _ in range(3):
        saved.step()
    state = copy.deepcopy((saved.model.state_dict(), saved.optimizer.state_dict(), torch.get_rng_state()))
    for _ in range(3):
        saved.step()
    first, second = training("m-rwp", extras=noisy_layers()), training("sam")
    for made in (first, second):
        parallel.points(made.optimizer, made.model)
    first.step(), second.step()
    first.model.load_state_dict(state[0])
    first.optimizer.load_state_dict(state[1])
    torch.set_rng_state(state[2])
    parallel.check(first.optimizer)
    first.number = 3
    for _ in range(3):
        first.step()
        after = torch.get_rng_state()
        second.step()
        torch.set_rng_state(after)
    goes_on = same(list(saved.model.state_dict().values()), list(first.model.state_dict().values()))
    copied = copy.deepcopy(first.optimizer)
    try:
        if rank:
            first.model[0].weight.data += 1
        parallel.check(first.optimizer)
        drift = ""
    except ValueError as error:
        drift = str(error)
    return goes_on, copied._shared is None, parallel.alone(second.optimizer)._shared is None, drift


@pytest.mark.slow
def test_several_optimizers_and_a_state_loaded_afterwards(two):
    for goes_on, copied, alone, drift in two(loaded):
        assert goes_on and copied and alone and "rank 1 has other weights" in drift


# --------------------------------------------------------------------------------------------------------------- shards


def sharded(rank, method, shards, steps):
    made = training(method)
    parallel.points(made.optimizer, made.model, shards=shards)
    losses = [made.step().item() for _ in range(steps)]
    one = training(method)
    alone = [one.step().item() for _ in range(steps)]
    far = (flat(made.model) - flat(one.model)).abs().max().item()
    moved = (flat(one.model) - flat(training(method).model)).abs().max().item()
    return far / moved, max(abs(a - b) for a, b in zip(losses, alone)), parallel._hash(made.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("method, shards", [("m-rwp", 2), ("m-rwp", 4), ("sam", 4), ("sam", 2), ("nso", 2)])
def test_shards_average_to_the_gradient_of_the_whole_batch(four, method, shards):
    found = four(sharded, method, shards, 5)
    assert len({weights for *_, weights in found}) == 1
    assert all(far < 1e-4 and loss < 1e-5 for far, loss, _ in found)


def masks(rank, shards):
    """What dropout does to ones, at each evaluation; where the ranks stand; what is drawn after the step."""
    torch.manual_seed(0)
    model, drop, seen = nn.Linear(4, 1), nn.Dropout(0.5), []
    optimizer = OPTIMIZERS["nso"](torch.optim.SGD(model.parameters(), lr=0.1), k=2, sigma=0.1)
    parallel.points(optimizer, model, shards=shards)

    def closure():
        mask = drop(torch.ones(16))
        seen.append(mask)
        loss = model(torch.ones(4)).sum() * mask.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    here = parallel.place(optimizer)
    return seen, (here.worker, here.shard), torch.rand(3)


@pytest.mark.slow
def test_dropout_has_one_mask_per_shard_at_all_points(four):
    found = four(masks, 2)
    by_shard = {0: [], 1: []}
    for seen, (_, shard), _ in found:
        by_shard[shard] += seen
    assert [place for _, place, _ in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(len(seen) == 4 and all(torch.equal(seen[0], mask) for mask in seen) for seen in by_shard.values())
    assert not torch.equal(by_shard[0][0], by_shard[1][0])
    assert all(torch.equal(found[0][2], after) for *_, after in found)


def cut_wrongly(rank):
    said = []
    made = training()
    for shards in (3, 0):
        try:
            parallel.points(made.optimizer, made.model, shards=shards)
        except ValueError as error:
            said.append(str(error))
    parallel.points(made.optimizer, made.model, shards=2)
    try:
        parallel.shard(made.optimizer, X[:7])
    except ValueError as error:
        said.append(str(error))
    return said


@pytest.mark.slow
def test_shards_have_to_be_equal(four):
    for said in four(cut_wrongly):
        assert "divide the number of ranks, which is 4; got 3" in said[0] and "got 0" in said[1]
        assert "batch of 7 cannot be cut into 2" in said[2] and "drop_last" in said[2]


# ---------------------------------------------------------------------------------------- ordinary data parallelism, and SAM


def data_parallel(rank, method, choice):
    """Two ranks with half of the batch each; the reference is made by hand in one process."""
    made = training(method, **({"rho": 0.5} if method == "sam" else {}))
    net = DistributedDataParallel(made.model)
    halves = [(X[:4], Y[:4]), (X[4:], Y[4:])]

    def loss_of(model, x, y):
        return nn.functional.cross_entropy(model(x), y)

    def closure():
        loss = loss_of(net, *halves[rank])
        loss.backward()
        return loss

    for _ in range(3):
        made.optimizer.step(parallel.per_rank(made.optimizer, net, closure) if choice == "per rank" else closure)
    one = training(method, **({"rho": 0.5} if method == "sam" else {}))
    if choice == "per rank":
        base = torch.optim.SGD(one.model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            total = [torch.zeros_like(p) for p in one.model.parameters()]
            for x, y in halves:
                moved = copy.deepcopy(one.model)
                g = torch.autograd.grad(loss_of(moved, x, y), list(moved.parameters()))
                norm = torch.cat([part.reshape(-1) for part in g]).norm()
                with torch.no_grad():
                    for p, part in zip(moved.parameters(), g):
                        p += 0.5 * part / norm
                for sum_, part in zip(total, torch.autograd.grad(loss_of(moved, x, y), list(moved.parameters()))):
                    sum_ += part / 2
            for p, part in zip(one.model.parameters(), total):
                p.grad = part
            base.step()
    else:

        def whole():
            loss = loss_of(one.model, X, Y)
            loss.backward()
            return loss

        for _ in range(3):
            one.optimizer.step(whole)
    return (flat(made.model) - flat(one.model)).abs().max().item(), parallel._hash(made.model.parameters()), flat(one.model)


@pytest.mark.slow
def test_data_parallel_and_the_two_perturbations_of_sam(two):
    ends = {}
    for method, choice in (("rwp", ""), ("sam", "synchronised"), ("sam", "per rank")):
        (far, a, end), (too, b, _) = two(data_parallel, method, choice)
        assert max(far, too) < 1e-6 and a == b, (method, choice)
        ends[method, choice] = end
    assert (ends["sam", "synchronised"] - ends["sam", "per rank"]).abs().max() > 1e-4


def refused(rank):
    said = []
    made = training("gsam")
    net = DistributedDataParallel(made.model)
    closure = parallel.per_rank(training("sam").optimizer, net, lambda: torch.zeros(()))
    for wrong in (
        lambda: parallel.per_rank(made.optimizer, net, None),
        lambda: parallel.per_rank(training("sam").optimizer, made.model, None),
        lambda: [closure() for _ in range(3)],
    ):
        try:
            wrong()
        except (ValueError, TypeError, RuntimeError) as error:
            said.append(str(error))
    return said


@pytest.mark.slow
def test_a_perturbation_per_rank_is_refused_where_replicas_would_part(two):
    for said in two(refused):
        assert "gsam would part" in said[0] and "DistributedDataParallel, got Sequential" in said[1] and "one step" in said[2]


# ------------------------------------------------------------------------------------------- torchrun: a death, and a restart


SCRIPT = textwrap.dedent(
    """
    import contextlib, os, signal, sys, time
    from datetime import timedelta
    from pathlib import Path
    import torch
    import rwp_edu
    from rwp_edu.optim import MRWP

    folder, mischief = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(exist_ok=True)
    rank, again = int(os.environ.get("RANK", 0)), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    together = "RANK" in os.environ
    with rwp_edu.optim.parallel.workers() if together else contextlib.nullcontext("cpu") as device:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Dropout(0.2), torch.nn.Linear(5, 3)).to(device)
        optimizer = MRWP(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), sigma=0.05)
        if together:
            rwp_edu.optim.parallel.points(optimizer, model)
        kept, begin = folder / "checkpoint.pt", 0
        if kept.exists():
            found = torch.load(kept, map_location=device)
            model.load_state_dict(found["model"])
            optimizer.load_state_dict(found["optimizer"])
            torch.set_rng_state(found["random"].cpu())
            begin = found["step"]
            rwp_edu.optim.parallel.check(optimizer)
        print(f"rank {rank}, start {again}: from step {begin}", flush=True)

        def closure():
            x = torch.randn(8, 6).to(device)
            loss = model(x).square().mean()
            loss.backward()
            return loss

        for step in range(begin, 40):
            if mischief == "hang" and step == 25:  # until then a slow machine has all the time it wants
                torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=2))
            if rank == 1 and step == 25 and not again:
                if mischief == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                if mischief == "hang":
                    time.sleep(600)
            optimizer.step(closure, closure)
            if step % 10 == 9 and rank == 0:
                state = {"step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
                torch.save(state, kept.with_suffix(".new"))
                os.replace(kept.with_suffix(".new"), kept)
    """
)


ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(rwp_edu.__file__).parents[1]), os.environ.get("PYTHONPATH")))),
    "OMP_NUM_THREADS": "1",
}


def torchrun(folder, mischief, *options):
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options, str(script), str(folder), mischief]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.slow
def test_a_rank_that_dies_and_the_restart_from_a_checkpoint(tmp_path):
    """The end is that of one process that nobody has disturbed."""
    done = torchrun(tmp_path, "die", "--max-restarts", "1")
    assert done.returncode == 0, done.stderr
    assert "rank 1, start 0: from step 0" in done.stdout and "rank 1, start 1: from step 20" in done.stdout
    told = "WorkerLost: rank 0 has lost another worker" in done.stderr
    assert told or "closing signal SIGTERM" in done.stderr  # torchrun may end it before it has said so
    ended = torch.load(tmp_path / "checkpoint.pt")
    alone = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "alone"), "nothing"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr
    expected = torch.load(tmp_path / "alone" / "checkpoint.pt")
    assert ended["step"] == expected["step"] == 40 and torch.equal(ended["random"], expected["random"])
    for name, value in expected["model"].items():
        assert torch.equal(value, ended["model"][name]), name


DIES = """
import os, sys
import torch
import torch.distributed as dist
from rwp_edu.optim import parallel
from rwp_edu.optim import MRWP

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", f"file://{store}", world_size=2, rank=rank)
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = parallel.points(MRWP(torch.optim.SGD(model.parameters(), lr=0.1), sigma=0.1), model)
number = 0

def closure():
    if rank == 1 and number == 3:
        os._exit(9)
    loss = model(torch.ones(1, 3)).square().sum()
    loss.backward()
    return loss

try:
    for number in range(5):
        before = [p.clone() for p in model.parameters()]
        optimizer.step(closure)
except parallel.WorkerLost as error:
    same = all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    print(f"update {number}, weights as before: {same}; {error}")
    os._exit(0)
"""


@pytest.mark.slow
def test_a_rank_that_dies_is_told_of_by_the_others(tmp_path):
    command = [sys.executable, "-c", DIES]
    started = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    (said, errors), _ = (process.communicate(timeout=PATIENCE) for process in started)
    assert [process.returncode for process in started] == [0, 9], errors
    assert "update 3, weights as before: True; rank 0 has lost another worker in the middle of a step" in said


@pytest.mark.slow
def test_a_rank_that_does_not_answer_ends_the_job_with_a_message(tmp_path):
    done = torchrun(tmp_path, "hang")
    assert done.returncode != 0
    assert "WorkerLost: rank 0 has lost another worker in the middle of a step" in done.stderr
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 20


# ----------------------------------------------------------------------------------------------------------------- NCCL

gpus = torch.cuda.device_count()


@pytest.mark.parametrize("size", [pytest.param(n, marks=pytest.mark.skipif(gpus < n, reason=f"NCCL needs {n} CUDA GPUs, found {gpus}")) for n in (1, 2)])
def test_nccl(tmp_path, size):
    with ranks(size, tmp_path, "nccl") as everywhere:
        found = everywhere(compared, ["m-rwp", "sam", "nso"], 4, {"k": 2}, "cuda")
    assert all(equal for own in found for equal, _ in own.values())


@pytest.mark.slow
@pytest.mark.skipif(not gpus, reason="needs a CUDA GPU")
def test_gloo_with_models_on_one_gpu(two):
    found = two(compared, ["m-rwp", "sam", "nso"], 4, {"k": 2}, "cuda:0")
    assert all(equal for own in found for equal, _ in own.values())
