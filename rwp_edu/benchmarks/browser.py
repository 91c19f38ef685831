"""A JupyterLab on loopback and a Chromium that looks at it, for the browser tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
TOKEN = "browser-test"
PATIENCE = int(os.environ.get("RWP_EDU_PATIENCE", 240_000))  # milliseconds: how slow a machine may be is not what the tests ask


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def jupyter(folder: Path, home: Path, **environment: str) -> Iterator[str]:
    """The address of a fresh JupyterLab whose root is ``folder``; its settings live in ``home``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = home / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        **environment,
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    with open(home / "jupyter.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(PATIENCE // 250):
                try:
                    urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=2)
                    break
                except OSError:
                    if server.poll() is not None:
                        raise RuntimeError((home / "jupyter.log").read_text()) from None
                    time.sleep(0.25)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


@contextlib.contextmanager
def browser(width: int = 1400, height: int = 1100):
    """A page of the installed Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chrome = play.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            page = chrome.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(PATIENCE)
            yield page
        finally:
            chrome.close()


def open_notebook(page, url: str, name: str, theme: str = "") -> None:
    """Open a notebook in single-document mode, wait for its kernel and run all cells."""
    page.goto(f"{url}/doc/tree/{name}?token={TOKEN}&reset")
    page.wait_for_function(
        "window.jupyterapp && jupyterapp.shell.currentWidget && jupyterapp.shell.currentWidget.sessionContext"
    )
    page.evaluate("jupyterapp.restored")
    page.wait_for_function("jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'")
    if theme:
        page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")


@contextlib.contextmanager
def showing(source: str, home: Path, **environment: str):
    """A page with a notebook of one cell that shows a lab; ``page.errors`` collects what the console complains about."""
    import nbformat

    (folder := home / "notebooks").mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "lab.ipynb")
    with jupyter(folder, home, **environment) as url, browser() as page:
        page.errors = []
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        open_notebook(page, url, "lab.ipynb")
        page.wait_for_selector(".rwp-lab .js-plotly-plot .main-svg")
        yield page


def python(page, code: str) -> str:
    """Run code in the kernel of the open notebook, beside its cells; returns what it printed."""
    return page.evaluate(
        """async code => {
            const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const future = kernel.requestExecute({code, store_history: false});
            let text = '';
            future.onIOPub = message => {
                if (message.header.msg_type === 'stream') text += message.content.text;
                if (message.header.msg_type === 'error') text += message.content.ename + ': ' + message.content.evalue;
            };
            await future.done;
            return text;
        }""",
        code,
    )


def run_cell(page, source: str) -> None:
    """Run code in a new cell above the others."""
    page.evaluate(
        """async source => {
            const widget = jupyterapp.shell.currentWidget;
            widget.content.model.sharedModel.insertCell(0, {cell_type: 'code', source});
            widget.content.activeCellIndex = 0;
            await jupyterapp.commands.execute('notebook:run-cell');
        }""",
        source,
    )


def slider_of(page, lab: str, control: str):
    """The slider of a control of the lab that the kernel knows under the name ``lab``."""
    title = python(page, f"print({lab}.screen.controls[{control!r}].row.title)").strip()
    head = page.locator(f".rwp-lab .rwp-head:has-text('{title}')").first
    return head.locator("xpath=ancestor::div[contains(@class,'widget-vbox')][1]")


def until(page, expression: str, **options) -> None:
    """Wait until a JavaScript expression holds; what does not exist yet does not hold yet."""
    page.wait_for_function(f"() => {{ try {{ return {expression} }} catch {{ return false }} }}", **options)


def click_until(page, area, across: float, up: float, expression: str) -> None:
    """Click into a picture, at fractions of its area, until something holds: plotly misses a click while it draws."""
    from playwright.sync_api import TimeoutError

    for left in reversed(range(PATIENCE // 10_000)):
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        for off in (-3, 0):
            page.mouse.move(box["x"] + across * box["width"] + off, box["y"] + (1 - up) * box["height"])
            page.wait_for_timeout(100)
        page.mouse.down()
        page.mouse.up()
        try:
            return until(page, expression, timeout=10_000)
        except TimeoutError:
            if not left:
                raise


def picture(path: Path, theme: str = "") -> None:
    """The lab after a real run with σ moved on the way, as a PNG: the picture of the README."""
    import tempfile

    notebook = Path(__file__).parents[2] / "notebooks" / "00_start_here.ipynb"
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "notebooks"
        folder.mkdir()
        shutil.copy(notebook, folder)
        with jupyter(folder, Path(home)) as url, browser(1300, 1400) as page:
            open_notebook(page, url, notebook.name, theme)
            page.get_by_text("Clean labels: ").wait_for()
            python(page, "lab.run(240)\nlab.set(sigma=0.15)\nlab.run()")
            page.wait_for_timeout(2000)
            page.locator(".rwp-lab").first.screenshot(path=path)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), *sys.argv[2:])
