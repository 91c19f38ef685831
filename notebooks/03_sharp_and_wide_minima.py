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
# # Sharp and wide minima
#
# **For** readers of *One equation, many methods*. **Takes** about 20 minutes, ten seconds of CPU.
#
# After this notebook you can
# 1. *compute* the depth and the width of a smoothed well by hand, and *name* the two scales of noise at which a sharp well loses;
# 2. *measure*, with a standard error, how many runs of a method end in the sharp well, and *explain* three results that a ball rolling in a valley
#    would not show;
# 3. *give* two networks that are the same function and differ in sharpness.

# %% [markdown]
# ## A hole in a valley
#
# Folklore says: noise prefers wide minima. Here is a loss with two weights on which that can be checked to the last digit: a wide well on the right and
# a narrow hole on the left, 0.12 wide, in a shallow bowl. Plain gradient descent that starts around the hole falls into it in 7 of 10 runs. Will it
# still, if the gradient is taken at $w + u$ with random $u$ of scale σ, or at SAM's $w + \rho\,g/\lVert g\rVert$?
#
# **Predict** before you run anything:

# %%
my_prediction = {
    "the deeper of the two wells": ...,
    "sigma at which RWP no longer ends in the hole": ...,
    "rho at which SAM no longer ends in the hole": ...,
}

# %% [markdown]
# Left is the loss $f$, right the **smoothed loss** $F(w) = \mathbb{E}_u f(w+u)$, which RWP and NSO descend on average. For every method 324 runs start
# in the dotted box: five of them are drawn on the left, a hundred end points on the right, and the bars say in which basin all of them end.
#
# **The one slider that matters is σ.** Move it slowly from 0.05 to 0.25.

# %%
import rwp_edu

lab = rwp_edu.lab.landscape(sigma=0.05)
lab

# %% [markdown]
# Things to see, one at a time:
# - two labels under the slider of σ: *wide lower* and *sharp gone*. At which of them do the bars of RWP and NSO change?
# - σ = 0.10 against SGD's bar: does a little noise lead *out of* the hole?
# - σ = ρ = 0.20: RWP and NSO have left. Where exactly are SAM's orange dots?
# - m-RWP at any σ; then λ from 0.5 to 1.
# - Move the pointer for the heights of $f$ and $F$, click to move the starts.

# %% [markdown]
# ## Reveal: a smoothed well is a well
#
# Convolving a Gaussian with a Gaussian adds their variances. In two dimensions, noise of scale σ turns a well of depth $a$ and width $s$ into one of
#
# $$\text{depth } \frac{a\,s^2}{s^2+\sigma^2}, \qquad \text{width } \sqrt{s^2+\sigma^2},$$
#
# and raises the bowl $q\lvert w\rvert^2$ by $2q\sigma^2$. So σ = 0.12 halves the hole, and the wide well does not notice. From $F$ in closed form,
# bisection finds the σ at which both minima are level, and the σ at which the left one ceases to be a minimum.

# %%
import torch

from rwp_edu.problems.basins import basin_of, critical_scales, minima
from rwp_edu.problems.surfaces import SHARP_AND_WIDE as f
from rwp_edu.problems.surfaces import SURFACES, Wells, grid

print("heights of f in its minima:", *(f"{v:.3f}" for v in f.value(minima(f))), "(the hole first)")
print(f"{'σ':>6} {'hole: depth, width':>20} {'wide well':>16}")
for sigma in (0.0, 0.05, 0.12, 0.2, 0.4):
    (a, s, *_), (b, t, *_) = reversed(f.smoothed(sigma).wells)
    print(f"{sigma:6.2f} {a:12.3f} {s:7.3f} {b:8.3f} {t:7.3f}")

lower, gone = critical_scales(f)
print(f"\nthe wide well is the lower one from σ = {lower:.3f} on, the hole is no minimum from σ = {gone:.3f} on")

w = torch.tensor([-0.3, 0.1], dtype=torch.float64)
u = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
sample = f.value(w + 0.2 * u)
error = sample.std() / len(u) ** 0.5
print(f"F at {w.tolist()} for σ = 0.2: sampled {sample.mean():.4f} ± {error:.4f}, closed form {f.smoothed(0.2).value(w):.4f}")
assert (sample.mean() - f.smoothed(0.2).value(w)).abs() < 4.5 * error
assert f.value(minima(f))[0] < f.value(minima(f))[1] and lower < gone
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %% [markdown]
# ## Reveal: where the runs end
#
# Every point below are 324 runs of 600 updates at learning rate 0.01, with noise of standard deviation 1 in every coordinate of the mini-batch's
# gradient. All radii of a method are one tensor: `descend` takes a scale for each run.

# %%
import plotly.graph_objects as go

from rwp_edu.plotting import figures
from rwp_edu.problems.surface_descent import descend
from rwp_edu.methods import METHODS

radii = [0.05, 0.10, 0.15, 0.18, 0.20, 0.25, 0.30, 0.40]
starts = grid(((-0.9, -0.1), (-0.4, 0.4)), 9, 9)
radius = torch.tensor(radii).repeat_interleave(4 * len(starts))[:, None]
names = ("sgd", "sam", "rwp", "nso", "m-rwp")
ends, share, error = {}, {}, {}
for name in names:
    hyper = {"kind": "isotropic", "sigma": radius, "rho": radius, "lr": 0.01, "gradient_noise": 1.0}
    ends[name] = descend(f, name, starts.repeat(4 * len(radii), 1), steps=600, **hyper).w.view(len(radii), -1, 2)
    in_hole = (basin_of(f, ends[name]) == 0).double()
    share[name], error[name] = in_hole.mean(1), in_hole.std(1) / in_hole.shape[1] ** 0.5

print("radius", *(f"{r:11.2f}" for r in radii))
for name in names:
    print(f"{METHODS[name].label:6}", *(f"{m:5.2f} ±{e:4.2f}" for m, e in zip(share[name], error[name])))

# %%
picture = go.Figure(layout={**figures.PLAIN, "height": 380, "margin": {"l": 60, "r": 20, "t": 40, "b": 50}})
for name in names:
    colour, dash = figures.look(name, names)
    bars = {"type": "data", "array": 2 * error[name], "thickness": 1}
    picture.add_scatter(x=radii, y=share[name], error_y=bars, name=METHODS[name].label, line={"color": colour, "dash": dash})
for scale, text in ((lower, "wide lower"), (gone, "hole gone")):
    picture.add_vline(scale, line={"color": figures.INK, "dash": "dot", "width": 1}, annotation={"text": text})
picture.update_xaxes(title="σ of RWP, NSO, m-RWP; ρ of SAM", gridcolor=figures.FAINT)
picture.update_yaxes(title="share in the basin of the hole, ± 2 s.e.", range=[-0.05, 1.05], gridcolor=figures.FAINT)
picture

# %%
at = {r: {name: share[name][i].item() for name in names} for i, r in enumerate(radii)}
assert at[0.20]["rwp"] < 0.1 and at[0.20]["nso"] < 0.1  # beyond "hole gone" the random methods have left
assert at[0.20]["sam"] > 0.6 and at[0.40]["sam"] < 0.1  # SAM's runs leave its basin too, at a larger radius
assert min(at[r]["m-rwp"] for r in radii) > 0.5  # m-RWP stays
assert at[0.05]["rwp"] > 0.6  # far below "wide lower" nothing happens

# %% [markdown]
# That the wide well is *lower* is not enough: gradients are local and do not know that something better is a unit away. The runs leave where the hole
# all but ceases to be a minimum of $F$, near the second scale. RWP goes somewhat earlier than NSO: its one-sided gradient is noisier, and a dent that is
# nearly gone does not hold it.
#
# ## Three surprises
#
# **1. A little noise leads into the hole, not out of it.** Smoothing makes the hole shallower but *wider*, and at first its reach grows. Without any
# noise in the updates, flow on $F$ from the 81 starts:

# %%
catchment = {}
for sigma in (0.0, 0.05, 0.10, 0.12, 0.15, 0.18, 0.20):
    smoothed = f.smoothed(sigma)
    lows = minima(smoothed)
    hole = lows[:, 0].argmin() if len(lows) > 1 else -2
    catchment[sigma] = (basin_of(smoothed, starts) == hole).double().mean().item()
print("σ              ", *(f"{sigma:6.2f}" for sigma in catchment))
print("flow into hole ", *(f"{v:6.3f}" for v in catchment.values()))
assert catchment[0.0] < catchment[0.05] < catchment[0.10] and catchment[0.20] == 0

# %% [markdown]
# **2. SAM does not go to the wide well, and not into the hole either.** From ρ = 0.2 to 0.3 its runs stop on the *pass* between the two:

# %%
ridge = torch.tensor([-0.2, 0.0], dtype=torch.float64)
for _ in range(20):  # Newton's method for a zero of the gradient
    ridge = ridge - torch.linalg.solve(f.hessian(ridge), f.gradient(ridge))
down, up = torch.linalg.eigvalsh(f.hessian(ridge)).tolist()
print(f"the pass: ({ridge[0]:.3f}, {ridge[1]:.3f}), curvature {down:.1f} along the way and {up:.1f} across it\n")
print("share of runs within 0.1 of the pass")
close = {name: ((ends[name] - ridge).norm(dim=-1) < 0.1).double().mean(1) for name in names}
print("radius", *(f"{r:5.2f}" for r in radii))
for name in names:
    print(f"{METHODS[name].label:6}", *(f"{v:5.2f}" for v in close[name]))
print()
for x in (-0.26, -0.13):
    w = torch.tensor([x, 0.0], dtype=torch.float64)
    g = f.gradient(w)
    probe = w + 0.25 * g / g.norm()
    step = -0.01 * f.gradient(probe)
    back = "towards" if step[0] * (ridge[0] - x) > 0 else "away from"
    print(f"SAM, ρ = 0.25, at x = {x:.2f}: asks uphill at {probe[0]:.2f}, steps {step[0]:+.4f}, {back} the pass")
    assert back == "towards"
assert close["sam"][radii.index(0.25)] > 0.6 and all(close[name].max() < 0.3 for name in names if name != "sam")

# %% [markdown]
# From either side SAM asks *uphill*, beyond the pass, and finds a slope that sends it back. What the bars call the basin of the hole at ρ = 0.2 to 0.25
# is mostly the side of the pass on which a run hovers; at 0.3 most hover on the other side, and only at 0.4 they are in the wide well. A share without
# a picture would have hidden this.
#
# **3. m-RWP never leaves.** It descends $(1-\lambda) f + \lambda F$, which is again a sum of wells. At λ = ½ half of the hole stays as it was, however
# large σ is:


# %%
def mixed(lam, sigma):
    """(1 - lam) f + lam F in closed form."""
    smoothed = f.smoothed(sigma)
    parts = [(weight * a, *rest) for weight, surface in ((1 - lam, f), (lam, smoothed)) for a, *rest in surface.wells]
    return Wells(parts, bowl=f.bowl, constant=lam * smoothed.constant)


def text(values):
    return ", ".join(f"{v:.3f}" for v in values)


for sigma in (0.2, 0.4, 1.0):
    surface = mixed(0.5, sigma)
    x = minima(surface)
    print(f"λ = 0.5, σ = {sigma}: minima at x = {text(x[:, 0])}, values {text(surface.value(x))}")
    assert len(x) == 2
for lam in (0.5, 0.7, 0.8, 0.9, 1.0):
    n = len(minima(mixed(lam, 0.3)))
    print(f"λ = {lam}, σ = 0.3: {n} minim{'um' if n == 1 else 'a'}")
torch.testing.assert_close(mixed(0.3, 0.2).value(w), 0.7 * f.value(w) + 0.3 * f.smoothed(0.2).value(w))
assert len(minima(mixed(1.0, 0.3))) == 1

# %% [markdown]
# The clean gradient that makes m-RWP robust against too much noise (*Start here*) is the same that holds it in the hole.
#
# ## Are σ and ρ the same unit?
#
# Here nearly. At a minimum, noise of length $\lVert u\rVert$ in $P$ dimensions raises the loss by $\tfrac{\lVert u\rVert^2}{2P} \operatorname{tr} H$ on
# average, SAM's worst step of length ρ by $\tfrac{\rho^2}{2}\lambda_1$. They do the same harm if
# $\lVert u\rVert/\rho = \sqrt{P \lambda_1/\operatorname{tr} H}$.

# %%
H = f.hessian(minima(f)[0])
print(f"in the hole: P = 2, √(P λ₁ / tr H) = {(2 * torch.linalg.eigvalsh(H)[-1] / H.trace()).sqrt():.3f}")
for P in (2, 100, 10_000):
    print(f"P = {P:6}, {min(P, 10):2} equal curvatures, the others 0: {(P / min(P, 10)) ** 0.5:5.1f}")

# %% [markdown]
# In two dimensions the factor is 1 for a round well. In a network with thousands of weights and few sharp directions it is large: compare radii of SAM
# and RWP only in units of the rise they cause.
#
# ## Write it yourself
#
# Complete the function: the depth and the width of a Gaussian well in two dimensions after smoothing with noise of standard deviation `sigma`.


# %%
def smoothed_well(depth, width, sigma):
    return depth, width


# %%
from rwp_edu.lab.exercises import check_smoothed_well

_ = check_smoothed_well(smoothed_well)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(depth, width, sigma):
    variance = width**2 + sigma**2
    return depth * width**2 / variance, variance**0.5


assert check_smoothed_well(solution)

# %% [markdown]
# ## Where does it fail?
#
# *Sharpness is not a property of the function that a network computes.* The smallest example: a linear network with two layers of one weight each,
# $x \mapsto w_2 w_1 x$, that should learn $x \mapsto x$. The loss is $\tfrac12 (w_1 w_2 - 1)^2$. Multiply one layer and divide the other by α: the same
# function, the same loss, another Hessian.

# %%
rescaling = SURFACES["rescaling"]
for alpha in (1.0, 2.0, 4.0):
    w = torch.tensor([alpha, 1 / alpha], dtype=torch.float64)
    H = rescaling.hessian(w)
    print(f"w = ({w[0]:.2f}, {w[1]:.2f}): network {w.prod():.0f} x, loss {rescaling.value(w):.0f}, tr H = {H.trace():.2f}")
    torch.testing.assert_close(H.trace(), w.square().sum())

drift = rwp_edu.lab.landscape(surface="rescaling", sigma=0.3, methods="sgd,rwp,nso", steps=1000)
drift.finish()
print(drift.text)

# %% [markdown]
# - The argument for ReLU networks is Dinh et al.'s: a flat minimum can be made as sharp as one likes without changing a single prediction, so "flat" by
#   itself cannot mean "good". Noise does choose among these networks: $F$ here is $f + \tfrac{\sigma^2}{2} (w_1^2 + w_2^2)$ + a constant, exactly
#   weight decay. Choose the surface *rescaling* in the lab and watch RWP and NSO slide along the valley. Noise that is measured against the weights
#   (filter-wise, as in *Start here*) is an answer to this.
# - Two wells of similar reach are a poor test: a run that starts between them is decided before noise can speak. Try *double well*, *himmelblau*.
# - These surfaces have no test data. That the wide well is the *better* one was never shown here; the races measure it.
#
# ## Sources
#
# - Reparametrisation: Dinh, Pascanu, Bengio, Bengio, *Sharp Minima Can Generalize For Deep Nets*, [arXiv:1703.04933](https://arxiv.org/abs/1703.04933)
# - SAM: Foret, Kleiner, Mobahi, Neyshabur, [arXiv:2010.01412](https://arxiv.org/abs/2010.01412)
# - m-RWP (there called RWP) and RWP: Li et al., [arXiv:2211.11489](https://arxiv.org/abs/2211.11489), [arXiv:2404.00357](https://arxiv.org/abs/2404.00357); smoothing as a
#   filter: LPF-SGD, Bisla, Wang, Choromanska, [arXiv:2201.08025](https://arxiv.org/abs/2201.08025)
# - NSO: Zhang, Li, Ju, [arXiv:2306.08553](https://arxiv.org/abs/2306.08553)
#
# **Next:** [Smoothing a loss](04_smoothing_a_loss.ipynb)
