"""How fast the screens of the labs are, in JupyterLab and a real browser: for each row what is watched and what bounds it below."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

Measurement = Callable[[], float]
Prepare = Callable[[ExitStack], tuple[Measurement, Measurement]]

LABS = {
    "update": ("lab.update(method='rwp')", "sigma"),
    "landscape": ("lab.landscape()", "sigma"),
    "smoothing": ("lab.smoothing()", "sigma"),
    "two_points": ("lab.two_points()", "sigma"),
    "distances": ("lab.distances()", "rise"),
    "workers": ("lab.workers(method='nso')", "k"),
    "trial": ("lab.trial(seeds=4)", "seeds"),
}
RACE = "lab.race(methods='sgd,sam,rwp,m-rwp,nso', steps=100_000)"
REST = 600  # milliseconds between two key presses, as of a hand that looks at what it did
MESSAGES = 400

PLOT = "[...document.querySelectorAll('.rwp-lab .js-plotly-plot')].filter(p => p.offsetParent)[0]"
PRESSED = f"""async ([handle, control, key]) => {{
    const plot = {PLOT}, before = plot.layout.meta[control], began = performance.now();
    handle.dispatchEvent(new KeyboardEvent('keydown', {{key, bubbles: true}}));
    while (plot.layout.meta[control] === before && performance.now() - began < 10000) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    return performance.now() - began;
}}"""
REDRAWN = f"""async () => {{
    const plot = {PLOT}, plotly = await [...rwpEduPlotly.values()].at(-1), began = performance.now();
    await plotly.react(plot, plot.data.map(trace => ({{...trace}})), structuredClone(plot.layout), {{displayModeBar: false}});
    await new Promise(requestAnimationFrame);
    return performance.now() - began;
}}"""
STARTED = f"""async () => {{
    const plot = {PLOT}, began = performance.now();
    [...document.querySelectorAll('.rwp-lab button')].find(button => button.innerText.includes('Start')).click();
    while (!plot.data.some(trace => trace.name === 'RWP' && trace.x.length >= 2)) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    return performance.now() - began;
}}"""
FLOODED = """async ([id, messages]) => {
    const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const comm = [...kernel._comms.values()].find(comm => comm.commId === id), began = performance.now();
    for (const state of messages) comm.send({method: 'update', state, buffer_paths: []});
    await kernel.requestExecute({code: 'pass', store_history: false}).done;
    return performance.now() - began;
}"""


def no_browser() -> str:
    if any(find_spec(name) is None for name in ("jupyterlab", "playwright", "plotly")):
        return "needs pip install 'rwp_edu[test]'"
    from rwp_edu.benchmarks.browser import chromium

    return "" if chromium() else "needs Chromium"


@contextmanager
def _page() -> Iterator[Any]:
    import nbformat

    from rwp_edu.benchmarks.browser import browser, jupyter, open_notebook, until

    with TemporaryDirectory() as home:
        folder = Path(home) / "notebooks"
        folder.mkdir()
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        cells = [nbformat.v4.new_code_cell("import time\nimport ipywidgets\nfrom rwp_edu import lab")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "bench.ipynb")
        with jupyter(folder, Path(home)) as url, browser() as page:
            open_notebook(page, url, "bench.ipynb")
            until(page, "jupyterapp.shell.currentWidget.content.widgets[0].model.executionCount === 1")
            yield page


def _showing(stack: ExitStack, source: str) -> Any:
    """A page that shows a lab, in the kernel ``shown``."""
    from rwp_edu.benchmarks.browser import run_cell

    page = stack.enter_context(_page())
    run_cell(page, f"shown = {source}\nshown")
    page.wait_for_selector(".rwp-lab .js-plotly-plot .main-svg")
    page.wait_for_timeout(3000)
    return page


def presses(source: str, control: str, training: bool = False) -> Prepare:
    """Milliseconds from a key press on a slider to changed pixels; and until plotly alone has drawn the same figure again."""

    def prepare(stack: ExitStack) -> tuple[Measurement, Measurement]:
        from rwp_edu.benchmarks.browser import slider_of

        page = _showing(stack, source)
        handle = slider_of(page, "shown", control).locator(".noUi-handle").first.element_handle()
        handle.focus()
        turns = iter(range(1_000_000))
        if training:
            page.locator(".rwp-lab button:has-text('Start')").first.click()

        def pressed() -> float:
            page.wait_for_timeout(REST)
            return page.evaluate(PRESSED, [handle, control, "ArrowRight" if next(turns) % 8 < 4 else "ArrowLeft"])

        def redrawn() -> float:
            page.wait_for_timeout(REST)
            return page.evaluate(REDRAWN)

        return pressed, redrawn

    return prepare


def starts(stack: ExitStack) -> tuple[Measurement, Measurement]:
    """Milliseconds from Start to the first line of a race; and until plotly alone has drawn the same figure again."""
    from rwp_edu.benchmarks.browser import python

    page = _showing(stack, RACE)

    def started() -> float:
        python(page, "shown.screen.stop('paused'); shown.reset(); shown.screen.wake()")
        page.wait_for_timeout(1500)
        return page.evaluate(STARTED)

    return started, lambda: page.evaluate(REDRAWN)


def floods(source: str, control: str) -> Prepare:
    """Milliseconds until the kernel answers after 400 messages of a slider of a lab; and of a slider that nothing listens to."""

    def prepare(stack: ExitStack) -> tuple[Measurement, Measurement]:
        from rwp_edu.benchmarks.browser import python, run_cell

        page = _showing(stack, source)
        run_cell(page, f"bare = ipywidgets.SelectionSlider(options=shown.screen.controls[{control!r}].input.options)\nbare")

        def flooded(widget: str) -> Measurement:
            key, value, which = python(
                page, f"i = {widget}; k = 'index' if hasattr(i, 'index') else 'value'; print(k, getattr(i, k), i.model_id)"
            ).split()
            step = 1 if key == "index" else 0.005
            messages = [{key: float(value) + step * (number % 5)} for number in range(MESSAGES)]
            if key == "index":
                messages = [{key: int(message[key])} for message in messages]

            def measure() -> float:
                page.wait_for_timeout(1500)
                return page.evaluate(FLOODED, [which, messages])

            return measure

        return flooded(f"shown.screen.controls[{control!r}].input"), flooded("bare")

    return prepare


def live(stack: ExitStack) -> tuple[Measurement, Measurement]:
    """Updates per second of the race in one kernel: live as fast as it goes, watched in a browser, and headless."""
    from rwp_edu.benchmarks.browser import python

    page = _showing(stack, "lab.race(pace=0, steps=10_000)")
    python(page, "other = lab.race(pace=0, steps=10_000)")

    def counted() -> tuple[int, float]:
        updates, seconds = python(page, "print(shown._run.updates, time.perf_counter())").split()
        return int(updates), float(seconds)

    def watched() -> float:
        python(page, "shown.reset(); shown.screen.start.click()")
        page.wait_for_timeout(500)
        first, began = counted()
        page.wait_for_timeout(2000)
        last, ended = counted()
        python(page, "shown.screen.pause.click()")
        return (last - first) / (ended - began)

    def headless() -> float:
        return float(python(page, "t = time.perf_counter(); other.reset(); other.run(300); print(300 / (time.perf_counter() - t))"))

    return watched, headless


def widgets(stack: ExitStack) -> tuple[Measurement, Measurement]:
    """Widgets that a cell with the race makes before any fold is opened; and those of one slider."""
    from rwp_edu.benchmarks.browser import python

    page = stack.enter_context(_page())

    def made(code: str) -> Measurement:
        count = "len(get_ipython().kernel.comm_manager.comms)"
        return lambda: float(python(page, f"before = {count}\nkept = {code}\nprint({count} - before)"))

    return made(f"{RACE}.screen"), made("ipywidgets.FloatSlider()")


def reloads(stack: ExitStack) -> tuple[Measurement, Measurement]:
    """Megabytes through the kernel's connection until a page with three labs that is loaded again shows them; and of plotly.js."""
    from rwp_edu.benchmarks.browser import run_cell, until
    from rwp_edu.lab.base.figure_view import packed

    sizes: list[int] = []
    page = _showing(stack, "lab.smoothing()")
    page.on("websocket", lambda socket: socket.on("framereceived", lambda data: sizes.append(len(data))))
    for source in ("race()", "landscape()"):
        run_cell(page, f"lab.{source}")
    page.wait_for_timeout(4000)
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")

    def reloaded() -> float:
        sizes.clear()
        page.reload()
        until(page, "document.querySelectorAll('.rwp-lab .js-plotly-plot .main-svg').length >= 3")
        page.wait_for_timeout(3000)
        return sum(sizes) / 1e6

    return reloaded, lambda: len(packed()) / 1e6
