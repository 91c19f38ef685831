"""Two gradients at once in a real browser: the screen stays alive while two other processes measure."""

from __future__ import annotations

import pytest

from rwp_edu.benchmarks.browser import chromium, python, showing, until
from rwp_edu.optim.parallel import timing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.skipif(bool(timing.lacks()), reason=timing.lacks() or "two cores"),
]
# However fast the processes are, they have given two answers and no more when somebody looks.
HELD = """
from rwp_edu.optim.parallel.timing import Team
answer, left = Team.answer, [1, 2]
def held(team):
    found = answer(team) if left else None
    return found and (found, left.pop())[0]
Team.answer = held
"""


@pytest.fixture
def page(tmp_path):
    with showing("import rwp_edu\nlab = rwp_edu.lab.workers()\nlab", tmp_path, RWP_EDU_HEADLESS_STEPS="") as page:
        yield page


def test_the_screen_answers_while_the_clock_runs(page):
    says = "document.querySelector('.rwp-lab .rwp-says').innerText"
    bars = "document.querySelector('.rwp-lab .js-plotly-plot').data.find(t => t.name === 'points').x.length"
    until(page, f"{says}.includes('2 times as fast') && {bars} === 2")
    python(page, HELD)
    page.locator(".rwp-lab button:has-text('Measure')").first.click()
    until(page, f"{says}.includes('Clock: ')")
    page.locator(".rwp-lab button:has-text('SAM')").first.click()
    until(page, f"{says}.includes('no faster than on one')")
    head = page.locator(".rwp-lab .rwp-head:has-text('workers')").first
    handle = head.locator("xpath=ancestor::div[contains(@class,'widget-vbox')][1]").locator(".noUi-handle").first
    handle.focus()
    handle.press("ArrowRight")
    until(page, f"{says}.includes('On 3 workers')")
    page.locator(".rwp-lab select").filter(has_text="take shards").first.select_option(label="take shards")
    until(page, f"{bars} === 6")
    until(page, f"{says}.includes('warming up, 2 of 15')")
    assert python(page, "print(lab._team is not None)").strip() == "True"
    python(page, "lab._team.close(); lab._team = None; lab._todo = []")
    assert [text for text in page.errors if "favicon" not in text] == []
