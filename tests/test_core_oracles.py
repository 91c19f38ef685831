"""Every method without a published number against a few lines of NumPy: by hand, through the optimizer, through the engine."""

import numpy as np
import pytest
import torch
from numpy.linalg import norm

from rwp_edu import methods
from rwp_edu.methods import METHODS
from rwp_edu.methods.noise import Noise, generator
from rwp_edu.methods.points import Layout, drive
from rwp_edu.optim import OPTIMIZERS
from rwp_edu.training import batched

LAYOUT = Layout({"matrix": (2, 3), "bias": (2,)})
SIZE, STEPS, LR = LAYOUT.size, 3, 0.05
_random = np.random.default_rng(0)
START = _random.normal(size=(2, SIZE))
DRAWS = 0.3 * _random.normal(size=(STEPS * 8, 2, SIZE))
CUBIC, DIRECTION = _random.uniform(0.1, 1, (8, SIZE)), _random.normal(size=(8, SIZE))


def gradient(w, slot):
    """Of Σ c w⁴/4 + (a·w)²/2, with c and a of the batch or part of a batch."""
    return CUBIC[slot] * w**3 + DIRECTION[slot] * (w @ DIRECTION[slot])


class Oracle:
    """A method in NumPy: ``ask(w, slot)`` is the gradient, ``draw()`` the next perturbation, attributes are its memory."""

    def __init__(self, ask, draw, **hyper):
        self.ask, self.draw = ask, draw
        self.__dict__.update(hyper)

    def usam(self, w):
        return self.ask(w + self.rho * self.ask(w))

    def asam(self, w):
        scale = np.abs(w) + self.floor
        if self.adapt == "matrices":
            scale[6:] = 1
        g = self.ask(w)
        return self.ask(w + self.rho * scale**2 * g / norm(scale * g))

    def fsam(self, w):
        g = self.ask(w)
        d = g - self.remove * self.m if hasattr(self, "m") else g
        self.m = self.ema * self.m + (1 - self.ema) * g if hasattr(self, "m") else g
        return self.ask(w + self.rho * d / norm(d))

    def gsam(self, w):
        g = self.ask(w)
        s = self.ask(w + self.rho * g / norm(g))
        return s - self.alpha * (g - (g @ s) / (s @ s) * s)

    def rsam(self, w):
        u = self.draw()
        d = u + self.pull * self.ask(w + u)
        return self.ask(w + self.rho * d / norm(d))

    def bsam(self, w):
        s, m = getattr(self, "s", np.ones(SIZE)), getattr(self, "m", np.zeros(SIZE))
        decay = self.prior / self.examples
        noisy = self.ask(w + self.draw() / np.sqrt(self.examples * s))
        self.m = self.beta1 * m + (1 - self.beta1) * (self.ask(w + self.rho * noisy / s) + decay * w)
        self.s = self.beta2 * s + (1 - self.beta2) * (np.sqrt(s) * np.abs(noisy) + self.damping + decay)
        return self.m / s

    def lpf_sgd(self, w):
        return np.mean([self.ask(w + u, j) for j, u in enumerate([self.draw() for _ in range(self.k)])], axis=0)

    def shrunk(self):
        """Rows of the matrix are filters, the bias goes by entry; the noise of the first step is as drawn."""
        history = getattr(self, "v", np.zeros(SIZE)).copy()
        if self.granularity == "filter":
            history[0:3], history[3:6] = history[0:3].sum(), history[3:6].sum()
        return self.draw() / (1 + self.eta * history) ** self.exponent

    def remember(self, g):
        self.v = self.beta * getattr(self, "v", np.zeros(SIZE)) + g**2

    def arwp(self, w):
        g = self.ask(w + self.shrunk())
        self.remember(g)
        return g

    def mixed(self, clean, noisy):
        lam = self.lam if self.lam_of == "noisy" else 1 - self.lam
        return lam * noisy + (1 - lam) * clean

    def m_rwp(self, w):
        return self.mixed(self.ask(w), self.ask(w + self.draw(), 1))

    def m_arwp(self, w):
        noisy = self.ask(w + self.shrunk(), 1)
        self.remember(noisy)
        return self.mixed(self.ask(w), noisy)

    def a_rwp(self, w):
        u = self.draw()
        return (self.ask(w + u) + self.ask(w - u, 1)) / 2

    def nso(self, w):
        points = [sign * u for u in [self.draw() for _ in range(self.k)] for sign in (1, -1)[: 1 + (self.signs == "two-point")]]
        noisy = np.mean([self.ask(w + e) for e in points], axis=0)
        return self.clean * self.ask(w) + (1 - self.clean) * noisy


CASES = [
    ("usam", {"rho": 0.2}),
    ("asam", {"rho": 0.7, "floor": 0.05, "adapt": "matrices"}),
    ("asam", {"rho": 0.7, "floor": 0.0, "adapt": "all"}),
    ("fsam", {"rho": 0.3, "ema": 0.6, "remove": 0.8}),
    ("fsam", {}),
    ("gsam", {"rho": 0.3, "alpha": 0.7}),
    ("rsam", {"rho": 0.3, "pull": 0.5}),
    ("bsam", {"rho": 0.2, "examples": 20, "prior": 3.0, "damping": 0.2, "beta1": 0.7, "beta2": 0.8}),
    ("lpf-sgd", {"k": 3}),
    ("arwp", {"eta": 2.0, "beta": 0.5}),
    ("arwp", {"eta": 2.0, "beta": 0.5, "exponent": 0.25, "granularity": "element"}),
    ("m-arwp", {"eta": 2.0, "beta": 0.5, "lam": 0.3}),
    ("m-arwp", {"eta": 2.0, "beta": 0.5, "lam": 0.3, "lam_of": "clean", "exponent": 0.25, "granularity": "element"}),
    ("m-rwp", {"lam": 0.3, "lam_of": "clean"}),
    ("m-rwp", {"lam": 0.3}),
    ("a-rwp", {}),
    ("nso", {"k": 3, "signs": "one-point"}),
    ("nso", {"k": 2, "signs": "one-point", "clean": 0.3}),
    ("nso", {"k": 2, "clean": 0.3}),
]


def complete(name, hyper):
    return {key: METHODS[name].default(key) for key in METHODS[name].parameters} | hyper


def expected(name, hyper, run, one_closure=False):
    """Weights after every step of plain gradient descent."""
    draws = iter(DRAWS[:, run])
    oracle = Oracle(lambda w, slot=0: gradient(w, 0 if one_closure else slot), lambda: next(draws), **complete(name, hyper))
    w, path = START[run], []
    for _ in range(STEPS):
        w = w - LR * getattr(oracle, name.replace("-", "_"))(w)
        path.append(w)
    return np.stack(path)


def slot(at):
    return at.batch * at.of + at.part


def by_hand(name, hyper, run):
    draws, memory = iter(DRAWS[:, run]), {}
    w, path = torch.tensor(START[run]), []
    for _ in range(STEPS):
        draw = {key: lambda w: torch.tensor(next(draws)) for key in ("noise", "normal")}
        talk = METHODS[name].start(w, **draw, memory=memory, layout=LAYOUT, **complete(name, hyper))
        w = w - LR * drive(talk, lambda points: [torch.tensor(gradient(at.w.numpy(), slot(at))) for at in points])
        path.append(w.numpy())
    return np.stack(path)


def through_the_optimizer(name, hyper, run, one_closure=False):
    parameters = [torch.nn.Parameter(p.clone()) for p in LAYOUT.split(torch.tensor(START[run]))]
    optimizer = OPTIMIZERS[name](torch.optim.SGD(parameters, lr=LR), **hyper)

    def closure(number):
        def evaluate():
            w = torch.cat([p.flatten() for p in parameters])
            loss = (torch.tensor(CUBIC[number]) * w**4).sum() / 4 + (w @ torch.tensor(DIRECTION[number])) ** 2 / 2
            loss.backward()
            return loss

        return evaluate

    slots = 1 if one_closure else METHODS[name].cost(k=hyper.get("k", 1)).slots
    path = []
    for _ in range(STEPS):
        optimizer.step(*map(closure, range(slots)))
        path.append(LAYOUT.flatten([p.detach() for p in parameters]).numpy())
    return np.stack(path)


def fix_draws(monkeypatch, draws):
    """Noise that comes from a table, in whatever shape the weights have."""
    left = iter(draws)
    monkeypatch.setattr(methods, "Noise", lambda *_: lambda w: torch.tensor(next(left)))


@pytest.mark.parametrize(("name", "hyper"), CASES)
def test_by_hand(name, hyper):
    np.testing.assert_allclose(by_hand(name, hyper, 0), expected(name, hyper, 0), rtol=1e-9)


@pytest.mark.parametrize(("name", "hyper"), CASES)
def test_through_the_optimizer(name, hyper, monkeypatch):
    fix_draws(monkeypatch, DRAWS[:, 0])
    np.testing.assert_allclose(through_the_optimizer(name, hyper, 0), expected(name, hyper, 0), rtol=1e-9)


@pytest.mark.parametrize(("name", "hyper"), CASES)
def test_through_the_optimizer_with_one_closure_for_all_points(name, hyper, monkeypatch):
    fix_draws(monkeypatch, DRAWS[:, 1])
    found, wanted = through_the_optimizer(name, hyper, 1, True), expected(name, hyper, 1, True)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize(("name", "hyper"), CASES)
def test_through_the_batched_engine(name, hyper, monkeypatch):
    fix_draws(monkeypatch, DRAWS)
    group = batched.Group(name, complete(name, hyper) | {"kind": "published"}, [generator(i, "noise") for i in range(2)])
    base, zero, path = batched.SGD(torch.tensor(START)), torch.zeros(2, 1, dtype=torch.float64), []

    def gradients(points, groups):
        return [torch.stack([torch.tensor(gradient(row.numpy(), slot(at))) for row in at.w]) for at in points]

    for _ in range(STEPS):
        (g,) = batched.update([base.w], [group], LAYOUT, gradients)
        base.step(g, torch.full_like(zero, LR), zero, zero)
        path.append(base.w.numpy().copy())
    wanted = np.stack([expected(name, hyper, run) for run in range(2)], axis=1)
    np.testing.assert_allclose(np.stack(path), wanted, rtol=1e-9)


def test_every_method_has_an_oracle_or_a_golden_value():
    assert {name for name, _ in CASES} | {"sgd", "sam", "rwp"} == set(METHODS)


@pytest.mark.parametrize("name", ["arwp", "m-arwp"])
def test_the_history_of_adaptive_rwp_by_hand(name):
    """v = 1, 4.5 for gradients 1, 2 and beta = 1/2; the scaled noise is that of the released code."""
    memory, asked, w = {}, [], torch.zeros(1, dtype=torch.float64)
    given = complete(name, {"eta": 2.0, "beta": 0.5}) | {
        "memory": memory,
        "layout": Layout({"w": (1,)}),
        "noise": torch.ones_like,
    }
    for g, v in ((1.0, 1.0), (2.0, 4.5), (0.0, 2.25)):
        drive(
            METHODS[name].start(w, **given), lambda points, g=g: [asked.append(at.w) or torch.full_like(w, g) for at in points]
        )
        assert memory["v"].tolist() == [v]
    noisy = torch.cat(asked)[METHODS[name].cost().points - 1 :: METHODS[name].cost().points]
    torch.testing.assert_close(noisy, torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64) ** -0.5)


# --- one method as a special case of another


EQUAL = [
    ("fsam", {"remove": 0.0}, "sam", {}, True),
    ("gsam", {"alpha": 0.0}, "sam", {}, True),
    ("lpf-sgd", {"k": 1}, "rwp", {}, True),
    ("arwp", {"eta": 0.0}, "rwp", {}, True),
    ("m-arwp", {"eta": 0.0, "lam": 0.3}, "m-rwp", {"lam": 0.3}, True),
    ("m-rwp", {"lam": 0.3}, "m-rwp", {"lam": 0.7, "lam_of": "clean"}, False),
    ("m-rwp", {"kind": "isotropic"}, "nso", {"signs": "one-point", "clean": 0.5, "k": 1}, False),
    ("rwp", {"kind": "isotropic"}, "nso", {"signs": "one-point", "k": 1}, True),
    ("lpf-sgd", {"kind": "isotropic", "k": 3}, "nso", {"signs": "one-point", "k": 3}, True),
    ("a-rwp", {"kind": "isotropic"}, "nso", {"k": 1}, True),
    ("nso", {"clean": 1.0, "sigma": 0.3}, "sgd", {}, True),
    ("m-rwp", {"lam": 0.0, "sigma": 0.3}, "sgd", {}, True),
    ("asam", {"rho": 2e-10, "floor": 1e9, "adapt": "all"}, "sam", {"rho": 0.2}, None),
]


@pytest.mark.parametrize(("one", "first", "other", "second", "exact"), EQUAL)
def test_one_method_is_a_case_of_another(toy, one, first, other, second, exact):
    """On one batch, with momentum, BatchNorm and dropout; ``exact`` means bit for bit."""
    dtype = torch.float64
    a, b = toy(one, dtype=dtype, **first), toy(other, dtype=dtype, **second)
    for seed in range(4):
        for each in (a, b):
            torch.manual_seed(seed)
            each.optimizer.step(each.evaluate)
    a, b = a.state(), b.state()
    tolerance = {True: 0, False: 1e-12, None: 1e-6}[exact]
    torch.testing.assert_close(a["weights"] + a["buffers"], b["weights"] + b["buffers"], rtol=tolerance, atol=tolerance)


def test_asam_is_sam_where_all_weights_are_1_in_size():
    w = torch.tensor([1.0, -1, 1, -1, -1, 1, 1, -1], dtype=torch.float64)

    def ask(points):
        return [torch.tensor(gradient(at.w.numpy(), 0)) for at in points]

    for adapt in ("all", "matrices"):
        asam = METHODS["asam"].start(w, layout=LAYOUT, rho=0.3, floor=0.0, adapt=adapt)
        assert torch.equal(drive(asam, ask), drive(METHODS["sam"].start(w, rho=0.3), ask))


def test_anti_pgd_is_rwp_seen_without_the_latest_noise():
    """w <- w - lr ∇L(w) + ξ' - ξ, so z = w - ξ follows z <- z - lr ∇L(z + ξ) with the same noise."""
    noise = Noise(LAYOUT, [generator(4, "noise")], 0.2, "isotropic")
    xi = [noise(torch.tensor(START[0])).numpy() for _ in range(STEPS + 1)]
    w, path = START[0] + xi[0], []
    for n in range(STEPS):
        w = w - LR * gradient(w, 0) + xi[n + 1] - xi[n]
        path.append(w - xi[n + 1])
    found = through_the_optimizer("rwp", {"seed": 4, "sigma": 0.2, "kind": "isotropic"}, 0)
    np.testing.assert_allclose(found, np.stack(path), rtol=1e-9)


def test_nso_does_not_depend_on_the_sign_of_the_noise(monkeypatch):
    paths = []
    for sign in (1, -1):
        fix_draws(monkeypatch, sign * DRAWS[:, 0])
        paths.append(through_the_optimizer("nso", {"k": 2}, 0))
    np.testing.assert_allclose(*paths, rtol=1e-12)
