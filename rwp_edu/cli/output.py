"""What every command says and how: one line for what is wrong, columns of text, one JSON object."""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwp_edu.utils.parameters import strict_json

WRONG, INTERRUPTED = 2, 130
JSON = {"action": "store_true", "help": "print one JSON object and nothing else"}


class Wrong(Exception):
    """What was wrong and what would be right, in one line."""


@contextmanager
def checked() -> Iterator[None]:
    """Inside, an error is about what was asked for: it becomes one line."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise Wrong(" ".join(str(error).split())) from error


def writable(folder: str, option: str) -> Path:
    """``folder``, made if it does not exist, or an error if nothing can be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Path(folder)
    except OSError as error:
        raise Wrong(f"cannot write to {folder} ({error.strerror}): give {option} a folder that can be written to") from error


RESULTS = {"train": ("record.json", "a run"), "sweep": ("sweep.json", "a sweep"), "reproduce": ("report.json", "a report")}
"""By command the file that tells that a folder holds its results, and what these are."""


def folder_for(command: str, folder: str | None) -> Path | None:
    """The folder that ``--out`` names, if it does: one that can be written to and holds nothing of another command, which would be replaced."""
    if folder is None:
        return None
    path = writable(folder, "--out")
    for owner, (file, what) in RESULTS.items():
        if owner != command and (path / file).exists():
            raise Wrong(f"{folder} holds {what}: give --out another folder")
    return path


def aligned(header: Sequence[str], rows: Iterable[Sequence[Any]], align: str) -> str:
    """Columns of text, each aligned by its letter in ``align``: ``<`` or ``>``.

    >>> print(aligned(("name", "points"), [("sgd", 1), ("m-rwp", 2)], "<>"))
    name   points
    sgd         1
    m-rwp       2
    """
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(f"{c:{a}{n}}" for c, a, n in zip(line, align, widths)).rstrip() for line in lines)


def print_json(value: dict[str, Any]) -> None:
    print(strict_json(value))


def note(text: str) -> None:
    print(f"rwp-edu: {text}", file=sys.stderr)


@dataclass(frozen=True)
class Command:
    """A command: what it does, and its arguments as ``argparse`` wants them."""

    help: str
    run: Callable[[Namespace], int]
    arguments: dict[str, dict[str, Any]]
