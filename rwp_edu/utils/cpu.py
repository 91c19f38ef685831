"""The machine: how many cores there are, and how many of them others are using."""

from __future__ import annotations

import math
import os
from pathlib import Path
from time import perf_counter, process_time, sleep


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> float:
    """CPU seconds that all processes of the machine have used, NaN where the system does not tell."""
    try:
        fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    except (OSError, ValueError):
        return math.nan
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # neither idle nor waiting for a disk


def others(seconds: float = 1.0) -> float:
    """How many cores are busy with anything but this process, watched for so long; NaN where the system does not tell."""
    began, before, own = perf_counter(), busy(), process_time()
    sleep(seconds)
    return max(0.0, (busy() - before - process_time() + own) / (perf_counter() - began))
