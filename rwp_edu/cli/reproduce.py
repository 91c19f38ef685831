"""``rwp-edu reproduce``: published claims, tested here."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from rwp_edu import __version__
from rwp_edu.cli.output import INTERRUPTED, JSON, Command, aligned, checked, folder_for, note, print_json
from rwp_edu.utils.parameters import Parameter


def run(arguments: Namespace) -> int:
    with checked():
        from rwp_edu.experiments import claims as evidence
        from rwp_edu.experiments.claims import report
        from rwp_edu.training.run import keep_freed_memory

        if not arguments.claims and not arguments.all:
            for name in ("quick", "seeds", "out"):
                if getattr(arguments, name):
                    raise ValueError(f"--{name} is for claims that are tested: name some, or give --all")
            return listed(arguments)
        if arguments.claims and arguments.all:
            raise ValueError("--all checks every claim: leave out the names, or --all")
        claims = evidence.named(arguments.claims)
        seeds = CLAIM_SEEDS.parse(arguments.seeds) if arguments.seeds is not None else None
        folder = folder_for("reproduce", arguments.out)
        there = report.kept(folder, seeds, arguments.quick) if folder else {}
        keep_freed_memory()
    from tqdm import tqdm

    results, missing = dict(there), [claim for claim in claims if claim.name not in there]
    if len(missing) < len(claims):
        note(f"{len(claims) - len(missing)} of {len(claims)} claims are in {folder} and are not tested again")
    bar = tqdm(
        total=round(sum(c.seconds for c in missing)),
        file=sys.stderr,
        disable=arguments.json and not sys.stderr.isatty(),
        bar_format="reproduce: {percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}]",
    )
    bar.set_postfix_str(f"0 of {len(missing)} claims")

    def keep(result: Any) -> None:
        results[result.claim.name] = result
        bar.set_postfix_str(f"{len(results) - len(there)} of {len(missing)} claims", refresh=False)
        bar.update(min(result.claim.seconds, bar.total - bar.n))
        if folder:
            with checked():
                report.write(list(results.values()), folder)
        if not arguments.json:
            bar.write(f"{result.verdict:18}  {result.claim.name}: {result.claim.title}", file=sys.stdout)

    failed, interrupted = 0, False
    try:
        with bar:
            for claim in missing:
                try:
                    evidence.reproduce([claim.name], seeds=seeds, quick=arguments.quick, told=keep)
                except RuntimeError as error:  # of one claim: the others are tested all the same
                    failed += 1
                    bar.write(f"rwp-edu: {claim.name} failed: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        interrupted = True
        note(
            f"interrupted after {len(results) - len(there)} of {len(missing)} claims"
            + (f"; they are in {folder}, and the same command goes on" if folder and results else "")
        )
    if arguments.json:
        print_json(report.to_dict(list(results.values())))
    elif folder and results:
        print(f"report: {', '.join(str(folder / name) for name in report.NAMES if (folder / name).exists())}")
    elif results:
        print(report.markdown(list(results.values())), end="")
    return INTERRUPTED if interrupted else 1 if failed else 0


def listed(arguments: Namespace) -> int:
    """The claims that there are, and what they take."""
    from rwp_edu.experiments.claims import CLAIMS, SEEDS

    claims = list(CLAIMS.values())
    if arguments.json:
        rows = [{"name": c.name, "title": c.title, "source": c.source, "published": c.published, "statements": len(c.statements), "expected_seconds": c.seconds} for c in claims]  # fmt: skip
        print_json({"version": __version__, "claims": rows})
    else:
        print(aligned(("claim", "s", "source", ""), [(c.name, f"{c.seconds:.0f}", c.source, c.title) for c in claims], "<><<"))
        print(f"\nname some of them, or give --all; seconds on one core with {SEEDS} seeds")
    return 0


CLAIM_SEEDS = Parameter("seeds", "", 32, "seeds per claim", low=1, high=256)


COMMAND = Command(
    "test published claims on this machine",
    run,
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
            "help": "write report.md, report.json and report.html (interactive, needs no network) there; run again, it goes on",
        },
        "--json": JSON,
    },
)
