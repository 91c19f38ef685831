"""A record as event files for TensorBoard (``pip install 'rwp_edu[tensorboard]'``): a run per entrant and seed, a scalar per metric."""

from __future__ import annotations

import math
from pathlib import Path

from rwp_edu.training.run import Record


class Board:
    """``add(record)`` writes what the record has more than the last time, and more than the ``done`` updates of a run that goes on."""

    def __init__(self, folder: str | Path, done: int = -1):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("TensorBoard is not installed: pip install 'rwp_edu[tensorboard]'") from error
        self.folder, self._writer, self._writers, self._done = Path(folder), SummaryWriter, {}, -1
        if any(self.folder.rglob("events.*")):
            self._done = done  # what a run that was killed has written after its checkpoint is written again, and takes its place

    def add(self, record: Record) -> None:
        names = [metric.name for metric in record.problem.measured]
        for line in record.table():
            if line["updates"] <= self._done:
                continue
            run = f"{line['method'].replace(':', ' ')} seed {line['seed']}"
            if run not in self._writers:
                self._writers[run] = self._writer(str(self.folder / run), purge_step=self._done + 1)
            for name in names:
                if math.isfinite(line[name]):
                    self._writers[run].add_scalar(name, line[name], line["updates"])
        self._done = int(record.rows[-1]["updates"])
        for writer in self._writers.values():
            writer.flush()
