"""A plotly figure on the page that always shows the newest state, however fast the state changes.

Python holds the figure as plain dictionaries. What goes to the page is a numbered *frame*: the attributes that have changed since the
last one, arrays as bytes. The page draws the newest frame and answers with its number. One frame is in flight at a time; what is
overtaken meanwhile is never sent. All figures of a kernel share one packed copy of plotly.js.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as w
import numpy as np
import traitlets as t
from plotly.offline import get_plotlyjs

TIMEOUT = 0.5  # seconds until the next frame is sent to a page that has not said that it drew the last one
PLAIN_LIST = 16  # longer lists of numbers are sent as bytes
SENT = ("float64", "float32", "int32", "uint8")


class Plotly(w.Widget):
    """plotly.js, packed by gzip."""

    packed = t.Bytes().tag(sync=True)


@cache
def packed() -> bytes:
    return gzip.compress(get_plotlyjs().encode(), 6)


_shared: Plotly | None = None


def shared_plotly() -> Plotly:
    """Return the copy of this kernel; make another if it was closed."""
    global _shared
    if _shared is None or _shared.comm is None:
        _shared = Plotly(packed=packed())
    return _shared


def same(a: Any, b: Any) -> bool:
    """Return whether two parts of a figure are equal, arrays included."""
    if a is b:
        return True
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that differ; one that is gone is None."""
    return {key: after.get(key) for key in (*after, *(before.keys() - after.keys())) if not same(before.get(key), after.get(key))}


def pack(value: Any, buffers: list[Any]) -> Any:
    """Return ``value`` for JSON, with arrays and long lists of numbers moved to ``buffers``."""
    if isinstance(value, Mapping):
        return {key: pack(item, buffers) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        numbers = len(value) > PLAIN_LIST and all(item is None or isinstance(item, (int, float)) for item in value)
        return pack(np.array(value, float), buffers) if numbers else [pack(item, buffers) for item in value]
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub" or value.ndim not in (1, 2):
            return pack(value.tolist(), buffers)
        dtype = "float32" if value.ndim == 2 and value.dtype.kind == "f" else value.dtype.name if value.dtype.name in SENT else "float64"
        buffers.append(np.ascontiguousarray(value, dtype).data)
        return {"buffer": len(buffers) - 1, "dtype": dtype, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


class FigureView(anywidget.AnyWidget):
    """A live plotly figure.

    ``show`` gives it a new state: a list of traces and a layout, plain dictionaries that must not be changed afterwards. ``event`` is
    called with each message of the page, possibly from another thread: ``{"type": "click", "trace", "x", "y"}``, the same for
    ``"hover"``, ``{"type": "zoom", "ranges"}``, ``{"type": "image", "url"}``, ``{"type": "failed", "text"}``, and ``"ready"`` or
    ``"drawn"`` when ``flush`` may have something to send.
    """

    _esm = (Path(__file__).parent / "figure_view.js").read_text(encoding="utf-8")
    plotly_id = t.Unicode().tag(sync=True)
    still = t.Unicode().tag(sync=True)  # a class of outputs that are hidden where this figure is alive

    def __init__(self, event: Callable[[dict[str, Any]], None], clock: Callable[[], float] = time.perf_counter, **traits: Any):
        super().__init__(plotly_id=shared_plotly().model_id, **traits)
        self.still = f"rwp-still-{self.model_id}"
        self.data: list[dict[str, Any]] = []
        self.plot_layout: dict[str, Any] = {}
        self._event, self._clock = event, clock
        self._open = False  # has a page asked for the figure?
        self.number = 0  # of the last frame
        self._sent: tuple[list[dict[str, Any]], dict[str, Any]] | None = None  # what the page has; None: nothing
        self._sent_at: float | None = None  # when the frame in flight was sent
        self.took = 0.0  # seconds from sending the last frame until the page had drawn it
        self.on_msg(lambda _, content, buffers: self._receive(content))

    def _receive(self, content: dict[str, Any]) -> None:
        if content["type"] == "ready":
            self._open, self._sent, self._sent_at = True, None, None
        elif content["type"] in ("drawn", "failed") and content.get("number", self.number) >= self.number and self._sent_at is not None:
            self.took, self._sent_at = self._clock() - self._sent_at, None
        self._event(content)

    @property
    def wait(self) -> float:
        """Seconds until a frame may be sent; 0 when none is in flight."""
        return 0.0 if self._sent_at is None else max(0.0, self._sent_at + TIMEOUT - self._clock())

    def show(self, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:
        """Show a new state, now or as soon as the page has drawn the last frame and ``flush`` is called."""
        self.data, self.plot_layout = data, layout
        self.flush()

    def flush(self) -> None:
        """Send what the page does not have yet, unless a frame is in flight."""
        if not self._open or self.wait:
            return
        whole = self._sent is None
        data, layout = ([], {}) if whole else self._sent
        data = data[: len(self.data)] + [{}] * (len(self.data) - len(data))
        moved = {index: found for index, pair in enumerate(zip(data, self.data)) if (found := changes(*pair))}
        frame = {"data": moved, "layout": changes(layout, self.plot_layout), "count": len(self.data), "whole": whole}
        if not whole and not moved and not frame["layout"] and len(self.data) == len(self._sent[0]):
            return
        frame |= {"type": "frame", "after": self.number, "number": self.number + 1}
        self.number, self._sent, self._sent_at = self.number + 1, (self.data, self.plot_layout), self._clock()
        buffers: list[Any] = []
        self.send(pack(frame, buffers), buffers)
