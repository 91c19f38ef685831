"""A whole file or none."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def whole(path: str | Path, text: str) -> Path:
    """Write a text file, and the folder for it: on the disk before it takes its name, so that what was there stays until then."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with a column for every key of any of them.

    >>> print(table([{"a": 1}, {"a": 2, "b": None}]).splitlines())
    ['a,b', '1,', '2,']
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
