"""A notebook exported as a page, without any kernel, in a real browser."""

from __future__ import annotations

import os
import subprocess
import sys

import nbformat
import pytest

from rwp_edu.benchmarks.browser import browser, chromium, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]


def test_an_exported_notebook_shows_its_figures(tmp_path):
    cells = ["from rwp_edu import lab\nhills = lab.smoothing()\nhills", "hills.set(sigma=0.2)", "race = lab.race(methods='sgd,rwp', seeds=1, steps=20)\nrace", "race.run()"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, tmp_path / "labs.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", str(tmp_path / "labs.ipynb")]
    environment = {key: value for key, value in os.environ.items() if key != "RWP_EDU_HEADLESS_STEPS"}
    subprocess.run(command, check=True, capture_output=True, env=environment | {"IPYTHONDIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)})
    with browser() as page:
        page.goto((tmp_path / "labs.html").as_uri())
        until(page, "document.querySelectorAll('.rwp-still .main-svg').length >= 2")
        until(page, "document.body.innerText.includes('At σ = 0.2') && document.body.innerText.includes('After 20 updates')")
