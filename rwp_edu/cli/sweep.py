"""``rwp-edu sweep``: a grid of settings."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from rwp_edu.cli.arguments import DOWNLOAD, settings_of
from rwp_edu.cli.output import INTERRUPTED, JSON, Command, aligned, checked, folder_for, note, print_json
from rwp_edu.utils.parameters import Parameter


def run(arguments: Namespace) -> int:
    with checked():
        from rwp_edu.experiments.sweep import plan
        from rwp_edu.experiments.sweep import sweep as run_sweep
        from rwp_edu.experiments.sweep.executors import checked as engine_checked
        from rwp_edu.problems import PICTURES
        from rwp_edu.problems.datasets import FOLDER, fetch, pictures
        from rwp_edu.training.run import keep_freed_memory

        grid: dict[str, str] = {}
        for pair in arguments.grid:
            name, equals, values = pair.partition("=")
            if not equals or name in grid:
                raise ValueError(f"write --grid NAME=VALUE,VALUE,... once for a name, got --grid {pair}")
            grid[name] = values
        common = settings_of(arguments).to_dict()
        wanted = {"seeds", "steps"} & {name for name in common if getattr(arguments, name, None) is not None}
        wanted |= {pair.partition("=")[0] for pair in arguments.set}
        common = {name: common[name] for name in wanted}
        if arguments.methods is None:
            raise ValueError("name the methods to sweep over: --methods sgd,rwp,m-rwp")
        if arguments.download:
            fetch(arguments.problem)
        first = plan(arguments.problem, arguments.methods, grid, **common)[0].settings
        if first.problem in PICTURES or first.problem.startswith(FOLDER):
            pictures(first.problem, first.size)  # are they there?
        workers = WORKERS.parse(arguments.workers) if arguments.workers is not None else None
        engine = {"engine": arguments.engine, "workers": workers, "address": arguments.ray_address}
        engine_checked(arguments.engine, workers, arguments.ray_address)
        folder = folder_for("sweep", arguments.out)
        keep_freed_memory()
    from tqdm import tqdm

    with tqdm(
        desc=arguments.problem,
        file=sys.stderr,
        disable=arguments.json and not sys.stderr.isatty(),
        bar_format="{desc}: {percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}]",
    ) as bar:

        def told(done: float, of: int) -> None:
            if bar.total is None:
                bar.total, bar.n, bar.initial = of, done, done
            bar.set_postfix_str(f"{int(done)} of {of} settings", refresh=False)
            bar.update(done - bar.n)

        with checked():
            found = run_sweep(arguments.problem, arguments.methods, grid, out=folder, told=told, **engine, **common)
    if folder:
        with checked():
            found.save(folder)
    if arguments.json:
        print_json(found.to_dict())
    else:
        print(table_of_sweep(found))
    if found.interrupted:
        again = "; the same command goes on" if folder else ""
        note(f"interrupted with {len(found.finished)} of {len(found.rows)} settings finished{again}")
    return INTERRUPTED if found.interrupted else 0


WORKERS = Parameter("workers", "", 2, "processes", low=1, high=4096)


def table_of_sweep(found: Any) -> str:
    """All settings with what chooses; a star at what is chosen, and what it is worth by the look that reports."""
    grid, (choose, report) = list(found.grid), found.looks
    heads = ("", "method", *grid, choose.title, report.title, "")
    rows = []
    for row, told in zip(found.rows, found.results()):
        seen, worth = ("-" if row.record is None or not len(look.at(row)) else look.metric.mean(look.at(row)) for look in (choose, report))
        edge = ", ".join(found.on_the_edge(row)) if told["chosen"] else ""
        remark = told["why"] or (f"best at the end of the grid of {edge}" if edge else "" if row.record else "not run")
        diverged = f"{row.diverged} of {len(row.record.seeds)} diverged" if row.record and row.diverged else ""
        cells = [str(told.get(name, "-")) for name in grid]
        rows.append(("*" * told["chosen"], told["method"], *cells, seen, worth if told["chosen"] else "", remark or diverged))
    return aligned(heads, rows, "<<" + ">" * (len(grid) + 2) + "<") + f"\n\n* best setting of a method, {found.rule}"


COMMAND = Command(
    "train over a grid of settings, choose the best honestly",
    run,
    {
        "problem": {"nargs": "?", "help": "what is trained, as for train: digits, fine-tuning, sensing, images, cifar10, folder:PATH, ..."},
        "--methods": {"metavar": "A,B,...", "help": "which: sgd,rwp,m-rwp"},
        "--grid": {
            "metavar": "NAME=A,B,...",
            "action": "append",
            "default": [],
            "help": "a parameter and its values; may be repeated",
        },
        "--seeds": {"metavar": "N", "help": "runs per setting (default: 8)"},
        "--steps": {"metavar": "N", "help": "updates"},
        "--set": {"metavar": "NAME=VALUE", "action": "append", "default": [], "help": "another setting; may be repeated"},
        "--engine": {"default": "batched", "help": "batched (the default: in this process), processes (joblib) or ray"},
        "--workers": {"metavar": "N", "help": "processes (default: one per core)"},
        "--ray-address": {"metavar": "A", "help": "the cluster (default: one on this machine)"},
        "--out": {
            "metavar": "DIR",
            "help": "keep every finished setting there, and results.csv, sweep.json, sweep.html; run again, it goes on",
        },
        "--download": DOWNLOAD,
        "--json": JSON,
    },
)
