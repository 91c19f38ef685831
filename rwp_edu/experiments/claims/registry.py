"""The table of claims: what was published, how it is tested here, and what has to be true for it to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from rwp_edu.experiments.claims.verdicts import CONTROL, EQUAL
from rwp_edu.experiments.claims.verdicts import Statement as S

RWP, MRWP, NSO, SAM = "arXiv:2211.11489", "arXiv:2404.00357", "arXiv:2306.08553", "arXiv:2010.01412"


@dataclass(frozen=True)
class Claim:
    """``settings`` go to the experiment as they are; ``quick`` replaces some of them. ``seconds`` is what the claim takes on one core with
    32 seeds. ``note`` says what to keep in mind when the verdict is read, never what the verdict is."""

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


EQ, CTRL = partial(S, role=EQUAL), partial(S, role=CONTROL)
DIGITS = {"problem": "digits"}
NAIVE = "rwp:sigma=0.1:kind=isotropic"
NAIVE_FT = "rwp:sigma=0.15:kind=isotropic"
ACC, DIST = "test_accuracy", "distance"
SIX = ("sgd", "sgd:weight_decay=0.04", "sam", "rwp", "m-rwp:sigma=0.15", "nso")
GRID = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)
DECAYED = ("sam:rho=0.2:weight_decay=0.03", "rwp:sigma=0.08:weight_decay=0.03", "m-rwp:sigma=0.15:weight_decay=0.03", "nso:sigma=0.1:weight_decay=0.03")
STAGES = (20, 200, 400)
MS = "milliseconds"
SIDES = (("sgd", "one core"), *(("sam", way) for way in ("one core", "two threads", "two workers", "two shards")), ("m-rwp", "two workers"))
SENSING = {"problem": "sensing", "steps": 1000}

CLAIMS: dict[str, Claim] = {
    row.name: row
    for row in (
        Claim(
            "smoothing-leaves-sharp-wells", "Smoothing makes runs leave a sharp, deeper minimum for a wide one, and mixing keeps that", RWP,
            "argued from the smoothed loss, no figure", "surface", {"methods": ("sgd", "sgd x2", "rwp", "nso", "m-rwp"), "radius": 0.22},
            (S("rwp", "<", "sgd", "sharp", 0.5), S("nso", "<", "sgd", "sharp", 0.5), EQ("nso", "<", "sgd x2", "sharp", 0.5), S("m-rwp", "<", "sgd", "sharp", 0.5)), 2,
            "half of m-RWP's loss is unsmoothed: it keeps its hole",
        ),
        Claim(
            "sam-and-rwp-part", "At an equal radius in two dimensions RWP leaves the sharp minimum and SAM stays", RWP, "no figure",
            "surface", {"methods": ("sgd", "sgd x2", "sam", "rwp", "rwp x2"), "radius": 0.2},
            (S("rwp", "<", "sam", "sharp", 0.5), EQ("rwp x2", "<", "sam", "sharp", 0.5), S("sam", ">", "sgd", "sharp", margin=-0.1), EQ("sam", ">", "sgd x2", "sharp", margin=-0.1)), 2,
            "stays: at most one run in ten fewer than under plain SGD",
        ),
        Claim(
            "matrix-sensing", "In matrix sensing two-point noise ends nearer to the truth than naive noise, and this nearer than GD", NSO,
            "test error NSO < naive < GD, d = 100", "race", SENSING | {"methods": ("sgd", "sgd x2", "rwp", "rwp x2", "nso")},
            (S("nso", "<", "rwp", DIST, log=True), S("rwp", "<", "sgd", DIST, log=True), EQ("nso", "<", "rwp x2", DIST, log=True), EQ("nso", "<", "sgd x2", DIST, log=True)), 20,
            "d = 30, r = 2, n = 300, large start",
        ),
        Claim(
            "matrix-sensing-small-start", "From a small start, too, two-point noise ends nearer to the truth than GD", NSO, "not shown there", "race",
            SENSING | {"init": 0.01, "methods": ("sgd", "rwp", "nso")}, (S("nso", "<", "sgd", DIST, log=True),), 7,
            "gradient descent from a small start finds low rank by itself",
        ),
        Claim(
            "matrix-sensing-weight-decay", "Two-point noise is nearer to the truth than GD with a tuned weight decay", NSO, "not compared there", "race",
            SENSING | {"methods": ("sgd", "sgd:weight_decay=0.45", "nso")}, (S("nso", "<", "sgd:weight_decay=0.45", DIST, log=True),), 6,
            "the trace is a multiple of the squared norm of W here, so weight decay does the same",
        ),
        Claim(
            "more-draws", "More pairs of noise per update help", NSO, "slightly better with more draws", "race",
            SENSING | {"methods": ("nso", "nso x4", "nso:k=4")}, (S("nso:k=4", "<", "nso", DIST, log=True), EQ("nso:k=4", "<", "nso x4", DIST, log=True)), 29,
            "matrix sensing; four pairs have four times the gradients", {"steps": 500},
        ),
        Claim(
            "more-draws-digits", "More pairs of noise per update help on digits, too", NSO, "slightly better with more draws", "race",
            DIGITS | {"methods": ("sgd", "nso", "nso x4", "nso:k=4")}, (S("nso:k=4", ">", "nso", ACC), EQ("nso:k=4", ">", "nso x4", ACC)), 13,
        ),
        Claim(
            "two-point-variance", "A pair of opposite noises has far less variance than two independent ones", NSO, "the first-order term cancels",
            "two_points", {"sigmas": (0.003, 0.03)},
            (S("tanh, σ = 0.003", ">", 500.0, "ratio"), S("tanh, σ = 0.03", ">", 5.0, "ratio"), S("relu, σ = 0.003", ">", 500.0, "ratio")), 10,
            "one trained network each; seeds are those of the noise. Kinks of ReLU do not cancel",
        ),
        Claim(
            "noise-measures-the-trace", "The mean rise under small noise measures the trace of the Hessian", NSO, "within a few per cent", "noise_as_trace",
            {"sigma": 0.01, "draws": 400},
            (S("noise, tanh", "=", 1.0, "ratio", margin=0.1), S("noise, ReLU", "=", 1.0, "ratio", margin=0.1), S("Hutchinson, ReLU", "=", 1.0, "ratio", margin=0.1)),
            12, "ratios to the exact trace of trained networks", {"draws": 100},
        ),
        Claim(
            "hutchinson-against-noise", "After as many draws, opposite pairs of noise know the trace as precisely as Hutchinson's products, and one-sided noise does not", NSO,
            "noise estimates the trace; precision not compared", "noise_as_trace", {"sigma": 0.003, "draws": 400},
            (S("noise, tanh", "<", "Hutchinson, tanh", "error", 1.25), S("noise, ReLU", "<", "Hutchinson, ReLU", "error", 1.25),
             CTRL("one-sided noise, tanh", ">", "Hutchinson, tanh", "error", 2.0)), 11,
            "precision is not truth: see the claim about the mean. A pair is two forward passes, a product about two gradients", {"draws": 100},
        ),
        Claim(
            "flatter-at-no-cost", "NSO cuts trace and largest eigenvalue by 17.7 % and 12.8 %, at no cost in accuracy", NSO,
            "trace -17.7 %, largest eigenvalue -12.8 % (an early version; -15.8 and -9.7 % in the last)",
            "race", {"problem": "fine-tuning", "shots": 10, "label_noise": 0.0, "weight_decay": 0.005,
                     "methods": ("sgd", "sgd x2", "nso:sigma=0.05", "rwp:sigma=0.05:kind=isotropic", "sam:rho=0.2"), "flatness": True},
            (S("nso:sigma=0.05", "<", "sgd", "trace", 0.823), S("nso:sigma=0.05", "<", "sgd", "top_eigenvalue", 0.872), S("nso:sigma=0.05", ">", "sgd", ACC, margin=-0.005),
             EQ("nso:sigma=0.05", "<", "sgd x2", "trace", 0.823), S("nso:sigma=0.05", "<", "sam:rho=0.2", "trace", 0.823), S("nso:sigma=0.05", "<", "sam:rho=0.2", "top_eigenvalue", 0.872),
             CTRL("nso:sigma=0.05", "<", "rwp:sigma=0.05:kind=isotropic", "trace", 0.823)), 8, "fine-tuning on ten clean labels per class; no cost: at most half a point. It was compared with SAM and its like there",
        ),
        Claim(
            "few-labels", "NSO fine-tunes better on few and partly wrong labels, and is flatter", NSO, "up to +2.4 % over sharpness-aware methods", "race",
            {"problem": "fine-tuning", "methods": ("sgd", "sgd:weight_decay=0.1", "sam", "nso", NAIVE_FT, "sgd x2"), "flatness": True},
            (S("nso", ">", "sgd", ACC), EQ("nso", ">", "sgd x2", ACC), CTRL("nso", ">", "sgd:weight_decay=0.1", ACC), S("nso", ">", "sam", ACC),
             S("nso", "<", "sgd", "pac_bayes")), 11, "20 labels per class, 27 % wrong",
        ),
        Claim(
            "naive-noise", "Naive one-point noise gives no gain over SGD in fine-tuning", NSO, "no significant gain", "race",
            {"problem": "fine-tuning", "methods": ("sgd", NAIVE_FT, NAIVE_FT + " x2", "nso")},
            (S(NAIVE_FT, "=", "sgd", ACC, margin=0.01), S("nso", ">", NAIVE_FT, ACC), EQ("nso", ">", NAIVE_FT + " x2", ACC)), 7, "equal to within one point of accuracy",
        ),
        Claim(
            "naive-noise-digits", "Naive one-point noise gives no gain over SGD on digits trained from scratch", NSO, "no significant gain", "race",
            DIGITS | {"methods": ("sgd", NAIVE, NAIVE + " x2", "nso")},
            (S(NAIVE, "=", "sgd", ACC, margin=0.01), S("nso", ">", NAIVE, ACC), EQ("nso", ">", NAIVE + " x2", ACC)), 5, "equal to within one point of accuracy",
        ),
        Claim(
            "mixing-tolerates-noise", "Mixing with the clean gradient allows much more noise", RWP, "larger scales for m-RWP", "race",
            DIGITS | {"methods": (*(f"{m}:sigma={s}" for m in ("rwp", "m-rwp") for s in (0.1, 0.15, 0.2)), "rwp:sigma=0.15 x2")},
            (S("m-rwp:sigma=0.15", ">", "rwp:sigma=0.15", ACC), S("m-rwp:sigma=0.2", ">", "rwp:sigma=0.2", ACC, margin=0.1), EQ("m-rwp:sigma=0.15", ">", "rwp:sigma=0.15 x2", ACC)), 10,
            "at 0.2: by ten points at least",
        ),
        Claim(
            "optimum-shifts", "From RWP to m-RWP to m-ARWP the best scale grows", MRWP, "larger scales are used", "optimum",
            DIGITS | {"methods": ("rwp", "rwp x2", "m-rwp", "m-arwp"), "grid": GRID},
            (S("m-rwp", ">", "rwp", "best_sigma"), S("m-arwp", ">", "m-rwp", "best_sigma"), EQ("m-rwp", ">", "rwp x2", "best_sigma"), S("m-arwp", ">", "rwp", ACC)), 44,
            "per seed the best of a grid on images held back; the last line asks whether the best is better on test images", {"grid": (0.05, 0.1, 0.15, 0.2)},
        ),
        Claim(
            "two-radii", "For an equal rise of the loss noise goes one to two orders of magnitude farther than SAM, the farther the larger the network", RWP,
            "about 100 times", "radius", {"widths": (8, 64, 256), "rise": 0.1},
            (S("4810 weights", ">", 10.0, "ratio"), S("19210 weights", ">", 100.0, "ratio"), S("19210 weights", ">", "4810 weights", "ratio"), S("4810 weights", ">", "610 weights", "ratio")), 9,
            "isotropic noise, mini-batch loss, after 400 updates",
        ),
        Claim(
            "m-rwp-and-rwp", "m-RWP trains better than RWP", MRWP, "better in most of its tables", "race",
            DIGITS | {"methods": ("sgd", "rwp", "rwp x2", "m-rwp:sigma=0.15")},
            (S("m-rwp:sigma=0.15", ">", "rwp", ACC), EQ("m-rwp:sigma=0.15", ">", "rwp x2", ACC)), 6, "each with the scale that suits it",
        ),
        Claim(
            "not-the-second-batch", "What m-RWP gains over SGD is due to its noise, not to its second gradient", MRWP, "not tested there", "race",
            DIGITS | {"methods": ("sgd", "sgd x2", "m-rwp:sigma=0.15", "m-rwp:sigma=0.0")},
            (S("m-rwp:sigma=0.15", ">", "sgd x2", ACC), S("m-rwp:sigma=0.15", ">", "m-rwp:sigma=0.0", ACC), CTRL("m-rwp:sigma=0.0", "=", "sgd", ACC, margin=0.02)), 5,
            "without noise, m-RWP is SGD on two batches; equal to within two points of accuracy",
        ),
        Claim(
            "m-rwp-and-sam", "m-RWP is as good as SAM or better", MRWP, "on par or better", "race", DIGITS | {"methods": ("sgd", "sgd x2", "sam", "m-rwp:sigma=0.15")},
            (S("m-rwp:sigma=0.15", ">", "sam", ACC, margin=-0.01), EQ("m-rwp:sigma=0.15", ">", "sgd x2", ACC)), 5, "as good: not worse by one point of accuracy",
        ),
        Claim(
            "tuned-weight-decay", "Perturbation is better than a tuned weight decay", "a control of ours", "not compared in the papers", "race",
            DIGITS | {"methods": SIX}, tuple(S(m, ">", "sgd:weight_decay=0.04", ACC) for m in ("sam", "rwp", "m-rwp:sigma=0.15", "nso")), 7,
            "weight decay 0.04 was tuned for SGD, the others keep 0.01",
        ),
        Claim(
            "weight-decay-and-perturbation", "Perturbation adds to weight decay when both are tuned for every method", NSO, "combined with weight decay it regularises more", "race",
            DIGITS | {"methods": ("sgd:weight_decay=0.05", "sgd:weight_decay=0.05 x2", *DECAYED)},
            (*(S(m, ">", "sgd:weight_decay=0.05", ACC) for m in DECAYED), *(EQ(m, ">", "sgd:weight_decay=0.05 x2", ACC) for m in (DECAYED[0], *DECAYED[2:]))), 8,
        ),
        Claim(
            "antithetic-pair", "An antithetic pair on two batches has less variance than m-RWP at equal cost and scale", "a proposal of ours", "unpublished",
            "update_variance", {"methods": ("sgd", *(f"{m}:sigma={s}" for m in ("a-rwp", "m-rwp") for s in (0.02, 0.1))), "draws": 150, "after": STAGES},
            tuple(S(f"a-rwp:sigma={s} after {n}", "<", f"m-rwp:sigma={s} after {n}", "variance") for s in (0.02, 0.1) for n in STAGES), 9,
            "variance of the combined gradient in units of SGD's, after so many of SGD's 400 updates; m-RWP smooths half as much at this scale", {"draws": 60},
        ),
        Claim(
            "antithetic-pair-regulariser", "An antithetic pair on two batches has less variance than m-RWP at equal cost and regulariser", "a proposal of ours", "unpublished",
            "update_variance", {"methods": ("sgd", "a-rwp:sigma=0.02", "a-rwp:sigma=0.1", "m-rwp:sigma=0.0283", "m-rwp:sigma=0.1414"), "draws": 150, "after": STAGES},
            tuple(S(f"a-rwp:sigma={s} after {n}", "<", f"m-rwp:sigma={more} after {n}", "variance") for s, more in ((0.02, 0.0283), (0.1, 0.1414)) for n in STAGES), 9,
            "at √2 times the scale m-RWP smooths as much as the pair, to second order", {"draws": 60},
        ),
        Claim(
            "antithetic-pair-trains", "An antithetic pair on two batches trains better than m-RWP at equal cost", "a proposal of ours", "unpublished", "race",
            DIGITS | {"methods": ("sgd x2", "a-rwp:sigma=0.12", "m-rwp:sigma=0.15", "nso:sigma=0.15", "rwp x2")},
            (S("a-rwp:sigma=0.12", ">", "m-rwp:sigma=0.15", ACC), *(EQ("a-rwp:sigma=0.12", ">", m, ACC) for m in ("rwp x2", "nso:sigma=0.15", "sgd x2"))), 8, "each with the scale that suits it",
        ),
        Claim(
            "antithetic-pair-clean", "An antithetic pair on two batches trains better than m-RWP at equal cost, on clean labels", "a proposal of ours", "unpublished", "race",
            DIGITS | {"train": 100, "label_noise": 0.0, "weight_decay": 0.0005, "lr": 0.05, "methods": ("sgd x2", "a-rwp:sigma=0.1", "m-rwp:sigma=0.1", "nso:sigma=0.12", "rwp x2")},
            (S("a-rwp:sigma=0.1", ">", "m-rwp:sigma=0.1", ACC), *(EQ("a-rwp:sigma=0.1", ">", m, ACC) for m in ("rwp x2", "nso:sigma=0.12", "sgd x2"))), 8, "100 images; each with the scale that suits it",
        ),
        Claim(
            "antithetic-pair-fine-tunes", "An antithetic pair on two batches fine-tunes better than m-RWP at equal cost", "a proposal of ours", "unpublished", "race",
            {"problem": "fine-tuning", "methods": ("sgd x2", "a-rwp:sigma=0.2", "m-rwp:sigma=0.3", "nso", "rwp x2")},
            (S("a-rwp:sigma=0.2", ">", "m-rwp:sigma=0.3", ACC), *(EQ("a-rwp:sigma=0.2", ">", m, ACC) for m in ("rwp x2", "nso", "sgd x2"))), 9, "20 labels per class, 27 % wrong; each with the scale that suits it",
        ),
        Claim(
            "cost-of-an-update", "RWP costs what SGD costs; SAM and, on one worker, m-RWP cost twice as much", RWP, "half of SAM's time, for m-RWP on two devices", "clock",
            {"updates": 3}, (S("rwp", "<", "sgd", "milliseconds", 1.1), S("rwp", "<", "sam", "milliseconds", 0.6), S("m-rwp", "<", "sam", "milliseconds", 1.1)), 11,
            "CPU time on one thread", {"updates": 2},
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
