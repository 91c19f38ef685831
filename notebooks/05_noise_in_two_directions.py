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
# # Noise in two directions
#
# **For** readers of *Smoothing a loss*. **Takes** about 20 minutes, ten seconds of CPU.
#
# After this notebook you can
# 1. *derive* why a pair $w+u$, $w-u$ gives a less noisy gradient than two independent draws, and *compute* by how much for three functions;
# 2. *write* the two-point gradient with $k$ draws and check it;
# 3. *decide* from three variances whether the pair can matter in a training.

# %% [markdown]
# ## Two gradients to spend
#
# The gradient of the smoothed loss, $\nabla F(w) = \mathbb{E}\,\nabla f(w+u)$, has to be estimated from few draws. With two gradients one can take
#
# $$G_1 = \tfrac12\big(\nabla f(w+u_1) + \nabla f(w+u_2)\big) \qquad\text{or}\qquad G_2 = \tfrac12\big(\nabla f(w+u) + \nabla f(w-u)\big).$$
#
# Both have the right mean and the same cost. The second is NSO, noise stability optimization.
#
# **Predict.** A small tanh network was trained on digits; every weight gets noise of σ = 0.01. How many times smaller is the variance of $G_2$: 2, 20 or
# 200 times? And for the same network with ReLU?

# %%
my_prediction = {"tanh": ..., "relu": ...}

# %% [markdown]
# Dots are measured, with two standard errors; dashed lines are theory. Move **σ**; the sentence below is about the σ that is marked. Then try the other functions
# on top.

# %%
import rwp_edu

lab = rwp_edu.lab.two_points()
lab

# %% [markdown]
# Things to see:
# - **tanh network**: two straight lines with slopes 2 and 4. Where do they meet? To the right of that the pair gains nothing.
# - **quadratic**: where is the second line?
# - **ReLU network**: left of σ = 0.01 the pair does not get better any more.
# - **the orange level**: the variance that a mini-batch of 30 brings along anyway. For which σ is the one-point variance larger?
# - **quartic** with *rademacher* noise: why is the pair exact? (Every $u_i^2$ is the same number.)

# %% [markdown]
# ## Reveal: what cancels
#
# Expand the gradient: $\nabla f(w \pm u) = \nabla f \pm H u + \tfrac12\, \partial H[u,u] \pm \dots$ The term $Hu$ is all noise and no news: its mean is 0. Two independent
# draws only halve its variance; a pair removes it. Per draw, or pair, of Gaussian noise
#
# $$\operatorname{Var}_\text{one} = \sigma^2 \lVert H\rVert_F^2 + O(\sigma^4), \qquad
# \operatorname{Var}_\text{two} = \tfrac{\sigma^4}{2} \sum_i \lVert \partial_i H\rVert_F^2 + O(\sigma^6),$$
#
# and $k$ of them divide both by $k$. Three functions for which this can be checked exactly: a quadratic ($\partial H = 0$), $\tfrac14 \sum w_i^4$
# ($H_{ii} = 3w_i^2$, $\partial_i H_{ii} = 6 w_i$), and **matrix sensing**, where a matrix of low rank is found from linear measurements. Its loss has degree 4
# in the weights, so the formula for the pair has no further terms.

# %%
import torch

from rwp_edu.curvature import gradient_variance, hessian_change, squared_hessian_trace
from rwp_edu.experiments.variance_functions import subject
from rwp_edu.methods.points import At
from rwp_edu.problems.matrix_sensing import Sensing

problem = Sensing([0], d=6, rank=2, n=60, dtype=torch.float64)
A, y, start = problem.measurements(), problem.y[0], problem.init()[0]


def sensing_loss(w):  # (N, P) -> (N,)
    W = w.view(-1, 6, 6)
    return (torch.einsum("nij,bip,bjp->bn", A, W, W) - y).square().mean(1) / 4


def sensing_gradient(w):  # (N, P) -> (N, P)
    return torch.cat(problem.gradients([At(row[None]) for row in w]))


cases = {name: (subject(name).loss, subject(name).gradient, subject(name).w) for name in ("quadratic", "quartic")}
cases["sensing"] = sensing_loss, sensing_gradient, start
sigma, leading, measured = 0.05, {}, {}
for name, (loss, gradient, w) in cases.items():
    H2, dH2 = squared_hessian_trace(loss, w, draws=4000), hessian_change(loss, w, draws=4000)
    leading[name] = sigma**2 * H2.value / 2, sigma**4 / 2 * dH2.value
    measured[name] = [gradient_variance(gradient, w, sigma, p, k, draws=1000) for p, k in (("one-point", 2), ("two-point", 1))]
    print(f"{name:10} two draws {measured[name][0]} (leading term {leading[name][0]:.4g}), pair {measured[name][1]} ({leading[name][1]:.4g})")
    error = (measured[name][1].error ** 2 + (sigma**4 / 2 * dH2.error) ** 2) ** 0.5
    assert abs(measured[name][1].value - leading[name][1]) <= 4 * error + 1e-25
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %% [markdown]
# The pair's formula is exact in all three. The one-point formula is only the leading term: for matrix sensing the rest is visible at this σ.
#
# ## The gain grows as σ shrinks
#
# For a smooth function the ratio of the two variances goes as $\sigma^{-2}$: a ten times smaller σ, a hundred times larger gain. For ReLU it does not.

# %%
from rwp_edu.utils.parameters import rounded

sigmas, ratio = (0.001, 0.01, 0.1, 0.3), {}
print(f"{'one/two at σ =':>16}", *(f"{s:>16}" for s in sigmas))
for name in ("tanh", "relu"):
    net = subject(name)
    ratio[name] = []
    for number, s in enumerate(sigmas):
        one = gradient_variance(net.gradient, net.w, s, "one-point", k=2, draws=40, seed=2 * number)
        two = gradient_variance(net.gradient, net.w, s, "two-point", k=1, draws=40, seed=2 * number + 1)
        value = one.value / two.value
        ratio[name].append((value, value * ((one.error / one.value) ** 2 + (two.error / two.value) ** 2) ** 0.5))
    print(f"{name:>16}", *(f"{f'{rounded(value)} ± {rounded(error, 1)}':>16}" for value, error in ratio[name]))
gain, error = ratio["tanh"][0][0] / ratio["tanh"][1][0], sum((e / v) ** 2 for v, e in ratio["tanh"][:2]) ** 0.5
print(f"tanh, from σ = 0.01 to 0.001: {gain:.0f} ± {gain * error:.0f} times; σ⁻² says 100")
assert abs(gain - 100) < 4 * gain * error
assert ratio["relu"][0][0] < ratio["relu"][1][0] < 100

# %% [markdown]
# ## Write it yourself
#
# `gradient(w)` gives the gradient at `w`, of the same shape. Turn this one-point gradient with `k` draws into the two-point gradient with `k` pairs:


# %%
def two_point(gradient, w, sigma, k):
    total = torch.zeros_like(w)
    for _ in range(k):
        u = sigma * torch.randn_like(w)
        total += gradient(w + u)
    return total / k


# %%
from rwp_edu.lab.exercises import check_two_point

_ = check_two_point(two_point)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(gradient, w, sigma, k):
    total = torch.zeros_like(w)
    for _ in range(k):
        u = sigma * torch.randn_like(w)
        total += gradient(w + u) + gradient(w - u)
    return total / (2 * k)


assert check_two_point(solution)

# %% [markdown]
# ## Where does it fail?
#
# In a training the gradient has another noise too, that of the mini-batch. Both add up. The last column is what counts: how much less noisy the *whole* gradient is with
# the pair.

# %%
print(f"{'':6} {'σ':>5} {'two draws':>20} {'pair':>22} {'mini-batch':>11} {'whole, less by':>15}")
less = {}
for name in ("tanh", "relu"):
    net = subject(name)
    for s in (0.01, 0.03, 0.1, 0.2):
        one = gradient_variance(net.gradient, net.w, s, "one-point", k=2, draws=40, seed=1)
        two = gradient_variance(net.gradient, net.w, s, "two-point", k=1, draws=40, seed=2)
        less[name, s] = 1 - (two.value + net.batch) / (one.value + net.batch)
        print(f"{name:6} {s:5} {str(one):>20} {str(two):>22} {net.batch:11.3g} {less[name, s]:15.1%}")
assert less["tanh", 0.01] < 0.03 and less["relu", 0.01] < 0.05

# %% [markdown]
# - **Mini-batches hide it.** At small σ the pair is hundreds of times better, at something that is a hundredth of the whole. At large σ perturbation noise rules, but the
#   pair is only 1.7 times better (σ = 0.2) and loses more further out. In between, around σ = 0.1, it takes a third to a half off the whole. That is one reason why NSO and one-point noise end up so close in the
#   races on digits.
# - **Full batches do not.** In matrix sensing every gradient is exact, the perturbation is the only noise, and there the pair is clearly better.
# - **ReLU** limits the gain at small σ: a pair that straddles a kink does not cancel.
# - **Large σ**: the leading terms meet where $\sigma^2 \sum_i \lVert\partial_i H\rVert^2 \approx \lVert H\rVert^2$; beyond, they say nothing.
#
# ## Sources
#
# - Two-point noise and its variance: Zhang, Li, Ju, *Noise Stability Optimization for Finding Flat Minima*, [arXiv:2306.08553](https://arxiv.org/abs/2306.08553)
# - One-point noise: Li et al., RWP, [arXiv:2211.11489](https://arxiv.org/abs/2211.11489), [arXiv:2404.00357](https://arxiv.org/abs/2404.00357)
# - Digits: Alpaydin and Kaynak, UCI Machine Learning Repository, [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), CC BY 4.0
#
# **Next:** [Matrix sensing](06_matrix_sensing.ipynb)
