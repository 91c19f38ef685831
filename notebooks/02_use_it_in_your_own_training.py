# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Use it in your own training
#
# **For** anyone who has written a PyTorch training loop. **Takes** about 30 minutes; the cells run in about half a minute on a
# laptop's CPU, no internet needed.
#
# After this notebook you can
# 1. *change* an ordinary training loop to RWP, SAM or any other method of this library, with schedulers, parameter groups and
#    clipping;
# 2. *resume* a run from a checkpoint and *show* that it equals a run that was never interrupted, bit for bit;
# 3. *tell* what the optimizer guarantees when something breaks in the middle of a step, and what it does not.

# %% [markdown]
# ## The question
#
# SGD looks at the gradient where the weights are. The methods of this library look nearby. For that they *move your weights*:
# for a moment your model holds perturbed weights, and your code runs with them. Can you trust such an optimizer with your
# training?
#
# **Predict before you run anything.**
# 1. How often is your loss computed in one step of RWP? Of SAM? Of m-RWP?
# 2. An exception is raised while the model holds perturbed weights. Which weights do you have afterwards?
# 3. The process is killed in the middle of a step, and the training is resumed from its last checkpoint. How far is the end
#    from that of a run that was never killed?

# %%
my_prediction = "..."

# %% [markdown]
# ## An ordinary loop
#
# 300 real handwritten digits, three labels in ten replaced by a random class; the labels of the test images are right. The
# model has batch normalisation and dropout, because both are easy to get wrong when a step computes the loss more than once.

# %%
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rwp_edu.problems.digits import Digits

torch.set_num_threads(1)  # for so small a network the fastest
digits = Digits([0])
dataset = TensorDataset(digits.train_x[0], digits.train_y[0])
test_images, test_labels = digits.test_x[0], digits.test_y[0]
criterion = nn.CrossEntropyLoss()


def new_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))


def new_loader(seed=0):
    return DataLoader(dataset, batch_size=30, shuffle=True, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def accuracy(model):
    right = model.eval()(test_images).argmax(1) == test_labels
    model.train()
    return 100 * right.float().mean().item()


def train_plain(seed, epochs=40):
    model, loader = new_model(seed), new_loader(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
    return model


plain = [train_plain(seed) for seed in range(4)]
print("SGD, test accuracy of 4 runs:", ", ".join(f"{accuracy(model):.1f} %" for model in plain))

# %% [markdown]
# ## Three changes
#
# 1. Wrap your optimizer: `RWP(torch.optim.SGD(...), sigma=...)`. It uses the optimizer you give it, so learning rate, momentum
#    and weight decay work as before.
# 2. Put the lines that compute the loss into a function, the *closure*, that returns the loss.
# 3. Give the closure to `step`. `zero_grad` is not needed: gradients are cleared before every call.
#
# Change **sigma** and run the cell again: try 0, 0.02 and 0.15. One of them will surprise you; the last section comes back to
# it.

# %%
from rwp_edu.optim import RWP

sigma = 0.05


def train_rwp(seed, sigma, epochs=40, loader=None):
    model, loader = new_model(seed), loader or new_loader(seed)
    optimizer = RWP(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), sigma=sigma)
    for _ in range(epochs):
        for x, y in loader:

            def closure():
                loss = criterion(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    return model


def same(one, other):
    """Are two state dicts, tensors or numbers equal, bit for bit?"""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


noisy = [train_rwp(seed, sigma) for seed in range(4)]
print(f"RWP with sigma = {sigma}, test accuracy of 4 runs:", ", ".join(f"{accuracy(model):.1f} %" for model in noisy))

off = train_rwp(seed=0, sigma=0.0, epochs=5)
print("sigma = 0 is plain SGD, bit for bit:", same(off.state_dict(), train_plain(seed=0, epochs=5).state_dict()))
assert same(off.state_dict(), train_plain(seed=0, epochs=5).state_dict())

# %% [markdown]
# ## Reveal: what a step costs
#
# Every method is wrapped alike. The first column of numbers is *counted*: the calls of the closure in one step. The second is
# what the library's table of methods says. Whatever the count, batch normalisation sees *one* batch per step, and dropout keeps
# the same mask at all points of a step.
#
# The last column tells how many different batches a method asks for. Give it so many closures: `optimizer.step(closure,
# other_closure)`. With a single closure all points use the same batch. (LPF-SGD is the exception: its draws are for *parts* of
# one batch.) The second cell does it for m-RWP, which takes a clean gradient on one batch and a noisy one on another: two
# loaders, two closures. Four runs on one split of the data show that it works; they are too few to rank methods.

# %%
import rwp_edu
from rwp_edu.methods import METHODS
from rwp_edu.optim import OPTIMIZERS

x, y = next(iter(new_loader()))
print("method     counted   in the table   batches seen by BatchNorm   batches asked for")
for name, Method in OPTIMIZERS.items():
    model, calls = new_model(), 0
    optimizer = Method(torch.optim.SGD(model.parameters(), lr=0.1))

    def closure():
        global calls
        calls += 1
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    cost, seen = METHODS[name].cost(k=METHODS[name].default("k")), model[1].num_batches_tracked.item()
    print(f"{METHODS[name].label:10} {calls:7} {cost.points:14} {seen:27} {cost.batches:19}")
    assert calls == cost.points and seen == 1
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %%
from rwp_edu.optim import MRWP


def train_mrwp(seed, sigma, epochs=40):
    model = new_model(seed)
    optimizer = MRWP(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), sigma=sigma, lam=0.5)
    for _ in range(epochs):
        for (x, y), (other_x, other_y) in zip(new_loader(seed), new_loader(seed + 1000)):

            def closure():
                loss = criterion(model(x), y)
                loss.backward()
                return loss

            def other_closure():
                loss = criterion(model(other_x), other_y)
                loss.backward()
                return loss

            optimizer.step(closure, other_closure)
    return model


mixed = [train_mrwp(seed, sigma) for seed in range(4)]
for name, models in {"SGD": plain, "RWP": noisy, "m-RWP": mixed}.items():
    values = torch.tensor([accuracy(model) for model in models])
    print(f"{name:6} {values.mean():.1f} %, standard deviation over the 4 runs {values.std():.1f}")

# %% [markdown]
# ## Write it yourself
#
# m-RWP at the price of a plain step: cut the batch in two halves, the clean gradient on the first, the noisy one on the second.
# `closure_of` makes the closure of one batch; the rest of the notebook uses it, and so may you.
# The attempt below runs without an error, and it is wrong. Run it, read what the check says, and mend it. When you are stuck,
# open the last of the next four cells for a solution. (The second one holds the check.)


# %%
def closure_of(model, x, y):
    def closure():
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    return closure


# %% jupyter={"source_hidden": true} tags=["check"]
class Recorder:
    """Stands in for the optimizer: calls each closure once and notes the loss and the gradient."""

    def __init__(self, model):
        self.model, self.losses, self.gradients = model, [], []

    def step(self, *closures):
        for closure in closures:
            self.model.zero_grad()
            self.losses.append(closure())
            self.gradients.append(self.model.weight.grad)
        return self.losses[0] if self.losses else None


def check_halves(step_on_halves):
    model, (x, y) = nn.Linear(64, 10), dataset[:20]
    recorder = Recorder(model)
    returned = step_on_halves(model, recorder, x, y)
    parts = {"the first half": slice(0, 10), "the second half": slice(10, 20), "the whole batch": slice(0, 20)}
    losses = {name: criterion(model(x[part]), y[part]) for name, part in parts.items()}
    seen = [
        next((name for name, loss in losses.items() if isinstance(got, torch.Tensor) and torch.allclose(got, loss)), None)
        for got in recorder.losses
    ]
    problem = ""
    if len(seen) != 2:
        problem = f"m-RWP takes two closures, `optimizer.step(closure, other_closure)`; step was given {len(seen)}."
    elif any(loss is None for loss in recorder.losses):
        problem = "a closure must return the loss; one of yours returns None."
    elif any(gradient is None for gradient in recorder.gradients):
        problem = "a closure must call `loss.backward()`; after one of yours there is no gradient."
    elif seen[0] == seen[1] and "half" in str(seen[0]):
        problem = (
            f"both closures saw {seen[0]}. A closure looks up the names of the function around it when it is *called*, and by then "
            "the loop is over. Make each closure in a function of its own, with the half as an argument."
        )
    elif seen != ["the first half", "the second half"]:
        names = [name or "something else" for name in seen]
        problem = f"the closures should see the first half and the second half; they saw {names[0]} and {names[1]}."
    elif returned is not recorder.losses[0]:
        problem = "return what `optimizer.step` returns: the loss of the first closure."
    print(f"Not yet: {problem}" if problem else "Right.")
    return not problem


# %%
def step_on_halves(model, optimizer, x, y):
    closures = []
    for half in (slice(None, len(x) // 2), slice(len(x) // 2, None)):

        def closure():
            loss = criterion(model(x[half]), y[half])
            loss.backward()
            return loss

        closures.append(closure)
    return optimizer.step(*closures)


_ = check_halves(step_on_halves)


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(model, optimizer, x, y):
    half = len(x) // 2
    return optimizer.step(closure_of(model, x[:half], y[:half]), closure_of(model, x[half:], y[half:]))


assert check_halves(solution)

# %% [markdown]
# ## Schedulers, parameter groups, clipping
#
# - A learning-rate scheduler takes the wrapped optimizer as any other. `ScaleSchedule` moves σ (or ρ) in the
#   same way, in all parameter groups but those that are exempt with a value of 0.
# - A parameter group may carry its own `sigma`. Here nothing but the weight matrices is perturbed.
# - Clip in a hook of the *base* optimizer. It runs once per step and sees the gradient that is really used. In the closure you
#   would clip at every point the method asks for, and then combine.

# %%
from rwp_edu.optim import NSO
from rwp_edu.optim.schedules import ScaleSchedule

model = new_model()
optimizer = RWP(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
schedule = ScaleSchedule(optimizer, "sigma", shape="cosine", start=0.0, end=0.05, steps=4)
for epoch in range(4):
    print(f"epoch {epoch}: lr = {optimizer.param_groups[0]['lr']:.3f}, sigma = {optimizer.param_groups[0]['sigma']:.3f}")
    for x, y in new_loader(epoch):
        optimizer.step(closure_of(model, x, y))
    scheduler.step()
    schedule.step()

model, calls, clipped, moved = new_model(), 0, [], {}
matrices = [p for p in model.parameters() if p.dim() > 1]
others = [p for p in model.parameters() if p.dim() <= 1]
base = torch.optim.SGD([{"params": matrices, "sigma": 0.05}, {"params": others, "sigma": 0.0}], lr=0.1)
optimizer = NSO(base, k=2)


def clip(base, args, kwargs):
    parameters = [p for group in base.param_groups for p in group["params"]]
    clipped.append(nn.utils.clip_grad_norm_(parameters, max_norm=0.5).item())


base.register_step_pre_hook(clip)
before = {name: p.detach().clone() for name, p in model.named_parameters()}


def closure():
    global calls
    calls += 1
    moved.update({name: not torch.equal(p, before[name]) for name, p in model.named_parameters()})
    return closure_of(model, x, y)()


optimizer.step(closure)
print("\nmoved in the closure:", ", ".join(name for name in moved if moved[name]))
print("not moved:           ", ", ".join(name for name in moved if not moved[name]))
norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
print(f"norm of the combined gradient: {clipped[0]:.3f} before clipping, {norm:.3f} after")
print(f"the closure was called {calls} times, the hook {len(clipped)} time")
assert (
    calls == 4
    and len(clipped) == 1
    and norm <= 0.5 + 1e-6
    and [name for name in moved if moved[name]] == ["0.weight", "4.weight"]
)

# %% [markdown]
# `torch.compile` needs nothing from you either: compile the model, or the function in the closure, before or after the optimizer is made. It is compiled twice, because the
# first step looks for modules with buffers, such as BatchNorm, by a hook; from then on the steps run without it.
#
# ## Checkpoints
#
# Save the `state_dict` of *every* part. That of the optimizer holds the base optimizer's state, the generator of the noise and
# what the method remembers. Dropout draws from torch's global generator, so save that too. The first cell saves after 3 of 6
# epochs, loads into a fresh model and goes on.

# %%
import tempfile
from pathlib import Path


def new_run(seed=0):
    model = new_model(seed)
    optimizer = RWP(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), sigma=0.05, seed=seed)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    schedule = ScaleSchedule(optimizer, "sigma", shape="linear", start=0.02, end=0.05, steps=6)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "schedule": schedule}


def train(run, epochs):
    for epoch in epochs:
        for x, y in new_loader(seed=epoch):
            run["optimizer"].step(closure_of(run["model"], x, y))
        run["scheduler"].step()
        run["schedule"].step()


def save(run, file):
    torch.save({**{name: part.state_dict() for name, part in run.items()}, "rng": torch.get_rng_state()}, file)


def load(run, file):
    saved = torch.load(file)
    for name, part in run.items():
        part.load_state_dict(saved[name])
    torch.set_rng_state(saved["rng"])


with tempfile.TemporaryDirectory() as folder:
    run = new_run()
    train(run, range(3))
    save(run, Path(folder) / "checkpoint.pt")
    train(run, range(3, 6))

    fresh = new_run(seed=1)
    load(fresh, Path(folder) / "checkpoint.pt")
    train(fresh, range(3, 6))

for name in run:
    print(f"{name:10} equal bit for bit: {same(run[name].state_dict(), fresh[name].state_dict())}")
    assert same(run[name].state_dict(), fresh[name].state_dict())

# %% [markdown]
# Now **kill it**. The script below is a process of its own; it trains with SAM and saves after every epoch. The second time it
# is run it kills itself with SIGKILL, which nothing can catch: in epoch 3, within a step, between SAM's two gradients. The
# third time it resumes.

# %%
import subprocess
import sys

script = """
import os, signal, sys, torch
from rwp_edu.optim import SAM
from rwp_edu.problems.digits import Digits

file, kill_in_epoch = sys.argv[1], int(sys.argv[2])
digits = Digits([0])
images, labels = digits.train_x[0], digits.train_y[0]
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 10)
)
optimizer = SAM(torch.optim.Adam(model.parameters(), lr=0.003), rho=0.05)
start = 0
if os.path.exists(file):
    saved = torch.load(file)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["rng"])
    start = saved["epoch"]
print("starts in epoch", start)
calls = 0
for epoch in range(start, 5):
    for batch in torch.randperm(300).split(30):
        def closure():
            global calls
            calls += 1
            if epoch == kill_in_epoch and calls % 10 == 0:
                print("killed at gradient", (calls - 1) % 2 + 1, "of 2 in epoch", epoch, flush=True)
                os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            return loss
        optimizer.step(closure)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "epoch": epoch + 1}
    torch.save(state, file + ".new")
    os.replace(file + ".new", file)  # so that a kill while saving leaves the former checkpoint
print("finished after epoch", epoch)
"""


def start(file, kill_in_epoch=-1):
    command = [sys.executable, "-c", script, str(file), str(kill_in_epoch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"exit status {done.returncode:3}:", "; ".join(done.stdout.splitlines()))
    return done.returncode


with tempfile.TemporaryDirectory() as folder:
    whole, resumed = Path(folder) / "whole.pt", Path(folder) / "resumed.pt"
    assert start(whole) == 0
    assert start(resumed, kill_in_epoch=3) != 0
    assert start(resumed) == 0
    equal = same(torch.load(whole), torch.load(resumed))
print("never killed, and killed and resumed: equal bit for bit:", equal)
assert equal

# %% [markdown]
# ## Break it yourself
#
# A step of NSO with k = 2 asks for four gradients. The closure raises at the third, when the weights are perturbed, dropout has
# drawn random numbers and batch normalisation has seen a batch. Change the exception, or the call at which it comes. Then a
# loss that is NaN.
#
# The second cell makes wrong calls, each a mistake that somebody will make. The error should say what to do instead.

# %%
model = new_model()
optimizer = NSO(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), sigma=0.05, k=2)
x, y = next(iter(new_loader()))
optimizer.step(closure_of(model, x, y))


def copy(state):
    return {key: copy(value) for key, value in state.items()} if isinstance(state, dict) else torch.clone(state)


def everything():
    momentum = {str(i): optimizer.state[p]["momentum_buffer"] for i, p in enumerate(model.parameters())}
    noise = optimizer.state_dict()["rwp_edu"]["generator"]
    gradients = {name: p.grad for name, p in model.named_parameters()}
    parts = {
        "weights": dict(model.named_parameters()),
        "buffers of BatchNorm": dict(model.named_buffers()),
        "gradients": gradients,
    }
    return copy(
        {**parts, "momentum": momentum, "random numbers of torch": torch.get_rng_state(), "random numbers of the noise": noise}
    )


def try_step(closure):
    """One step that fails: is everything as before?"""
    before = everything()
    try:
        optimizer.step(closure)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("nothing was raised")
    after = everything()
    for part in before:
        print(f"   {part:27} as before: {same(before[part], after[part])}")
    return same(before, after)


clean, calls = copy(dict(model.named_parameters())), 0


def raises():
    global calls
    calls += 1
    loss = closure_of(model, x, y)()
    if calls == 3:
        push = max((p - clean[name]).abs().max().item() for name, p in model.named_parameters())
        raise KeyboardInterrupt(f"at call {calls}, when a weight is off by up to {push:.2f}")
    return loss


def diverges():
    loss = closure_of(model, x, y)() * float("nan")
    return loss


assert try_step(raises)
assert try_step(diverges)

u, w = 0.05 * torch.randn(1000), torch.randn(1000)
print(
    f"\nAdding noise to 1000 weights and subtracting it again changes {((w + u) - u != w).sum()} of them. Here they are copied."
)

# %%
SGD = torch.optim.SGD(model.parameters(), lr=0.1)
wrong = {
    "RWP(model.parameters(), sigma=0.05)": lambda: RWP(model.parameters(), sigma=0.05),
    "RWP(SGD, sigma=-0.05)": lambda: RWP(SGD, sigma=-0.05),
    "RWP(SGD, rho=0.05)": lambda: RWP(SGD, rho=0.05),
    "optimizer.step()": lambda: optimizer.step(),
    "a closure without return": lambda: optimizer.step(lambda: print(end="")),
    "two closures for NSO": lambda: optimizer.step(closure_of(model, x, y), closure_of(model, x, y)),
    "a checkpoint of another method": lambda: optimizer.load_state_dict(RWP(SGD).state_dict()),
}
before = everything()
for call, mistake in wrong.items():
    try:
        mistake()
    except (TypeError, ValueError) as error:
        print(f"{call}\n   {type(error).__name__}: {error}\n")
    else:
        raise AssertionError(f"{call} went through")
assert same(before, everything())

# %% [markdown]
# ## One scale up: PyTorch Lightning
#
# Return the wrapped optimizer from `configure_optimizers`, and that is all: with automatic optimization Lightning passes a
# closure. Its checkpoints hold the optimizer's whole state. Four things to know:
# - Its gradient clipping and its hooks around `backward` run at *every* evaluation. Clip in a hook of the base optimizer, as
#   above.
# - `training_step` is called at every point too; what it logs is the loss of the last point.
# - It passes one closure, so all points use the same batch. For two batches use manual optimization and
#   `self.optimizers().optimizer.step(closure, other_closure)`; Lightning does not count these steps.
# - Leave `accumulate_grad_batches` at 1: the gradients of all batches but the last would be cleared.
#
# For the comparison with our own loop the order of the batches is fixed, because Lightning shuffles at other moments than we
# do.

# %%
import importlib.util
import logging
import warnings

if importlib.util.find_spec("lightning") is None:
    print("PyTorch Lightning is not installed. `pip install lightning`, restart the kernel and run this notebook again.")
else:
    import lightning

    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.calls = new_model(), 0

        def training_step(self, batch, index):
            self.calls += 1
            x, y = batch
            return criterion(self.model(x), y)

        def configure_optimizers(self):
            return RWP(torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9), sigma=0.05)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        lit, loader = Lit(), DataLoader(dataset, batch_size=30)
        trainer = lightning.Trainer(max_epochs=5, accelerator="cpu", devices=1, default_root_dir=folder, **quiet)
        trainer.fit(lit, loader)
    print(
        f"Lightning: {trainer.global_step} steps, {lit.calls} calls of training_step, test accuracy {accuracy(lit.model):.1f} %"
    )
    equal = same(lit.model.state_dict(), train_rwp(seed=0, sigma=0.05, epochs=5, loader=loader).state_dict())
    print("equal to our own loop, bit for bit:", equal)
    assert equal

# %% [markdown]
# ## Where does it fail?
#
# The guarantees end where the optimizer cannot see. Four limits, computed. In the last one a suspect is heard: batch
# normalisation measures its statistics at the *noisy* weights. Are they to blame?

# %%
from rwp_edu.optim import SAM

model, calls = new_model(), 0
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)


def counts():
    global calls
    calls += 1
    return closure_of(model, x, y)()


optimizer.step(counts)
print(f"1. What a closure changes outside the model is changed at every point: its counter says {calls} after one step of SAM.")

scaler = torch.amp.GradScaler("cpu")
scaler.scale(criterion(model(x), y)).backward()
try:
    scaler.step(optimizer)
except TypeError as error:
    print(f"2. float16 with a GradScaler: {error}")


def bf16_closure():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(model(x), y)
    loss.backward()
    return loss


optimizer.zero_grad()  # those of the attempt with float16
print(f"   bfloat16 needs no scaler; the step works, its loss is {optimizer.step(bf16_closure):.3f}")


class FailsHalfWay(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        raise RuntimeError("the disk is full")


model = new_model()
base = FailsHalfWay(model.parameters(), lr=0.1, momentum=0.9)
before = copy(model.state_dict())
try:
    RWP(base, sigma=0.05).step(closure_of(model, x, y))
except RuntimeError as error:
    print(
        f"3. The base optimizer fails in its own step ({error}): weights as before: {same(before, model.state_dict())},",
        end=" ",
    )
    print(f"its momentum as before: {len(base.state) == 0}")

print("4. Too much noise ruins the training, and no guarantee helps:")
for strength in (0.05, 0.15):
    model = train_rwp(seed=0, sigma=strength)
    growth, before = model[0].weight.norm() / new_model(seed=0)[0].weight.norm(), accuracy(model)
    model[1].momentum = None
    model[1].reset_running_stats()
    with torch.no_grad():
        model(dataset.tensors[0])
    print(f"   sigma = {strength}: test accuracy {before:.1f} %, with BatchNorm's statistics measured anew", end=" ")
    print(f"{accuracy(model):.1f} %; the first layer's weights grew {growth:.0f}-fold")

# %% [markdown]
# So: change nothing outside the model in a closure; use bfloat16; after a failure *inside the base optimizer* load a
# checkpoint; start with a small σ. Three more limits that no cell shows: gradients collected *before* the step are cleared (to
# accumulate over several small batches, loop over them inside the closure); a kill loses the steps since the last checkpoint;
# and bit for bit means the same machine, number of threads and version of torch.
#
# Go back to your prediction. Which of the three answers surprised you?
#
# ## Sources
#
# - SAM: Foret, Kleiner, Mobahi, Neyshabur, [arXiv:2010.01412](https://arxiv.org/abs/2010.01412)
# - RWP and m-RWP: Li et al., [arXiv:2211.11489](https://arxiv.org/abs/2211.11489), [arXiv:2404.00357](https://arxiv.org/abs/2404.00357)
# - Filter-wise noise: Bisla, Wang, Choromanska, [arXiv:2201.08025](https://arxiv.org/abs/2201.08025)
# - NSO: Zhang, Li, Ju, [arXiv:2306.08553](https://arxiv.org/abs/2306.08553)
# - Closures and hooks: the documentation of [`torch.optim`](https://docs.pytorch.org/docs/stable/optim.html) and of
#   [PyTorch Lightning](https://lightning.ai/docs/pytorch/stable/common/optimization.html)
# - Digits: Alpaydin and Kaynak, UCI Machine Learning Repository, [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), CC BY 4.0
#
# **Next:** [Sharp and wide minima](03_sharp_and_wide_minima.ipynb)
