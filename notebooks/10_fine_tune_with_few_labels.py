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
# # Fine-tune with few labels
#
# **For** everybody who fine-tunes networks on little data. **Takes** about 20 minutes, a minute of CPU.
#
# After this notebook you can
# 1. *compare* methods in a setting near that of noise stability optimization (NSO), fine-tuning a pre-trained network, with few labels, some of them wrong;
# 2. *derive* the PAC-Bayes value from a bound and *compute* it;
# 3. *tell* what of the gain a larger weight decay would have given, and what is left on clean labels.

# %% [markdown]
# ## A network that knows half of the digits
#
# A small tanh network was trained on all images of the digits 0 to 4. It gets a new last layer and 20 images of each of the digits 5 to 9, of which three in ten have
# a random label; all weights are trained. Every seed has its own network, images and wrong labels, the same for all methods.
#
# **Predict.** Plain SGD reaches 77 % on test images of the new digits. How many per cent do SAM and NSO reach? And who ends farther from where it started?

# %%
my_prediction = {"sam": ..., "nso": ..., "farther from the start": ...}

# %% [markdown]
# Press **Start**. The third picture is the PAC-Bayes value, measured beside the training: below is where it comes from. Then move **σ** and press Reset, Start.

# %%
import rwp_edu

lab = rwp_edu.lab.race(problem="fine-tuning", third="pac_bayes", pace=50, show="sigma,rho")
lab

# %%
lab.run()


def table(lab):
    last, problem = lab.record.rows[-1], lab.record.problem
    wanted = [problem.metric(name) for name in ("test_accuracy", "distance", "trace", "top_eigenvalue", "pac_bayes")]
    for number, name in enumerate(lab.record.entrants):
        print(f"{name:20}", *(f"  {m.noun} {m.mean(last[m.name][number])}" for m in wanted))


table(lab)

# %% [markdown]
# Things to see:
# - SGD learns the wrong labels by heart late in the training: its accuracy *falls* after some thirty updates. Stopping early would help it too.
# - All methods end about equally far from the start: most of the way is the weight decay, which pulls the weights to zero and not to the start.
# - The trace of NSO's runs is near zero, for some seeds negative: their weights are a minimum of the *smoothed* loss, not of the loss. So look at the
#   largest eigenvalue as well. Where the trace is negative the PAC-Bayes value is drawn as zero.
#
# ## Reveal: why the product of trace and distance
#
# Train, then add noise $u \sim N(0, s^2 I)$ to the weights $w$. A PAC-Bayes bound for such a random network, with a prior of the same width around the start $w_0$, says that
# its test loss exceeds its training loss by little if $\|w-w_0\|^2/(2s^2)$ is small against the number $n$ of examples. The noise itself raises the training loss by
# about $\frac{s^2}{2}\operatorname{tr}H$. In short, and up to constants,
#
# $$\text{bound}(s^2) = \frac{s^2}{2}\operatorname{tr}H + \frac{\|w-w_0\|^2}{2\,n\,s^2}.$$
#
# Nobody has to train with that noise: $s$ is ours to choose *afterwards*. So choose the best one.
#
# ## Write it yourself
#
# Return the $s^2$ at which the bound is smallest, and the bound there. `distance` is $\lVert w-w_0\rVert$, not its square.

# %%
def my_best_noise(trace, distance, n):
    return 1.0, 0.0


# %%
from rwp_edu.lab.exercises.pac_bayes import check_best_noise

_ = check_best_noise(my_best_noise)

# %% [markdown] tags=["solution"]
# When you are stuck, open the next cell for a solution.

# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(trace, distance, n):
    s2 = distance / (n * trace) ** 0.5  # trace / 2 = distance² / (2 n s⁴)
    return s2, distance * (trace / n) ** 0.5


assert check_best_noise(solution)

# %% [markdown]
# That is the number in the third picture. It depends on the product of trace and distance: a flat place far away is worth as much as a sharp one near by.
#
# ## Just weight decay?
#
# The same with three times the weight decay for SGD, the best of a few that were tried, and with twice the updates.

# %%
rival = rwp_edu.lab.race(problem="fine-tuning", methods="sgd,sgd:weight_decay=0.1,sam,nso", flatness_every=300)
rival.run()
table(rival)
longer = rwp_edu.lab.race(problem="fine-tuning", methods="sgd", steps=600)
longer.run()
print(f"{'sgd, twice as long':20}   {longer.record.problem.score.mean(longer.record.test_accuracy[-1, 0])}")
print(f"\n{rwp_edu.lab.said(my_prediction)}")

# %% [markdown]
# Weight decay gives most of the gain; how much is left, the paired difference by seed says:

# %%
accuracy = dict(zip(rival.record.entrants, rival.record.test_accuracy[-1]))
for name in ("sam", "nso"):
    difference = 100 * (accuracy[name] - accuracy["sgd:weight_decay=0.1"])
    print(f"{name} - SGD with weight decay 0.1: {difference.mean():+.1f} ± {difference.std(ddof=1) / len(difference) ** 0.5:.1f} points")

# %% [markdown]
# ## Where does it fail?
#
# With clean labels there is little to gain: the numbers of flatness fall as the paper says, and the accuracy stays where it was.

# %%
clean = rwp_edu.lab.race()
clean.preset("few-clean-labels")
clean.run()
table(clean)

# %% [markdown]
# In that setting the training loss is near zero for everybody, and the trace of a cross-entropy falls with the loss: *Does flatness explain generalisation?* takes that up.
#
# This is a network of 8,645 weights on images of 8 x 8 pixels. What carries over is the comparison, not the per cents: always show SGD with a tuned weight decay and
# with twice the updates beside a method that costs two gradients.
#
# ## One scale up: a ResNet on pictures of your own
#
# The command line does the same with torchvision's ResNets. Train a network on one set of classes, or take one from elsewhere, and start from it on another set: the last layer is
# made anew because there are other classes, everything else has to fit.
#
# ```text
# rwp-edu train folder:first --set model=resnet18 --set test=500 --set batch=50 --set crop=4 --set flip=on --steps 400 --methods sgd --out pre
# rwp-edu train folder:second --set model=resnet18 --set weights=pre/networks/sgd-seed0.pt --set train=100 --set label_noise=0.3 \
#     --set batch=25 --set lr=0.02 --steps 100 --seeds 2 --methods sgd,sam:rho=0.1,rwp:sigma=0.03,m-rwp:sigma=0.06
# ```
#
# (With `weights=IMAGENET1K_V1` it starts from ImageNet's weights, which torchvision downloads.) With five classes of CIFAR-10, 500 pictures of each, as `first` and 20 pictures
# of each of the other five as `second`, on one core and with two seeds, we got
#
# | | test accuracy | test loss | wrong labels learnt | distance from the start |
# |---|---|---|---|---|
# | SGD | 43.4 ± 2.4 % | 1.47 | 54 % | 2.0 |
# | SAM, ρ = 0.1 | 42.3 ± 1.1 % | 1.36 | 33 % | 1.9 |
# | RWP, σ = 0.03 | 35.9 ± 1.1 % | 1.42 | 31 % | 3.1 |
# | m-RWP, σ = 0.06 | 41.5 ± 1.0 % | 1.37 | 24 % | 5.8 |
#
# The perturbed methods learn about half as many wrong labels and have the smaller test loss, and none is more accurate: after 400 updates the network that they start from knows too little (47 %
# on its own five classes) to be worth protecting, and even a σ of a fifth of the one above may be too large for 11 million weights. A result like this one is no verdict on a method; it is
# what a first run looks like before anything is tuned.
#
# ## Sources
#
# - NSO, its regime and its bound: [arXiv:2306.08553](https://arxiv.org/abs/2306.08553); few and noisy labels, by the same authors: [arXiv:2206.02659](https://arxiv.org/abs/2206.02659)
# - SAM [arXiv:2010.01412](https://arxiv.org/abs/2010.01412); RWP [arXiv:2211.11489](https://arxiv.org/abs/2211.11489)
# - PAC-Bayes for networks with noise in the weights: [arXiv:1703.11008](https://arxiv.org/abs/1703.11008)
#
# **Next:** [Train on images](11_train_on_images.ipynb)
