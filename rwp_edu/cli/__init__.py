"""The command line: ``rwp-edu lab | methods | train | sweep | reproduce | bench``.

Whatever is wrong with what was asked is one line on standard error and exit status 2, before any work begins. With ``--json``
one object, and nothing else, goes to standard output. What only one command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from rwp_edu import __version__
from rwp_edu.cli import bench, lab, methods, reproduce, sweep, train
from rwp_edu.cli.output import INTERRUPTED, WRONG, Wrong, note
from rwp_edu.utils.parameters import unknown

COMMANDS = {
    "lab": lab.COMMAND,
    "methods": methods.COMMAND,
    "train": train.COMMAND,
    "sweep": sweep.COMMAND,
    "reproduce": reproduce.COMMAND,
    "bench": bench.COMMAND,
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
    before = list(argv[: argv.index(named)]) if named else []
    if before and before[0] not in ("-h", "--help", "--version"):
        raise Wrong(f"options come after the command: rwp-edu {' '.join([named, *before])}")
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
