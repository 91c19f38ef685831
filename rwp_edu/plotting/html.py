"""HTML pages that are handed out: one file each, readable on light and dark, with figures that move, and no network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLE = """:root{color-scheme:light dark;--ink:#222;--page:#fff;--rule:#ddd;--soft:#f4f4f4;--link:#0b62a8;--good:#1b7f4b;--part:#8a5d00;--bad:#b3261e;--open:#616161}
@media (prefers-color-scheme:dark){:root{--ink:#ddd;--page:#161616;--rule:#3a3a3a;--soft:#222;--link:#7fbdf0;--good:#5fc48d;--part:#e0b04a;--bad:#f2887f;--open:#a5a5a5}}
body{font:16px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:var(--ink);background:var(--page)}
a{color:var(--link)}h2{margin-top:3rem}.wide{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0}
td,th{padding:.25rem .7rem;border-bottom:1px solid var(--rule);text-align:left;vertical-align:top}td:first-child{min-width:11rem}
.good,.part,.bad,.open{font-weight:600;white-space:nowrap}.good{color:var(--good)}.part{color:var(--part)}.bad{color:var(--bad)}.open{color:var(--open)}
.parcoords text{text-shadow:none!important}.parcoords .domain,.parcoords .tick line{stroke:#8a8a8a!important}.roomy{min-width:44rem}
code{font-size:.85em}pre{overflow:auto;background:var(--soft);padding:.5rem}figure{margin:1rem 0}figcaption{font-size:.9em}
@media (max-width:40rem){body{margin:1rem auto;font-size:15px}td,th{padding:.2rem .4rem}td:first-child{min-width:8rem}}
@media print{:root{--ink:#000;--page:#fff}h2{break-after:avoid}figure{break-inside:avoid}}"""


def text(value: object) -> str:
    """``value`` as text of a page.

    >>> text("a < b")
    'a &lt; b'
    """
    return html.escape(str(value))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], classes: Mapping[str, str], first: Sequence[str] = ()) -> str:
    """Text in cells; what ``classes`` names gets that class. ``first`` has the places that the first cells link to."""

    def cell(value: str, place: str = "") -> str:
        inner = f"<a href='#{text(place)}'>{text(value)}</a>" if place else text(value)
        return f"<td class='{classes[value]}'>{inner}</td>" if value in classes else f"<td>{inner}</td>"

    body = ""
    for number, row in enumerate(rows):
        places = [first[number] if number < len(first) else "", *[""] * len(row)]
        body += f"<tr>{''.join(map(cell, row, places))}</tr>"
    head = "".join(f"<th>{text(h)}</th>" for h in heads)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def plot(figure: Any, caption: str = "", roomy: bool = False) -> str:
    """A plotly figure as wide as the page; one that needs room is moved sideways on a narrow page instead."""
    from plotly.io import to_html

    inner = to_html(figure, full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
    inner = f"<div class='wide'><div class='roomy'>{inner}</div></div>" if roomy else inner
    return f"<figure>{inner}{f'<figcaption>{text(caption)}</figcaption>' if caption else ''}</figure>"


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page, with plotly in it."""
    from plotly.offline import get_plotlyjs

    meta = "<meta charset='utf-8'><meta name='viewport' content='width=device-width,initial-scale=1'>"
    head = f"{meta}<title>{text(title)}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script>"
    return f"<!DOCTYPE html>\n<html lang='en'><head>{head}</head><body><h1>{text(title)}</h1>{''.join(parts)}</body></html>\n"
