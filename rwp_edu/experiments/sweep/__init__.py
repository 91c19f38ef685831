"""Sweeps: a grid of settings on one problem, run once, kept, compared, and chosen from honestly.

    found = sweep("digits", "sgd,rwp,m-rwp", {"sigma": [0.05, 0.1, 0.2], "lam": [0.3, 0.5]}, seeds=8, out="sweep")

Every method is combined with the values of those parameters that act on it: SGD is run once, RWP three times, m-RWP six times.
What differs only in values that an entrant may pin trains in one run, ``GROUP`` settings at a time (``rwp_edu.training.batched``); other
settings have runs of their own. The groups follow from the grid alone, whatever the engine, and a group is kept as a whole, because
who else is in a group may change the last digit of a matrix product. So all engines give the same records.

**Choosing.** The best setting of a method is chosen on data that the problem holds back (``Problem.held_back``; for other pictures as many as ``validation`` says), over all seeds, and reported on test
data. Where nothing is held back, the first half of the seeds chooses and the other half reports: the mean of the best of many is better than what the
best one is worth, so what chose does not report. Every seed has its own split of the images, its own label noise, start and batches; but all splits are of
one data set and the luck of a run is in both of its accuracies, so for a claim run what was chosen again on other seeds (``--set seed=1000``).
"""

from rwp_edu.experiments.sweep.plan import plan
from rwp_edu.experiments.sweep.results import Sweep
from rwp_edu.experiments.sweep.work import sweep

__all__ = ["Sweep", "plan", "sweep"]
