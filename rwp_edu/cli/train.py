"""``rwp-edu train``: a race, its record and its checkpoints."""

from __future__ import annotations

import math
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from rwp_edu import __version__
from rwp_edu.cli.arguments import DOWNLOAD, settings_of
from rwp_edu.cli.output import INTERRUPTED, JSON, Command, Wrong, aligned, checked, folder_for, note, print_json, writable
from rwp_edu.utils.files import table, whole
from rwp_edu.utils.parameters import Parameter, strict

THREADS = Parameter("threads", "", 1, "threads of the computation", low=1, high=1024)
SHARDS = Parameter("shards", "", 1, "ranks that share a point", low=1)
EVERY = Parameter("checkpoint_every", "", 100, "updates between two checkpoints", low=1)


def run_of(arguments: Namespace) -> tuple[Any, Path | None]:
    """The run that ``train`` was asked for, new or from a checkpoint, and the folder for its results."""
    from rwp_edu.problems.datasets import fetch
    from rwp_edu.training import Run
    from rwp_edu.training import checkpoint as checkpoints

    if arguments.resume is None:
        settings = settings_of(arguments)
        folder = folder_for("train", arguments.out)
        if folder and (there := checkpoints.held(folder)):
            goes_on = "" if there.finished else f"go on with it by --resume {folder}, or "
            raise ValueError(f"{folder} holds a run of {there.problem} that is at update {there.updates} of {there.steps}: {goes_on}give --out another folder")
        if arguments.download:
            fetch(settings.problem)
        return Run(settings, arguments.device), folder
    for name in ("problem", "methods", "seeds", "steps", "set", "out", "download"):
        if getattr(arguments, name):
            raise ValueError(f"--resume goes on with the settings of the checkpoint, into the same folder: leave out {name}")
    return checkpoints.load(arguments.resume, arguments.device), writable(arguments.resume, "--resume")


def run(arguments: Namespace) -> int:
    if arguments.parallel is None:
        if arguments.shards is not None:
            raise Wrong("--shards goes with --parallel points: leave it out, or add that")
        return train_here(arguments)
    with checked():
        from torch.distributed import is_torchelastic_launched

        if arguments.parallel != "points":
            raise ValueError(f"--parallel takes points, got {arguments.parallel!r}")
        if not is_torchelastic_launched():
            raise ValueError("several workers are started by torchrun --nproc-per-node 2 -m rwp_edu train ... --parallel points")
        if arguments.device != "auto":
            raise ValueError("workers choose their devices themselves: leave out --device")
        shards = SHARDS.parse(arguments.shards) if arguments.shards is not None else 1
    from rwp_edu.optim import parallel

    goes_on = arguments.out and int(os.environ["TORCHELASTIC_RESTART_COUNT"]) and (Path(arguments.out) / "checkpoint.pt").exists()
    if goes_on:
        none = dict.fromkeys(("problem", "methods", "seeds", "steps", "out"))
        vars(arguments).update(none, resume=arguments.out, set=[], download=False)
    try:
        with parallel.workers() as device:
            arguments.device = device.type
            return train_here(arguments, shards, first=os.environ["RANK"] == "0")
    except parallel.WorkerLost as error:
        raise Wrong(f"{error}; with --out DIR, torchrun --max-restarts 3 goes on from the last checkpoint") from error


def train_here(arguments: Namespace, shards: int = 0, first: bool = True) -> int:
    """Train in this process; with ``shards`` it is one of several workers, of which the ``first`` alone writes and speaks."""
    with checked():
        from rwp_edu.training import checkpoint as checkpoints
        from rwp_edu.training.run import keep_freed_memory
        from rwp_edu.training.tensorboard import Board

        keep_freed_memory()
        every = EVERY.parse(arguments.checkpoint_every if arguments.checkpoint_every is not None else EVERY.default)
        if arguments.checkpoint_every is not None and (arguments.out or arguments.resume) is None:
            raise ValueError("checkpoints need a folder: give --out DIR")
        threads = None if arguments.threads is None else THREADS.parse(arguments.threads)
        if arguments.tensorboard and (arguments.out or arguments.resume) is None:
            raise ValueError("TensorBoard needs a folder: give --out DIR")
        run, folder = run_of(arguments)
        resumed = arguments.resume is not None
        if shards and run.record.problem.engine == "batched":
            raise ValueError(f"the networks of {run.settings.problem} are trained all at once, which several workers would slow down; try images")
        if shards:
            run.engine.share(shards)
        run.engine.threads = threads or run.engine.threads
        folder = folder if first else None
        if folder and not resumed:
            keep(run, folder)  # what is there of a former run is not this one's
        board = Board(folder / "tensorboard", run.updates if resumed else -1) if arguments.tensorboard and first else None
    from tqdm import tqdm

    settings = run.settings
    quiet = arguments.json and not sys.stderr.isatty() or not first
    interrupted = False
    try:
        with tqdm(
            total=settings.steps, initial=run.updates, desc=settings.problem, unit="update", file=sys.stderr, disable=quiet
        ) as bar:
            while not run.finished:
                with checked():
                    run.advance(min(10, every - run.updates % every) if folder else 10)
                    if folder and (run.updates % every == 0 or run.finished):
                        keep(run, folder)
                    if board:
                        board.add(run.record)
                bar.update(run.updates - bar.n)
    except KeyboardInterrupt:
        interrupted = True
        if not shards:  # the other workers are gone
            run.complete()
        run.write()
    try:
        if folder:
            with checked():
                if not shards:
                    keep(run, folder)
                save(run.record, folder)
                checkpoints.save_networks(run, folder)
    finally:
        if first:
            tell(run, interrupted, arguments.json)
    if interrupted and first:
        again = f"; rwp-edu train --resume {folder} goes on" if folder else ""
        note(f"interrupted; the results are those of update {run.updates} of {settings.steps}{again}")
    return INTERRUPTED if interrupted else 0


def tell(run: Any, interrupted: bool, as_json: bool) -> None:
    """The results, for people or for programs."""
    if not as_json:
        print(table_of(run.record, f"{run.device}, {run.engine.title}"))
        return
    told = {"version": __version__, "device": str(run.device), "interrupted": interrupted, "settings": run.settings.to_dict()}
    print_json({**told, "results": run.record.results()})


def keep(run: Any, folder: Path) -> None:
    """A checkpoint, and the record so far."""
    from rwp_edu.training import checkpoint as checkpoints

    checkpoints.save(run, folder)
    save(run.record, folder)


def save(record: Any, folder: Path) -> None:
    """The record as JSON and CSV; what was there stays until the new is whole."""
    record.save(folder / "record.json")
    for name, rows in (("results.csv", record.results()), ("record.csv", record.table())):
        whole(folder / name, table(strict(rows)))


def table_of(record: Any, where: str) -> str:
    """What a race came to, one line per method; differences (ratios of geometric means, where a metric is logarithmic) are
    paired by seed."""
    s, results, problem = record.settings, record.results(), record.problem
    score = problem.score
    values = record.rows[-1][score.name]
    others = record.at_the_end[1:]
    heads = ["method", score.noun, f"over {record.entrants[0]}" if score.log else f"minus {record.entrants[0]}"]
    heads += [*(metric.noun for metric in others), "gradients", "seconds"]
    rows = [
        [
            row["method"],
            score.mean(values[e]),
            "-" if not e else score.mean(values[e] / values[0] if score.log else values[e] - values[0], sign=not score.log),
            *(
                metric.shown(row[f"{metric.name}_mean"]) if math.isfinite(row[f"{metric.name}_mean"]) else "-"
                for metric in others
            ),
            row["gradient_evaluations"],
            f"{row['seconds']:.2f}",
        ]
        for e, row in enumerate(results)
    ]
    if any(row["diverged"] for row in results):
        heads.append("diverged")
        rows = [[*cells, f"{row['diverged']} of {s.seeds}" if row["diverged"] else "-"] for cells, row in zip(rows, results)]
    own = ", ".join(f"{row.title} {told_of(row, getattr(s, row.name))}" for row in problem.parameters if said(row, getattr(s, row.name)))
    mean = "geometric mean ×/÷ its standard error" if score.log else "mean ± standard error"
    return "\n".join(
        (
            f"{s.problem}: {own}; {results[0]['updates']} updates on {where}",
            f"{mean} over {s.seeds} seeds; gradients of one run, seconds of all {s.seeds}" if s.seeds > 1 else "one seed",
            "",
            aligned(heads, rows, "<" + ">" * (len(heads) - 1)),
        )
    )


def said(row: Parameter, value: Any) -> bool:
    """Is this setting worth a word? One of a number always is, a choice only if it is not the usual one."""
    return row.type is not str and value != 0 or value != row.default or (value, ALL) in row.ticks


ALL = "all"


def told_of(row: Parameter, value: Any) -> str:
    return ALL if (value, ALL) in row.ticks else f"{value:g}" if isinstance(value, (int, float)) else str(value)


COMMAND = Command(
    "train several methods on a problem and compare them",
    run,
    {
        "problem": {"nargs": "?", "help": "digits, fine-tuning, sensing, images, cifar10, cifar100, fashion-mnist or folder:PATH"},
        "--methods": {"metavar": "A,B,...", "help": "which, perhaps with own values: sgd,rwp,m-rwp:sigma=0.15"},
        "--seeds": {"metavar": "N", "help": "runs per method (default: 8)"},
        "--steps": {"metavar": "N", "help": "updates (default: 400 for digits)"},
        "--set": {"metavar": "NAME=VALUE", "action": "append", "default": [], "help": "another setting; may be repeated"},
        "--device": {"default": "auto", "help": "auto (the default: a GPU where there is one), cpu or cuda"},
        "--out": {"metavar": "DIR", "help": "write the record (JSON and CSV), results.csv and checkpoints there"},
        "--checkpoint-every": {"metavar": "N", "help": f"updates between two checkpoints (default: {EVERY.default})"},
        "--resume": {"metavar": "DIR", "help": "go on with the run whose checkpoint is in DIR"},
        "--download": DOWNLOAD,
        "--parallel": {"metavar": "points", "help": "share out the points of every round over the workers that torchrun has started"},
        "--shards": {"metavar": "N", "help": "workers that share a point, each with a part of the batch (default: 1)"},
        "--threads": {"metavar": "N", "help": "threads of the computation (default: 1; for CIFAR, folders and networks of your own all cores but one)"},
        "--tensorboard": {"action": "store_true", "help": "write event files for TensorBoard too, into DIR/tensorboard"},
        "--json": JSON,
    },
)
