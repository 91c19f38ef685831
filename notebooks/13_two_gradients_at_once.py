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
# # Two gradients at once
#
# **For** everybody who knows the points and rounds of a method (*One equation, many methods*). **Takes** about 20 minutes, a minute of CPU; the measurements need two cores.
#
# After this notebook you can
# 1. *compute* how long an update of any method takes on any number of workers, from its points and rounds;
# 2. *write* the exchange that lets several processes answer one round, and start them with `torchrun`;
# 3. *say* what a second worker is worth on one machine with two cores, and what it is not.

# %% [markdown]
# ## Points are work, rounds are waiting
#
# SAM and m-RWP both need two gradients per update. SAM's second point $w + \rho\, g/\|g\|$ needs the first answer $g$: two *rounds*. m-RWP asks at $w$ and at $w+u$, and
# knows both points before it has heard anything: one round.
#
# **Predict.** Plain SGD takes 1 per update. How long does an update take on two workers if each evaluates whole points, and if both share every gradient, half of the batch each?

# %%
my_prediction = {"SAM, points": ..., "m-RWP, points": ..., "SAM, halves of the batch": ..., "m-RWP, halves of the batch": ...}

# %% [markdown]
# On the left, one update: a bar is a gradient, a dotted line the end of a round. Choose a **method**, move **workers**, and let **spare workers** *take shards* of the batch.
# On the right, after **Measure**, the clock of this machine; the sentence below says what is going on and whether the clock can be trusted.

# %%
import rwp_edu

lab = rwp_edu.lab.workers()
lab

# %% [markdown]
# ## Reveal: counting
#
# If round $r$ has $n_r$ points, $W$ workers need
#
# $$T = \sum_r \left\lceil \frac{n_r}{W} \right\rceil \quad\text{gradients of time, for}\quad \sum_r n_r \quad\text{of work;}$$
#
# with shards, $S$ workers to a point, $W/S$ workers remain to share out the points and each gradient takes $1/S$, if half of a batch takes half of the time.

# %%
from rwp_edu.optim.parallel.timeline import timeline
from rwp_edu.methods import METHODS

print("method      points rounds | time on 1, 2, 4 workers | the same, spare workers take shards")
for name in ("sgd", "rwp", "sam", "m-rwp", "nso", "a-rwp", "gsam"):
    cost = METHODS[name].cost(k=2)
    whole, shared = ([timeline(name, workers, k=2, shards=s).length for workers in (1, 2, 4)] for s in (1, None))
    print(f"{METHODS[name].label:10} {cost.points:6} {cost.rounds:6} | {'  '.join(f'{t:6.2f}' for t in whole)} | {'  '.join(f'{t:6.2f}' for t in shared)}")
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %% [markdown]
# A second worker halves m-RWP and does nothing for SAM: this is what is meant by "m-RWP runs at the speed of SGD". But look at the last columns: split the *batch* and
# SAM gains as much. Whether points or shards are better is a question of hardware: a small half-batch uses a large GPU badly, whole points do not.
#
# ## Write it yourself
#
# Every rank runs this function with the same `points`. `evaluate(point)` gives a gradient; `gather(mine)` is the exchange: it takes this rank's list and returns
# the lists of all ranks. Return all answers in the order of the points.

# %%


def my_round(points, rank, workers, evaluate, gather):
    return [evaluate(point) for point in points]


# %%
from rwp_edu.lab.exercises.workers import check_round

_ = check_round(my_round)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.

# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(points, rank, workers, evaluate, gather):
    mine = [evaluate(point) for point in points[rank::workers]]
    answers = gather(mine)
    return [answers[j % workers][j // workers] for j in range(len(points))]


assert check_round(solution)

# %% [markdown]
# ## The clock
#
# The cores of this machine are a fixed number. On two of them SAM may use two threads; does m-RWP on two workers still win? (This cell waits for the result; the button
# *Measure* above does not.)

# %%
from statistics import median

from rwp_edu.optim.parallel.timing import SETTINGS, WAYS, disturbed, ratio, times

samples = lab.measure()
found = times(samples)
for method in SETTINGS if found else ():
    print(f"{method:6} " + "   ".join(f"{way} {median(found[method, way]):6.1f} ms" for way in WAYS))
for ours in ("two copies", "two workers"):
    print(f"m-RWP, {ours}, over SAM:   " + "   ".join(f"{way} {ratio(found, ('m-rwp', ours), ('sam', way)):.2f}" for way in WAYS))
print(disturbed(samples))

# %% [markdown]
# On a quiet machine expect 0.55 to 0.65 against SAM on *one* core, and about 1 against SAM on *both*: two threads that share every layer lose some time at each of
# them, two processes share the caches and meet once per round. Both do the same two gradients of work on the same two cores, so half is out of reach. *Two copies* is one process: each of two threads evaluates a point on its own copy of the network.
#
# ## In your own notebook: a copy for each point
#
# `parallel.threads` makes the copies; a closure then takes the model it is to evaluate. Do both points really run at once? Let each wait for the other, in a closure that would never return if they ran one after another.

# %%
import threading

import torch

from rwp_edu.optim import parallel
from rwp_edu.optim import MRWP

torch.manual_seed(0)
x, y = torch.randn(64, 20), torch.randint(3, (64,))
model = torch.nn.Sequential(torch.nn.Linear(20, 50), torch.nn.ReLU(), torch.nn.Linear(50, 3))
optimizer = MRWP(torch.optim.SGD(model.parameters(), lr=0.1), sigma=0.1)
parallel.threads(optimizer, model)
meeting, waits = threading.Barrier(2, timeout=30), False


def closure(net):
    if waits:
        meeting.wait()
        print(f"the {'model' if net is model else 'copy'} is evaluated by {threading.current_thread().name}\n", end="")
    loss = torch.nn.functional.cross_entropy(net(x), y)
    loss.backward()
    return loss


optimizer.step(closure)  # the first step learns which modules the closure calls, one point after another
waits = True
print(f"loss {optimizer.step(closure).item():.3f}")

# %% [markdown]
# The numbers are those without threads, to the last bit. With dropout the points are evaluated one after another, and you are told: at once they could not all see the same mask.
#
# ## One scale up: the real thing
#
# A script for any number of processes, on CPUs or GPUs. Two lines are new: `workers` joins what `torchrun` has started, `points` shares out the rounds.

# %%
import os
import subprocess
import sys
import tempfile
from pathlib import Path

script = Path(tempfile.mkdtemp()) / "train.py"
script.write_text('''
import contextlib, sys
import torch
from rwp_edu.optim import parallel
from rwp_edu.optim import MRWP
from rwp_edu.problems.digits import Digits

together = parallel.workers(timeout=60) if sys.argv[1] == "together" else contextlib.nullcontext()
with together:
    data = Digits([0])
    x, y = data.train_x[0], data.train_y[0]
    torch.manual_seed(0)                                   # the same weights, and the same batches, on every rank
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Dropout(0.1), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = MRWP(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), sigma=0.1)
    if sys.argv[1] == "together":
        parallel.points(optimizer, model)

    def closure(index):
        loss = torch.nn.functional.cross_entropy(model(x[index]), y[index])
        loss.backward()
        return loss

    for update in range(200):
        first, second = torch.randperm(len(x))[:60].split(30)
        optimizer.step(lambda: closure(first), lambda: closure(second))

    place, digest = parallel.place(optimizer), sum(p.double().sum() for p in model.parameters()).item()
    sys.stdout.write(f"worker {place.worker + 1} of {place.workers}: the weights add up to {digest!r}\\n")
''')


def start(how, *command):
    done = subprocess.run([sys.executable, *command, str(script), how], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    print(done.stdout, *(line for line in done.stderr.splitlines() if "Error: " in line), sep="\n")
    return sorted({line.rpartition(" ")[2] for line in done.stdout.splitlines()})


one = start("alone")
two = start("together", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
assert one == two and len(one) == 1

# %% [markdown]
# All end at the same weights, to the last bit: each rank draws all the noise, evaluates its own points, and combines the same answers in the same order. `python -m torch.distributed.run` is `torchrun`.
#
# ## Where does it fail?
#
# **A worker that fails.** One rank raises in its closure. What should the others do? Wait for an answer that never comes?

# %%
script.write_text(script.read_text().replace("def closure(index):", "def closure(index):\n        if parallel.place(optimizer).worker == 1 and update == 100:\n            raise KeyError('image 17 is missing')"))
_ = start("together", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

# %% [markdown]
# The step is undone on both, bit for bit, and both say why. If a process *dies*, the others end with a message after at most `timeout` seconds; with
# `torchrun --max-restarts 3` all start again, so load your latest checkpoint at the start (`model.state_dict()` and `optimizer.state_dict()`, on every rank).
#
# - **Small networks.** An exchange costs some tenths of a millisecond or more, as much as a whole gradient of the network in the script: in parallel it trains more slowly. Points pay where a gradient takes tens of milliseconds.
# - **Two cores are two cores.** A claim of "half the time of SAM" compares with a SAM that leaves the second device idle.
# - **Shards are an alternative.** Ordinary data parallelism serves SAM too: `points(optimizer, model, shards=2)` and `x, y = parallel.shard(optimizer, x, y)` in the closure. It then climbs the gradient of
#   the whole batch; with `DistributedDataParallel` and `parallel.per_rank` each rank climbs that of its part (m-sharpness), which is another method with another best $\rho$.
# - **Every rank draws all of the noise**; otherwise the next draws would differ from rank to rank.
#
# ## Sources
#
# - the independence of RWP's two gradients [arXiv:2211.11489](https://arxiv.org/abs/2211.11489), [arXiv:2404.00357](https://arxiv.org/abs/2404.00357)
# - SAM on several devices, a perturbation for each [arXiv:2010.01412](https://arxiv.org/abs/2010.01412); m-sharpness [arXiv:2206.06232](https://arxiv.org/abs/2206.06232)
# - the digits: [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49)
