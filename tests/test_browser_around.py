"""Flatness beside a race, and looking around its minima, in a real browser."""

from __future__ import annotations

import pytest

from rwp_edu.benchmarks.browser import chromium, click_until, python, showing, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]
SOURCE = "import rwp_edu\nlab = rwp_edu.lab.race(methods='sgd,sam,rwp', seeds=2, third='trace', steps=100_000)\nlab"


@pytest.fixture
def page(tmp_path):
    with showing(SOURCE, tmp_path) as page:
        yield page


def test_flatness_and_looking_around(page):
    page.locator(".rwp-lab button:has-text('Start')").first.click()
    trace = "document.querySelector('.rwp-lab .js-plotly-plot').data.find(t => t.name === 'RWP' && t.yaxis === 'y3').y"
    until(page, f"Array.from({trace}).filter(v => v > 0).length >= 2")
    until(page, "document.querySelector('.rwp-lab .rwp-counts').innerText.includes('flatness')")
    page.locator(".rwp-lab button:has-text('Pause')").first.click()
    until(page, "!document.querySelector('.rwp-lab .rwp-status').innerText.includes('running')")

    page.locator(".rwp-lab button:has-text('Look around')").first.click()
    plot = "[...document.querySelectorAll('.rwp-lab .js-plotly-plot')].find(p => p.data.some(t => t.name === 'scale'))"
    until(page, f"{plot}.data.find(t => t.name === 'eigenvalues of RWP').y.length === 10")
    area = page.locator(".rwp-lab .rwp-lab .js-plotly-plot .nsewdrag").first
    click_until(page, area, 0.75, 0.75, "document.body.innerText.includes('At the cross, ')")
    x, y = map(float, python(page, "s = lab.screen._around.owner.state; print(s.x / s.reach, s.y / s.reach)").split())
    assert (x, y) == pytest.approx((0.5, 0.5), abs=0.05)
    page.locator(".rwp-lab button:has-text('other solutions')").click()
    until(page, f"{plot}.data.find(t => t.name === 'runs').x.length === 3")
    until(page, f"{plot}.data.find(t => t.name === 'RWP').x.length === 81")
    assert [text for text in page.errors if "favicon" not in text] == []
