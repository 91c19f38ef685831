"""A small residual network for images, without running statistics."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """x + two normalised 3x3 convolutions, the first of them with ``stride``."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(4, out) for _ in range(2))
        same = channels == out and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(h)) + self.short(x)).relu()


def rescnn(classes: int, channels: int = 3, width: int = 16) -> nn.Sequential:
    """Three residual blocks of ``width``, 2 ``width`` and 4 ``width`` channels, mean over the picture, a linear layer; ``width`` is a multiple of 4.

    >>> sum(p.numel() for p in rescnn(10).parameters())
    77850
    """
    if width < 4 or width % 4:
        raise ValueError(f"width must be a multiple of 4, got {width}")
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1, bias=False),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        Residual(width, width, 1),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )
