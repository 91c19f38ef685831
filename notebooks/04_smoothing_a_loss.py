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
# # Smoothing a loss
#
# **For** readers who know what a gradient and a Hessian are. **Takes** about 20 minutes, ten seconds of CPU.
#
# After this notebook you can
# 1. *compute* the smoothed loss of a quadratic and of $x^4$ by hand, and *check* it by sampling;
# 2. *predict* from the trace of the Hessian how much noise raises a loss, and *say* from which noise on the prediction is wrong;
# 3. *write* a smoothed loss in three lines and check it.

# %% [markdown]
# ## What noise descends
#
# Random weight perturbation takes its gradient at $w+u$ with fresh noise $u$ at every update. On average it descends another function than the
# loss $f$, the **smoothed loss**
#
# $$F(w) = \mathbb{E}_u\, f(w+u), \qquad u \sim \mathcal{N}(0, \sigma^2 I).$$
#
# The next picture cuts through a loss (grey) with two minima: a deep one that is sharp (0.12 wide), and a shallower one that is wide (0.9).
#
# **Predict**, before you move anything: from which σ on is the wide minimum of $F$ the lower one? And from which σ on is the sharp one no minimum
# of $F$ any more?

# %%
my_prediction = {"level at sigma": ..., "gone at sigma": ...}

# %%
import rwp_edu

lab = rwp_edu.lab.smoothing()
lab

# %% [markdown]
# Move **σ**, slowly. Things to see:
# - the blue line is $F$, exact. The sharp minimum (orange dot) rises, the wide one (green dot) hardly moves;
# - the dashed line is what the second derivatives *at each place* promise, $f + \tfrac{\sigma^2}{2} \operatorname{tr} H$. Where does it leave $F$ first?
# - on the right is the same for one place $w$ (violet) and all σ at once. Put $w$ to 0.5, into the wide minimum: how far does the dashed line hold there?
# - put $w$ to −0.3, on the shoulder. Noise *lowers* the loss there, as long as σ is small.

# %% [markdown]
# ## Reveal

# %%
import torch

from rwp_edu.lab.explorers.smoothing import SURFACE, minima, scales

level, gone = scales()
print(f"level at σ = {level:.3f}, gone at σ = {gone:.3f}\n")
print(f"{'σ':>6} {'F sharp':>8} {'F wide':>8}")
for sigma in (0.0, 0.05, level, 0.15, 0.2):
    smoothed = SURFACE.smoothed(sigma)
    heights = [smoothed.value(torch.tensor([x, 0.0], dtype=torch.float64)).item() for x in minima(smoothed)]
    shown = ["    gone", *(f"{height:8.3f}" for height in heights)][-2:]
    print(f"{sigma:6.3f}", *shown)
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %% [markdown]
# Both scales are about the *width* of the sharp well: noise that is as wide as a well fills it. The wide well is 7 times as wide and does not care.
# That is all there is to "noise prefers flat minima"; the rest of this notebook is about how to foresee it.
#
# ## One formula
#
# Expand $f(w+u)$ around $w$ and take the mean. Odd powers of $u$ vanish for every symmetric law, so
#
# $$F(w) = f(w) + \frac{\sigma^2}{2} \operatorname{tr} H(w) + O(\sigma^4).$$
#
# **By hand**: what is $F$ for $f = \tfrac12 (a x^2 + b y^2)$? And for $f = x^4$? (You need $\mathbb{E} z^2 = 1$ and $\mathbb{E} z^4 = 3$.) Then run this
# cell: a quadratic is raised by $\sigma^2 (a+b)/2$ everywhere, so it is *not* changed in shape, and $x^4$ gets $x^4 + 6\sigma^2x^2 + 3\sigma^4$, of
# which the formula above knows all but the last term.

# %%
from rwp_edu.problems.surfaces import Polynomial, quadratic

sigma, x = 0.5, torch.tensor([[0.3, -1.2], [2.0, 0.7]], dtype=torch.float64)
bowl, fourth = quadratic(3.0, 1.0), Polynomial({(4, 0): 1.0})


def second_order(f):
    return f.value(x) + sigma**2 / 2 * f.hessian(x).diagonal(dim1=-2, dim2=-1).sum(-1)


print("quadratic:", bowl.terms, "->", bowl.smoothed(sigma).terms)
print("x⁴:       ", fourth.terms, "->", fourth.smoothed(sigma).terms)
torch.testing.assert_close(bowl.smoothed(sigma).value(x), second_order(bowl))
torch.testing.assert_close(fourth.smoothed(sigma).value(x), second_order(fourth) + 3 * sigma**4)
torch.testing.assert_close(fourth.smoothed(sigma).terms[2, 0], 6 * sigma**2)

# %% [markdown]
# ## Sampling
#
# For a network no closed form is at hand, and one samples. `expected_rise` is the mean of $f(w+u)-f(w)$ with its standard error. Here it is compared with
# the closed form, in the two minima of the picture.

# %%
from rwp_edu.curvature import expected_rise

sharp, wide = torch.tensor([[-0.5, 0.0], [0.5, 0.0]], dtype=torch.float64)
print(f"{'':6} {'σ':>6} {'exact':>9} {'measured':>20} {'σ²/2 tr H':>10}")
for name, w in (("sharp", sharp), ("wide", wide)):
    for sigma in (0.02, 0.1, 0.3):
        exact = (SURFACE.smoothed(sigma).value(w) - SURFACE.value(w)).item()
        rise = expected_rise(SURFACE.value, w, sigma, draws=4000)
        print(f"{name:6} {sigma:6.2f} {exact:9.5f} {str(rise):>20} {sigma**2 / 2 * SURFACE.hessian(w).trace():10.5f}")
        assert abs(rise.value - exact) < 4 * rise.error

# %% [markdown]
# *Two tricks of the trade.* Every draw can be used twice, as $w+u$ and $w-u$: the slope, which only makes noise, cancels. And the law hardly matters while
# the second-order term rules: only mean and variance enter it. (Rademacher noise, ±σ, has no spread at all here: a pair sees two of four corners, and the
# surface is the same above and below the line.)

# %%
w, sigma = sharp + torch.tensor([0.1, 0.0]), 0.02  # beside the minimum, where there is a slope
exact = (SURFACE.smoothed(sigma).value(w) - SURFACE.value(w)).item()
for antithetic in (False, True):
    rise = expected_rise(SURFACE.value, w, sigma, draws=2000 if antithetic else 4000, antithetic=antithetic)
    print(f"4000 losses, {'pairs w ± u' if antithetic else 'one-sided  '}: {rise}   (exact {exact:.4g})")
    assert abs(rise.value - exact) < 4 * rise.error
for law in ("gaussian", "uniform", "laplace", "rademacher"):
    print(f"{law:10}", expected_rise(SURFACE.value, w, sigma, law=law, draws=2000))

# %% [markdown]
# ## Write it yourself
#
# `f` takes many weights at once, shape (N, P), and gives N losses; `w` has shape (P,). Complete the smoothed loss, the mean over `draws` samples
# (`torch.randn` makes standard normal numbers):


# %%
def smoothed_loss(f, w, sigma, draws):
    return f(w[None]).mean()


# %%
from rwp_edu.lab.exercises import check_smoothed_loss

_ = check_smoothed_loss(smoothed_loss)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(f, w, sigma, draws):
    u = sigma * torch.randn(draws, len(w), dtype=w.dtype)
    return f(w + u).mean()


assert check_smoothed_loss(solution)

# %% [markdown]
# ## Where does it fail?
#
# Two small networks, 64-32-10, trained in the same way on 300 digits; one has tanh inside, the other ReLU. Released tools measure the trace of a Hessian
# in two ways: with second derivatives (Hutchinson's $\mathbb{E}\, v^\top H v$), or as $\tfrac{2}{\sigma^2}(F - f)$ with some small σ. Do they agree? The table has
# the second over the first, ± one standard error.

# %%
from rwp_edu.curvature import hessian_trace
from rwp_edu.experiments.variance_functions import subject
from rwp_edu.problems.digits import Digits

sigmas, ratios = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3), {}
print(f"{'σ':>12}", *(f"{s:>12}" for s in sigmas))
for name in ("tanh", "relu"):
    net = subject(name)
    trace = hessian_trace(net.loss, net.w, draws=200)
    rises = [expected_rise(net.loss, net.w, s, draws=100) for s in sigmas]
    ratios[name] = [(2 / s**2 * r.value / trace.value, 2 / s**2 * r.error / trace.value) for s, r in zip(sigmas, rises)]
    print(f"{name:>12}", *(f"{value:>6.2f} ±{error:4.2f}" for value, error in ratios[name]), f"  trace {trace}")
start = Digits([0], width=32, dtype=torch.float64).init()[0]
trace, rise = hessian_trace(net.loss, start, draws=200), expected_rise(net.loss, start, 0.001, draws=100)
print(f"ReLU before training, σ = 0.001: {2e6 * rise.value / trace.value:.2f} ± {2e6 * rise.error / trace.value:.2f}")
assert all(abs(value - 1) < 0.1 for value, _ in ratios["tanh"][:5])
assert all(value - 4 * error > 2 for value, error in ratios["relu"][:3])

# %% [markdown]
# - **tanh**: they agree up to σ ≈ 0.03. For *large* σ the expansion breaks down, as in the picture.
# - **ReLU**: for *small* σ the rise is several times what the Hessian says, and it gets worse, not better, down to the smallest σ here. At a kink
#   the slope jumps; noise feels the jump, second derivatives do not see it. Before the training the kinks lie anywhere and count up or down; training drives
#   units onto kinks that bend upwards.
# - So "trace of the Hessian" of a ReLU network is two different numbers. Ask of a paper which one it reports, and at which σ.
# - And a flat minimum is not yet a good one: that $F$ is low says nothing about test data. The races do.
#
# ## Sources
#
# - Smoothing and the trace: Zhang, Li, Ju, *Noise Stability Optimization for Finding Flat Minima*, [arXiv:2306.08553](https://arxiv.org/abs/2306.08553)
# - Random weight perturbation: Li et al., [arXiv:2211.11489](https://arxiv.org/abs/2211.11489), [arXiv:2404.00357](https://arxiv.org/abs/2404.00357); smoothing as a filter: Bisla, Wang, Choromanska, LPF-SGD, [arXiv:2201.08025](https://arxiv.org/abs/2201.08025)
# - Noise that smooths on the way: Orvieto et al., Anti-PGD, [arXiv:2202.02831](https://arxiv.org/abs/2202.02831)
# - Digits: Alpaydin and Kaynak, UCI Machine Learning Repository, [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), CC BY 4.0
#
# **Next:** [Noise in two directions](05_noise_in_two_directions.ipynb)
