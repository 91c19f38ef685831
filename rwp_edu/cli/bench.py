"""``rwp-edu bench``: speed, as ratios measured in one run."""

from __future__ import annotations

import sys
from argparse import Namespace

from rwp_edu import __version__
from rwp_edu.cli.output import JSON, Command, aligned, print_json


def run(arguments: Namespace) -> int:
    from tqdm import tqdm

    from rwp_edu.benchmarks.memory import extra_copies
    from rwp_edu.benchmarks.rows import measure
    from rwp_edu.training.run import keep_freed_memory

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
    heads = ("figure", "A", "p95 of A", "B", "A / B", "quartiles", "pairs", "goal", "met")
    rows = [
        (r["name"], *["-"] * 7, f"skipped: {r['skipped']}")
        if r["skipped"]
        else (
            r["name"],
            *(f"{r[key]:{'.0f' if r[key] >= 100 else '.3g'}} {r['unit']}" for key in ("a", "a_p95", "b")),
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
    print(aligned(heads, rows, "<>>>>>>><"), aligned(("figure", "", "is"), legend, "<<<"), memory, sep="\n\n")
    return 0


COMMAND = Command(
    "measure the speed of this installation",
    run,
    {"--quick": {"action": "store_true", "help": "fewer repetitions"}, "--json": JSON},
)
