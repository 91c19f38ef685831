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
# # Matrix sensing: noise finds the low rank
#
# **For** readers of *Start here* who know what an eigenvalue is. **Takes** about 40 minutes, half a minute of CPU.
#
# After this notebook you can
# 1. *predict* and *measure* which method finds a matrix of low rank, when all of them fit the measurements;
# 2. *compute* what noise adds to this loss, exactly, and *derive* from it a price on the rank;
# 3. *write* the gradient yourself, and *name* six settings in which the noise is no use, or its gain is to be had for less.

# %% [markdown]
# ## The problem
#
# An unknown matrix $X$ ($d \times d$, here $d = 30$) has rank 2. We only see $n$ numbers $y_i = \langle A_i, X\rangle$, with known random symmetric
# matrices $A_i$. We look for weights $W$, again $d \times d$, such that $WW^\top$ agrees with them:
#
# $$L(W) = \frac{1}{4n} \sum_{i=1}^n \big(\langle A_i, WW^\top\rangle - y_i\big)^2 .$$
#
# A symmetric matrix has $d(d+1)/2 = 465$ unknowns. With $n = 180$ measurements there are infinitely many $WW^\top$ without any loss; $X$ is one of them, and
# nothing in $L$ says that its rank is low. There are no mini-batches, every gradient is exact: *SGD* is plain gradient descent (GD) here, and the noise on
# the weights is the only noise there is.
#
# **Predict.** GD drives the training error to $10^{-13}$. The *squared distance* $\lVert WW^\top - X\rVert^2 / \lVert X\rVert^2$ is 1 for $W = 0$, which knows
# nothing. What will it be for GD? What for RWP and NSO, which look at the gradient in the wrong place and never fit as well?

# %%
my_prediction = {"GD": ..., "RWP": ..., "NSO": ...}

# %% [markdown]
# ## The race
#
# Run the cell and press **Start** (the menu with *updates/s* makes it faster). The slider that matters is **σ**: move it to 0 for a while, and back; move it
# to 0.2. Then choose the preset **Zero loss, useless**, and **Start** again.

# %%
import rwp_edu

lab = rwp_edu.lab.race(problem="sensing", show="sigma")
lab

# %% [markdown]
# What to look at:
# - *training error* beside *distance*: who is best on the left, who on the right?
# - *trace of the Hessian*: RWP and NSO reach the dashed line of the truth, GD does not.
# - *eigenvalues*: $X$ has two. How many has $WW^\top$, and what does σ do to the others?
#
# `race(problem="sensing")` shows all sliders, also those of the problem itself. The other presets come back below.

# %% [markdown]
# ## Reveal
#
# Two runs without a screen, on seeds 100 to 107: fresh data, on which no setting was chosen. First 180 measurements, then 300. Distances are geometric means,
# as on the logarithmic axes, and ×/÷ is their standard error, a factor. `gap` compares two methods seed by seed.

# %%
import numpy as np

from rwp_edu.training.settings import Settings
from rwp_edu.training import Run


def train(**changes):
    run = Run(Settings("sensing", seed=100, **changes))
    run.advance(run.settings.steps)
    return run


def table(record):
    print(f"{'':21} {'distance²':>18} {'training error':>16} {'trace':>7} {'nuclear norm':>13} {'rank':>5}")
    for e, name in enumerate(record.entrants):
        distance = record.problem.score.mean(record.distance[-1, e])
        rest = [getattr(record, metric)[-1, e].mean() for metric in ("train_error", "trace", "nuclear", "rank")]
        print(f"{name:21} {distance:>18} {rest[0]:16.1g} {rest[1]:7.0f} {rest[2]:13.1f} {rest[3]:5.1f}")


def gap(worse, better, metric="distance", at=-1):
    """log10 of worse / better, both (record, entrant): mean and standard error over the seeds."""
    logs = [np.log10(getattr(record, metric)[at, record.entrants.index(name)]) for record, name in (worse, better)]
    difference = logs[0] - logs[1]
    mean, error = difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5
    print(f"{metric} of {worse[1]} over that of {better[1]}: {10**mean:.3g} (×/÷ {10**error:.3g})")
    return mean, error


few = train(methods="sgd,rwp,nso", n=180, sigma=0.12)
print("180 measurements, σ = 0.12")
table(few.record)
usual = train(methods="sgd,sgd:weight_decay=0.61,rwp,nso,nso:k=4")
print("\n300 measurements, σ = 0.1")
table(usual.record)

assert few.record.train_error[-1, 0].max() < 1e-10
far = np.log10(few.record.distance[-1, 0])
assert far.mean() > 4 * far.std(ddof=1) / len(far) ** 0.5, "GD is farther from the truth than 0"
for record in (few.record, usual.record):
    mean, error = gap((record, "sgd"), (record, "rwp"))
    assert mean > 4 * error
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %%
from rwp_edu.plotting import figures

figures.race(few.record)

# %% [markdown]
# GD fits every measurement and is farther from the truth than $W = 0$. RWP and NSO fit *worse* and are some two hundred times nearer. The training error says
# nothing; the trace does.
#
# ## Why: noise is a price on the trace ...
#
# $L$ is a polynomial of degree four in $W$. Take the mean over $V$ with independent entries $\mathcal{N}(0, \sigma^2)$: odd terms vanish, the term of degree
# two gives the trace of the Hessian $H$, and the one of degree four does not depend on $W$ any more. So there is no $\approx$ here:
#
# $$\mathbb{E}\, L(W+V) = L(W) + \frac{\sigma^2}{2} \operatorname{tr} H(W) + \text{const} \cdot \sigma^4 .$$
#
# `problem.smoothed` is this closed form. We compare it with the mean of 2,000 pairs $W \pm V$, for the weights that GD and NSO have found from 180
# measurements. (All draws are one `Sensing` problem with 2,000 "seeds" that share their data.)

# %%
import torch

from rwp_edu.problems.matrix_sensing import Sensing

draws, weights = 2000, few.base.w.view(len(few.groups), len(few.record.seeds), -1)
z = torch.randn(draws, weights.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
found = {}
print(f"{'':4} {'σ':>5} {'L':>9} {'σ²/2 tr H':>10} {'smoothed, exact':>16} {'measured':>18}")
for name, e in (("GD", 0), ("NSO", 2)):
    A, y = few.problem.measurements(0), few.problem.y[0]
    many = Sensing(A=A, y=y, w0=weights[e, 0].view(30, 30), seeds=range(draws), dtype=torch.float64)
    W = many.init()
    found[name] = many, W
    for sigma in (0.03, 0.12, 0.3):
        losses = (many.loss(W + sigma * z) + many.loss(W - sigma * z)) / 2
        mean, error = losses.mean().item(), losses.std().item() / draws**0.5
        loss, price = many.loss(W)[0].item(), sigma**2 / 2 * many.hessian_trace(W)[0].item()
        exact = many.smoothed(W, sigma)[0].item()
        print(f"{name:4} {sigma:5} {loss:9.2g} {price:10.2f} {exact:16.2f} {mean:10.2f} ± {error:4.2f}")
        assert abs(mean - exact) < 4 * error

# %% [markdown]
# Unshaken, GD's weights are perfect. Shaken, they pay a price nine times as high as those of NSO.
#
# ## ... which is a price on the nuclear norm, and so on the rank
#
# **By hand.** At a solution all residuals are zero, and only one part of the Hessian is left: $\operatorname{tr} H = \frac{2}{n} \sum_i \lVert A_i W\rVert^2$.
# Show that $\mathbb{E}\, A^2 = \frac{d+1}{2} I$ for $A = (G + G^\top)/2$ with independent standard normal entries of $G$, and conclude
#
# $$\operatorname{tr} H \approx (d+1)\, \lVert W\rVert^2 = (d+1) \operatorname{tr} WW^\top = (d+1) \cdot \text{sum of the eigenvalues of } WW^\top .$$
#
# That sum is the **nuclear norm**, the usual stand-in for the rank. Among all matrices that fit, noise prefers the one whose eigenvalues have the
# smallest sum, as the lasso prefers few coefficients. Is it true of what GD has found, and of the truth?

# %%
record = few.record
ratios = {
    "GD": record.trace[-1, 0] / record.nuclear[-1, 0] / 31,
    "truth": record.reference["trace"] / record.reference["nuclear"] / 31,
}
for name, ratio in ratios.items():
    print(f"tr H / ((d+1) nuclear norm), {name:5}: {ratio.mean():.3f} ± {ratio.std(ddof=1) / len(ratio) ** 0.5:.3f}")
    assert abs(ratio.mean() - 1) < 0.05

# %% [markdown]
# Away from a solution the residuals count too: on average over the measurements $\operatorname{tr} H = (d+1) \lVert W\rVert^2 + d \operatorname{tr}(WW^\top - X)$,
# and $L = \frac14 \lVert WW^\top - X\rVert^2$. **By hand**: the minimum of $L + \frac{\sigma^2}{2} \operatorname{tr} H$ then has the eigenvectors of $X$ and the
# eigenvalues
#
# $$\max(0,\; \lambda - \tau), \qquad \tau = \sigma^2 (2d + 1) = 0.61 \text{ for } \sigma = 0.1 .$$
#
# Whatever is smaller than τ goes: that is the low rank. What is larger is shrunk by τ: that is the bias, and why σ = 0.2 is too much. The same minimum belongs
# to **weight decay** of strength $wd = \tau$, without any noise! Here are the eigenvalues after 1,000 updates, the means over the seeds:

# %%
values, truth = usual.record.profiles["spectrum"], usual.record.reference["spectrum"]
for name, row in [("truth", truth), *zip(usual.record.entrants, values)]:
    shrunk = (truth - row)[:, :2].mean(1)
    error = shrunk.std(ddof=1) / len(shrunk) ** 0.5
    largest = "".join(f"{value:7.2f}" for value in row.mean(0)[:6])
    print(f"{name:21} {largest}   first two shrunk by {shrunk.mean():5.2f} ± {error:.2f}")

# %% [markdown]
# The formula speaks of infinitely many measurements. With 300 the shrinkage is somewhat larger, and the small eigenvalues are not gone yet.
#
# ## One point or two: the same price, another noise
#
# RWP and NSO descend the same smoothed loss. What differs is the noise of their gradients. That of RWP has a part linear in $V$, of variance
# $\sigma^2 \lVert H\rVert^2$. In the pair $W \pm V$ it cancels, and as the gradient is a polynomial of degree three only its part of degree two is
# left: the variance of NSO is exactly proportional to $\sigma^4$. Both can be seen:

# %%
many, W = found["NSO"]
print(f"{'σ':>5} {'variance one-point':>19} {'two-point':>10} {'ratio':>7}")
two_point = []
for sigma in (0.03, 0.06, 0.12):
    plus, minus = many.gradient(W + sigma * z), many.gradient(W - sigma * z)
    one, two = plus.var(0).sum().item(), ((plus + minus) / 2).var(0).sum().item()
    two_point.append(two)
    print(f"{sigma:5} {one:19.2f} {two:10.2f} {one / two:7.1f}")
np.testing.assert_allclose(np.divide(two_point[1:], two_point[:-1]), 16, rtol=1e-6)

record = usual.record
mean, error = gap((record, "rwp"), (record, "nso"), "trace")
assert abs(mean) < np.log10(1.03)  # the same price ...
mean, error = gap((record, "rwp"), (record, "nso"), "train_error")
assert mean > 4 * error  # ... and another noise
mean, error = gap((record, "rwp"), (record, "nso"))
assert mean > 4 * error

# %% [markdown]
# ## Write it yourself
#
# All of this rests on one gradient. Write $\nabla L$ for `W` (d, p), `A` (n, d, d) and `y` (n,), by hand or by machine. (`A` need not be symmetric here: only $(A_i+A_i^\top)/2$ counts.) What stands here forgets several
# things; the check names one at a time.


# %%
def my_gradient(W, A, y):
    gradient = torch.zeros_like(W)
    for a in A:
        gradient += (a * (W @ W.T)).sum() * a @ W
    return gradient


# %%
from rwp_edu.lab.exercises import check_sensing_gradient

_ = check_sensing_gradient(my_gradient)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(W, A, y):
    residuals = (A * (W @ W.T)).sum((1, 2)) - y
    weighted = (residuals[:, None, None] * A).mean(0)
    return (weighted + weighted.T) @ W / 2


assert check_sensing_gradient(solution)

# %% [markdown]
# ## Your own data
#
# `Sensing(A=..., y=..., w0=...)` takes any measurements, and a truth if you know it. A tiny example, whose training by NSO we compare, update by update,
# with six lines of NumPy that know nothing of this library:

# %%
rng = np.random.default_rng(0)
G, u, start = rng.standard_normal((12, 5, 5)), rng.standard_normal((5, 1)), rng.standard_normal((5, 5))
A, X = (G + G.transpose(0, 2, 1)) / 2, u @ u.T
y = (A * X).sum((1, 2))


def step(W, V, lr=0.02):
    gradient = 0
    for at in (W + V, W - V):
        residuals = (A * (at @ at.T)).sum((1, 2)) - y
        gradient = gradient + np.einsum("n,nij->ij", residuals, A) @ at / (2 * len(y))
    return W - lr * gradient


problem = Sensing(A=A, y=y, truth=X, w0=start, dtype=torch.float64)
w, W = problem.init(), start
for update in range(500):
    V = 0.1 * rng.standard_normal((5, 5))
    v = torch.tensor(V).view(1, -1)
    w = w - 0.02 * (problem.gradient(w + v) + problem.gradient(w - v)) / 2
    W = step(W, V)
    np.testing.assert_allclose(w.view(5, 5), W, rtol=1e-9, atol=1e-9)
print(*(f"{name.replace('_', ' ')} {value.item():.4f}" for name, value in problem.measure(w).items()), sep=", ")

# %% [markdown]
# In a training loop of yours, `rwp_edu.optim.NSO` does the same to any model; *copy as code* under the lab shows it for this problem.
#
# ## Where does it fail?
#
# In six places, all to be had in the lab. Three more presets on the fresh seeds:

# %%
from rwp_edu.lab import PRESETS

tests = []
for name in ("switch-off", "small-start", "noisy-measurements"):
    test = rwp_edu.lab.race()
    test.preset(name)
    test.set(seed=100)
    test.run()
    tests.append(test.record)
    print(f"{PRESETS[name].title}: {PRESETS[name].question}\n   {test.summary}\n")

# %% [markdown]
# And what they say together with the run above, seed by seed:

# %%
record, (off, small, noisy) = usual.record, tests
for what, worse, better in (
    ("weight decay", (record, "nso"), (record, "sgd:weight_decay=0.61")),
    ("always on, or switched off", (off, "nso:scale=constant"), (off, "nso")),
    ("σ = 0.1, or 0.2 and switched off", (record, "nso"), (off, "nso")),
    ("small start", (small, "nso"), (small, "sgd")),
    ("small start", (small, "rwp"), (small, "sgd")),
):
    print(f"{what:34}", end="")
    mean, error = gap(worse, better)
    assert mean > 4 * error
print(f"{'noise on y':34}", end="")
mean, error = gap((noisy, "nso"), (noisy, "rwp"))
assert mean > -2 * error  # two points are no better than one
print(f"{'four draws':34}", end="")
mean, error = gap((record, "nso"), (record, "nso:k=4"))
assert mean < np.log10(1.2)  # four times the cost for next to nothing
print(f"{'after 200 updates':34}", end="")
mean, error = gap((record, "nso"), (record, "rwp"), at=record.updates.tolist().index(200))
assert mean > 4 * error

# %% [markdown]
# - **Weight decay** of the strength that the formula gives, not even tuned, beats both: it is the same price without the noise. (In a network no formula gives
#   the strength, and noise needs none. How much is that worth? See *Just weight decay?* on the digits.)
# - **Switched off** for the last fifth, the noise takes its bias and its variance along. That gains far more than a second point.
# - **From a small start** GD finds the low rank by itself, and noise only keeps it from converging. All of the above needs the large start.
# - **Noise on y** stays whatever one does to the weights: no method comes near the truth, and two points are no better than one.
# - **More draws** take away noise that no longer limits; the bias stays. Four times the cost for next to nothing.
# - **Before convergence** NSO is slightly *behind* RWP, and each of its updates costs twice as much. Even at the end, at equal cost, much of its lead is gone:
#   2,000 updates of RWP at half the learning rate come within a factor of two of 1,000 of NSO; at the full learning rate and σ = 0.07 they come within a third.

# %% [markdown]
# ## The published setting
#
# The figure of the NSO paper has $d = 100$, rank 5, $n = 2500$. That takes a minute and a half of CPU (more when the machine is busy), so it does not run by itself. In a terminal:
#
# ```bash
# rwp-edu train sensing --set d=100 --set rank=5 --set n=2500 --set lr=0.0025 --set sigma=0.08 --methods sgd,rwp,nso --seeds 1 --steps 5000
# ```
#
# We measured squared distances of 1.5 (GD), 0.0024 (RWP) and 0.00048 (NSO) for seed 0. Or here:

# %%
run_it = False

published = Settings("sensing", methods="sgd,rwp,nso", seeds=1, d=100, rank=5, n=2500, lr=0.0025, sigma=0.08, steps=5000)
if run_it:
    run = Run(published)
    run.advance(published.steps)
    table(run.record)

# %% [markdown]
# ## Sources
#
# - Matrix sensing and two-point noise: Zhang, Li, Ju, *Noise Stability Optimization for Finding Flat Minima*, [arXiv:2306.08553](https://arxiv.org/abs/2306.08553)
# - Noise on matrix sensing, switched off in time: Orvieto et al., Anti-PGD, [arXiv:2202.02831](https://arxiv.org/abs/2202.02831)
# - One-point noise: Li et al., RWP, [arXiv:2211.11489](https://arxiv.org/abs/2211.11489), [arXiv:2404.00357](https://arxiv.org/abs/2404.00357); SAM: Foret et al., [arXiv:2010.01412](https://arxiv.org/abs/2010.01412)
#
# **Next:** [How flat is flat?](07_how_flat_is_flat.ipynb)
