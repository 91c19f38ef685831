"""The table of claims: what was published, how it is tested here, and what has to be true for it to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rwp_edu.evidence.verdicts import Statement as S

RWP, MRWP, NSO, SAM = "arXiv:2211.11489", "arXiv:2404.00357", "arXiv:2306.08553", "arXiv:2010.01412"


@dataclass(frozen=True)
class Claim:
    """``settings`` go to the experiment as they are; ``quick`` replaces some of them. ``seconds`` is what the claim takes on one core with
    16 seeds. ``note`` says what to keep in mind when the verdict is read, never what the verdict is."""

    name: str
    title: str
    source: str
    published: str
    experiment: str
    settings: Mapping[str, Any]
    statements: tuple[S, ...]
    seconds: float
    note: str = ""
    quick: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


DIGITS = {"problem": "digits"}
NAIVE = "rwp:sigma=0.1:kind=isotropic"
NAIVE_FT = "rwp:sigma=0.15:kind=isotropic"
ACC, DIST = "test_accuracy", "distance"
SIX = ("sgd", "sgd:weight_decay=0.04", "sam", "rwp", "m-rwp:sigma=0.15", "nso")
GRID = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2)
MS = "milliseconds"
SIDES = (("sgd", "one core"), *(("sam", way) for way in ("one core", "two threads", "two workers", "two shards")), ("m-rwp", "two workers"))
SENSING = {"problem": "sensing", "steps": 1000}

CLAIMS: dict[str, Claim] = {
    row.name: row
    for row in (
        Claim(
            "smoothing-leaves-sharp-wells", "Smoothing makes runs leave a sharp, deeper minimum for a wide one, and mixing keeps that", RWP,
            "argued from the smoothed loss", "surface", {"methods": ("sgd", "rwp", "nso", "m-rwp"), "radius": 0.22},
            (S("rwp", "<", "sgd", "sharp", 0.5), S("nso", "<", "sgd", "sharp", 0.5), S("m-rwp", "<", "sgd", "sharp", 0.5)), 16,
            "half of m-RWP's loss is unsmoothed: it keeps its hole",
        ),
        Claim(
            "sam-and-rwp-part", "At an equal radius in two dimensions RWP leaves the sharp minimum and SAM stays", RWP, "no figure",
            "surface", {"methods": ("sgd", "sam", "rwp"), "radius": 0.2}, (S("rwp", "<", "sam", "sharp", 0.5), S("sam", ">", "sgd", "sharp", margin=-0.1)), 13,
        ),
        Claim(
            "matrix-sensing", "In matrix sensing two-point noise ends nearer to the truth than naive noise, and this nearer than GD", NSO,
            "test error NSO < naive < GD, d = 100", "race", SENSING | {"methods": ("sgd", "rwp", "nso"), "twice": ("rwp",)},
            (S("nso", "<", "rwp", DIST, log=True), S("rwp", "<", "sgd", DIST, log=True), S("nso", "<", "rwp x2", DIST, log=True)), 40,
            "d = 30, r = 2, n = 300, large start; the third line gives naive noise the two gradients per update that NSO has",
        ),
        Claim(
            "matrix-sensing-small-start", "From a small start, too, two-point noise ends nearer to the truth than GD", NSO, "not shown there", "race",
            SENSING | {"init": 0.01, "methods": ("sgd", "rwp", "nso")}, (S("nso", "<", "sgd", DIST, log=True),), 25,
            "gradient descent from a small start finds low rank by itself",
        ),
        Claim(
            "matrix-sensing-weight-decay", "Two-point noise is nearer to the truth than GD with a tuned weight decay", NSO, "not compared there", "race",
            SENSING | {"methods": ("sgd", "sgd:weight_decay=0.45", "nso")}, (S("nso", "<", "sgd:weight_decay=0.45", DIST, log=True),), 25,
            "the trace is a multiple of the squared norm of W here, so weight decay does the same",
        ),
        Claim(
            "more-draws", "More pairs of noise per update help", NSO, "slightly better with more draws", "race",
            SENSING | {"methods": ("nso", "nso:k=4")}, (S("nso:k=4", "<", "nso", DIST, log=True),), 45,
            "at equal updates, so four pairs have four times the gradients",
        ),
        Claim(
            "two-point-variance", "A pair of opposite noises has far less variance than two independent ones", NSO, "the first-order term cancels",
            "two_points", {"sigmas": (0.003, 0.03)},
            (S("tanh, σ = 0.003", ">", 500.0, "ratio"), S("tanh, σ = 0.03", ">", 5.0, "ratio"), S("relu, σ = 0.003", ">", 500.0, "ratio")), 60,
            "one trained network each; seeds are those of the noise. Kinks of ReLU do not cancel",
        ),
        Claim(
            "noise-measures-the-trace", "The mean rise under small noise measures the trace of the Hessian", NSO, "within a few per cent", "noise_as_trace",
            {"sigma": 0.01, "draws": 400},
            (S("noise, tanh", "=", 1.0, "ratio", margin=0.1), S("noise, ReLU", "=", 1.0, "ratio", margin=0.1), S("Hutchinson, ReLU", "=", 1.0, "ratio", margin=0.1)),
            40, "ratios to the exact trace of trained networks", {"draws": 100},
        ),
        Claim(
            "flatter-at-no-cost", "NSO cuts trace and largest eigenvalue, at no cost in accuracy", NSO, "trace -12.6 to -17.7 %, largest eigenvalue -7.8 to -12.8 %, by version",
            "race", {"problem": "fine-tuning", "shots": 10, "label_noise": 0.0, "weight_decay": 0.005, "methods": ("sgd", "nso:sigma=0.05", "rwp:sigma=0.05:kind=isotropic", "sam:rho=0.2"),
                     "flatness": True},
            (S("nso:sigma=0.05", "<", "sgd", "trace", 0.823), S("nso:sigma=0.05", "<", "sgd", "top_eigenvalue", 0.872),
             S("nso:sigma=0.05", ">", "sgd", ACC, margin=-0.005)), 25, "fine-tuning on ten clean labels per class; so do the other methods, see the table",
        ),
        Claim(
            "few-labels", "NSO fine-tunes better on few and partly wrong labels, and is flatter", NSO, "up to +2.4 % over sharpness-aware methods", "race",
            {"problem": "fine-tuning", "methods": ("sgd", "sgd:weight_decay=0.1", "sam", "nso", NAIVE_FT), "twice": ("sgd",), "flatness": True},
            (S("nso", ">", "sgd", ACC), S("nso", ">", "sgd x2", ACC), S("nso", ">", "sgd:weight_decay=0.1", ACC), S("nso", ">", "sam", ACC),
             S("nso", "<", "sgd", "pac_bayes")), 45, "20 labels per class, 27 % wrong",
        ),
        Claim(
            "naive-noise", "Naive one-point noise gives no gain over SGD in fine-tuning", NSO, "no significant gain", "race",
            {"problem": "fine-tuning", "methods": ("sgd", NAIVE_FT, "nso")}, (S(NAIVE_FT, "=", "sgd", ACC, margin=0.01), S("nso", ">", NAIVE_FT, ACC)), 15,
            "equal to within one point of accuracy",
        ),
        Claim(
            "naive-noise-digits", "Naive one-point noise gives no gain over SGD on digits trained from scratch", NSO, "no significant gain", "race",
            DIGITS | {"methods": ("sgd", NAIVE, "nso")}, (S(NAIVE, "=", "sgd", ACC, margin=0.01), S("nso", ">", NAIVE, ACC)), 6,
        ),
        Claim(
            "mixing-tolerates-noise", "Mixing with the clean gradient allows much more noise", RWP, "larger scales for m-RWP", "race",
            DIGITS | {"methods": tuple(f"{m}:sigma={s}" for m in ("rwp", "m-rwp") for s in (0.1, 0.15, 0.2))},
            (S("m-rwp:sigma=0.15", ">", "rwp:sigma=0.15", ACC), S("m-rwp:sigma=0.2", ">", "rwp:sigma=0.2", ACC, margin=0.1)), 10,
        ),
        Claim(
            "optimum-shifts", "From RWP to m-RWP to m-ARWP the best scale grows", MRWP, "larger scales are used", "optimum",
            DIGITS | {"methods": ("rwp", "m-rwp", "m-arwp"), "grid": GRID},
            (S("m-rwp", ">", "rwp", "best_sigma"), S("m-arwp", ">", "rwp", "best_sigma"), S("m-arwp", ">", "m-rwp", "best_sigma"), S("m-arwp", ">", "rwp", ACC)), 30,
            "the best of a grid per seed is optimistic for all alike; the last line asks whether the best is better", {"grid": (0.05, 0.1, 0.15, 0.2)},
        ),
        Claim(
            "two-radii", "For an equal rise of the loss noise goes one to two orders of magnitude farther than SAM, the farther the larger the network", RWP,
            "about 100 times", "radius", {"widths": (8, 64, 256), "rise": 0.1},
            (S("4810 weights", ">", 10.0, "ratio"), S("19210 weights", ">", 100.0, "ratio"), S("19210 weights", ">", "4810 weights", "ratio"), S("4810 weights", ">", "610 weights", "ratio")), 60,
            "isotropic noise, mini-batch loss, after 400 updates",
        ),
        Claim(
            "m-rwp-and-rwp", "m-RWP trains better than RWP", MRWP, "better in most of its tables", "race",
            DIGITS | {"methods": ("sgd", "rwp", "m-rwp:sigma=0.15"), "twice": ("rwp",)},
            (S("m-rwp:sigma=0.15", ">", "rwp", ACC), S("m-rwp:sigma=0.15", ">", "rwp x2", ACC)), 4,
            "each with the scale that suits it; the second line gives RWP as many gradients",
        ),
        Claim(
            "not-the-second-batch", "What m-RWP gains over SGD is due to its noise, not to its second gradient", MRWP, "not tested there", "race",
            DIGITS | {"methods": ("sgd", "m-rwp:sigma=0.15", "m-rwp:sigma=0.0"), "twice": ("sgd",)},
            (S("m-rwp:sigma=0.15", ">", "sgd x2", ACC), S("m-rwp:sigma=0.15", ">", "m-rwp:sigma=0.0", ACC), S("m-rwp:sigma=0.0", "=", "sgd", ACC, margin=0.02)), 4,
        ),
        Claim(
            "m-rwp-and-sam", "m-RWP is as good as SAM or better", MRWP, "on par or better", "race", DIGITS | {"methods": ("sgd", "sam", "m-rwp:sigma=0.15")},
            (S("m-rwp:sigma=0.15", ">", "sam", ACC, margin=-0.01),), 12, "not worse by one point of accuracy",
        ),
        Claim(
            "tuned-weight-decay", "Perturbation is better than a tuned weight decay", "a control of ours", "not compared in the papers", "race",
            DIGITS | {"methods": SIX}, tuple(S(m, ">", "sgd:weight_decay=0.04", ACC) for m in ("sam", "rwp", "m-rwp:sigma=0.15", "nso")), 12,
            "weight decay 0.04 was tuned for SGD, the others keep 0.01",
        ),
        Claim(
            "antithetic-pair", "An antithetic pair on two batches costs what m-RWP costs and has less variance", "a proposal of ours",
            "unpublished", "update_variance", {"methods": ("sgd", "a-rwp:sigma=0.02", "a-rwp:sigma=0.1", *(f"m-rwp:sigma={s}" for s in (0.0, 0.02, 0.0283, 0.1, 0.1414))), "draws": 300},
            (S("a-rwp:sigma=0.02", "<", "m-rwp:sigma=0.02", "variance"), S("a-rwp:sigma=0.1", "<", "m-rwp:sigma=0.1", "variance"),
             S("a-rwp:sigma=0.02", "<", "m-rwp:sigma=0.0283", "variance"), S("a-rwp:sigma=0.1", "<", "m-rwp:sigma=0.1414", "variance")), 16,
            "variance of the combined gradient at one point, in units of SGD's; m-RWP smooths half as much at equal σ, and as much at √2 σ", {"draws": 100},
        ),
        Claim(
            "antithetic-pair-trains", "An antithetic pair on two batches trains better than m-RWP at equal cost", "a proposal of ours", "unpublished", "race",
            DIGITS | {"methods": ("a-rwp:sigma=0.1", "a-rwp:sigma=0.12", "m-rwp:sigma=0.15", "rwp"), "twice": ("rwp",)},
            (S("a-rwp:sigma=0.1", ">", "m-rwp:sigma=0.15", ACC), S("a-rwp:sigma=0.1", ">", "rwp x2", ACC), S("a-rwp:sigma=0.1", ">", "rwp", ACC)), 14,
        ),
        Claim(
            "cost-of-an-update", "RWP costs what SGD costs; SAM and, on one worker, m-RWP cost twice as much", RWP, "half of SAM's time", "clock",
            {"updates": 3}, (S("rwp", "<", "sgd", "milliseconds", 1.1), S("rwp", "<", "sam", "milliseconds", 0.6), S("m-rwp", "<", "sam", "milliseconds", 1.1)), 40,
            "one core", {"updates": 2},
        ),
        Claim(
            "two-workers", "m-RWP's two gradients are independent: computed side by side they take the time of one, half of SAM's", f"{RWP}, 2404.00357",
            "half of SAM's time on two devices", "side_by_side", {"batch": 128, "updates": 1, "order": SIDES},
            (S("m-rwp, two workers", "<", "sgd, one core", MS, 1.1), S("m-rwp, two workers", "<", "sam, one core", MS, 0.62), S("sam, two workers", ">", "sam, one core", MS, 0.95),
             S("m-rwp, two workers", "<", "sam, two threads", MS, 0.9), S("m-rwp, two workers", "<", "sam, two shards", MS, 0.9)), 20,
            "two fixed cores: the last two lines let SAM use both, by two threads and by halving its batch. Shows nothing while others use the cores",
        ),
    )
}  # fmt: skip
