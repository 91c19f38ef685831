"""``rwp-edu methods``: the table of methods."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from rwp_edu.cli.output import JSON, Command, aligned, print_json


def run(arguments: Namespace) -> int:
    from rwp_edu.methods import METHODS, PARAMETERS
    from rwp_edu.problems import PROBLEMS
    from rwp_edu.training.settings import parameters as settings_in

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


COMMAND = Command("list the training methods: formula, cost, parameters, source", run, {"--json": JSON})
