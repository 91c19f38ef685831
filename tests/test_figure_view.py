"""The way of a figure to the page: numbered frames, one in flight, the newest state always shown."""

from __future__ import annotations

import gzip
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from rwp_edu import lab
from rwp_edu.lab.base import figure_view
from rwp_edu.lab.base.figure_view import TIMEOUT, FigureView, changes, pack, same


class Page:
    """What a page does with the messages of a figure: frames are applied in order, the newest is drawn when ``draw`` is called."""

    def __init__(self, time: float = 0.0):
        self.time, self.frames, self.events = time, [], []
        self.number, self.data, self.layout = 0, [], {}
        self.view = FigureView(self.events.append, clock=lambda: self.time)
        self.view.send = self.receive

    def receive(self, frame, buffers):
        frame = self._unpack(json.loads(json.dumps(frame, allow_nan=False)), buffers)
        self.frames.append(frame)
        if frame["whole"]:
            self.data, self.layout = [], {}
        elif frame["after"] != self.number:
            return self.say("ready")
        self.data = (self.data + [{}] * frame["count"])[: frame["count"]]
        for index, moved in frame["data"].items():
            self.data[int(index)] = self._changed(self.data[int(index)], moved)
        self.layout, self.number = self._changed(self.layout, frame["layout"]), frame["number"]

    def say(self, kind, **content):
        self.view._handle_custom_msg({"type": kind, **content}, [])

    def draw(self):
        self.say("drawn", number=self.number)

    @staticmethod
    def _changed(before, moved):
        return {key: value for key, value in {**before, **moved}.items() if value is not None}

    @classmethod
    def _unpack(cls, value, buffers):
        if isinstance(value, list):
            return [cls._unpack(item, buffers) for item in value]
        if not isinstance(value, dict):
            return value
        if "buffer" in value:
            return np.frombuffer(buffers[value["buffer"]], value["dtype"]).reshape(value["shape"])
        return {key: cls._unpack(item, buffers) for key, item in value.items()}


@pytest.fixture
def page():
    page = Page()
    page.say("ready")
    return page


def show(page, value, **layout):
    page.view.show([{"type": "scatter", "y": np.full(3, float(value)), "name": "a"}], {"title": str(value), **layout})


def test_nothing_is_sent_before_a_page_asks():
    page = Page()
    show(page, 1)
    assert not page.frames
    page.say("ready")
    page.view.flush()
    assert page.frames[0]["whole"] and page.data[0]["y"].tolist() == [1.0] * 3 and page.layout == {"title": "1"}
    assert page.events == [{"type": "ready"}]


def test_only_what_has_changed_is_sent(page):
    show(page, 1, height=5)
    page.draw()
    page.view.show([page.view.data[0], {"type": "bar", "x": [1]}], {"title": "1", "height": 6})
    assert page.frames[-1]["data"] == {"1": {"type": "bar", "x": [1]}} and page.frames[-1]["layout"] == {"height": 6}
    page.draw()
    page.view.show([{"type": "scatter", "name": "a"}], {"title": "1"})  # a trace, an array and a height are gone
    assert page.data == [{"type": "scatter", "name": "a"}] and page.layout == {"title": "1"}
    page.draw()
    before = len(page.frames)
    page.view.show([{"type": "scatter", "name": "a"}], {"title": "1"})
    assert len(page.frames) == before


def test_what_is_overtaken_is_never_sent_and_the_newest_is_shown_after_the_answer(page):
    for value in range(1, 50):
        show(page, value)
    assert [frame["layout"]["title"] for frame in page.frames] == ["1"]
    page.draw()
    assert page.view.wait == 0
    page.view.flush()
    assert page.layout["title"] == "49" and len(page.frames) == 2


def test_an_answer_to_an_older_frame_is_not_waited_for_twice(page):
    show(page, 1)
    page.time += TIMEOUT
    show(page, 2)
    assert page.number == 2
    page.say("drawn", number=1)
    assert page.view.wait > 0
    page.say("drawn", number=2)
    assert page.view.wait == 0


def test_a_page_that_never_answers_gets_the_newest_after_the_timeout(page):
    assert TIMEOUT < 1
    show(page, 1)
    for value in range(2, 9):
        page.time += 0.49 * TIMEOUT
        show(page, value)
    assert [frame["layout"]["title"] for frame in page.frames] == ["1", "4", "7"]
    page.time += page.view.wait
    page.view.flush()
    assert page.layout["title"] == "8"


def test_a_page_that_is_loaded_again_gets_the_whole_figure_at_once(page):
    show(page, 1)
    assert page.view.wait > 0
    page.number, page.data, page.layout = 0, [], {}
    page.say("ready")
    page.view.flush()
    assert page.frames[-1]["whole"] and page.layout == {"title": "1"}


def test_a_lost_frame_is_made_good(page):
    show(page, 1)
    page.draw()
    page.number = 99  # it belongs to another figure than the page has
    show(page, 2)
    page.view.flush()
    assert page.frames[-1]["whole"] and page.layout["title"] == "2"


@given(st.integers(0, 2**32), st.integers(20, 200))
def test_whatever_is_lost_or_late_the_page_ends_with_the_newest_state(seed, steps):
    r, page = random.Random(seed), Page()
    for step in range(steps):
        match r.randrange(6):
            case 0 | 1:
                page.view.show([{"y": np.full(r.randrange(4), r.random())} for _ in range(r.randrange(4))], {"n": step, **{f"k{r.randrange(3)}": [step]}})
            case 2:
                page.draw()
            case 3:
                page.say("ready")
            case 4:
                page.time += r.random()
            case 5:
                page.number = -1  # the page has lost its figure
        page.view.flush()
    page.say("ready")
    page.view.flush()
    assert same(page.data, [changes({}, trace) for trace in page.view.data]) and page.layout == page.view.plot_layout


def test_arrays_and_long_lists_travel_as_bytes():
    buffers = []
    packed = pack({"x": list(range(40)), "y": [0.5, None] * 20, "z": np.ones((3, 5)), "i": np.arange(4), "text": ["a"] * 40, "range": [0, 1], "nan": float("nan"), "one": np.float64(2)}, buffers)
    assert packed["x"]["dtype"] == "float64" and packed["z"] == {"buffer": 2, "dtype": "float32", "shape": [3, 5]} and len(buffers) == 4
    assert np.isnan(np.frombuffer(buffers[1])[1]) and packed["i"]["dtype"] == "float64"
    assert packed["text"] == ["a"] * 40 and packed["range"] == [0, 1] and packed["nan"] is None and packed["one"] == 2
    json.dumps(packed, allow_nan=False)


def test_plotly_is_sent_once():
    first, second = FigureView(print), FigureView(print)
    assert len(str(first.get_state())) < 20_000 and first.plotly_id == second.plotly_id == figure_view.shared_plotly().model_id
    assert gzip.decompress(figure_view.shared_plotly().packed).decode() == get_plotlyjs()


def test_a_closed_copy_is_replaced():
    first = FigureView(print)
    figure_view.shared_plotly().close()
    second = FigureView(print)
    assert second.plotly_id != first.plotly_id and figure_view.shared_plotly().comm is not None


OPEN = {
    "race": lambda: lab.race(methods="sgd,rwp", seeds=2, steps=40),
    "smoothing": lab.smoothing,
    "update": lambda: lab.update(method="rwp"),
    "landscape": lambda: lab.landscape(methods="rwp", steps=20),
}


@pytest.mark.parametrize("name", OPEN)
def test_labs_show_the_same_figure_as_without_a_page(name):
    opened = OPEN[name]()
    opened.screen.show()
    if name == "race":
        opened.run(20)
    opened.set(sigma=0.17)
    if name != "race":
        opened.finish()
    opened.screen.draw()
    expected = opened.figure
    assert [trace["name"] for trace in opened.screen.figure.data] == [trace.name for trace in expected.data]
    for shown, trace in zip(opened.screen.figure.data, expected.data):
        for key in "xyz":
            if key in shown and np.asarray(shown[key]).dtype.kind == "f":
                np.testing.assert_allclose(np.asarray(shown[key], float), np.array(trace[key], float))


@pytest.mark.parametrize("kind", ["click", "hover"])
def test_the_pointer_comes_back_as_plain_messages(kind):
    hills = lab.landscape(methods="rwp", steps=20)
    hills.screen.figure._handle_custom_msg({"type": kind, "trace": "surface", "x": 0.25, "y": -0.125}, [])
    hills.screen.figure._handle_custom_msg({"type": kind, "trace": "starts", "x": 9, "y": 9}, [])
    hills.screen.figure._handle_custom_msg({"type": kind, "trace": "surface", "x": None, "y": None}, [])
    hills.screen.turn()
    assert (hills.state.x, hills.state.y) == (0.25, -0.125) if kind == "click" else hills.cursor == (0.25, -0.125)


def test_a_figure_that_the_page_cannot_draw_is_said():
    view = lab.smoothing()
    view.screen.figure._handle_custom_msg({"type": "failed", "text": "Error: <no>"}, [])
    view.screen.turn()
    assert "the page cannot draw this figure: Error: &lt;no&gt;" in view.screen.status.value


@pytest.mark.parametrize("make", [lambda: lab.smoothing(), lambda: lab.race(methods="sgd,rwp", seeds=1, steps=20)])
def test_what_waits_behind_a_lost_answer_is_sent_after_the_timeout(make):
    view = make()
    screen, now = view.screen, [0.0]
    screen.figure._clock = lambda: now[0]
    screen.figure._receive({"type": "ready"})
    screen.turn()
    sent = screen.figure.number
    view.set(sigma=0.2)
    screen.draw()  # while the last frame is in flight
    assert screen.figure.number == sent > 0 and not screen.due
    now[0] += screen.turn()
    screen.turn()
    assert screen.figure.number == sent + 1
