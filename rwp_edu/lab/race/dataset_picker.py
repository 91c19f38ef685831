"""A line in which pictures are named that the menu of problems does not have: opened if they are here, else offered for download."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import ipywidgets as w

from rwp_edu import problems
from rwp_edu.problems import datasets
from rwp_edu.utils import clock

OTHER = "other pictures ..."
MEGABYTES = {"cifar10": 170, "cifar100": 169, "fashion-mnist": 31}  # to download


class Download:
    """``datasets.fetch`` in a thread of its own; ``error`` is what stopped it."""

    def __init__(self, name: str, wake: Callable[[], None]):
        self.name, self.error, self._before = name, None, _size(datasets.place())
        self._looked, self._here = -math.inf, 0

        def get() -> None:
            try:
                datasets.fetch(name)
            except Exception as error:
                self.error = error
            wake()

        self._thread = Thread(target=get, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def __str__(self) -> str:
        if clock.now() > self._looked + 0.5:  # a folder may hold many files
            self._here = max(0, _size(datasets.place()) - self._before) // 10**6
            self._looked = clock.now()
        most = MEGABYTES[self.name]
        return f"downloading {self.name} into {datasets.place()}: {min(self._here, most)} of about {most} MB"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Opening:
    """The widgets of the line; ``store`` hears of ``open`` and ``download`` with the name that was written."""

    def __init__(self, store: Callable[[str, Any], None], make: Any):
        self.name = make.Combobox(options=tuple(problems.PICTURES), placeholder="cifar10, cifar100, fashion-mnist or folder:PATH",
                               layout={"width": "340px"}, tooltip="a folder, or a tar, has train/CLASS/picture and test/CLASS/picture")  # fmt: skip
        self.open = make.Button(description="Open", icon="folder-open", tooltip="race on these pictures", layout={"width": "auto"})
        self.get = make.Button(description="Download", icon="download", layout=w.Layout(width="auto", display="none"),
                            tooltip="get the data set by torchvision, once; the race goes on meanwhile")  # fmt: skip
        self.open.on_click(lambda _: store("open", self.name.value))
        self.get.on_click(lambda _: store("download", self.name.value))
        hidden = w.Layout(display="none", flex_flow="row wrap", align_items="center")
        self.box = make.HBox([self.name, self.open, self.get], layout=hidden)
        self.box.add_class("rwp-opening")

    def show(self, on: bool = True) -> None:
        self.box.layout.display = None if on else "none"
        self.offer(False)

    def offer(self, on: bool = True) -> None:
        """Offer to download."""
        self.get.layout.display = None if on else "none"
