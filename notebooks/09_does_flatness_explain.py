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
# # Does flatness explain generalisation?
#
# **For** readers of *How flat is flat?*. **Takes** about 30 minutes, 40 seconds of CPU.
#
# After this notebook you can
# 1. *measure* how well a flatness predicts the test accuracy, by Kendall's τ with an interval, over all runs and where the training loss is matched;
# 2. *show* two ways in which a trace becomes small and nothing else happens: saturation and rescaling;
# 3. *write* the rescaling of a ReLU network and check it, and *name* a measure that it does not change.

# %% [markdown]
# ## One number against another
#
# Methods that look for flat minima often generalise better. That does not yet mean that they do so *because* the minimum is flat. If flatness explains it, then over many runs of many
# kinds the flatter one of two should be the better one. Kendall's τ counts just that,
#
# $$\tau = \frac{\text{pairs in the same order} - \text{pairs in opposite order}}{\text{pairs}},$$
#
# here over pairs of runs with the same seed, that is with the same images, labels, start and batches. Sharpness is what we measure, so **τ = -1 would mean that the flatter run is always the better
# one**, 0 that it tells nothing.
#
# **Predict.** 144 runs on digits with 30 % random labels: five methods, up to three scales each, three weight decays, four seeds. What is τ between test accuracy and the trace of the Hessian, the largest
# eigenvalue, the rise under noise, and the training loss, which is no flatness at all?

# %%
my_prediction = {"trace": ..., "largest eigenvalue": ..., "rise under noise": ..., "training loss": ...}

# %% [markdown]
# Two times 144 runs train now, about half a minute; the picture grows while they do. Every dot is a run; its shape is its weight decay. Choose a measure on top.

# %%
from rwp_edu.lab.explorers.flatness_correlation import scatter

view = scatter()
view

# %% [markdown]
# Things to try:
# - **trace**, all runs: is there an order? Then **weight decay** 0.01 alone. And the other two?
# - **rise under noise**: the same steps.
# - **training losses within a factor** of 1.3: the window is the grey band on the right. Move it with **around**.
# - **labels: clean**, *Trace against training loss*: what do the runs with the smallest weight decay (circles) do?

# %% [markdown]
# ## Reveal: equal step, matched loss
#
# The first column compares all runs after the same number of updates, the second only pairs whose training losses differ by a factor of 1.3 at most, the last two all pairs within one
# method, and between methods. The interval comes from drawing whole seeds and whole settings again: 144 runs are far fewer than 144 independent facts.

# %%
import rwp_edu
from rwp_edu.experiments.run_pool import DECAYS, LABELS, pool
from rwp_edu.lab.explorers.flatness_correlation import MEASURES


def row(name, *found):
    print(f"{name:22}", *(f"{c.tau:+.2f} ({c.low:+.2f} to {c.high:+.2f})" for c in found), sep="  ")


for labels in LABELS:
    pool(labels).finish()
    runs = pool(labels).at()
    print(f"{labels} labels, {len(runs.seed)} runs, {runs.updates} updates:   all     loss within 1.3    same method     other methods")
    for measure, (noun, _) in MEASURES.items():
        chosen = (runs.pairs(), runs.pairs(1.3), runs.pairs(methods="same"), runs.pairs(methods="other"))
        row(noun, *(runs.correlation(measure, pairs) for pairs in chosen))
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %% [markdown]
# What we found, with wrong labels:
# - The **trace does not predict** the accuracy: τ = +0.21, and the interval has 0 in it. The **largest eigenvalue points the wrong way**, +0.30 (+0.09 to +0.48): sharper runs were better. **PAC-Bayes**, $\lVert w-w_0\rVert\sqrt{\operatorname{tr}H/n}$ (lesson 10), +0.03, tells nothing.
# - The **rise under noise does**, -0.66 (-0.82 to -0.50), at a matched loss still -0.40 (-0.69 to -0.12). It looks far, and it does not depend on how a network is scaled.
# - But so does the **training loss**, +0.55, the *higher* the better: who does not fit 27 % wrong labels is better. A part of what sharpness seems to explain is this. The second column
#   asks what is left: of the rise about half, of the trace nothing that can be told from chance.
#
# With clean labels only the rise has an order that is clear, -0.39 (-0.67 to -0.09), and at a matched loss it is gone (-0.10); all of these accuracies lie within two points, which is about
# the size of the error of one run.

# %% [markdown]
# ## One weight decay at a time

# %%
runs = pool("noisy").at()
for decay in DECAYS:
    print(f"weight decay {decay}")
    some = runs.kept(runs.decay == float(decay))
    for measure in ("trace", "top_eigenvalue", "rise"):
        row("  " + MEASURES[measure][0], some.correlation(measure))

# %% [markdown]
# At the weight decay of the race, 0.01, trace and eigenvalue are as good as the rise, all near -0.75. With less weight decay nothing is clear for 48 runs: a scale that is too large ruins the run, and the flattest of all are the worst of
# all. With more all runs are about equally good (85 to 90 %). Put together, the three groups have no order, or the opposite one: a *Simpson's paradox*.
# **What varies between the runs decides what flatness explains.** A study that varies σ at one weight decay, as the race does, finds a strong correlation.
#
# Weight decay itself is the plainest case. From 0.01 to 0.04 it raises the accuracy of SGD as much as any perturbation and leaves the largest eigenvalue where it is; from 0.0005 to 0.01 it even doubles it. Only the rise falls at both steps.

# %%
for decay in DECAYS:
    some = runs.kept((runs.method == "sgd") & (runs.decay == float(decay)))
    m = {name: values.mean() for name, values in some.measures.items()}
    print(f"SGD, weight decay {decay:6}: accuracy {100 * some.test_accuracy.mean():.1f} %, λ₁ {m['top_eigenvalue']:.2f}, trace {m['trace']:.1f}, rise {m['rise']:.2f}")

# %% [markdown]
# ## Saturation: flat because there is nothing left to learn
#
# For the cross-entropy with outputs $p$ the Hessian in the logits is $\operatorname{diag}p - pp^\top$. A network that fits an example has $p_y = 1 - \varepsilon$, and then both its loss, $-\log(1-\varepsilon) \approx \varepsilon$,
# and this Hessian, of trace $1 - |p|^2 \approx 2\varepsilon$, go to zero *together*. The trace falls with the training loss, whatever the minimum looks like. Clean labels and little weight decay:

# %%
clean = pool("clean").at()
print("weight decay 0.0005, mean over seeds    trace     loss     trace / loss   accuracy %")
for entrant in dict.fromkeys(clean.entrant):
    some = clean.kept((clean.entrant == entrant) & (clean.decay == 0.0005))
    if len(some.seed):
        t, loss = some.measures["trace"].mean(), some.measures["train_loss"].mean()
        print(f"{entrant:37} {t:8.3f} {loss:10.5f} {t / loss:10.0f} {100 * some.test_accuracy.mean():13.1f}")

# %% [markdown]
# From SGD to RWP with σ = 0.06 the trace falls by 96 %, but trace / loss only from 655 to 542, and the accuracy rises by about a point. A table that shows the first number alone looks like a discovery. (Only the
# largest scales of RWP and m-RWP change the ratio much: there some seeds do not converge any more.)
#
# ## Rescaling: another trace, the same function
#
# For $a > 0$ a ReLU satisfies $\operatorname{relu}(az) = a \operatorname{relu}(z)$. Which weights compute the same function with a first layer that is $a$ times as large?

# %%
def my_rescaled(w1, b1, w2, b2, a):
    """logits = relu(x @ w1.T + b1) @ w2.T + b2"""
    return w1, b1, w2, b2


# %%
from rwp_edu.lab.exercises.scatter import check_rescaling

_ = check_rescaling(my_rescaled)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.

# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(w1, b1, w2, b2, a):
    return a * w1, a * b1, w2 / a, b2


assert check_rescaling(solution)

# %% [markdown]
# ## One scale up: runs that were trained
#
# Every second derivative in a weight that grew $a$ times is $a^2$ times smaller, so $\operatorname{tr}H_a = a^{-2}\,(T_{w_1} + T_{b_1}) + a^2\,T_{w_2} + T_{b_2}$. The same run of RWP can be made as sharp as we like,
# and that of SGD flatter than it was, without one answer of theirs changing:

# %%
import torch

from rwp_edu.lab.exercises.scatter import rescaled
from rwp_edu.training.snapshot import Solutions
from rwp_edu.curvature.sharpness import average_rise, pac_bayes
from rwp_edu.curvature.lanczos import eigenvalues
from rwp_edu.curvature.trace import trace

solutions, start = Solutions(pool("noisy").run), pool("noisy").run.problem.init()[0]
for name in ("sgd:weight_decay=0.01", "rwp:sigma=0.06:weight_decay=0.01"):
    here = solutions.objective(name, 0)
    t = {key: value.item() for key, value in here.traces().items()}
    best = ((t["0.weight"] + t["0.bias"]) / t["2.weight"]) ** 0.25
    print(f"{name}\n      a    trace  predicted    λ₁  PAC-Bayes | rise, filter-wise  trace, element-wise  accuracy %")
    for a in (1.0, best, 0.3, 3.0):
        w = torch.cat([part.flatten() for part in rescaled(*here.layout.split(here.w), a)])
        there = here.at(w)
        total = sum(there.traces().values()).item()
        predicted = (t["0.weight"] + t["0.bias"]) / a**2 + t["2.weight"] * a**2 + t["2.bias"]
        bound = pac_bayes(total, (w - start).norm().item(), n=300).value
        rise = average_rise(there, 0.1, kind="filter-wise", rtol=0, budget=50).value
        whole = trace(there, kind="element-wise", rtol=0, budget=50).value
        read = solutions.read(w, 0)
        print(f"  {a:5.2f} {total:8.1f} {predicted:10.1f} {eigenvalues(there).values[0]:5.1f} {bound:10.2f} | {rise:17.4f} {whole:20.1f} {100 * read['test_accuracy']:11.1f}")
        assert abs(total / predicted - 1) < 1e-3
        assert abs(read["train_loss"] / solutions.read(here.w, 0)["train_loss"] - 1) < 1e-3

# %% [markdown]
# What stands left of the bar changes when a layer is rescaled, what stands right of it does not (the element-wise trace not even when single units are). Training does not rescale at random, so the left ones may still be of use among similar runs; but no
# law that names them alone can hold in general.
# The measure that predicted best in our runs is one of those on the right.
#
# ## Where does it fail?
#
# Also a good τ is a snapshot. The same runs on the way:

# %%
for look in range(pool("noisy").looks):
    now = pool("noisy").at(look)
    print(f"after {now.updates} updates")
    for measure in ("trace", "rise", "train_loss"):
        row("  " + MEASURES[measure][0], now.correlation(measure))

# %% [markdown]
# - **In the middle of the training** the rise predicts nothing yet (-0.01 after 100 updates, -0.35 after 200): the learning rate is still large.
# - **A correlation is no cause.** To move flatness alone one would have to hold all else fixed; rescaling shows that for the trace this can be done, and then nothing follows.
# - **One network, one small set of digits, four seeds.** Large studies find the same kind of answer: some sharpness measures predict well where one thing is varied, none everywhere.
# - **Your own runs**: `Settings(flatness_every=100)` enters these measures into the record of any race on digits; `rwp_edu.experiments.rank_correlation.correlation(x, y)` takes any two lists.
# - **Matched loss** takes away what goes through the training loss, also when it is *how* flatness helps. It is the stricter question, not the only right one.
#
# ## Sources
#
# - many measures against the generalisation of many networks [arXiv:1912.02178](https://arxiv.org/abs/1912.02178); how such correlations can mislead [arXiv:2010.11924](https://arxiv.org/abs/2010.11924); adaptive sharpness of modern networks [arXiv:2302.07011](https://arxiv.org/abs/2302.07011)
# - rescaling [arXiv:1703.04933](https://arxiv.org/abs/1703.04933); a sharpness that it does not change [arXiv:2102.11600](https://arxiv.org/abs/2102.11600)
# - trace, PAC-Bayes and NSO [arXiv:2306.08553](https://arxiv.org/abs/2306.08553); SAM [arXiv:2010.01412](https://arxiv.org/abs/2010.01412); RWP [arXiv:2211.11489](https://arxiv.org/abs/2211.11489)
# - the bootstrap of crossed factors: A. B. Owen 2007 [doi:10.1214/07-AOAS122](https://doi.org/10.1214/07-AOAS122), and [arXiv:1106.2125](https://arxiv.org/abs/1106.2125); the digits: [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49)
#
# **Next:** [Fine-tune with few labels](10_fine_tune_with_few_labels.ipynb)
