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
# # What holds, and what does not
#
# **For** everybody who has worked through some of these lessons, or reads papers with tables. **Takes** about 20 minutes, a minute of CPU.
#
# After this notebook you can
# 1. *test* a published claim on your own machine, with a paired difference and its interval;
# 2. *compute* that difference and its standard error yourself;
# 3. *show* how often "I looked until it was significant" finds something where nothing is.

# %% [markdown]
# ## Claims as data
#
# `rwp-edu reproduce --all` tests them all and writes a report; here is the table it works through.

# %%
from rwp_edu.experiments.claims import CLAIMS

for claim in CLAIMS.values():
    print(f"{claim.name:28} {claim.title}")

# %% [markdown]
# **Predict.** Replace `...`, and add others if you like. For each: will it *hold* here, on 300 digits, small networks and matrices of 30 × 30, hold *in part*, or *not hold*?

# %%
my_prediction = {"m-rwp-and-rwp": ..., "naive-noise": ..., "tuned-weight-decay": ..., "antithetic-pair": ..., "two-radii": ...}

# %% [markdown]
# ## Test one, live
#
# On the left every dot is one seed: its own data, start, batches and noise, the same for all methods. On the right the mean difference with its 95 % interval as
# seeds come in, from the fourth on. The statement holds if the interval lies *wholly* on the right side of the dotted line after **all** the seeds you asked for; what it did
# on the way decides nothing. Move **seeds**; press **New seeds** for others; change **claim**, **statement** and **updates**.

# %%
import rwp_edu

lab = rwp_edu.lab.trial()
lab

# %%
lab.finish()
print(lab.text)

# %% [markdown]
# ## Reveal: the report
#
# If you have run `rwp-edu reproduce --all --out report` in a terminal, in the folder of this notebook, its report is read. If not, your claims are tested now, on six
# seeds each, coarse but quick. (`report/report.html` is the same as a page, to look around in or to hand out.)

# %%
import tempfile
from pathlib import Path

from rwp_edu.experiments.claims import report, reproduce
from rwp_edu.lab.race.summary import given

folder = Path("report")
if not (folder / "report.json").exists():
    folder = Path(tempfile.mkdtemp())
    report.write(reproduce(my_prediction, quick=True), folder)

results = {result.claim.name: result for result in report.read(folder)}
for name, result in results.items():
    print(f"{result.verdict:18} {result.claim.title}   (you: {given(my_prediction.get(name))})")
    for statement, role, difference, status in report.statements_of(result):
        print(f"{'':18}   {status:9}  {statement}: {difference}  ({role})")

# %% [markdown]
# *Not shown* is not *refuted*: it says that these seeds leave both possible. *Refuted* needs an interval wholly on the wrong side. And "no difference" is not what *not shown*
# says: to claim that two methods are *equal to within* a point, the whole interval has to lie within that point.
#
# ## Why paired?
#
# Some seeds draw easy images and some hard ones, for all methods alike. With $d_s = a_s - b_s$ per seed,
#
# $$\bar d = \frac1S \sum_s d_s, \qquad \mathrm{s.e.} = \frac{1}{\sqrt S}\sqrt{\frac{1}{S-1}\sum_s (d_s - \bar d)^2}, \qquad \text{95 \% interval: } \bar d \pm t_{S-1}\,\mathrm{s.e.}$$
#
# ## Write it yourself
#
# `a` and `b` hold one value per seed, in the same order. Return the mean of $a - b$ and its standard error (mind $S - 1$).


# %%
def my_paired(a, b):
    return 0.0, 1.0


# %%
from rwp_edu.lab.exercises.paired import check_paired

_ = check_paired(my_paired)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(a, b):
    d = a - b
    return d.mean(), d.std(ddof=1) / len(d) ** 0.5


assert check_paired(solution)

# %%
import numpy as np

from rwp_edu.experiments.claims import check

name = "tuned-weight-decay"
values = (results[name] if name in results else check(CLAIMS[name], quick=True)).values
sam, sgd = values["sam", "test_accuracy"], values["sgd:weight_decay=0.04", "test_accuracy"]
paired = (sam - sgd).std(ddof=1) / len(sam) ** 0.5
apart = (sam.var(ddof=1) / len(sam) + sgd.var(ddof=1) / len(sgd)) ** 0.5
print(f"SAM minus SGD with tuned weight decay, standard error: {100 * paired:.2f} points paired, {100 * apart:.2f} as if the seeds were others")

# %% [markdown]
# ## One scale up: looking until it is there
#
# Two methods that do *exactly the same*: no true difference. Somebody adds seeds one by one and stops as soon as the 95 % interval excludes 0. How often is a
# "significant" difference announced within 64 seeds: 5, 10, 30 or 60 % of the time?

# %%
from rwp_edu.experiments.claims.verdicts import t_quantile

draws = np.random.default_rng(0).normal(size=(2000, 64))
n = np.arange(1, 65)
mean = draws.cumsum(1) / n
error = np.sqrt(np.maximum((draws**2).cumsum(1) / n - mean**2, 0) / np.maximum(n - 1, 1))
significant = np.array([abs(mean[:, k]) > t_quantile(0.975, int(k)) * error[:, k] for k in range(3, 64)])
print(f"looked once, after 64 seeds:         {100 * significant[-1].mean():.0f} % announce a difference")
print(f"looked after every seed from the 4th: {100 * significant.any(0).mean():.0f} %")
assert significant[-1].mean() < 0.08 < 0.15 < significant.any(0).mean()

# %% [markdown]
# So decide the number of seeds *before* you look. The report does: 32, or what you ask for. It tests some hundred statements, though, so two or three may come out well by luck: it also
# counts those that hold when the 95 % are asked of all of them together.
#
# ## Where does it fail?
#
# - **The settings were tuned here**, on other seeds, and each method got about the same care; a method whose best setting nobody found is not refuted.
# - **The scale is small.** "Does not hold here" is about 300 digits and 5,000 weights. A table over ImageNet is neither confirmed nor refuted by it, but then it has to be
#   said what the larger scale adds.
# - **Which claim?** "NSO beats noise" holds for matrix sensing and not for networks with mini-batches; change **claim** between `matrix-sensing` and `naive-noise` and compare.
# - **Equal cost.** `x2` in the names means twice the updates, for methods with one gradient per update. Without that line "better" may mean "trained longer".
# - **Change the budget** of `m-rwp-and-rwp` to *a quarter* and to *twice*: does the verdict depend on it?
#
# ## Sources
#
# - the claims: m-RWP, there called RWP, [arXiv:2211.11489](https://arxiv.org/abs/2211.11489), RWP, ARWP and m-ARWP [arXiv:2404.00357](https://arxiv.org/abs/2404.00357), NSO [arXiv:2306.08553](https://arxiv.org/abs/2306.08553), SAM [arXiv:2010.01412](https://arxiv.org/abs/2010.01412)
# - how many seeds a comparison needs [arXiv:1806.08295](https://arxiv.org/abs/1806.08295); variance in benchmarks [arXiv:2103.03098](https://arxiv.org/abs/2103.03098)
# - the digits: [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49)
#
# **Next:** [Two gradients at once](13_two_gradients_at_once.ipynb)
