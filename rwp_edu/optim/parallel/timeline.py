"""One update of a method on several workers: who evaluates which point in which round, and who waits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rwp_edu.methods.trace_update import take_apart


@dataclass(frozen=True)
class Bar:
    """A point, or a shard of it, on a worker; times are in gradients of a whole batch."""

    worker: int
    begin: float
    length: float
    round: int
    label: str
    about: str


@dataclass(frozen=True)
class Timeline:
    """The bars of an update, the times at which its rounds end, and how many workers share a point."""

    bars: tuple[Bar, ...]
    ends: tuple[float, ...]
    workers: int
    shards: int

    @property
    def work(self) -> float:
        return sum(bar.length for bar in self.bars)

    @property
    def length(self) -> float:
        """When the update is complete, in gradients."""
        return self.ends[-1]

    @property
    def speedup(self) -> float:
        return self.work / self.length

    @property
    def waits(self) -> list[tuple[int, float, float]]:
        """Who waits, from when to when: for the others at the end of every round."""
        out = []
        for number, end in enumerate(self.ends, 1):
            begin = self.ends[number - 2] if number > 1 else 0.0
            for worker in range(self.workers):
                busy = sum(bar.length for bar in self.bars if bar.worker == worker and bar.round == number)
                out.append((worker, begin + busy, end))
        return out

    @property
    def idle(self) -> float:
        """The share of the workers' time that nobody uses."""
        return 1 - self.work / (self.workers * self.length)


def timeline(method: str, workers: int, k: int = 1, shards: int | None = 1) -> Timeline:
    """One update of ``method`` with ``k`` draws, its points shared out as ``rwp_edu.optim.parallel`` does it.

    ``shards`` must divide ``workers``; None: as many as make the update shortest. A gradient of a part of a batch takes that part of the time.

    >>> [timeline(name, workers=2).length for name in ("sgd", "sam", "m-rwp")]
    [1.0, 2.0, 1.0]
    """
    if shards is None:
        divisors = [s for s in range(1, workers + 1) if workers % s == 0]
        return min((timeline(method, workers, k, s) for s in divisors), key=lambda t: (round(t.length, 9), t.shards))
    if shards < 1 or workers % shards:
        raise ValueError(f"shards must divide the number of workers, {workers}; got {shards}")
    w = torch.tensor([1.0, 2.0])
    answers = take_apart(method, w, lambda at: at.w, k=k, sigma=0.1, rho=0.1).answers
    bars, ends, perturbed = [], [0.0], 0
    for number in range(1, answers[-1].round + 1):
        asked = [a.at for a in answers if a.round == number]
        free = [ends[-1]] * workers
        for j, at in enumerate(asked):
            perturbed += not torch.equal(at.w, w)
            label = "w" if torch.equal(at.w, w) else f"w + e<sub>{perturbed}</sub>"
            about = f"round {number}, batch {at.batch + 1}" + (f", part {at.part + 1} of {at.of}" if at.of > 1 else "")
            for shard in range(shards):
                worker = j % (workers // shards) * shards + shard
                share = f", shard {shard + 1} of {shards}" if shards > 1 else ""
                bars.append(Bar(worker, free[worker], 1 / at.of / shards, number, label, about + share))
                free[worker] += 1 / at.of / shards
        ends.append(max(free))
    return Timeline(tuple(bars), tuple(ends[1:]), workers, shards)
