"""The exercise of *Train on images*: the statistics that a BatchNorm layer should predict with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rwp_edu.lab.exercises import near, parts, verdict


def check_statistics(statistics: Callable[[list[Tensor]], Any]) -> bool:
    """Is ``statistics(batches)`` the mean over batches of each batch's mean and unbiased variance per channel? Prints what is wrong; returns
    whether it is right."""
    return verdict(_problem, statistics)


def _problem(statistics: Callable[[list[Tensor]], Any]) -> str:
    g = torch.Generator().manual_seed(0)
    batches = [torch.randn(5, 3, 2, 2, generator=g) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] + number for number in range(4)]
    result = statistics([x.clone() for x in batches])
    found = parts(result)
    if len(found) != 2:
        return f"return two tensors, the mean and the variance; it returned {result!r}."
    mean, variance = found
    for name, value in (("mean", mean), ("variance", variance)):
        if value.shape != (3,):
            return f"the {name} needs one number per channel, shape (3,); yours has shape {tuple(value.shape)}."
    layer = torch.nn.BatchNorm2d(3, momentum=None)
    for x in batches:
        layer(x)
    if not near(mean, layer.running_mean):
        if near(mean, 4 * layer.running_mean):
            return "that is the sum over the batches; divide by how many there are."
        return f"the mean per channel is {layer.running_mean.tolist()}; yours is {mean.tolist()}."
    if not near(variance, layer.running_var):
        if near(variance, torch.cat(batches).var((0, 2, 3))):
            return "that is the variance of all batches together, which has the differences between batches in it; take the mean of each batch's own."
        if near(variance, layer.running_var * 19 / 20):
            return "that divides by n; the unbiased variance divides by n - 1."
        return f"the variance per channel is {layer.running_var.tolist()}; yours is {variance.tolist()}."
    return ""
