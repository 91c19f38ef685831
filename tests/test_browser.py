"""The lab as its users meet it: JupyterLab in a real browser."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rwp_edu.benchmarks.browser import browser, chromium, click_until, jupyter, open_notebook, python, until

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "00_start_here.ipynb"
# Folders with another ipykernel each, made with `pip install --target`: the live path, tests named live_, is tested on every one.
KERNELS = ["", *filter(None, os.environ.get("RWP_EDU_IPYKERNELS", "").split(os.pathsep))]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module", params=KERNELS, ids=lambda folder: Path(folder).name or "installed")
def opened(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("jupyter")
    folder = home / "notebooks"
    folder.mkdir()
    shutil.copy(NOTEBOOK, folder)
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, (request.param, os.environ.get("PYTHONPATH"))))}
    with jupyter(folder, home, **environment) as url, browser() as page:
        page.errors = []
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        open_notebook(page, url, NOTEBOOK.name)
        page.wait_for_selector(".rwp-lab .js-plotly-plot .main-svg")
        page.get_by_text("Clean labels: ").wait_for()  # printed by the last cell
        assert request.param in python(page, "import ipykernel; print(ipykernel.__file__)")
        yield page, request.param


@pytest.fixture
def page(opened, request):
    page, other = opened
    if other and "_live_" not in request.node.name:
        pytest.skip("is the same on every ipykernel")
    return page


def press(page, label: str) -> None:
    page.locator(f".rwp-lab button:has-text('{label}')").first.click()


def endless(page) -> None:
    """A race that is still running when a slow machine comes to look at it."""
    python(page, "lab.set(steps=100_000)\nlab.reset()")
    assert python(page, "print(lab.status, lab.record.settings.steps)").split() == ["ready", "100000"]


LINE = "(document.querySelector('.rwp-lab .js-plotly-plot').data.find(t => t.name === '{}')?.x?.length ?? 0)"
STATUS = "document.querySelector('.rwp-lab .rwp-status').innerText"


def slider(page, title: str):
    head = page.locator(f".rwp-lab .rwp-head:has-text('{title}')").first
    return head.locator("xpath=ancestor::div[contains(@class,'widget-vbox')][1]").locator(".noUi-handle").first


def test_live_picture_takes_the_width_it_has(page):
    wide = "document.querySelector('.rwp-lab .js-plotly-plot{}').getBoundingClientRect().width"
    until(page, f"{wide.format('')} > 800 && {wide.format(' .main-svg')} === {wide.format('')}")


def test_live_race(page):
    assert python(page, "print(lab.status, lab._run.updates)").split() == ["ready", "0"]
    endless(page)
    press(page, "Start")
    until(page, f"{LINE.format('RWP')} >= 4")
    before = python(page, "print(lab._run.updates, lab._run.groups[2].hyper['sigma'], len(lab.record.marks))").split()
    assert before[1:] == ["0.1", "0"]

    handle = slider(page, "scale of the noise")
    handle.focus()
    for _ in range(4):
        handle.press("ArrowRight")
    until(page, "document.querySelector('.rwp-lab .js-plotly-plot').innerText.includes('→ 0.12')")
    points = page.evaluate(LINE.format("RWP"))
    until(page, f"{LINE.format('RWP')} > {points}")
    updates, sigma, status = python(page, "print(lab._run.updates, lab._run.groups[2].hyper['sigma'], lab.status)").split()
    assert int(updates) > int(before[0]) and sigma == "0.12" and status == "running"

    press(page, "Pause")
    until(page, f"{STATUS}.includes('paused')")
    stopped = python(page, "print(lab._run.updates)")
    page.wait_for_timeout(500)
    assert python(page, "print(lab._run.updates)") == stopped
    assert "leads with" in page.locator(".rwp-lab .rwp-says").first.inner_text()

    until(page, f"{LINE.format('RWP')} === {int(python(page, 'print(len(lab.record.rows))'))}")
    points = page.evaluate(LINE.format("RWP"))
    press(page, "Step")
    until(page, f"!{STATUS}.includes('running') && {LINE.format('RWP')} > {points}")
    assert int(python(page, "print(lab._run.updates)")) % 10 == 0

    press(page, "Reset")
    until(page, f"{STATUS}.includes('ready')")
    assert python(page, "print(lab._run.updates, lab.state.sigma)").split() == ["0", "0.12"]
    until(page, f"{LINE.format('RWP, former run')} >= {points}")


def test_error_in_the_status_line(page):
    page.get_by_text("the problem (acts at Reset)").first.click()
    for title, key in (("training images", "Home"), ("images per batch", "End")):
        handle = slider(page, title)
        handle.focus()
        handle.press(key)
    until(page, f"{STATUS}.includes('batch must not exceed train')")
    press(page, "Reset")
    until(page, f"{STATUS}.includes('ready')")


def test_methods_presets_and_axes(page):
    page.locator(".rwp-lab .rwp-chip button:has-text('SAM')").first.click()
    until(page, "!document.querySelector('.rwp-lab .js-plotly-plot').data.some(t => t.name === 'SAM' && t.visible !== false)")
    assert "no chosen method uses ρ" in page.locator(".rwp-lab").first.inner_text()
    page.locator(".rwp-lab button:has-text('gradients')").first.click()
    until(page, "document.querySelector('.rwp-lab .js-plotly-plot').layout.xaxis3.title.text.includes('gradient evaluations')")
    page.locator(".rwp-lab select").filter(has_text="Too much noise").first.select_option(label="Too much noise")
    until(
        page,
        f"{STATUS}.includes('ready') && document.querySelector('.rwp-lab .rwp-question')?.innerText.includes('twice as large')",
    )
    assert python(page, "print(lab.record.entrants, lab.state.sigma)").strip().endswith("0.2")
    until(page, "document.querySelector('.rwp-lab .js-plotly-plot').data.some(t => t.name === 'm-RWP (λ 0.3)')")


def test_copy_as_code(page):
    page.locator(".rwp-lab").get_by_text("copy as code").first.click()
    page.locator(".rwp-lab .rwp-code button:has-text('Copy')").click()
    until(page, "document.querySelector('.rwp-code button.jupyter-button').innerText === 'Copied'")
    copied = page.evaluate("window.getSelection().toString() || document.activeElement.value")
    assert copied.startswith("import torch") and "from rwp_edu.optim import MRWP" in copied


def test_starting_another_race_pauses_the_first(page):
    endless(page)
    press(page, "Start")
    until(page, f"{STATUS}.includes('running')")
    python(page, "other = rwp_edu.lab.race(methods='sgd', seeds=1)\nother.screen.show()\nother.screen.store('start', None)")
    until(page, f"{STATUS}.includes('another race was started')")
    assert python(page, "print(lab.screen.running, other.screen.running)").split() == ["False", "True"]
    python(page, "other.screen.store('pause', None)")


def choose(page, label: str) -> None:
    page.locator(".rwp-lab select").filter(has_text=label).first.select_option(label=label)


def test_another_problem_and_back(page):
    left = python(page, "print(id(lab.record), lab._run.updates, lab.summary)")
    points, picture = page.evaluate(LINE.format("RWP")), "document.querySelector('.rwp-lab .js-plotly-plot')"
    choose(page, "Matrix sensing")
    until(page, f"{picture}.innerText.includes('squared distance to the truth')")
    choose(page, "Zero loss, useless")
    until(page, "document.querySelector('.rwp-lab .rwp-question')?.innerText.includes('180 measurements')")
    assert python(page, "print(lab.state.problem, lab.record.settings.n, lab.status)").split() == ["sensing", "180", "ready"]
    endless(page)
    press(page, "Start")
    until(page, f"{LINE.format('RWP')} >= 4")

    handle = slider(page, "scale of the noise")
    handle.focus()
    handle.press("ArrowRight")
    until(page, f"{picture}.innerText.includes('σ 0.12 → 0.125')")
    seen = page.evaluate(LINE.format("RWP"))
    until(page, f"{LINE.format('RWP')} > {seen}")
    spectrum = "document.querySelector('.rwp-lab .js-plotly-plot').data.find(t => t.name === 'NSO' && t.yaxis === 'y4').y"
    values = page.evaluate(f"Array.from({spectrum})")
    assert len(values) == 30 and values == sorted(values, reverse=True) and values[0] > 1

    choose(page, "Digits with wrong labels")
    until(page, f"{picture}.innerText.includes('test accuracy') && {LINE.format('RWP')} === {points}")
    assert python(page, "print(id(lab.record), lab._run.updates, lab.summary)") == left
    assert python(page, "print(lab.screen.running)").strip() == "False"


def test_other_pictures_are_opened_from_the_menu(page, folder):
    chosen = "document.querySelector('.rwp-lab select').selectedOptions[0].text.replaceAll('\\u00a0', ' ') === '{}'"
    drawn = "document.querySelector('.rwp-lab .js-plotly-plot').layout.annotations.some(a => a.text.includes('{}'))"
    page.locator(".rwp-lab select").first.select_option(label="other pictures ...")
    page.fill(".rwp-opening input", f"folder:{folder}")
    page.locator(".rwp-opening button:has-text('Open')").click()
    until(page, f"{chosen.format('Pictures in pictures')} && {drawn.format('test loss')}")
    page.locator(".rwp-lab select").first.select_option(label="Digits with wrong labels")
    until(page, f"{chosen.format('Digits with wrong labels')} && {drawn.format('wrong labels learnt')}")
    python(page, "print(lab.status)")  # the kernel has drawn its controls too


def test_live_no_errors_in_the_console(page):
    assert [text for text in page.errors if "favicon" not in text] == []


def test_live_reload_keeps_the_picture(page):
    until(page, f"{LINE.format('RWP')} >= 1")
    points = page.evaluate(LINE.format("RWP"))
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    page.wait_for_selector(".rwp-lab .js-plotly-plot .main-svg")
    until(page, f"{LINE.format('RWP')} == {points}")
    assert [text for text in page.errors if "favicon" not in text] == []


def test_arrows_of_one_update(page):
    """The second screen, in the same kernel: opened in a cell of its own."""
    page.evaluate(
        """() => {
            const widget = jupyterapp.shell.currentWidget;
            const cells = widget.content.model.sharedModel;
            cells.insertCell(0, {cell_type: 'code', source: 'arrows = rwp_edu.lab.update()\\narrows'});
            widget.content.activeCellIndex = 0;
            jupyterapp.commands.execute('notebook:run-cell');
        }"""
    )
    method = page.locator(".rwp-lab .widget-toggle-buttons button:has-text('NSO')").first
    method.click()
    arrows = "[...document.querySelectorAll('.rwp-lab .js-plotly-plot')].map(p => p.layout).find(l => l.yaxis.scaleanchor).annotations.length"
    until(page, f"{arrows} === 5")
    handle = slider(page, "noise draws")
    handle.focus()
    handle.press("ArrowRight")
    until(page, f"{arrows} === 9")
    assert python(page, "print(arrows.state.method, arrows.state.k)").split() == ["nso", "2"]
    assert page.evaluate("rwpEduPlotly.size") == 1  # and all pictures use it


def test_landscape(page):
    """A third screen: σ by keyboard, a click into the surface, the pointer over it."""
    page.evaluate(
        """() => {
            const widget = jupyterapp.shell.currentWidget;
            const source = "hills = rwp_edu.lab.landscape(sigma=0.1, methods='sgd,rwp')\\nhills";
            widget.content.model.sharedModel.insertCell(0, {cell_type: 'code', source});
            widget.content.activeCellIndex = 0;
            jupyterapp.commands.execute('notebook:run-cell');
        }"""
    )
    plot = "[...document.querySelectorAll('.rwp-lab .js-plotly-plot')].find(p => p.data.filter(t => t.name === 'surface').length === 2)"
    shares = f"[...{plot}.querySelectorAll('.bartext')].map(e => e.textContent)"
    until(page, f"{shares}.length >= 4")
    drawn = "[...{}.querySelectorAll('.subplot.{} .contourlayer path')].map(e => e.getAttribute('d')).join()"
    left, right = (page.evaluate(drawn.format(plot, panel)) for panel in ("xy", "x2y2"))
    assert left and right and left != right and "100 %" not in page.evaluate(shares)

    handle = slider(page, "scale of the noise")
    handle.focus()
    for _ in range(24):
        handle.press("ArrowRight")
    until(page, f"{shares}.includes('100 %') && {plot}.innerText.includes('σ = 0.22')")
    assert python(page, "print(hills.state.sigma, hills.fractions['rwp'][0] < 0.05 < hills.fractions['sgd'][0])").split() == [
        "0.22",
        "True",
    ]
    assert page.evaluate(drawn.format(plot, "xy")) == left and page.evaluate(drawn.format(plot, "x2y2")) != right

    area = page.locator(".rwp-lab .js-plotly-plot:has(.x3y3) .nsewdrag").first
    start = f"{plot}.data.find(t => t.name === 'starts').x"
    assert page.evaluate(f"Math.min(...{start})") == pytest.approx(-0.9)
    click_until(page, area, 0.7, 0.6, f"Math.min(...{start}) > 0")  # from x = 0.5 on, 0.4 to the left
    until(page, f"{shares}.every(text => text === '100 %') && {shares}.length === 2")  # all start, and end, in the wide well
    x, y = map(float, python(page, "print(hills.state.x, hills.state.y)").split())
    assert x == pytest.approx(0.5, abs=0.05) and y == pytest.approx(0.19, abs=0.05)

    box = area.bounding_box()
    for off in (-3, 0):
        page.mouse.move(box["x"] + 0.3 * box["width"] + off, box["y"] + 0.5 * box["height"])
    read = f"{plot}.data.filter(t => t.name === 'cursor').map(t => t.text[0])"
    until(
        page,
        f"{read}.every((text, k) => text.startsWith('fF'[k] + ' = -')) && Math.abs({plot}.data.find(t => t.name === 'cursor').x[0] + 0.5) < 0.05",
    )
    f, smoothed = page.evaluate(read)
    assert float(f.removeprefix("f = ")) < float(smoothed.removeprefix("F = ")) < 0  # the hole is deep in f, filled in F
    written = f"[...{plot}.querySelectorAll('.textpoint')].map(e => e.textContent)"
    until(page, f"{read}.every(text => {written}.includes(text))")
    assert [text for text in page.errors if "favicon" not in text] == []
