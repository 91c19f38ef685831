"""Every lab in a real browser: the figure follows the hand, in several views, after a reload and without a kernel."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

from rwp_edu.benchmarks import browser_rows
from rwp_edu.benchmarks.browser import browser, chromium, jupyter, open_notebook, python, run_cell, slider_of, until

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)")

# Folders with an ipykernel and a plotly each, made with `pip install --target`, beside those that are installed.
KERNELS = ["", *filter(None, os.environ.get("RWP_EDU_IPYKERNELS", "").split(os.pathsep))]
LABS = {"race": ("lab.race(methods='sgd,rwp', seeds=2, steps=100_000)", "sigma"), **browser_rows.LABS}
PRESSES = 15
ROUND_TRIPS = 40  # through the kernel, in which a figure has to follow: what a machine is slow at, it is slow at in both


@pytest.fixture(scope="module", params=KERNELS, ids=lambda folder: Path(folder).name or "installed")
def page(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("jupyter")
    folder = home / "notebooks"
    folder.mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("from rwp_edu import lab")], metadata={"kernelspec": kernel}),
        folder / "labs.ipynb",
    )
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, (request.param, os.environ.get("PYTHONPATH"))))}
    with jupyter(folder, home, **environment) as url, browser() as page:
        page.errors = []
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.folder = folder
        open_notebook(page, url, "labs.ipynb")
        until(page, "jupyterapp.shell.currentWidget.content.widgets[0].model.executionCount === 1")
        yield page


META = "[...document.querySelectorAll('.rwp-lab .js-plotly-plot')].filter(p => p.offsetParent).at({}).layout.meta?.{}"


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


@pytest.fixture
def cell(page):
    """Runs code in a new cell; afterwards the cells and the lab ``shown`` in them are gone."""
    made = []

    def run(source):
        made.append(source)
        run_cell(page, source)

    yield run
    python(page, "shown.close()")
    for _ in made:
        page.evaluate("jupyterapp.commands.execute('notebook:delete-cell')")


@pytest.mark.parametrize("name", LABS)
def test_the_figure_shows_what_the_readout_shows(page, cell, name):
    source, control = LABS[name]
    cell(f"shown = {source}\nshown")
    until(page, f"{META.format(0, control)} !== undefined")
    if name == "race":
        page.locator(".rwp-lab button:has-text('Start')").first.click()
        until(page, "document.querySelector('.rwp-lab .rwp-status').innerText.includes('running')")
    slider = slider_of(page, "shown", control)
    handle = slider.locator(".noUi-handle").first
    handle.focus()
    seen = set()
    for turn in range(PRESSES):
        before = number(slider.locator(".widget-readout").inner_text())
        handle.press("ArrowRight" if turn % 5 < 3 else "ArrowLeft")
        for _ in range(ROUND_TRIPS):
            python(page, "pass")
            now, drawn = number(slider.locator(".widget-readout").inner_text()), page.evaluate(META.format(0, control))
            if now != before and drawn == pytest.approx(now):
                break
        assert drawn == pytest.approx(now) and (now != before or name in ("workers", "trial")), f"press {turn}"
        seen.add(now)
    assert len(seen) > 2
    assert python(page, f"print(shown.state.{control})").strip() == python(page, f"print(type(shown.state.{control})({now}))").strip()


def test_two_views_of_one_lab_both_follow(page, cell):
    cell("shown = lab.smoothing()\nshown")
    until(page, f"{META.format(0, 'sigma')} === 0.05")
    cell("shown")
    until(page, "[...document.querySelectorAll('.rwp-lab .js-plotly-plot')].filter(p => p.offsetParent).length >= 2")
    python(page, "shown.set(sigma=0.2)")
    until(page, f"{META.format(0, 'sigma')} === 0.2 && {META.format(1, 'sigma')} === 0.2")


def test_a_page_that_is_loaded_again_and_a_kernel_that_is_restarted(page):
    run_cell(page, "shown = lab.smoothing()\nshown")
    until(page, f"{META.format(0, 'sigma')} === 0.05")
    python(page, "shown.set(sigma=0.11)")
    until(page, f"{META.format(0, 'sigma')} === 0.11")
    until(page, "document.querySelector('.rwp-still img') !== null")  # the screen is at rest
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    until(page, f"{META.format(0, 'sigma')} === 0.11")
    assert page.evaluate("getComputedStyle(document.querySelector('.rwp-still')).display") == "none"
    assert [text for text in page.errors if "favicon" not in text] == []
    python(page, "shown.set(sigma=0.12)")
    until(page, f"{META.format(0, 'sigma')} === 0.12")

    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    told = "getComputedStyle(document.querySelector('.rwp-lab'), '::before').content"
    until(page, f"{told}.includes('run this cell again')")
    assert page.evaluate("getComputedStyle(document.querySelector('.rwp-lab .widget-slider'), '::before').content") == "none"


def test_a_notebook_that_is_opened_without_its_kernel_shows_its_figures(page):
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    saved = nbformat.read(page.folder / "labs.ipynb", 4)
    images = [out["data"]["text/html"] for cell in saved.cells for out in cell.get("outputs", ()) if "rwp-still" in out.get("data", {}).get("text/html", "")]
    assert any("data:image/png;base64," in image and "σ = 0.1" in image for image in images)
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    until(page, "[...document.querySelectorAll('.rwp-still img')].some(image => image.offsetParent && image.naturalWidth > 300)")
