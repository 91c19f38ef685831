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
# # Train on images
#
# **For** everybody who trains convolutional networks. **Takes** about 20 minutes, three of them on one core of a CPU. The labs use the CPU; `rwp-edu train` takes a GPU where there is one.
#
# After this notebook you can
# 1. *train* a residual network by SGD, SAM, RWP and m-RWP side by side, live, on the bundled pictures, on CIFAR or on a folder of your own;
# 2. *tell* what part of a gain is due to noise, to a second batch, or to twice the work, by two controls;
# 3. *explain* what BatchNorm does to a method that looks at perturbed weights, and *write* the remedy.

# %% [markdown]
# ## One network after another
#
# Small networks are trained all at once in this project, as one big product of matrices. Convolutions gain nothing from that on a CPU, and BatchNorm, dropout and mixed
# precision need real modules. So in this race every network is an ordinary torch module with an optimizer of `rwp_edu.optim`, and they take their updates in turn. What you
# see here is what your own training loop does.
#
# The network has three residual blocks, 20 thousand weights and GroupNorm; it learns 300 pictures of digits of 8 x 8 pixels, three labels in ten are random.
#
# **Predict.** (a) Which methods will learn the wrong labels? (b) For the dense network of the first lesson RWP was at its best with σ = 0.1. A filter of this network
# has up to 288 weights instead of 64. Will the best σ be larger or smaller? (c) Does SGD catch up if it gets as many gradients as SAM and m-RWP?

# %%
my_prediction = {"who learns the wrong labels": ..., "best sigma": ..., "twice the updates": ...}

# %% [markdown]
# Press **Start** and move **σ**. The menu *preset* has the two controls: *Is it the noise?* runs m-RWP with σ = 0 beside m-RWP, *Twice the updates* gives SGD the gradients
# that SAM and m-RWP cost and keeps your last run as faint lines. Under *the problem*, *points at once* = 2 evaluates the two gradients of m-RWP at the same time, on two cores: after *Reset* the same
# curves, sooner (choose *seconds* for the x axis).

# %%
import rwp_edu

lab = rwp_edu.lab.race(problem="images", pace=0, seeds=1, show="sigma,rho,lam,lr")
lab

# %% [markdown]
# ## Reveal
#
# The same without a screen, with both controls and two values of σ; two seeds.

# %%
methods = "sgd,sam,rwp,rwp:sigma=0.1,m-rwp:sigma=0.06,m-rwp:sigma=0"
reveal = rwp_edu.lab.race(problem="images", methods=methods, record_every=100)
reveal.run()
twice = rwp_edu.lab.race(problem="images", methods="sgd", steps=400, record_every=400)
twice.run()


def table(lab, note=""):
    last = lab.record.rows[-1]
    for number, name in enumerate(lab.record.entrants):
        told = [lab.record.problem.metric(m).mean(last[m][number]) for m in ("test_accuracy", "train_loss", "test_loss")]
        print(f"{name + note:18}  accuracy {told[0]:14}  training loss {told[1]:15}  test loss {told[2]}")


table(reveal)
table(twice, ", 400 updates")
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %% [markdown]
# On our machine SGD had 73 %, SAM 81 %, RWP 84 % and m-RWP with σ = 0.06 85 %. The controls: SGD with twice the updates 70 %, m-RWP with σ = 0 72 %; so neither the second batch nor
# the additional gradients explain the gain. RWP with σ = 0.1, the best value for the dense network, had 54 %: noise per filter has the length
# $\sigma\sqrt{d}\,\lVert w_j\rVert$, and it is that length which the loss feels.
#
# Your numbers differ by a few points: two seeds are few. Whoever claims more from a single run is guessing; the lesson *What holds, and what does not* is about that.
#
# ## BatchNorm, and the weights it belongs to
#
# With BatchNorm a network has running means and variances beside its weights. They are gathered during training, at the weights where the forward pass was made: for RWP at
# *perturbed* weights. In the end the noise is gone, the statistics stay. Measure both ways:

# %%
for recalibrate in ("off", "on"):
    norm = rwp_edu.lab.race(problem="images", methods="sgd,rwp:sigma=0.06", norm="batch", recalibrate=recalibrate, seeds=1, record_every=200)
    norm.run()
    print(f"recalibration {recalibrate}")
    table(norm)

# %% [markdown]
# The training is the same in both, bit for bit; only what is measured at its end differs. (How much differs from data to data. It is free to do, so this project
# does it unless you say `recalibrate="off"`.)
#
# ### Write it yourself
#
# `my_statistics(batches)` gets the inputs of one BatchNorm layer for several batches, each `(n, channels, height, width)`, as they are at the clean weights. Return the mean and the variance
# per channel that this layer should predict with: the mean over the batches of what each batch gives. The variance is the unbiased one.

# %%
def my_statistics(batches):
    mean = sum(x.mean() for x in batches)
    variance = mean
    return mean, variance


# %%
from rwp_edu.lab.exercises.statistics import check_statistics

_ = check_statistics(my_statistics)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.

# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(batches):
    mean = sum(x.mean((0, 2, 3)) for x in batches) / len(batches)
    variance = sum(x.var((0, 2, 3)) for x in batches) / len(batches)
    return mean, variance


assert check_statistics(solution)

# %% [markdown]
# ## One scale up: your pictures, CIFAR, your network
#
# A folder with `train/CLASS/picture` and `test/CLASS/picture` (or `val`), or a tar of one, is a problem of its own: `race(problem="folder:PATH")`. Here a made-up one, of
# coloured noise, to show the form:

# %%
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

folder = Path(tempfile.mkdtemp())
random = np.random.default_rng(0)
for part, n in (("train", 40), ("test", 20)):
    for name, colour in (("reddish", (20, 0, 0)), ("bluish", (0, 0, 20))):
        (folder / part / name).mkdir(parents=True)
        for i in range(n):
            pixels = np.clip(random.normal(128, 60, (16, 16, 3)) + colour, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / part / name / f"{i}.png")

mine = rwp_edu.lab.race(problem=f"folder:{folder}", size=16, width=4, batch=20, steps=40, record_every=20, methods="sgd,rwp")
mine.run()
print(mine.summary)

# %% [markdown]
# CIFAR-10, CIFAR-100 and Fashion-MNIST are downloaded when you ask for them (170 MB, 169 MB, 31 MB): by *other pictures ...* in the menu of problems, on the command line or here.
# Then they are problems like any other, with BatchNorm, batches of 100 and the published strengths as defaults:
#
# ```python
# rwp_edu.problems.datasets.fetch("cifar10")
# rwp_edu.lab.race(problem="cifar10", train=5000, crop=4, flip="on", label_smoothing=0.1)
# ```
#
# ```text
# rwp-edu train cifar10 --download --methods sgd,sam,m-rwp --set model=resnet18 --set precision=bfloat16 --out run
# rwp-edu train --resume run
# ```
#
# What to expect from a laptop: we took 5,000 pictures of CIFAR-10 to train and 2,000 to test on, the residual CNN with BatchNorm (77,850 weights), no augmentation, 1,000 updates, one seed
# (two minutes for SGD on one core):
#
# | | right labels | train | 30 % wrong labels | of them learnt |
# |---|---|---|---|---|
# | SGD | 60.5 % | 91 % | 50.4 % | 22 % |
# | SGD, 2,000 updates | 56.4 % | 100 % | | |
# | SAM, ρ = 0.1 | 59.7 % | 76 % | 53.2 % | 10 % |
# | RWP, σ = 0.03 | 57.5 % | 66 % | 52.9 % | 8 % |
# | RWP, σ = 0.01 | 58.9 % | 84 % | | |
# | m-RWP, σ = 0.03 | 60.6 % | 90 % | | |
# | m-RWP, σ = 0.06 | 57.5 % | 63 % | 52.5 % | 8 % |
#
# With right labels nobody gains: after 20 epochs the network has not learnt its pictures yet, and whatever holds it back costs accuracy (so do `crop` and `flip`: SGD 57.5 %). SGD with twice the updates has
# learnt all of them by heart and is worse: there would be something to gain, and the published gains are of such long trainings. With wrong labels 1,000 updates are enough to see it: two to three
# points, though one seed is one seed. (GroupNorm in place of BatchNorm: 47 %.)
#
# And any module with any loader is one, too. (The screen, checkpoints and the controls come with it.)

# %%
import torch

from rwp_edu import problems

x = torch.randn(400, 2)
inside = (x.norm(dim=1) < 1.2).long()
data = torch.utils.data.TensorDataset(x, inside)
train, test = torch.utils.data.random_split(data, [200, 200])


def network():
    return torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(32, 2))


problems.add(
    "disc", network, torch.utils.data.DataLoader(train, batch_size=20, shuffle=True), torch.utils.data.DataLoader(test, batch_size=200)
)
own = rwp_edu.lab.race(problem="disc", methods="sgd,sam,m-rwp", pace=0)
own

# %% [markdown]
# ## Where does it fail?
#
# On clean labels there is hardly anything to gain here: the wrong labels were the reason to look away from the sharp minima.

# %%
clean = rwp_edu.lab.race(problem="images", methods="sgd,m-rwp", label_noise=0, record_every=200)
clean.run()
table(clean)

# %% [markdown]
# With three seeds SGD had 95.0 ± 0.9 %, RWP with σ = 0.02 94.7 ± 1.2, m-RWP with σ = 0.04 95.4 ± 1.1, SAM with ρ = 0.05 94.3 ± 1.4. The published gains on CIFAR are gains of 200 epochs on 50,000 pictures with augmentation; no laptop confirms
# or refutes them in a lesson. What you can do at home is to keep the controls: twice the updates, σ = 0, a tuned weight decay.
#
# ## Sources
#
# - RWP and m-RWP on CIFAR and ImageNet: [arXiv:2211.11489](https://arxiv.org/abs/2211.11489), with adaptive noise [arXiv:2404.00357](https://arxiv.org/abs/2404.00357); SAM [arXiv:2010.01412](https://arxiv.org/abs/2010.01412)
# - Statistics that belong to averaged weights (SWA): [arXiv:1803.05407](https://arxiv.org/abs/1803.05407)
# - Residual networks [arXiv:1512.03385](https://arxiv.org/abs/1512.03385); GroupNorm [arXiv:1803.08494](https://arxiv.org/abs/1803.08494); cutout [arXiv:1708.04552](https://arxiv.org/abs/1708.04552)
#
# **Next:** [What holds, and what does not](12_what_holds.ipynb)
