"""``rwp-edu lab``: the notebooks, in JupyterLab."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

from rwp_edu.cli.output import Command, Wrong, checked, writable
from rwp_edu.utils.parameters import Parameter

PORT = Parameter("port", "", 8888, "port of the notebook server", low=1, high=65535)
COPIES = "rwp_edu_notebooks"
NO_NEWS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


def notebooks_folder(chosen: str | None, package: Path = Path(__file__).parents[1]) -> Path:
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


def run(arguments: Namespace) -> int:
    if find_spec("jupyterlab") is None:
        raise Wrong("JupyterLab is not installed: pip install 'rwp_edu[lab]' (in a clone: pip install -e '.[lab]')")
    with checked():
        port = PORT.parse(arguments.port) if arguments.port is not None else None
        if port:
            free(port)
        folder = notebooks_folder(arguments.dir)
    from rwp_edu.utils.lazy_import import no_grammar

    with no_grammar():
        from jupyterlab.labapp import LabApp

    root = getattr(os, "geteuid", lambda: -1)() == 0
    with tempfile.TemporaryDirectory() as settings:
        (Path(settings) / "overrides.json").write_text(json.dumps(NO_NEWS))
        LabApp.launch_instance(jupyter_arguments(folder, settings, port, not arguments.no_browser, root))
    return 0


COMMAND = Command(
    "open the notebooks in JupyterLab",
    run,
    {
        "--no-browser": {"action": "store_true", "help": "start the server, print its address, open no browser"},
        "--port": {"metavar": "N", "help": "port of the server (default: a free one from 8888 on)"},
        "--dir": {"help": f"copy the notebooks to DIR, never over a file (default: the clone's own, else ./{COPIES})"},
    },
)
