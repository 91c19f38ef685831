"""The figure of a lab in a notebook that is opened or exported without its kernel.

Beside the widgets a second output holds a still figure, which the live one hides by its class. A page that shows the
widgets sends it as an image when the screen is at rest. Where a notebook is executed without a page (nbconvert, nbclient), it is an
HTML figure, renewed after every cell.
"""

from __future__ import annotations

import html
from typing import Any

from IPython import get_ipython
from IPython.display import display

CONFIG = {"displayModeBar": False}

_carrier: StaticFigure | None = None  # the one whose HTML brings plotly.js for all of this kernel


class StaticFigure:
    """The still figure of ``owner``, which has a ``figure`` and a sentence about it (``text`` or ``summary``)."""

    AFTER = 2.0  # seconds of rest before an image is asked for

    def __init__(self, owner: Any):
        self.owner = owner
        self._output: Any = None
        self._number = 0  # of the last frame that there is an image of
        self._html = ""

    def show(self, view: Any) -> None:
        """Make the output, in the cell that is being executed."""
        self._class = view.still
        shell = get_ipython()
        if not hasattr(shell, "kernel"):
            return
        has_page = "cellId" in getattr(shell, "get_parent", dict)().get("metadata", {})
        self._number, self._html = 0, "" if has_page else self._figure()
        self._output = display({"text/html": self._framed(self._html)}, raw=True, display_id=True)
        if not has_page:
            shell.events.register("post_run_cell", self._after_cell)

    def close(self) -> None:
        """Renew it no more."""
        self._output = None

    def stale(self, view: Any) -> bool:
        """Return whether the page has drawn what the still figure does not show yet."""
        return self._output is not None and not self._html and view.number > self._number

    def ask(self, view: Any) -> None:
        """Ask the page for an image; ``image`` takes it."""
        self._number = view.number
        view.send({"type": "image"})

    def image(self, url: str) -> None:
        if self._output is not None and url.startswith("data:image/png;base64,"):
            self._output.update({"text/html": self._framed(f'<img alt="{html.escape(self._says)}" src="{url}">')}, raw=True)

    @property
    def _says(self) -> str:
        return str(getattr(self.owner, "text", None) or self.owner.summary)

    def _figure(self) -> str:
        global _carrier
        _carrier = _carrier or self
        plot = self.owner.figure.to_html(full_html=False, include_plotlyjs=_carrier is self, config=CONFIG, div_id=f"rwp-{id(self):x}")
        return f"{plot}<p>{html.escape(self._says)}</p>"

    def _after_cell(self, *_: Any) -> None:
        if self._output is None:
            get_ipython().events.unregister("post_run_cell", self._after_cell)
        elif self._html != (now := self._figure()):
            self._html = now
            self._output.update({"text/html": self._framed(now)}, raw=True)

    def _framed(self, content: str) -> str:
        return f'<div class="rwp-still {self._class}">{content}</div>'
