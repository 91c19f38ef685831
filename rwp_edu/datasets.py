"""Pictures in folders, or in a tar of them, as one uint8 tensor: ``train/CLASS/picture`` and ``test/CLASS/picture`` (or ``val``)."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

KINDS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".gif"}
PARTS = {"train": "train", "test": "test", "val": "test"}


class Pictures(NamedTuple):
    """``train`` and ``test`` are uint8 pictures (n, 3, size, size) with labels (n,) that number ``classes``."""

    classes: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def _files(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in KINDS:
                yield PurePosixPath(file.relative_to(path).as_posix()), file.read_bytes()
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and PurePosixPath(member.name).suffix.lower() in KINDS:
                    yield PurePosixPath(member.name), tar.extractfile(member).read()


def read_pictures(path: str | Path, size: int = 32) -> Pictures:
    """Decode every picture once, to ``size`` x ``size`` RGB; this takes 3 size² bytes for each. Nothing is extracted.

    Errors: nothing there, no ``train`` or ``test``, different classes in the two, a picture that cannot be read (it is named).
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'rwp_edu[lab]'") from error

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no folder or tar {path}")
    found: dict[str, list[tuple[str, str, Tensor]]] = {"train": [], "test": []}
    try:
        for name, data in _files(path):
            if len(name.parts) < 3 or name.parts[-3] not in PARTS:
                continue
            try:
                with Image.open(io.BytesIO(data)) as image:
                    pixels = np.array(image.convert("RGB").resize((size, size)))
            except Exception as error:
                raise ValueError(f"{path}: the picture {name} cannot be read ({error}): mend or remove it") from error
            found[PARTS[name.parts[-3]]].append((name.parts[-2], str(name), torch.from_numpy(pixels).permute(2, 0, 1)))
    except tarfile.TarError as error:
        raise ValueError(f"{path} is neither a folder nor a tar that can be read: {error}") from error
    classes = {part: sorted({row[0] for row in rows}) for part, rows in found.items()}
    if not all(found.values()):
        raise ValueError(
            f"{path} needs train/CLASS/picture and test/CLASS/picture (or val/), found { ({p: len(r) for p, r in found.items()}) }"
        )
    if classes["train"] != classes["test"]:
        raise ValueError(f"{path}: train has the classes {classes['train']}, test has {classes['test']}")
    number = {name: i for i, name in enumerate(classes["train"])}

    def tensors(rows: list[tuple[str, str, Tensor]]) -> tuple[Tensor, Tensor]:
        rows = sorted(rows, key=lambda row: row[1])
        return torch.stack([row[2] for row in rows]), torch.tensor([number[row[0]] for row in rows])

    return Pictures(tuple(number), tensors(found["train"]), tensors(found["test"]))
