"""PyTorch Lightning's automatic optimization, end to end: it passes one closure to ``step``."""

import logging
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rwp_edu.methods import METHODS
from rwp_edu.optim import OPTIMIZERS, RWP

lightning = pytest.importorskip("lightning")
from lightning.pytorch.plugins import MixedPrecision

every = pytest.mark.parametrize("name", METHODS)
BASES = {
    "sgd": lambda parameters, momentum: torch.optim.SGD(parameters, lr=0.05, momentum=momentum),
    "adamw": lambda parameters, momentum: torch.optim.AdamW(parameters, lr=0.01),
}


def momentum(name):
    """bSAM has a momentum of its own."""
    return METHODS[name].pins.get("momentum", 0.9)


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))


def loader():
    """48 made-up examples in 4 batches, in a fixed order: Lightning would shuffle at other moments than a plain loop."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(48, 6, generator=g)
    return DataLoader(TensorDataset(x, (x[:, :2].prod(1) + x[:, 2]).unsqueeze(1)), batch_size=12)


class Module(lightning.LightningModule):
    def __init__(self, name, base="sgd", scheduler=False, **hyper):
        super().__init__()
        self.network, self.losses, self.rates = network(), [], []
        self.make = lambda parameters: OPTIMIZERS[name](BASES[base](parameters, momentum(name)), **hyper)
        self.scheduler = scheduler

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.mse_loss(self.network(x), y)
        self.losses.append(loss.item())
        return loss

    def on_train_epoch_start(self):
        self.rates.append(self.optimizers().param_groups[0]["lr"])

    def configure_optimizers(self):
        optimizer = self.make(self.parameters())
        if not self.scheduler:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]


def trainer(folder, epochs, **more):
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, default_root_dir=folder, **{**silent, **more})


def closure_of(net, x, y, share=1.0, backward=torch.Tensor.backward):
    def closure():
        loss = nn.functional.mse_loss(net(x), y) * share
        backward(loss)
        return loss

    return closure


def plain_loop(module, epochs, batches=None):
    """The same training without Lightning; returns the network and the optimizer."""
    net = network()
    optimizer = module.make(net.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5) if module.scheduler else None
    for _ in range(epochs):
        for x, y in batches or loader():
            optimizer.step(closure_of(net, x, y))
        if scheduler:
            scheduler.step()
    return net, optimizer


def equal(one, other):
    """The same state, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def mean_loss(net):
    with torch.no_grad():
        return sum(nn.functional.mse_loss(net.train()(x), y).item() for x, y in loader())


@pytest.mark.slow
@every
def test_trains_as_a_plain_loop_does(name, tmp_path):
    """Same operations in the same order, so equal bit for bit; one step per batch, the documented number of evaluations."""
    module = Module(name)
    fit = trainer(tmp_path, 8)
    fit.fit(module, loader())
    net, optimizer = plain_loop(module, 8)
    assert equal(module.network.state_dict(), net.state_dict())
    assert equal(fit.optimizers[0].state_dict(), optimizer.state_dict())
    row = METHODS[name]
    assert fit.global_step == 32 and len(module.losses) == 32 * row.cost(k=row.default("k")).points
    assert mean_loss(module.network) < 0.8 * mean_loss(network())


@every
def test_learning_rate_schedule(name, tmp_path):
    module = Module(name, scheduler=True)
    trainer(tmp_path, 3).fit(module, loader())
    assert module.rates == [0.05, 0.025, 0.0125]
    assert equal(module.network.state_dict(), plain_loop(module, 3)[0].state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
@every
def test_resumes_from_a_checkpoint_bit_for_bit(name, base, tmp_path):
    """Weights, BatchNorm, the base optimizer's state, noise, history and schedule go through Lightning's checkpoint."""
    whole = Module(name, base, scheduler=True)
    uninterrupted = trainer(tmp_path, 4)
    uninterrupted.fit(whole, loader())

    first = trainer(tmp_path, 2)
    first.fit(Module(name, base, scheduler=True), loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = Module(name, base, scheduler=True, seed=7)
    second = trainer(tmp_path, 4)
    second.fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt")

    assert resumed.rates == whole.rates[2:] and second.global_step == uninterrupted.global_step
    assert equal(resumed.network.state_dict(), whole.network.state_dict())
    assert equal(second.optimizers[0].state_dict(), uninterrupted.optimizers[0].state_dict())


def test_lightnings_own_checkpoint_callback(tmp_path):
    """The file that ``ModelCheckpoint`` writes after an epoch resumes too."""
    whole = Module("m-arwp")
    keep = lightning.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(tmp_path, 3, callbacks=[keep], enable_checkpointing=True).fit(whole, loader())
    resumed = Module("m-arwp")
    trainer(tmp_path, 3).fit(resumed, loader(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert equal(resumed.network.state_dict(), whole.network.state_dict())


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    first = trainer(tmp_path, 1)
    first.fit(Module("sam"), loader())
    first.save_checkpoint(tmp_path / "sam.ckpt")
    with pytest.raises(ValueError, match="'sam', not to method 'rwp'"):
        trainer(tmp_path, 2).fit(Module("rwp"), loader(), ckpt_path=tmp_path / "sam.ckpt")


@pytest.mark.slow
@every
def test_bfloat16(name, tmp_path):
    module = Module(name)
    trainer(tmp_path, 8, precision="bf16-mixed").fit(module, loader())
    assert all(p.dtype == torch.float32 for p in module.parameters())
    assert mean_loss(module.network) < 0.8 * mean_loss(network())
    assert not equal(module.network.state_dict(), plain_loop(module, 8)[0].state_dict())


@every
def test_float16_with_a_scaler_names_the_way_out(name, tmp_path):
    """``Trainer(precision="16-mixed")`` becomes bf16 on a CPU, so the plugin with its GradScaler is put in by hand."""
    module = Module(name)
    with pytest.raises(TypeError, match="GradScaler cannot pass one: use bfloat16"):
        trainer(tmp_path, 1, plugins=[MixedPrecision("16-mixed", "cpu")]).fit(module, loader())
    assert equal(dict(module.network.named_parameters()), dict(network().named_parameters()))


def test_clipping_in_a_hook_of_the_base_acts_once_on_the_combined_gradient(tmp_path):
    norms = []

    class Clipped(Module):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()

            def clip(base, args, kwargs):
                parameters = [p for group in base.param_groups for p in group["params"]]
                nn.utils.clip_grad_norm_(parameters, 0.1)
                norms.append(torch.cat([p.grad.flatten() for p in parameters]).norm().item())

            optimizer.base.register_step_pre_hook(clip)
            return optimizer

    fit = trainer(tmp_path, 1)
    fit.fit(Clipped("nso", k=2), loader())
    assert len(norms) == fit.global_step == 4 and all(norm <= 0.1 + 1e-6 for norm in norms)


def test_lightnings_clipping_and_hooks_run_at_every_evaluation(tmp_path):
    """What the notebook warns of."""
    seen = []

    class Hooked(Module):
        def on_before_optimizer_step(self, optimizer):
            seen.append("hook")

        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            seen.append("clip")
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    trainer(tmp_path, 1, gradient_clip_val=0.1).fit(Hooked("sam"), loader())
    assert seen == ["hook", "clip"] * 8


def test_gradients_collected_before_the_step_are_cleared(tmp_path):
    """So ``accumulate_grad_batches=2`` uses every second batch alone, with half of its loss; the notebook says so."""
    module = Module("sam")
    trainer(tmp_path, 2, accumulate_grad_batches=2).fit(module, loader())
    net = network()
    optimizer = module.make(net.parameters())
    for number, (x, y) in enumerate(2 * list(loader())):
        if number % 2:
            optimizer.step(closure_of(net, x, y, share=0.5))
    assert equal(dict(module.network.named_parameters()), dict(net.named_parameters()))


def test_a_failing_step_leaves_the_weights(tmp_path):
    """An exception in ``training_step`` at SAM's second point, in the third step."""

    class Fails(Module):
        def training_step(self, batch, index):
            if len(self.losses) == 5:
                self.losses.append(None)
                raise RuntimeError("on purpose")
            return super().training_step(batch, index)

    module = Fails("sam")
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer(tmp_path, 1).fit(module, loader())
    assert equal(module.network.state_dict(), plain_loop(module, 1, list(loader())[:2])[0].state_dict())


def test_parameter_groups(tmp_path):
    """Groups with their own strength: with zero everywhere it is the base optimizer."""

    class Groups(Module):
        def configure_optimizers(self):
            matrices = [p for p in self.parameters() if p.dim() > 1]
            rest = [p for p in self.parameters() if p.dim() <= 1]
            groups = [{"params": matrices, "sigma": self.sigma}, {"params": rest, "sigma": 0.0}]
            return RWP(BASES["sgd"](groups, 0.9))

    found = []
    for sigma in (0.0, 0.05):
        module = Groups("rwp")
        module.sigma = sigma
        trainer(tmp_path, 2).fit(module, loader())
        found.append(module.network.state_dict())
    off = plain_loop(Module("sgd"), 2)[0].state_dict()
    assert equal(found[0], off) and not equal(found[1], off)


def test_manual_optimization_with_two_batches(tmp_path):
    """Automatic optimization passes one closure; two batches take ``self.automatic_optimization = False``."""

    def step(optimizer, net, batch, backward):
        (x, y), half = batch, len(batch[0]) // 2
        optimizer.step(
            closure_of(net, x[:half], y[:half], backward=backward), closure_of(net, x[half:], y[half:], backward=backward)
        )

    class Manual(Module):
        def __init__(self):
            super().__init__("m-rwp")
            self.automatic_optimization = False

        def training_step(self, batch, index):
            step(self.optimizers().optimizer, self.network, batch, self.manual_backward)

    module, fit = Manual(), trainer(tmp_path, 2)
    fit.fit(module, loader())
    assert fit.global_step == 0  # Lightning counts only steps of its own wrapper, which takes one closure
    net = network()
    optimizer = module.make(net.parameters())
    for batch in 2 * list(loader()):
        step(optimizer, net, batch, torch.Tensor.backward)
    assert equal(module.network.state_dict(), net.state_dict())


def test_nothing_is_written_where_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer(tmp_path / "root", 1).fit(Module("rwp"), loader())
    assert not list(tmp_path.iterdir())
