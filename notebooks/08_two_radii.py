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
# # SAM's radius and RWP's radius
#
# **For** everybody who knows what SAM and RWP do (*One equation, many methods*). **Takes** about 20 minutes, a minute of CPU.
#
# After this notebook you can
# 1. *convert* a radius of SAM into a scale of noise with the same effect on the loss, and say why it is so much larger;
# 2. *predict* how their ratio grows with the network, from one number of the Hessian;
# 3. *name* two settings in which there is hardly any difference.

# %% [markdown]
# ## Two ways to leave the weights
#
# SAM walks a distance $\rho$ up the gradient of a mini-batch. Noise of scale $\sigma$ in each of $P$ weights goes $\|u\| \approx \sigma\sqrt P$ far, in a random direction.
#
# **Predict.** A network with 4,810 weights, trained until its loss is small. SAM's step of length $\rho = 0.2$ raises the loss by some amount. How far has noise to
# go for the same rise: as far, 5 times, 30 times, 1,000 times as far? And in a network that is four times as large?

# %%
my_prediction = {"4,810 weights": ..., "19,210 weights": ...}

# %% [markdown]
# Networks of seven widths are trained here, then measured; the picture fills in as results arrive. On the left, how the loss rises with the distance; on the
# right, the ratio of the two distances at which it has risen by the same amount. Move **rise of the loss**; then **hidden units** and **trained for**.

# %%
import rwp_edu

lab = rwp_edu.lab.distances()
lab

# %%
lab.finish()
print(lab.text)
print("weights   noise / SAM   √(P λ₁ / tr H)")
for p, ratio, limit in lab.ratios():
    print(f"{p:7,} {ratio:13.1f} {limit:16.1f}")

# %% [markdown]
# The dotted line is the worst point that ascent finds in the ball: SAM's single step is nearly as good, and noise, in as many directions as there are weights,
# meets the steep ones only by chance.

# %% [markdown]
# ## Reveal: the direction decides
#
# At a point where the gradient matters little, a step $\rho u$ with $\|u\| = 1$ and noise with $\mathbb{E}\,uu^\top = \sigma^2 I$ raise a quadratic loss by
#
# $$\tfrac12 \rho^2\, u^\top H u \qquad\text{and}\qquad \tfrac12 \sigma^2 \operatorname{tr} H = \tfrac12 \frac{r^2}{P} \operatorname{tr} H, \quad r = \sigma\sqrt P .$$
#
# Setting both equal gives
#
# $$\frac{r}{\rho} = \sqrt{\frac{P\, u^\top H u}{\operatorname{tr}H}} \;\le\; \sqrt{\frac{P\,\lambda_1}{\operatorname{tr}H}} .$$
#
# A gradient lies mostly in the few sharp directions, noise sees the average curvature $\operatorname{tr}H/P$. A wider network has more weights, but hardly more sharp
# directions (there are ten classes): if $\lambda_1$ and $\operatorname{tr}H$ stayed the same, the ratio would grow like $\sqrt P$. Here it grows more slowly (with 31 times the
# weights the bound is 3.8 times, the measured ratio 2.7 times as large). It is a matter of dimension and not of the methods.
#
# SAM has a second advantage: its step follows the slope and gains $\rho\|g\|$ at first order, which for noise averages out. On a mini-batch of a trained network
# this term is not small, and the measured ratio may exceed the bound:

# %%
import math

from rwp_edu.curvature.sharpness import average_rise, sam_rise
from rwp_edu.curvature.lanczos import eigenvalues

objective = lab.objective("64")
u = objective.slope / objective.slope.norm()
trace, along = sum(objective.traces().values()).item(), objective.curvatures(u[None]).item()
print(f"tr H {trace:.1f}, λ₁ {eigenvalues(objective).values[0]:.2f}, uᵀHu {along:.2f}, ‖g‖ {objective.slope.norm():.3f}, P {objective.layout.size:,}")
for rho in (0.03, 0.1, 0.3):
    r = rho * math.sqrt(objective.layout.size * along / trace)
    noise = average_rise(objective, r / math.sqrt(objective.layout.size), rtol=0, budget=400)
    print(f"ρ = {rho:4}: SAM's rise {sam_rise(objective, rho):.4f}; without the slope {rho**2 * along / 2:.4f}; noise at {r:.2f}: {noise.value:.4f} ± {noise.error:.4f}")
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %% [markdown]
# At small radii nearly all of SAM's rise is slope; the larger the rise, the more curvature decides. Compare the measured ratios for rises of 0.01 and 1 in the picture.
#
# ## Write it yourself
#
# How many times as far does noise go, for a quadratic loss? `along` is $u^\top H u$ for SAM's direction of length 1.

# %%


def my_ratio(trace, along, size):
    return 1.0


# %%
from rwp_edu.lab.exercises.radius import check_radius_ratio

_ = check_radius_ratio(my_ratio)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.

# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(trace, along, size):
    return math.sqrt(size * along / trace)


assert check_radius_ratio(solution)

# %% [markdown]
# ## What it means for training
#
# Noise as long as SAM's step is no perturbation at all. Four trainings from the same starts: SAM; RWP with noise of SAM's length; and with noise 28 times as long.

# %%
from rwp_edu.training.settings import Settings
from rwp_edu.training import Run

size, rho = objective.layout.size, 0.2
short, long = rho / math.sqrt(size), 28 * rho / math.sqrt(size)
names = ["sgd", f"sam:rho={rho}", f"rwp:sigma={short:.4f}:kind=isotropic", f"rwp:sigma={long:.4f}:kind=isotropic"]
run = Run(Settings("digits", methods=names, seeds=8))
run.advance(400)
last = run.record.rows[-1]
for name, accuracy, loss in zip(names, last["test_accuracy"], last["train_loss"]):
    gain = 100 * (accuracy - last["test_accuracy"][0])
    print(f"{name:32} accuracy {100 * accuracy.mean():.1f} %, {gain.mean():+.1f} ± {gain.std(ddof=1) / math.sqrt(len(gain)):.1f} over SGD; training loss {loss.mean():.2f}")

# %% [markdown]
# At SAM's length RWP is SGD. At about the length that the screen shows for an equal rise it does what SAM does, for one gradient per update instead of two. So a table
# that compares both methods at "the same radius" compares nothing.

# %% [markdown]
# ## Where does it fail?
#
# **Whose gradient?** SAM uses the gradient of a mini-batch. The gradient of *all* images is nearly zero where a training has ended, and no longer points into sharp
# directions:

# %%
for data in ("a mini-batch", "all images"):
    lab.set(data=data)
    lab.finish()
    found = lab.radii("64")
    print(f"{data:13} SAM {found['sam']:.2f}, worst point {found['worst']:.2f}, noise {found['noise']:.1f}: {found['noise'] / found['sam']:.0f} times as far")
lab.set(data="a mini-batch")

# %% [markdown]
# The worst point of the ball is still near: it is SAM's *direction* that has become harmless. This is one reason why SAM works with small batches (m-sharpness).
#
# **Which noise, and how early?** Filter-wise noise, and a network at the start of its training:

# %%
for name, changes in {"filter-wise noise": {"kind": "filter-wise"}, "after 30 updates": {"updates": "30"}, "for a rise of 1": {"rise": 1.0}}.items():
    lab.set(**changes)
    lab.finish()
    found = lab.radii("64")
    print(f"{name:18} noise {found['noise'] / found['sam']:.0f} times as far")
    lab.set(kind="isotropic", updates="400", rise=0.1)

# %% [markdown]
# **Two dimensions.** With two weights there is no room for the effect: on the surface of *Sharp and wide minima* the runs of RWP leave the hole at σ ≈ 0.2, which is noise of length
# about σ√2 = 0.28, and those of SAM at ρ ≈ 0.3: as far, not thirty times as far.
#
# - The paper's figure, about two orders of magnitude, is for networks with millions of weights; $\sqrt{P\lambda_1/\operatorname{tr}H}$ is the way from here to there, and it needs their spectrum.
# - One network per width, one seed: the measured ratio of the same width varies by a tenth to a fifth from seed to seed.
#
# ## Sources
#
# - RWP, its radius against that of adversarial perturbation [arXiv:2211.11489](https://arxiv.org/abs/2211.11489); filter-wise mixing and adaptation [arXiv:2404.00357](https://arxiv.org/abs/2404.00357)
# - SAM, m-sharpness [arXiv:2010.01412](https://arxiv.org/abs/2010.01412); what the mini-batch has to do with it [arXiv:2206.06232](https://arxiv.org/abs/2206.06232)
# - few sharp directions [arXiv:1812.04754](https://arxiv.org/abs/1812.04754); the digits: [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49)
#
# **Next:** [Does flatness explain generalisation?](09_does_flatness_explain.ipynb)
