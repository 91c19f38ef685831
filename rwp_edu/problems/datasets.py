"""Pictures as uint8 tensors: those of a folder, or of a tar of folders, ``train/CLASS/picture`` and ``test/CLASS/picture`` (or ``val``);
data sets that torchvision knows, downloaded when asked for; and the bundled digits.
"""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rwp_edu.utils.parameters import unknown

KINDS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"}
PARTS = ("train", "test", "val")


class Pictures(NamedTuple):
    """``train``, ``test`` and perhaps ``validation`` are uint8 pictures (n, channels, size, size) with labels (n,) that number ``classes``."""

    classes: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor] | None = None

    @property
    def size(self) -> int:
        return self.train[0].shape[-1]

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (channels, 1, 1) of the training pixels, from 0 to 1; of many pictures, of some 5,000 from all classes."""
        pixels = self.train[0][:: -(-len(self.train[0]) // 5000)].to(torch.float64) / 255
        return pixels.mean((0, 2, 3))[:, None, None], pixels.std((0, 2, 3)).clamp(min=1e-3)[:, None, None]


def _files(path: Path) -> Iterator[tuple[PurePosixPath, Callable[[], bytes]]]:
    """What may be pictures, by their paths within; names that begin with a dot are nobody's pictures."""

    def shown(name: PurePosixPath) -> bool:
        return name.suffix.lower() in KINDS and not any(part.startswith(".") for part in name.parts)

    def under(place: Path, above: tuple[str, ...]) -> Iterator[Path]:
        if (real := os.path.realpath(place)) not in above:  # links may lead round in a circle
            for entry in sorted(place.iterdir()):
                yield from under(entry, (*above, real)) if entry.is_dir() else (entry,)

    if path.is_dir():
        for file in under(path, ()):
            if shown(name := PurePosixPath(file.relative_to(path).as_posix())):
                yield name, file.read_bytes
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isdir() and shown(PurePosixPath(member.name)):
                    yield PurePosixPath(member.name), lambda member=member: tar.extractfile(member).read()
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"damaged after {tar.members[-1].name}")


def _class_of(name: PurePosixPath) -> tuple[str, str] | None:
    """``deep/train/CLASS/more/picture`` is of the part ``train`` and of that class."""
    for part, own in zip(name.parts[:-2], name.parts[1:]):
        if part in PARTS:
            return part, own
    return None


def _decoded(data: bytes, size: int) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I"):  # 16 bits, which PIL would cut off at 8
            deep = np.asarray(image, dtype=np.int64)
            image = Image.fromarray((deep // 257 if deep.max() > 255 else deep).clip(0, 255).astype(np.uint8))
        return np.array(image.convert("RGB").resize((size, size)))


def read_pictures(path: str | Path, size: int = 32) -> Pictures:
    """Decode every picture once, to ``size`` x ``size`` RGB; this takes 3 size² bytes for each. Nothing is extracted.

    The folder, or tar, has ``train/CLASS/...`` and ``test/CLASS/...``, or ``val`` in place of ``test``; where there are all three, ``val`` is
    held back to choose settings by.

    Errors: nothing there, no ``train`` or ``test``, different classes in the two, a picture that cannot be read (it is named).
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'rwp_edu[lab]'") from error

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no folder or tar {path}")
    found: dict[str, list[tuple[str, str, Tensor]]] = {part: [] for part in PARTS}
    try:
        for name, read in tqdm(_files(path), f"reading {path.name}", unit=" pictures", delay=2, leave=False, disable=None):
            if (at := _class_of(name)) is None:
                continue
            data = read()
            try:
                pixels = _decoded(data, size)
            except Exception as error:
                raise ValueError(f"{path}: the picture {name} cannot be read ({error}): mend or remove it") from error
            found[at[0]].append((at[1], str(name), torch.from_numpy(pixels).permute(2, 0, 1)))
    except (tarfile.TarError, EOFError, zlib.error, KeyError) as error:  # KeyError: a link that leads nowhere
        raise ValueError(f"{path} is neither a folder nor a tar that can be read: {error}") from error
    if not found["test"]:
        found["test"] = found.pop("val")
    classes = {part: sorted({row[0] for row in rows}) for part, rows in found.items() if rows or part != "val"}
    if not all(classes.values()):
        raise ValueError(
            f"{path} needs train/CLASS/picture and test/CLASS/picture (or val/), found { ({p: len(r) for p, r in found.items()}) }"
        )
    for part, own in classes.items():
        if own != classes["train"]:
            raise ValueError(f"{path}: train has the classes {classes['train']}, {part} has {own}")
    number = {name: i for i, name in enumerate(classes["train"])}

    def tensors(rows: list[tuple[str, str, Tensor]]) -> tuple[Tensor, Tensor]:
        rows = sorted(rows, key=lambda row: row[1])
        return torch.stack([row[2] for row in rows]), torch.tensor([number[row[0]] for row in rows])

    return Pictures(tuple(number), *(tensors(found[part]) for part in PARTS if found.get(part)))


@lru_cache(maxsize=2)
def _kept(path: Path, size: int, changed: float) -> Pictures:
    return read_pictures(path, size)


def folder(path: str, size: int = 32) -> Pictures:
    """:func:`read_pictures`, which remembers the last two."""
    place = Path(path).expanduser()
    changed = max((p.stat().st_mtime for p in (place, *place.glob("*"), *place.glob("*/*")) if p.exists()), default=0.0)
    return _kept(place.resolve(), size, changed) if changed else read_pictures(place, size)


# Data sets of torchvision

KNOWN = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion-mnist": "FashionMNIST"}
PLACE = "RWP_EDU_DATA"


def place() -> Path:
    """Where downloaded data are kept: ``$RWP_EDU_DATA``, else ``data/downloaded`` in a clone, else ``~/.cache/rwp_edu``."""
    clone = Path(__file__).parents[2]
    if chosen := os.environ.get(PLACE):
        return Path(chosen)
    return clone / "data" / "downloaded" if (clone / "pyproject.toml").is_file() else Path.home() / ".cache" / "rwp_edu"


def _torchvision(name: str, train: bool, download: bool) -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ImportError(f"{name} is read by torchvision: pip install torchvision, or 'rwp_edu[lab]'") from error
    return getattr(datasets, KNOWN[name])(str(place()), train=train, download=download)


def fetch(name: str) -> Path:
    """Download ``cifar10``, ``cifar100`` or ``fashion-mnist``, with progress and checksums; what is there already stays. Gives the folder.

    Errors: an unknown name; no network, or a damaged download (``OSError`` that says what to do).
    """
    if name not in KNOWN:
        raise unknown("data set", name, KNOWN)
    try:
        place().mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            _torchvision(name, train, download=True)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"{name} could not be downloaded ({error or type(error).__name__}): go online and try again, or copy what torchvision's {KNOWN[name]} expects into {place()}"
        ) from error
    return place()


@lru_cache(maxsize=2)
def downloaded(name: str) -> Pictures:
    """A data set that :func:`fetch` has got; ``FileNotFoundError`` if it has not."""
    try:
        parts = [_torchvision(name, train, download=False) for train in (True, False)]
    except (RuntimeError, OSError, EOFError) as error:
        raise FileNotFoundError(
            f"{name} is not in {place()} yet: `rwp-edu train {name} --download`, or rwp_edu.problems.datasets.fetch({name!r}), downloads it"
        ) from error
    return Pictures(tuple(parts[0].classes), *(_tensors(part) for part in parts))


def _tensors(part: Any) -> tuple[Tensor, Tensor]:
    x = torch.as_tensor(part.data)
    x = x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2)
    return x.contiguous(), torch.as_tensor(part.targets)


@lru_cache(maxsize=1)
def bundled() -> Pictures:
    """The bundled digits as grey pictures of 8 x 8 pixels, 1,297 to train on and 500 to test, by a split that is always the same."""
    from rwp_edu.methods.noise import generator
    from rwp_edu.problems.digits import read

    x, y = read()
    x = (x.view(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
    order = torch.randperm(len(y), generator=generator(0, "pictures"))
    train, test = order[:1297], order[1297:]
    return Pictures(tuple(map(str, range(10))), (x[train], y[train]), (x[test], y[test]))


def pictures(name: str, size: int = 32) -> Pictures:
    """By the name of a problem: ``images`` (the bundled digits), one of those that can be downloaded, or ``folder:PATH``."""
    if name.startswith(FOLDER):
        return folder(name.removeprefix(FOLDER), size)
    return bundled() if name == "images" else downloaded(name)


FOLDER = "folder:"
