"""Pictures that share one copy of plotly.js."""

from __future__ import annotations

import gzip

import numpy as np
import plotly.graph_objects as go
import pytest

from rwp_edu import lab
from rwp_edu.lab import plot
from rwp_edu.lab.plot import Plot


def test_plotly_is_sent_once():
    first, second = Plot(data=[{"y": [1, 2], "uid": "a"}]), Plot(layout={"title": {"text": "two"}})
    ours, theirs = first.get_state(), go.FigureWidget(data=[{"y": [1, 2], "uid": "a"}]).get_state()
    assert len(str(ours)) < 20_000 and len(str(theirs)) > 1_000_000
    assert set(ours) - set(theirs) == {"plotly_id"}
    assert ours["_widget_layout"] == theirs["_widget_layout"]
    assert first.plotly_id == second.plotly_id == plot._plotly().model_id and second.layout.title.text == "two"
    assert gzip.decompress(plot._plotly().packed).decode() == theirs["_esm"]


def test_a_closed_copy_is_replaced():
    first = Plot()
    plot._plotly().close()
    second = Plot()
    assert second.plotly_id != first.plotly_id and plot._plotly().comm is not None


def test_labs_use_it():
    for screen in (lab.race(seeds=1).screen, lab.update().screen):
        assert isinstance(screen.figure, Plot)


def test_a_page_that_is_loaded_again_gets_the_picture_as_it_is():
    picture = Plot(data=[{"y": [1, 2], "name": "a"}], layout={"title": {"text": "before"}})
    picture.data[0].y = [3, 4, 5]
    picture.add_scatter(y=[9], name="b")
    picture.layout.title.text = "now"
    for state in (picture.get_state(), picture.get_state("_widget_data") | picture.get_state(["_widget_layout"])):
        assert [list(trace["y"]) for trace in state["_widget_data"]] == [[3, 4, 5], [9]]
        assert state["_widget_layout"]["title"]["text"] == "now"


@pytest.mark.parametrize("open_lab", [lambda: lab.race(seeds=2, steps=40), lambda: lab.smoothing()])
def test_labs_hand_it_over_too(open_lab):
    opened = open_lab()
    if hasattr(opened, "run"):
        opened.screen
        opened.run()
    opened.set(**({"x": "gradients"} if hasattr(opened, "run") else {"sigma": 0.33}))
    opened.screen.draw()
    state = opened.screen.figure.get_state()
    for sent, drawn in zip(state["_widget_data"], opened.figure.data, strict=True):
        y = sent["y"]
        np.testing.assert_allclose(np.frombuffer(y["buffer"], y["dtype"]) if isinstance(y, dict) else np.array(y, float), np.array(drawn.y, float))
    assert state["_widget_layout"]["xaxis"]["range"] == list(opened.figure.layout.xaxis.range)
