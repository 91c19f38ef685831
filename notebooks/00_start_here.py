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
# # Start here: a race to flat minima
#
# **For** anyone who has trained a network once. **Takes** about 15 minutes on a laptop's CPU, no internet needed.
#
# After this notebook you can
# 1. *name* the points at which SGD, SAM, RWP, m-RWP and NSO ask for gradients, and count what an update costs;
# 2. *predict* and *measure* what the scale σ of a random weight perturbation does to a network that trains on wrong labels;
# 3. *write* random weight perturbation yourself, in three lines.

# %% [markdown]
# ## The question
#
# We train a small network on 300 real handwritten digits. The label of three in ten was replaced by a random class. The network
# is large enough to learn every mistake by heart; the test images are labelled correctly. (One random class in ten is the right one by chance, so 27 % of the
# labels are wrong.) A network *generalises* if it is right on images that it was not trained on. A minimum of the loss is *flat* if small changes of the weights hardly
# raise the loss there, *sharp* if they raise it much.
#
# All five methods start from the same weights and see the same batches. They differ in one thing only: *where* they look at the
# gradient before they take a step from the weights $w$ on the loss $L$.
#
# $g = \nabla L(w)$ is the gradient at the weights themselves. SAM is *sharpness-aware minimisation*, RWP *random weight perturbation*, m-RWP *mixed* RWP,
# NSO *noise stability optimization*.
#
# | method | asks for the gradient at | an update costs |
# |---|---|---|
# | SGD | $w$ | 1 gradient |
# | SAM | $w$, then $w + \rho\, g/\lVert g\rVert$, roughly the worst point within ρ | 2, one after the other |
# | RWP | $w + u$, a random point nearby | 1 gradient |
# | m-RWP | $w$ and $w + u$, on two different batches | 2, at once (2∥) |
# | NSO | $w + u$ and $w - u$ | 2, at once (2∥) |
#
# The weights that lead to one unit of a layer are called a *filter*, also in a network without convolutions. In this race the noise is *filter-wise*: a weight of filter $w_j$
# gets noise of standard deviation $\sigma\lVert w_j\rVert$, and so does every other: a filter of $d$ weights moves by about $\sigma\sqrt d$ of its length, 80 % for σ = 0.1 and the 64 pixels here.
#
# **Predict before you run anything.** Looking at the gradient in the *wrong* place: does it help or hurt? Which method learns the
# most wrong labels by heart? What happens to RWP if σ, the size of $u$, is doubled? Write it down here:

# %%
my_prediction = "..."

# %% [markdown]
# ## The race
#
# Run the cell and press **Start**. Each line is the mean over 8 seeds, its band one standard deviation. While it trains, move **σ**:
# the change acts at once and leaves a mark on the curves. **Reset** keeps this run as faint lines, so that the next is compared
# with it. The number on each chip is the cost of an update; set the x axis to *gradients* to see it.

# %%
import rwp_edu

lab = rwp_edu.lab.race()
lab

# %% [markdown]
# Things to try, one at a time:
# - Double σ halfway (0.1 → 0.2). Which curves fall, which hardly notice? Why does m-RWP bear it?
# - Watch RWP at the *beginning* and at the *end*. It is the slowest while the learning rate is high, and catches up as it decays.
# - Switch the kind of perturbation to *isotropic*: noise of standard deviation σ on every weight, whatever the size of its filter.
# - Choose a preset at the top: each one asks a question.

# %% [markdown]
# ## Reveal
#
# The same race without a screen, from start to end with the settings as they are. Compare it with your prediction.

# %%
reveal = rwp_edu.lab.race()
reveal.run()
print(reveal.summary)
for row in reveal.record.results():
    mean, error = 100 * row["test_accuracy_mean"], 100 * row["test_accuracy_se"]
    print(f"{row['method']:6} {mean:5.1f} ± {error:.1f} %   after {row['gradient_evaluations']} gradients per run")
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %%
reveal.figure

# %% [markdown]
# Plain SGD drives the training loss lowest, and that is the trouble: it has learnt most of the wrong labels. The perturbed methods learn far fewer.
# One explanation, which later lessons test: to fit a wrong label a network needs a *sharp* corner of the loss, and a small push on the weights spoils it.
#
# ## Why it works: noise smooths the loss
#
# *On average* gradients at random points nearby are gradients of the *smoothed* loss, if the size of $u$ does not depend on $w$. For isotropic Gaussian $u$ of standard deviation σ
#
# $$\mathbb{E}_u\, L(w+u) \;\approx\; L(w) + \frac{\sigma^2}{2}\,\operatorname{tr} H(w)$$
#
# with $H$ the Hessian, the matrix of second derivatives: its trace, the sum of the curvatures along all weights, is paid for. (Filter-wise the last term is $\frac{\sigma^2}{2}\sum_j \lVert w_j\rVert^2 \operatorname{tr} H_{jj}$, with
# the blocks $H_{jj}$ of the filters, and the method takes the lengths $\lVert w_j\rVert$ as given when it differentiates.) A quick check where the exact answer is known:
# $L(x) = x^4$ has $\mathbb{E}\,L(x+u) = x^4 + 6\sigma^2x^2 + 3\sigma^4$.

# %%
import torch

x, sigma = 1.0, 0.3
u = sigma * torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
print(f"measured        {((x + u) ** 4).mean():.4f}")
print(f"closed form     {x**4 + 6 * sigma**2 * x**2 + 3 * sigma**4:.4f}")
print(f"L + σ²/2 tr H   {x**4 + sigma**2 / 2 * 12 * x**2:.4f}   (leaves out the term of order σ⁴)")

# %% [markdown]
# ## Write it yourself
#
# In this library a method is a *conversation*: it yields the points where it wants gradients, receives them, and returns the gradient to
# use. This is all of SGD:

# %%
from rwp_edu.methods.points import At


def my_method(w, noise):
    (g,) = yield [At(w)]
    return g


# %% [markdown]
# Turn it into RWP. `noise(w)` draws a random perturbation $u$ of the right shape. The check tells you what is missing.

# %%
from rwp_edu.lab.exercises import check_rwp

_ = check_rwp(my_method)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(w, noise):
    (g,) = yield [At(w + noise(w))]
    return g


assert check_rwp(solution)

# %% [markdown]
# ## One scale up: your own training loop
#
# The same lines drive an ordinary PyTorch optimizer. This loop repeats one run of the race above, up to rounding; *copy as code* under
# the lab prints it for every method and for the settings of the sliders.

# %%
print(reveal.code("rwp"))

# %% [markdown]
# ## Where does it fail?
#
# Three honest tests. The sentences are computed from the runs: read them before you believe any of the above too much.

# %%
from rwp_edu.lab import PRESETS

for name in ("weight-decay", "too-much-noise", "clean-labels"):
    test = rwp_edu.lab.race(pace=0)
    test.preset(name)
    test.run()
    print(f"{PRESETS[name].title}: {PRESETS[name].question}\n   {test.summary}")
    for row in test.record.results():
        print(f"      {row['method']:24} {100 * row['test_accuracy_mean']:5.1f} ± {100 * row['test_accuracy_se']:.1f} %")
    print()

# %% [markdown]
# A well-chosen weight decay alone is a strong rival here, too much noise ruins RWP (37 %) and costs m-RWP its lead (78 %) unless λ is smaller, and on clean labels there is little to gain. Flat minima
# help where a network could otherwise learn what is not there.
#
# ## Sources
#
# - SAM: Foret, Kleiner, Mobahi, Neyshabur, *Sharpness-Aware Minimization for Efficiently Improving Generalization*, [arXiv:2010.01412](https://arxiv.org/abs/2010.01412)
# - Filter-wise noise (LPF-SGD): Bisla, Wang, Choromanska, *Low-Pass Filtering SGD for Recovering Flat Optima in the Deep Learning Optimization Landscape*, [arXiv:2201.08025](https://arxiv.org/abs/2201.08025)
# - m-RWP: Li et al., [arXiv:2211.11489](https://arxiv.org/abs/2211.11489), where it is simply called RWP; RWP, the name m-RWP and the adaptive forms: *Revisiting Random Weight Perturbation for Efficiently Improving Generalization*, [arXiv:2404.00357](https://arxiv.org/abs/2404.00357)
# - NSO: Zhang, Li, Ju, *Noise Stability Optimization for Finding Flat Minima*, [arXiv:2306.08553](https://arxiv.org/abs/2306.08553)
# - Digits: Alpaydin and Kaynak, UCI Machine Learning Repository, [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), CC BY 4.0
#
# **Next:** [One equation, many methods](01_one_equation_many_methods.ipynb)
