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
# # How flat is flat?
#
# **For** everybody who has seen the race of *Start here*. **Takes** about 20 minutes, half a minute of CPU.
#
# After this notebook you can
# 1. *measure* the trace, the largest eigenvalue and the rise under noise of a network that you trained, each with an error;
# 2. *write* an estimator of the trace from products with the Hessian and check it;
# 3. *name* four traps that make such a number say less than it seems to.

# %% [markdown]
# ## Three numbers called flatness
#
# With $H$ the Hessian of the training loss $L$ at the weights $w$:
#
# | number | what it asks |
# |---|---|
# | $\operatorname{tr} H$ | how much does $L$ rise on average over all directions? $\mathbb{E}\,L(w+u) - L(w) \approx \frac{\sigma^2}{2}\operatorname{tr}H$ |
# | $\lambda_1$ | how much in the single steepest one? SAM looks into a direction near it |
# | $\mathbb{E}\,L(w+e) - L(w)$ | how much under the noise that RWP trains with? It reaches far: no Hessian is needed |
#
# **Predict.** Five methods train on digits with wrong labels. Who has the smallest value of each? Will the order be the same for all three, and
# will it be the order of the test accuracies?

# %%
my_prediction = {"trace": ..., "largest eigenvalue": ..., "rise under noise": ..., "test accuracy": ...}

# %% [markdown]
# Press **Start**. The third picture shows the trace of every run, measured beside the training; the menu below it has the two other
# numbers. Bands are one standard deviation over eight seeds. Move **σ** while it trains.

# %%
import rwp_edu

lab = rwp_edu.lab.race(third="trace", pace=100, show="sigma")
lab

# %%
lab.run()
last, problem = lab.record.rows[-1], lab.record.problem
for number, name in enumerate(lab.record.entrants):
    print(f"{name:6}", *(f"  {m.noun} {m.mean(last[m.name][number])}" for m in (problem.score, *problem.flatness)))

# %% [markdown]
# ## Look around
#
# The same as *Look around* in the race: the loss over a plane through the weights of one run, along a line through all of them, and the spectra of
# their Hessians. Change **minimum of**; move the cross, or click, to read the accuracy anywhere.

# %%
view = lab.around(entrant="sgd")
view

# %% [markdown]
# Things to see:
# - **random directions**: how far does the loss of SGD stay below that of RWP? The valley of RWP is *higher* and flatter: with 27 % wrong labels a low training loss
#   means that mistakes were learnt.
# - **sharpest directions**: the same rise at about a tenth of the distance. A random direction sees $\operatorname{tr}H/P$, of 4,810 directions nearly all flat.
# - **the spectrum**: almost all eigenvalues are near 0, and a few stand apart; for RWP count them: there are ten classes.
# - **other solutions**: is there a wall between SGD and RWP? They began at the same weights, and the loss between them is hardly higher than at RWP.
# - **loss on: test**: is the lowest point of the plane still where the training ended?

# %% [markdown]
# ## Reveal: a trace from products
#
# $H$ has $4810^2$ entries, but $Hv$ costs only about two gradients. With $z_i = \pm 1$ at random $\mathbb{E}\,zz^\top = I$, so
#
# $$\operatorname{tr}H = \mathbb{E}\, z^\top H z, \qquad \operatorname{Var} z^\top H z = 2\Big(\|H\|_F^2 - \sum_i H_{ii}^2\Big).$$
#
# `rwp_edu.curvature.trace.trace` draws until the standard error is as small as you ask. For such a small network the trace also has a closed form, layer by layer, and the two
# must agree:

# %%
from rwp_edu.curvature.lanczos import eigenvalues
from rwp_edu.curvature.trace import trace

objective = lab.objective("sgd", seed=0)
exact = objective.traces()
for wanted in (0.2, 0.05, 0.01):
    found = trace(objective, rtol=wanted, budget=5000)
    print(f"asked for {wanted:4.0%}: {found} from {found.draws} products")
print(f"exactly: {sum(exact.values()).item():.3f} =", " + ".join(f"{t.item():.2f} ({name})" for name, t in exact.items()))
print("largest eigenvalues:", [round(v, 2) for v in eigenvalues(objective, k=3).values.tolist()])
assert abs(found.value - sum(exact.values()).item()) < 4.5 * found.error
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %% [markdown]
# ## Write it yourself
#
# `product(v)` gives $Hv$ for a vector of `size` numbers. Return the mean of $z^\top H z$ over the draws and its standard error.

# %%
import torch


def my_trace(product, size, draws):
    samples = []
    return 0.0, 0.0


# %%
from rwp_edu.lab.exercises.trace import check_trace

_ = check_trace(my_trace)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.

# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(product, size, draws):
    samples = []
    for _ in range(draws):
        z = torch.randint(0, 2, (size,)) * 2.0 - 1
        samples.append(z @ product(z))
    samples = torch.stack(samples)
    return samples.mean(), samples.std() / draws**0.5


assert check_trace(solution)

# %% [markdown]
# ## One scale up: your own network
#
# The same functions take any torch model with its data. Nothing of the model is touched: mode, buffers, gradients and random states stay as they are.

# %%
from rwp_edu.curvature.objective import of_model

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Unflatten(1, (1, 8, 8)), torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
    torch.nn.Flatten(), torch.nn.Linear(512, 10),
)
x, y = lab.problem.train_x[0], lab.problem.train_y[0]
optimizer = rwp_edu.optim.RWP(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), sigma=0.02)


def closure():
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss


for _ in range(40):
    optimizer.zero_grad()
    optimizer.step(closure)
batches = list(zip(x.split(50), y.split(50)))
evaluated = of_model(model, torch.nn.functional.cross_entropy, batches)
print(f"loss {evaluated.value:.3f}, trace {trace(evaluated, rtol=0.1, budget=200)}, largest eigenvalue {eigenvalues(evaluated).values[0]:.2f}")

# %% [markdown]
# ## Where does it mislead? Four traps
#
# **1. The mode of BatchNorm** and **2. which weights count** are choices that have to be stated:

# %%
for what, choice in {
    "as it predicts": {}, "normalised by batches of 50": {"mode": "train"}, "last layer only": {"parameters": ["5.weight", "5.bias"]},
}.items():
    other = of_model(model, torch.nn.functional.cross_entropy, batches, **choice)
    print(f"{what:28} loss {other.value:.3f}, trace {trace(other, rtol=0.1, budget=200)}")

# %% [markdown]
# Random augmentation is one more such choice: it has to be the same at every point of a measurement, and `of_model` makes it so, for one draw.
#
# **3. Kinks.** A ReLU network is made of pieces, and the Hessian sees only the piece that $w$ lies in. Real noise crosses kinks. If the loss were smooth, all
# numbers below would be the trace:

# %%
from rwp_edu.curvature.sharpness import average_rise

for sigma in (0.001, 0.003, 0.01, 0.03):
    rise = average_rise(objective, sigma, rtol=0, budget=200)
    print(f"σ = {sigma:5}: 2/σ² (E L(w+u) - L(w)) = {2 / sigma**2 * rise.value:6.1f} ± {2 / sigma**2 * rise.error:.1f}")
print(f"trace of the Hessian:                  {sum(exact.values()).item():6.1f}")

# %% [markdown]
# **4. The level of the loss.** The curvature of a cross-entropy falls with the loss itself: a network that fits all its labels is flat because there is nothing left to
# learn. Compare at an equal training loss: set the **x axis** of the race to *loss*.

# %%
for number, name in enumerate(lab.record.entrants):
    ratio = last["trace"][number] / last["train_loss"][number]
    print(f"{name:6} trace / training loss = {ratio.mean():5.0f}")

# %% [markdown]
# With wrong labels and weight decay the perturbed methods are flat *although* their training loss is higher, so the trap is not what is at work here. With clean labels and little
# weight decay it is: *Does flatness explain generalisation?* shows that, and that rescaling a ReLU network changes all of these numbers and nothing else.
#
# ## Sources
#
# - Hutchinson's estimator: M. F. Hutchinson 1990; Hutch++ [arXiv:2010.09649](https://arxiv.org/abs/2010.09649); spectra of networks [arXiv:1901.10159](https://arxiv.org/abs/1901.10159)
# - pictures of losses [arXiv:1712.09913](https://arxiv.org/abs/1712.09913), planes through three solutions [arXiv:1802.10026](https://arxiv.org/abs/1802.10026)
# - noise, trace and NSO [arXiv:2306.08553](https://arxiv.org/abs/2306.08553); SAM [arXiv:2010.01412](https://arxiv.org/abs/2010.01412); RWP [arXiv:2211.11489](https://arxiv.org/abs/2211.11489)
# - rescaling [arXiv:1703.04933](https://arxiv.org/abs/1703.04933)
#
# **Next:** [SAM's radius and RWP's radius](08_two_radii.ipynb)
