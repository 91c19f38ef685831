"""Whether data, networks and files behind a name are still those of a former result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwp_edu.methods.noise import generator
from rwp_edu.problems.datasets import FOLDER


def digest(parts: Iterable[Any]) -> str:
    """A hash of tensors, bytes and text."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype}{tuple(part.shape)}".encode())
            part = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found.update(part if isinstance(part, bytes) else str(part).encode())
    return found.hexdigest()[:20]


def _files(path: Path) -> Iterator[tuple[str, int, int]]:
    for place, _, names in [("", [], [path.name])] if path.is_file() else sorted(os.walk(path, followlinks=True)):
        for name in sorted(names):
            found = os.stat(os.path.join(place or path.parent, name))
            yield os.path.join(os.path.relpath(place, path) if place else "", name), found.st_size, found.st_mtime_ns


def behind(settings: Any) -> str:
    """A hash of what a result depends on beside its settings: the files of a folder by name, size and time, a file of weights, the module and the data
    of a problem of one's own as they begin. Nothing where all is in the settings."""
    from rwp_edu import problems

    parts: list[Any] = []
    if settings.problem.startswith(FOLDER):
        parts += _files(Path(settings.problem.removeprefix(FOLDER)).expanduser())
    elif settings.problem in problems.OWN:
        own = problems.OWN[settings.problem].make(settings, (0,), torch.device("cpu"), torch.float32)
        parts += [own.start(0), *own.begin(generator(0, "identity").initial_seed())]
    if os.path.isfile(weights := getattr(settings, "weights", "")):
        parts.append(Path(weights).read_bytes())
    return digest(parts) if parts else ""
