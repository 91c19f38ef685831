"""The command line: ``rwp-edu lab | methods | train | sweep | reproduce | bench``.

Whatever is wrong with what was asked is one line on standard error and exit status 2, before any work begins. With ``--json``
one object, and nothing else, goes to standard output.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import socket
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rwp_edu import __version__
from rwp_edu.parameters import Parameter, strict, strict_json, unknown

WRONG, INTERRUPTED = 2, 130
PORT = Parameter("port", "", 8888, "port of the notebook server", low=1, high=65535)
COPIES = "rwp_edu_notebooks"
NO_NEWS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


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


# ---------------------------------------------------------------------------------------------------------------- output


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


# ------------------------------------------------------------------------------------------------------------------- lab


def notebooks_folder(chosen: str | None, package: Path = Path(__file__).parent) -> Path:
    """The clone's own notebooks; from a wheel, or where a folder was chosen, copies that never replace a file."""
    bundled, clone = package / "_notebooks", package.parent / "notebooks"
    if chosen is None and not bundled.is_dir():
        return clone
    folder = writable(chosen or COPIES, "--dir")
    for notebook in sorted((bundled if bundled.is_dir() else clone).glob("*.ipynb")):
        if not (folder / notebook.name).exists():
            shutil.copyfile(notebook, folder / notebook.name)
    return folder


def jupyter_arguments(folder: Path, settings: str, port: int | None, browser: bool, root: bool) -> list[str]:
    """JupyterLab on the first notebook of ``folder``: its token as ever, no news, no look for updates.

    ``settings`` is a folder with an ``overrides.json``: only that keeps JupyterLab from asking whether news are wanted. The
    workspace has a name of its own, so that no tabs of other work are opened again, or lost.
    """
    first = min(folder.glob("*.ipynb"), default=None)
    address = "/lab/workspaces/rwp_edu" + (f"/tree/{first.name}" if first else "")
    return [
        f"--ServerApp.root_dir={folder.resolve()}",
        f"--LabApp.default_url={address}",
        f"--LabApp.app_settings_dir={settings}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        *([f"--ServerApp.port={port}", "--ServerApp.port_retries=0"] if port else []),
        *([] if browser else ["--no-browser"]),
        *(["--allow-root"] if root else []),
    ]


def free(port: int) -> None:
    """An error if the notebook server could not listen on ``port``."""
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Wrong(f"cannot use port {port} ({error.strerror}): choose another, or none to get a free one") from error


def lab(arguments: Namespace) -> int:
    if find_spec("jupyterlab") is None:
        raise Wrong("JupyterLab is not installed: pip install 'rwp_edu[lab]' (in a clone: pip install -e '.[lab]')")
    with checked():
        port = PORT.parse(arguments.port) if arguments.port is not None else None
        if port:
            free(port)
        folder = notebooks_folder(arguments.dir)
    from rwp_edu.later import no_grammar

    with no_grammar():
        from jupyterlab.labapp import LabApp

    root = getattr(os, "geteuid", lambda: -1)() == 0
    with tempfile.TemporaryDirectory() as settings:
        (Path(settings) / "overrides.json").write_text(json.dumps(NO_NEWS))
        LabApp.launch_instance(jupyter_arguments(folder, settings, port, not arguments.no_browser, root))
    return 0


# --------------------------------------------------------------------------------------------------------------- methods


def methods(arguments: Namespace) -> int:
    from rwp_edu.methods import METHODS, PARAMETERS
    from rwp_edu.problems import PROBLEMS
    from rwp_edu.settings import parameters as settings_in

    if arguments.json:
        print_json({"methods": [method_row(row) for row in METHODS.values()]})
        return 0
    rows, costs = list(METHODS.values()), {row.name: row.cost() for row in METHODS.values()}
    parameters = list(PARAMETERS.values())
    tables = (
        aligned(
            ("method", "label", "points", "rounds", "gradients", "batches", "state", "copies", "noise"),
            [
                (
                    r.name,
                    r.label,
                    r.symbolic("points"),
                    costs[r.name].rounds,
                    r.symbolic("work"),
                    costs[r.name].batches,
                    r.history,
                    "{} ({})".format(*r.copies) if r.copies else "-",
                    r.kind or "-",
                )
                for r in rows
            ],
            "<<>>>>>><",
        ),
        "Per update: points, rounds, gradients of a whole batch, different batches. State: vectors as long as the\n"
        "weights that are remembered between updates. Copies of the weights that a step of the optimizer needs beyond\n"
        "its base, state included: at its peak (while a closure runs).",
        aligned(("method", "parameters and their defaults"), [(r.name, defaults_of(r)) for r in rows], "<<"),
        aligned(("method", "formula", "source"), [(r.name, r.formula, r.source) for r in rows], "<<<"),
        aligned(
            ("parameter", *(f"in {problem}" for problem in PROBLEMS), "allowed"),
            [(p.name, *(settings_in(problem)[p.name].default for problem in PROBLEMS), p.allowed) for p in parameters],
            "<" * (2 + len(PROBLEMS)),
        ),
        aligned(("parameter", "symbol", "meaning"), [(p.name, p.symbol or "-", p.meaning) for p in parameters], "<<<"),
    )
    print("\n\n".join(tables))
    return 0


def defaults_of(row: Any) -> str:
    """The hyper-parameters of a method with their defaults; those of the noise in a word where they are the common ones."""
    from rwp_edu.methods import NOISE_PARAMETERS, PARAMETERS

    common = "noise (sigma, kind, law, perturb)"
    own = [name for name in row.parameters if name not in NOISE_PARAMETERS or row.default(name) != PARAMETERS[name].default]
    words = [common] * ("sigma" in row.parameters) + [f"{name}={row.default(name)}" for name in own]
    return ", ".join(words) or "-"


def method_row(row: Any) -> dict[str, Any]:
    """A row of the table of methods as plain values."""
    from rwp_edu.methods import PARAMETERS

    cost = row.cost()
    parameters = [PARAMETERS[name] for name in row.parameters]
    return {
        "name": row.name,
        "label": row.label,
        "formula": row.formula,
        "meaning": row.meaning,
        "points": row.symbolic("points"),
        "rounds": cost.rounds,
        "gradient_evaluations": row.symbolic("work"),
        "state": row.history,
        "extra_copies_of_the_weights": row.copies and dict(zip(("peak", "while_a_closure_runs"), row.copies)),
        "batches": cost.batches,
        "kind": row.kind,
        "parameters": [
            {"name": p.name, "symbol": p.symbol, "default": row.default(p.name), "allowed": p.allowed, "meaning": p.meaning}
            for p in parameters
        ],
        "source": row.source,
    }


# ----------------------------------------------------------------------------------------------------------------- train


def settings_of(arguments: Namespace) -> Any:
    """The settings that ``train`` was asked for."""
    from rwp_edu.problems import PICTURES, PROBLEMS
    from rwp_edu.settings import Settings
    from rwp_edu.settings import parameters as settings_in

    if arguments.problem is None:
        raise ValueError(f"name a problem to train on (there is: {', '.join((*PROBLEMS, *PICTURES, 'folder:PATH'))})")
    rows = settings_in(arguments.problem)
    given = {name: getattr(arguments, name) for name in ("methods", "seeds", "steps") if getattr(arguments, name) is not None}
    for pair in arguments.set:
        name, equals, value = pair.partition("=")
        if name not in rows:
            raise unknown("setting", name, rows)
        if not equals:
            raise ValueError(f"write --set {name}=VALUE, where {name} is {rows[name].allowed}; got --set {pair}")
        if name in given:
            raise ValueError(f"{name} is given twice, as {given[name]} and as {value}: leave one of them out")
        given[name] = value
    return Settings(arguments.problem, **given)


THREADS = Parameter("threads", "", 1, "threads of the computation", low=1, high=1024)
SHARDS = Parameter("shards", "", 1, "ranks that share a point", low=1)
EVERY = Parameter("checkpoint_every", "", 100, "updates between two checkpoints", low=1)


def run_of(arguments: Namespace) -> tuple[Any, Path | None]:
    """The run that ``train`` was asked for, new or from a checkpoint, and the folder for its results."""
    from rwp_edu import checkpoints
    from rwp_edu.datasets import fetch
    from rwp_edu.training import Run

    if arguments.resume is None:
        settings = settings_of(arguments)
        folder = writable(arguments.out, "--out") if arguments.out is not None else None
        if folder and (at := checkpoints.unfinished(folder)):
            raise ValueError(f"{folder} holds a run that is at {at}: go on with it by --resume {folder}, or give --out another folder")
        if arguments.download:
            fetch(settings.problem)
        return Run(settings, arguments.device), folder
    for name in ("problem", "methods", "seeds", "steps", "set", "out", "download"):
        if getattr(arguments, name):
            raise ValueError(f"--resume goes on with the settings of the checkpoint, into the same folder: leave out {name}")
    return checkpoints.load(arguments.resume, arguments.device), writable(arguments.resume, "--resume")


def train(arguments: Namespace) -> int:
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
    from rwp_edu import parallel

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
        from rwp_edu import checkpoints
        from rwp_edu.tensorboard import Board
        from rwp_edu.training import keep_freed_memory

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
    from rwp_edu import checkpoints

    checkpoints.save(run, folder)
    save(run.record, folder)


def save(record: Any, folder: Path) -> None:
    """The record as JSON and CSV; what was there stays until the new is whole."""
    record.save(folder / "record.json")
    for name, rows in (("results.csv", record.results()), ("record.csv", record.table())):
        temporary = folder / f"{name}.tmp"
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(strict(rows))
        temporary.replace(folder / name)


def table_of(record: Any, where: str) -> str:
    """What a race came to, one line per method; differences (ratios of geometric means, where a metric is logarithmic) are
    paired by seed."""
    s, results, problem = record.settings, record.results(), record.problem
    score = problem.score
    values = record.rows[-1][score.name]
    others = [metric for metric in problem.metrics[1:]]
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


# ----------------------------------------------------------------------------------------------------------------- bench


def bench(arguments: Namespace) -> int:
    from tqdm import tqdm

    from rwp_edu.bench import measure
    from rwp_edu.memory import extra_copies
    from rwp_edu.training import keep_freed_memory

    keep_freed_memory()
    copies = extra_copies()
    with tqdm(file=sys.stderr, disable=arguments.json and not sys.stderr.isatty(), desc="bench", unit="row") as bar:

        def told(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        results = measure(quick=arguments.quick, told=told)
    if arguments.json:
        print_json({"version": __version__, "results": results, "extra_copies_of_the_weights": copies})
        return 0
    heads = ("figure", "A", "B", "A / B", "quartiles", "pairs", "goal", "met")
    rows = [
        (r["name"], *["-"] * 6, f"skipped: {r['skipped']}")
        if r["skipped"]
        else (
            r["name"],
            *(f"{r[key]:{'.0f' if r[key] >= 100 else '.3g'}} {r['unit']}" for key in "ab"),
            f"{r['ratio']:.2f}",
            "{:.2f} to {:.2f}".format(*r["quartiles"]),
            r["pairs"],
            r["goal"] or "-",
            {True: "yes", False: "no", None: "-"}[r["met"]],
        )
        for r in results
    ]
    legend = [
        (r["name"] if key == "what_a" else "", what, r[key])
        for r in results
        for what, key in (("A", "what_a"), ("B", "what_b"), ("in", "what"))
    ]
    memory = "copies of the weights that an optimizer's step needs beyond torch.optim.SGD, at its peak and while a closure runs:\n"
    lines = zip(("peak", "closure"), *copies.values())
    memory += aligned(("", *copies), list(lines), "<" + ">" * len(copies))
    print(aligned(heads, rows, "<>>>>>><"), aligned(("figure", "", "is"), legend, "<<<"), memory, sep="\n\n")
    return 0


# ----------------------------------------------------------------------------------------------------------------- sweep


def sweep(arguments: Namespace) -> int:
    with checked():
        from rwp_edu.datasets import FOLDER, pictures
        from rwp_edu.problems import PICTURES
        from rwp_edu.sweep import plan
        from rwp_edu.sweep import sweep as run_sweep
        from rwp_edu.sweep.engines import checked as engine_checked
        from rwp_edu.training import keep_freed_memory

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
        first = plan(arguments.problem, arguments.methods, grid, **common)[0].settings
        if first.problem in PICTURES or first.problem.startswith(FOLDER):
            pictures(first.problem, first.size)  # are they there?
        workers = WORKERS.parse(arguments.workers) if arguments.workers is not None else None
        engine = {"engine": arguments.engine, "workers": workers, "address": arguments.ray_address}
        engine_checked(arguments.engine, workers, arguments.ray_address)
        folder = writable(arguments.out, "--out") if arguments.out is not None else None
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


# ------------------------------------------------------------------------------------------------------------- reproduce


def reproduce(arguments: Namespace) -> int:
    with checked():
        from rwp_edu import evidence
        from rwp_edu.training import keep_freed_memory

        if not arguments.claims and not arguments.all:
            return listed(arguments)
        if arguments.claims and arguments.all:
            raise ValueError("--all checks every claim: leave out the names, or --all")
        claims = evidence.named(arguments.claims)
        seeds = CLAIM_SEEDS.parse(arguments.seeds) if arguments.seeds is not None else None
        folder = writable(arguments.out, "--out") if arguments.out is not None else None
        keep_freed_memory()
    from tqdm import tqdm

    from rwp_edu.evidence import report

    results: list[Any] = []
    bar = tqdm(
        total=round(sum(c.seconds for c in claims)),
        file=sys.stderr,
        disable=arguments.json and not sys.stderr.isatty(),
        bar_format="reproduce: {percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}]",
    )
    bar.set_postfix_str(f"0 of {len(claims)} claims")

    def keep(result: Any) -> None:
        results.append(result)
        bar.set_postfix_str(f"{len(results)} of {len(claims)} claims", refresh=False)
        bar.update(min(result.claim.seconds, bar.total - bar.n))
        if folder:
            with checked():
                report.write(results, folder)
        if not arguments.json:
            bar.write(f"{result.verdict:18}  {result.claim.name}: {result.claim.title}", file=sys.stdout)

    failed, interrupted = 0, False
    try:
        with bar:
            for claim in claims:
                try:
                    evidence.reproduce([claim.name], seeds=seeds, quick=arguments.quick, told=keep)
                except RuntimeError as error:  # of one claim: the others are tested all the same
                    failed += 1
                    bar.write(f"rwp-edu: {claim.name} failed: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        interrupted = True
        note(
            f"interrupted after {len(results)} of {len(claims)} claims"
            + (f"; they are in {folder}" if folder and results else "")
        )
    if arguments.json:
        print_json(report.to_dict(results))
    elif folder and results:
        print(f"report: {', '.join(str(folder / name) for name in report.NAMES if (folder / name).exists())}")
    elif results:
        print(report.markdown(results), end="")
    return INTERRUPTED if interrupted else 1 if failed else 0


def listed(arguments: Namespace) -> int:
    """The claims that there are, and what they take."""
    from rwp_edu.evidence import CLAIMS, SEEDS

    claims = list(CLAIMS.values())
    if arguments.json:
        rows = [{"name": c.name, "title": c.title, "source": c.source, "published": c.published, "statements": len(c.statements), "expected_seconds": c.seconds} for c in claims]  # fmt: skip
        print_json({"version": __version__, "claims": rows})
    else:
        print(aligned(("claim", "s", "source", ""), [(c.name, f"{c.seconds:.0f}", c.source, c.title) for c in claims], "<><<"))
        print(f"\nname some of them, or give --all; seconds on one core with {SEEDS} seeds")
    return 0


CLAIM_SEEDS = Parameter("seeds", "", 32, "seeds per claim", low=1, high=256)


# --------------------------------------------------------------------------------------------------------------- parsing


@dataclass(frozen=True)
class Command:
    """A command: what it does, and its arguments as ``argparse`` wants them."""

    help: str
    run: Callable[[Namespace], int]
    arguments: dict[str, dict[str, Any]]


JSON = {"action": "store_true", "help": "print one JSON object and nothing else"}
COMMANDS = {
    "lab": Command(
        "open the notebooks in JupyterLab",
        lab,
        {
            "--no-browser": {"action": "store_true", "help": "start the server, print its address, open no browser"},
            "--port": {"metavar": "N", "help": "port of the server (default: a free one from 8888 on)"},
            "--dir": {"help": f"copy the notebooks to DIR, never over a file (default: the clone's own, else ./{COPIES})"},
        },
    ),
    "methods": Command("list the training methods: formula, cost, parameters, source", methods, {"--json": JSON}),
    "train": Command(
        "train several methods on a problem and compare them",
        train,
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
            "--download": {"action": "store_true", "help": "get the data set first, if it is not here yet"},
            "--parallel": {"metavar": "points", "help": "share out the points of every round over the workers that torchrun has started"},
            "--shards": {"metavar": "N", "help": "workers that share a point, each with a part of the batch (default: 1)"},
            "--threads": {"metavar": "N", "help": "threads of the computation (default: 1; for CIFAR, folders and networks of your own all cores but one)"},
            "--tensorboard": {"action": "store_true", "help": "write event files for TensorBoard too, into DIR/tensorboard"},
            "--json": JSON,
        },
    ),
    "sweep": Command(
        "train over a grid of settings, choose the best honestly",
        sweep,
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
            "--json": JSON,
        },
    ),
    "reproduce": Command(
        "test published claims on this machine",
        reproduce,
        {
            "claims": {
                "nargs": "*",
                "metavar": "CLAIM",
                "help": "names of claims (without any, and without --all, they are listed)",
            },
            "--all": {"action": "store_true", "help": "every claim, a few minutes"},
            "--quick": {"action": "store_true", "help": "6 seeds, coarser settings: under two minutes for all"},
            "--seeds": {"metavar": "N", "help": "seeds per claim (default: 32, quick 6)"},
            "--out": {
                "metavar": "DIR",
                "help": "write report.md, report.json and report.html (interactive, needs no network) there",
            },
            "--json": JSON,
        },
    ),
    "bench": Command(
        "measure the speed of this installation",
        bench,
        {"--quick": {"action": "store_true", "help": "fewer repetitions"}, "--json": JSON},
    ),
}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise Wrong(f"{message} (see {self.prog} --help)")


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = Parser(prog="rwp-edu", description="See why flat minima generalise, and how to find them.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"rwp-edu {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        child = commands.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        for argument, details in command.arguments.items():
            child.add_argument(argument, **details)
    argv = sys.argv[1:] if argv is None else argv
    named = next((text for text in argv if not text.startswith("-")), None)
    if named not in (None, *COMMANDS):
        raise Wrong(str(unknown("command", named, COMMANDS)))
    arguments, extra = parser.parse_known_args(argv)
    if named is None:
        raise Wrong(f"name a command (there is: {', '.join(COMMANDS)})")
    if extra:
        raise Wrong(str(unknown(f"argument of {arguments.command}", extra[0], COMMANDS[arguments.command].arguments)))
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        arguments = parse(argv)
        status = COMMANDS[arguments.command].run(arguments)
        sys.stdout.flush()
        return status
    except Wrong as error:
        note(str(error))
        return WRONG
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
