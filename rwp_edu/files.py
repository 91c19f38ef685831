"""A whole file or none."""

from __future__ import annotations

import os
from pathlib import Path


def whole(path: str | Path, text: str) -> Path:
    """Write a text file, and the folder for it: on the disk before it takes its name, so that what was there stays until then."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
