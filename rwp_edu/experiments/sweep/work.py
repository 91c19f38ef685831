"""Work through the plan of a sweep, keep what is finished, and go on from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rwp_edu import __version__
from rwp_edu.experiments.sweep.executors import ENGINES, checked, tasks_of
from rwp_edu.experiments.sweep.plan import Point, digest, groups, parsed, plan, settings_of
from rwp_edu.experiments.sweep.results import Row, Sweep
from rwp_edu.problems.fingerprint import behind
from rwp_edu.training import Record
from rwp_edu.utils.files import whole


def _kept(folder: Path) -> Iterator[Record]:
    """The records in a folder that this version has made, from the data that are there now; a file that is none is left alone."""
    for path in sorted(folder.glob("run-*.json")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["version"] == __version__:
                record = Record.from_dict(told)
                if told.get("data", "") == behind(record.settings):
                    yield record
        except (ValueError, KeyError, TypeError, OSError):
            continue


def sweep(
    problem: str,
    methods: Any,
    grid: Mapping[str, Any],
    *,
    engine: str = "batched",
    workers: int | None = None,
    address: str | None = None,
    out: str | Path | None = None,
    told: Callable[[float, int], None] = lambda done, all_of_them: None,
    **common: Any,
) -> Sweep:
    """Run what has not been run of a grid, and say what came of all of it.

    ``methods`` and ``common`` (``seeds=8``, ``steps=400``, ...) are settings as in ``rwp_edu.training.settings.Settings``; ``grid`` names
    parameters with the values to combine. With ``out``, each finished group is written there at once, under a hash of its settings and the version, and what is
    there is not run again, also if the grid has grown; a setting that failed is tried again. After Ctrl-C the sweep holds what is
    finished, with ``interrupted``. ``told(done, of)`` counts settings, with fractions where the engine can tell.

    Engines: ``batched`` (here), ``processes`` (joblib; ``workers`` of them), ``ray`` (a cluster at ``address``, or a local one).

    >>> found = sweep("digits", "sgd,rwp", {"sigma": [0.1, 0.2]}, seeds=2, steps=2)
    >>> [row["status"] for row in found.results()]
    ['finished', 'finished', 'finished']
    """
    workers = checked(engine, workers, address)
    points = plan(problem, methods, grid, **common)
    rows = {point.key: Row(point) for point in points}
    folder = Path(out) if out is not None else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for record in _kept(folder):
            _fill(rows, record)
    missing = [[p for p in group if rows[p.key].record is None] for group in groups(points)]
    found = Sweep(problem, list(rows.values()), grid=parsed(problem, grid))
    told(len(found.finished), len(points))
    try:
        broken = _run([group for group in missing if group], rows, engine, workers, address, folder, found, told)
        _run([[point] for group in broken for point in group], rows, engine, workers, address, folder, found, told)
    except KeyboardInterrupt:
        found.interrupted = True
    return found


def _fill(rows: dict[str, Row], record: Record) -> None:
    """Give a record to those settings that it belongs to."""
    for entrant in record.entrants:
        key = digest(record.settings.replace(methods=[entrant]).to_dict())
        if key in rows and rows[key].record is None:
            rows[key].record, rows[key].failed = record, ""


def _run(
    wanted: list[list[Point]],
    rows: dict[str, Row],
    engine: str,
    workers: int,
    address: str | None,
    folder: Path | None,
    found: Sweep,
    told: Callable[[float, int], None],
) -> list[list[Point]]:
    """Run groups and keep what they give; groups of several settings that failed are returned, to be run one by one."""
    broken = []
    if not wanted:
        return broken
    settings, answered = [settings_of(group) for group in wanted], 0
    data = [behind(s) if folder else "" for s in settings]  # as they are before they are read

    def done() -> int:
        return sum(row.record is not None or bool(row.failed) for row in found.rows)

    def heard(part: float) -> None:
        told(done() + part * len(wanted[answered]), len(found.rows))

    for i, answer in ENGINES[engine](tasks_of(settings), workers, address, heard):
        answered += 1
        if "failed" in answer:
            broken += [wanted[i]] * (len(wanted[i]) > 1)
            for point in wanted[i] * (len(wanted[i]) == 1):
                rows[point.key].failed = answer["failed"]
        else:
            if folder:
                whole(folder / f"run-{digest(settings[i].to_dict())}.json", json.dumps({"version": __version__, "data": data[i], **answer}))
            _fill(rows, Record.from_dict(answer))
            assert all(rows[point.key].record for point in wanted[i]), "a record belongs to the settings it was made with"
        told(done(), len(found.rows))
    return sorted(broken, key=lambda group: group[0].key)
