"""A run on disk: all that decides how it goes on, so that a run that was killed continues bit for bit on a CPU.

A checkpoint holds tensors and plain values only (``torch.load(..., weights_only=True)``). It is written to a temporary file beside the
former one, flushed to the disk and renamed: at every moment one whole checkpoint is there.
"""

from __future__ import annotations

import json
import os
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import torch

from rwp_edu import __version__
from rwp_edu.problems.models import CARD
from rwp_edu.training.run import Record, Run
from rwp_edu.training.settings import Settings
from rwp_edu.utils.files import whole

FORMAT, FILE = 2, "checkpoint.pt"


def state_of(run: Run) -> dict[str, Any]:
    """All that decides how a run goes on, between two updates."""
    run.collect(wait=True)
    run.complete()
    return {
        "format": FORMAT,
        "version": __version__,
        "settings": json.dumps(run.settings.to_dict()),
        "record": json.dumps(run.record.to_dict()),
        "updates": run.updates,
        "threads": run.engine.threads,
        "dtype": str(run.problem.dtype).removeprefix("torch."),
        "engine": run.engine.state(),
        "died": run._died.clone(),
        "groups": [
            {
                "work": [group.work.numerator, group.work.denominator],
                "seconds": group.seconds,
                "displacement": group.displacement,
            }
            for group in run.groups
        ],
        "problem": run.problem.state(),
        "data": getattr(run.problem, "data", ""),
    }


def save(run: Run, folder: str | Path) -> Path:
    """Write the state of a run into ``folder``; if that fails, as on a full disk, the former checkpoint is still there."""
    return _write(state_of(run), Path(folder) / FILE)


def _write(state: dict[str, Any], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch turns some errors of the disk into RuntimeError
        temporary.unlink(missing_ok=True)
        kept = "; the former one is still there" if path.exists() else ""
        raise OSError(f"cannot write {path} ({error}){kept}") from error
    return path


def save_networks(run: Run, folder: str | Path) -> list[Path]:
    """The state dict of every network as it was measured (averaged and recalibrated where asked for), ``networks/METHOD-seedN.pt``, for
    problems whose networks are modules; ``rwp_edu.problems.models.trained(path)``, or ``model.load_state_dict(torch.load(path))`` for your own module, reads it."""
    found, card = [], getattr(run.problem, "card", None)
    if card:
        whole(Path(folder) / "networks" / CARD, json.dumps(card, indent=1))
    for name, runners in zip(run.settings.methods, getattr(run.engine, "runners", ())):
        for runner in runners:
            path = Path(folder) / "networks" / f"{name.replace(':', '_')}-seed{runner.seed}.pt"
            with runner.as_measured() as model:
                found.append(_write(model.state_dict(), path))
    return found


def _read(path: Path) -> Any:
    """What a file holds that is whole: torch does not look at the checksums."""
    with ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise BadZipFile(f"it is damaged, in {damaged}")
    return torch.load(path, map_location="cpu", weights_only=True)


class Held(NamedTuple):
    """A run in a folder, as far as its checkpoint tells."""

    problem: str
    updates: int
    steps: int
    finished: bool


def held(folder: str | Path) -> Held | None:
    """What would be lost if another run were written into ``folder``: None if there is no run that has begun and can be read."""
    try:
        state = _read(Path(folder) / FILE)
        settings, updates, lost = json.loads(state["settings"]), state["updates"], state["died"] >= 0
        finished = updates >= settings["steps"] or bool(lost.all())
        return Held(settings["problem"], updates, settings["steps"], finished) if updates else None
    except Exception:  # whatever is wrong with it, it cannot be continued
        return None


def load(folder: str | Path, device: str = "cpu") -> Run:
    """The run whose checkpoint is in ``folder``, as it was, on ``device``.

    Errors: no checkpoint, one that is damaged, or one of another format.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint in {folder} (looked for {path}): give the folder that --out named")
    try:
        state = _read(path)
        if not isinstance(state, dict) or "format" not in state:
            raise ValueError("it holds something else")
        if state["format"] != FORMAT:
            raise ValueError(f"it has format {state['format']}, this is format {FORMAT} of rwp_edu {__version__}")
        return _restored(state, device)
    except FileNotFoundError:  # the checkpoint is good, its pictures are gone
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError, BadZipFile) as error:
        raise ValueError(f"{path} is not a checkpoint that can be continued: {error}") from error


def _restored(state: dict[str, Any], device: str) -> Run:
    record = Record.from_dict(json.loads(state["record"]))
    run = Run(record.settings, device, getattr(torch, state["dtype"]))
    if state.get("data") and state["data"] != run.problem.data:
        raise ValueError(f"the pictures of {record.settings.problem} are not those that it was trained on: put them back as they were")
    run.engine.restore(state["engine"])
    run._died.copy_(state["died"])
    for group, kept in zip(run.groups, state["groups"], strict=True):
        group.work, group.seconds = Fraction(*kept["work"]), kept["seconds"]
        group.displacement = None if kept["displacement"] is None else kept["displacement"].to(run.device)
    run.problem.restore(state["problem"])
    run.engine.threads = state.get("threads", run.engine.threads)  # sums depend on it
    run.updates, run.settings = state["updates"], Settings(**json.loads(state["settings"]))
    record.reference = run.record.reference
    run.record = record
    run._settled()
    return run
