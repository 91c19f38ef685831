"""Networks for pictures: the table ``MODELS``, and weights from elsewhere to start from."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rwp_edu.utils.parameters import unknown

SMALL = 64  # pictures up to this side are given to a ResNet whose first layer does not shrink them
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": lambda channels: nn.GroupNorm(4, channels),
    "batch": nn.BatchNorm2d,
}


class Residual(nn.Module):
    """x + two normalised 3x3 convolutions, the first of them with ``stride``."""

    def __init__(self, channels: int, out: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(norm(out) for _ in range(2))
        same = channels == out and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(h)) + self.short(x)).relu()


def rescnn(classes: int, channels: int = 3, width: int = 16, norm: str = "group", size: int = 32) -> nn.Sequential:
    """Three residual blocks of ``width``, 2 ``width`` and 4 ``width`` channels, mean over the picture, a linear layer; ``width`` is a multiple of 4.

    >>> sum(p.numel() for p in rescnn(10).parameters())
    77850
    """
    if width < 4 or width % 4:
        raise ValueError(f"width must be a multiple of 4, got {width}")
    made = NORMS[norm]
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1, bias=False),
        made(width),
        nn.ReLU(),
        Residual(width, width, 1, made),
        Residual(width, 2 * width, 2, made),
        Residual(2 * width, 4 * width, 2, made),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def mlp(classes: int, channels: int = 3, width: int = 16, norm: str = "group", size: int = 32) -> nn.Sequential:
    """One hidden layer of ``width`` units; ``norm`` has no effect."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, width), nn.ReLU(), nn.Linear(width, classes))


def resnet(name: str) -> Callable[..., nn.Module]:
    """torchvision's ResNet. On small pictures it begins with a 3x3 convolution of stride 1 and does not pool, unless it is to hold
    weights of the large one (``large``). ``width`` has no effect."""

    def build(
        classes: int, channels: int = 3, width: int = 16, norm: str = "group", size: int = 32, large: bool = False
    ) -> nn.Module:
        try:
            from torchvision import models
        except ImportError as error:
            raise ImportError(f"{name} is torchvision's: pip install torchvision, or 'rwp_edu[lab]'") from error

        model = getattr(models, name)(num_classes=classes, norm_layer=NORMS[norm])
        if size <= SMALL and not large:
            model.conv1, model.maxpool = nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.Identity()
        elif channels != 3:
            model.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        return model

    return build


MODELS: dict[str, Callable[..., nn.Module]] = {
    "rescnn": rescnn,
    "mlp": mlp,
    "resnet18": resnet("resnet18"),
    "resnet34": resnet("resnet34"),
}
ONLINE = "IMAGENET1K_V1"


def build(name: str, weights: str = "", **shape: Any) -> nn.Module:
    """The network ``name`` for ``classes`` classes, ``channels``, ``width``, ``norm`` and ``size``; with ``weights`` it starts from those of
    torchvision (``IMAGENET1K_V1``) or of a file with a state dict (``.pt``, ``.pth``, ``.safetensors``). Layers whose shape differs
    because there are other classes (the last ones) stay as initialised; anything else that does not fit is a ``ValueError``.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    if not weights:
        return MODELS[name](**shape)
    if name not in ("resnet18", "resnet34"):
        if weights == ONLINE:
            raise ValueError(f"the weights {ONLINE} are those of a ResNet: set model=resnet18 or resnet34 and norm=batch")
        return load(MODELS[name](**shape), _read(weights), weights)
    if weights == ONLINE:
        if shape.get("norm") != "batch":
            raise ValueError(f"the weights {ONLINE} are those of a network with BatchNorm: set norm=batch")
        return load(MODELS[name](**shape, large=True), _online(name), weights)
    return load(MODELS[name](**shape, large=of_large_pictures(weights)), _read(weights), weights)


class Trained(NamedTuple):
    """A trained network: it takes ``prepared`` pictures and gives logits (n, classes) for the classes in ``names``."""

    network: nn.Module
    names: tuple[str, ...]
    size: int
    mean: Tensor
    std: Tensor

    def prepared(self, pictures: Tensor) -> Tensor:
        """uint8 pictures (n, channels, size, size) normalised as those that it was trained on."""
        if pictures.dtype != torch.uint8 or pictures.dim() != 4 or pictures.shape[1] != len(self.mean) or pictures.shape[2:] != (self.size, self.size):
            raise ValueError(f"pictures must be uint8 (n, {len(self.mean)}, {self.size}, {self.size}), got {pictures.dtype} {tuple(pictures.shape)}")
        return (pictures / 255 - self.mean[:, None, None]) / self.std[:, None, None]

    def classify(self, pictures: Tensor) -> list[str]:
        """The names of the classes that such pictures are taken for."""
        with torch.no_grad():
            return [self.names[k] for k in self.network(self.prepared(pictures)).argmax(1).tolist()]


CARD = "networks.json"


def trained(path: str | Path) -> Trained:
    """A network that ``rwp-edu train --out`` has left, ``networks/METHOD-seedN.pt``, in evaluation mode on the CPU.

    Errors: no such file, no ``networks.json`` beside it that tells what network it is, or weights that do not fit.
    """
    path = Path(path)
    state = _read(str(path))
    try:
        card = json.loads((path.parent / CARD).read_text(encoding="utf-8"))
        shape = {name: card[name] for name in ("classes", "channels", "width", "norm", "size")}
        large = {"large": True} if card["large"] else {}
        names, mean, std = tuple(card["names"]), torch.tensor(card["mean"]), torch.tensor(card["std"])
        made = MODELS[card["model"]](**shape, **large)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.parent / CARD} does not tell what network this is ({error}): take a folder that rwp-edu train --out has written") from error
    return Trained(load(made, state, str(path)).eval(), names, card["size"], mean, std)


def of_large_pictures(weights: str) -> bool:
    """Are they of a ResNet whose first convolution is 7x7? Such networks know pictures that are normalised as ImageNet's."""
    if not weights or weights == ONLINE:
        return weights == ONLINE
    first = _read(weights).get("conv1.weight")
    return first is not None and first.shape[-1] == 7


def _online(name: str) -> dict[str, Tensor]:
    from torchvision import models

    try:
        return models.get_model_weights(name)[ONLINE].get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise OSError(
            f"the weights {ONLINE} of {name} are not here, whole, and could not be downloaded ({str(error).splitlines()[0]}): go online once, "
            f"after you have removed what is damaged in {torch.hub.get_dir()}/checkpoints, or give weights a file"
        ) from error


def _read(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path} with weights (or write {ONLINE} for those of torchvision)")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise ImportError(f"reading {path} needs safetensors: pip install safetensors") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise ValueError(f"{path} has no weights that can be read: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not the state dict of a model: save model.state_dict() with torch.save")
    return state


def load(model: nn.Module, state: dict[str, Tensor], source: str) -> nn.Module:
    """Put ``state`` into ``model``, all but a last layer for other classes."""
    own = model.state_dict()
    head = {name for name in list(own)[-2:] if name in state and own[name].shape != state[name].shape}
    other = [f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}" for name in own
             if name in state and name not in head and own[name].shape != state[name].shape]  # fmt: skip
    lacking, more = [name for name in own if name not in state], [name for name in state if name not in own]
    if other or lacking or more:
        said = "; ".join(
            f"{what} {', '.join(names[:3])}{' ...' * (len(names) > 3)}"
            for what, names in (("it lacks", lacking), ("it has besides", more), ("other shapes:", other))
            if names
        )
        raise ValueError(f"{source} holds the weights of another network ({said}): choose the model, norm and width they belong to")
    model.load_state_dict({name: own[name] if name in head else value for name, value in state.items()})
    return model
