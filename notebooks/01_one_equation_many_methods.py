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
# # One equation, many methods
#
# **For** readers of *Start here* who want to see inside an update. **Takes** about 15 minutes, a second of CPU.
#
# After this notebook you can
# 1. *draw* the points at which a method asks for gradients, and *count* its points and rounds;
# 2. *tell* from these two numbers what a method costs on one worker and on two;
# 3. *write* a two-point method yourself and check it.

# %% [markdown]
# ## The equation
#
# Every method here evaluates gradients at a few *points* near the weights $w$ and combines them:
#
# $$g = \sum_j c_j\, \nabla L(w + e_j;\, B_j), \qquad w \leftarrow w - \eta\, g .$$
#
# Most methods differ only in the points $e_j$, the batches $B_j$ and the coefficients $c_j$. Some remember former gradients (ARWP, F-SAM), GSAM's coefficients depend on the
# answers, and bSAM scales every weight besides; momentum and weight decay belong to the base optimizer. Points that do not depend on each
# other's answers belong to one *round* and can be asked for at the same time.
#
# **Predict.** SAM and m-RWP both evaluate two gradients per update. With two workers, which of them can be twice as fast, and why? Write
# down how many rounds each needs:

# %%
my_prediction = {"sam": ..., "m-rwp": ...}

# %% [markdown]
# ## One update, as arrows
#
# The lines are a loss with a sharp well on the left and a wide one on the right. **Blue circles** are the points of the first round, **orange
# diamonds** those of the second; coloured arrows go down the gradient found there. The **green arrow** is the step from $w$. Choose a method,
# move $w$, ρ and σ, and press *New draw* for other noise.

# %%
import rwp_edu

lab = rwp_edu.lab.update(method="sam")
lab

# %% [markdown]
# Things to try:
# - **SAM**: make ρ small. The diamond approaches $w$, and the step becomes that of SGD.
# - **NSO**: move $w$ so that one of the two points falls into the sharp well. The other one is always opposite.
# - **m-RWP**: move λ from 0 to 1. Which method is it at either end? What does the difference between the batches do?
# - **NSO with k = 3** against **RWP**: press *New draw* a few times. Whose step jumps less?

# %% [markdown]
# ## Reveal: points and rounds
#
# These numbers are not written down anywhere in the library. They are counted by letting each method run once and listening to what it asks.

# %%
from rwp_edu.methods import METHODS

print(f"{'method':8} {'points':>6} {'rounds':>6}   {'1 worker':>8} {'2 workers':>9}   formula")
for row in METHODS.values():
    cost = row.cost(k=1)
    two_workers = sum(
        -(-len([a for a in lab.state.replace(method=row.name).update.answers if a.round == r]) // 2)
        for r in range(1, cost.rounds + 1)
    )
    print(f"{row.label:8} {cost.points:6} {cost.rounds:6}   {cost.points:8} {two_workers:9}   {row.formula}")
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %% [markdown]
# The column *2 workers* is the number of gradients one has to wait for. SAM's second point depends on the first answer: a second worker has
# nothing to do. The two points of m-RWP, NSO and a-RWP are independent: with two workers they take the time of one gradient.
#
# The methods themselves are as short as the formulas. This is the source of four of them, and of what they share with others
# (`del` and `pop` let go what is no longer needed before the next gradient is found, to save memory):

# %%
import inspect
import re

from rwp_edu.methods.sharpness_aware import ascend
from rwp_edu.methods.random_perturbation import pair

for function in (*(METHODS[name].function for name in ("sam", "rwp", "m-rwp", "nso")), ascend, pair):
    print(re.sub(r'\n    """.*?"""', "", inspect.getsource(function), flags=re.DOTALL))

# %% [markdown]
# ## A closed form to compare with
#
# On average over the noise, RWP and NSO follow the gradient of the *smoothed* loss $F(w) = \mathbb{E}_u L(w+u)$. For this surface it is known
# exactly: a well of depth $a$ and width $s$ becomes one of depth $a s^2/(s^2+\sigma^2)$ and width $\sqrt{s^2+\sigma^2}$. We average 2,000 updates
# of each method and compare.

# %%
import torch

from rwp_edu.lab.explorers.update import SURFACE

w = torch.tensor([-0.3, 0.4], dtype=torch.float64)
exact = SURFACE.smoothed(0.3).gradient(w)
print("gradient of L         ", [f"{v:+.3f}" for v in SURFACE.gradient(w)])
print("gradient of smoothed L", [f"{v:+.3f}" for v in exact])
for name in ("rwp", "nso"):
    steps = torch.stack(
        [lab.state.replace(method=name, sigma=0.3, batch_noise=0.0, seed=s).update.g for s in range(2000)]
    )
    error = steps.std(0) / len(steps) ** 0.5
    print(f"mean of {name:4}          ", [f"{m:+.3f} ± {e:.3f}" for m, e in zip(steps.mean(0), error)])
    assert ((steps.mean(0) - exact).abs() < 4 * error).all()

# %% [markdown]
# ## Write it yourself
#
# Turn this into NSO with one draw: ask at $w+u$ *and* $w-u$ in one round, and return the mean of the two answers.

# %%
from rwp_edu.methods.points import At


def my_nso(w, noise):
    (g,) = yield [At(w + noise(w))]
    return g


# %%
from rwp_edu.lab.exercises import check_nso

_ = check_nso(my_nso)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.

# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(w, noise):
    u = noise(w)
    plus, minus = yield [At(w + u), At(w - u)]
    return (plus + minus) / 2


assert check_nso(solution)

# %% [markdown]
# ## Where does the picture mislead?
#
# In two dimensions a random direction is nearly as bad as the worst one, so σ and ρ look alike. In a network with thousands of weights a random
# perturbation must be many times longer than SAM's to raise the loss as much: in *Start here* compare the panel *size of the perturbation*. And
# one update says nothing about where a training ends: that is the race.
#
# ## Sources
#
# - SAM [arXiv:2010.01412](https://arxiv.org/abs/2010.01412), ASAM [arXiv:2102.11600](https://arxiv.org/abs/2102.11600), unnormalised SAM [arXiv:2206.06232](https://arxiv.org/abs/2206.06232), GSAM [arXiv:2203.08065](https://arxiv.org/abs/2203.08065), F-SAM [arXiv:2403.12350](https://arxiv.org/abs/2403.12350), bSAM [arXiv:2210.01620](https://arxiv.org/abs/2210.01620), R-SAM (Liu et al., NeurIPS 2022)
# - RWP, m-RWP, ARWP, m-ARWP [arXiv:2211.11489](https://arxiv.org/abs/2211.11489), [arXiv:2404.00357](https://arxiv.org/abs/2404.00357); LPF-SGD [arXiv:2201.08025](https://arxiv.org/abs/2201.08025)
# - NSO [arXiv:2306.08553](https://arxiv.org/abs/2306.08553); Anti-PGD [arXiv:2202.02831](https://arxiv.org/abs/2202.02831)
#
# **Next:** [Use it in your own training](02_use_it_in_your_own_training.ipynb)
