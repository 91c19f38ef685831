"""Pictures that share one copy of plotly.js."""

from __future__ import annotations

import gzip

import plotly.graph_objects as go

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
