"""Pictures that the menu of problems does not have: named in a line, opened, or downloaded while the race goes on."""

import asyncio

import pytest
from waiting import until, wait_until

from rwp_edu.lab import race
from rwp_edu.lab.race.dataset_picker import OTHER
from rwp_edu.problems import datasets
from rwp_edu.utils import clock


def shown(widget):
    return widget.layout.display is None


def turn(screen, name, value):
    """What the live loop does when something is asked for."""
    screen.store(name, value)
    try:
        return screen.turn()
    except Exception as error:
        screen.fail(error)


@pytest.fixture
def lab():
    return race(steps=100, record_every=10, seeds=1, methods="sgd")


@pytest.mark.slow
def test_a_folder_is_opened_and_the_race_that_was_left_waits(lab, folder):
    screen = lab.screen
    assert not shown(screen.opening.box)
    screen.problem.value = OTHER
    screen.turn()
    assert shown(screen.opening.box) and screen.problem.value == "digits"
    lab.run(10)
    name = f"folder:{folder}"
    turn(screen, "open", f" {name} ")
    assert lab.state.problem == screen.problem.value == name and not shown(screen.opening.box)
    assert "Pictures in pictures" in dict(screen.problem.options)
    turn(screen, "problem", "digits")
    assert lab.record.updates.tolist() == [0, 10]
    assert name in dict(screen.problem.options).values()  # and that one waits now


@pytest.mark.parametrize(
    "name, says", [("folder:/nowhere", "there is no folder or tar"), ("cifar11", "did you mean 'cifar10'"), ("", "unknown problem")]
)
def test_what_cannot_be_opened_is_said_and_changes_nothing(lab, name, says):
    screen = lab.screen
    turn(screen, "problem", OTHER)
    turn(screen, "open", name)
    assert says in screen.status.value and "error" in screen.status.value
    assert lab.state.problem == "digits" and shown(screen.opening.box) and not shown(screen.opening.get)


def test_data_that_are_not_here_are_downloaded_while_the_race_goes_on(lab, downloads, made_up, monkeypatch):
    go = []

    def fetch(name):
        wait_until(lambda: go)
        made_up(downloads, name)

    monkeypatch.setattr(datasets, "fetch", fetch)
    screen = lab.screen
    turn(screen, "start", None)
    turn(screen, "open", "cifar10")
    assert screen.running and lab.state.problem == "digits"  # asking for what is not here does not stop it
    turn(screen, "pause", None)
    turn(screen, "open", "cifar10")
    assert "Download gets it, about 170 MB" in screen.status.value and shown(screen.opening.get)
    turn(screen, "download", "cifar10")
    assert "downloading cifar10" in screen.status.value and "of about 170 MB" in screen.status.value
    turn(screen, "start", None)
    assert lab.status == "running" and "running · downloading cifar10" in screen.status.value and screen.running
    screen._clock = (clock.now() - 10, 0)
    screen.turn()
    assert lab.record.settings.problem == "digits" and lab._run.updates > 0
    go.append(True)
    wait_until(lambda: screen.download.done)
    screen.turn()
    assert lab.state.problem == screen.problem.value == "cifar10" and not shown(screen.opening.box) and not screen.running


def test_a_download_that_fails_says_what_to_do(lab, downloads, monkeypatch):
    def offline(name):
        raise OSError(f"{name} could not be downloaded: go online and try again")

    monkeypatch.setattr(datasets, "fetch", offline)
    screen = lab.screen
    turn(screen, "open", "fashion-mnist")
    screen.store("download", "fashion-mnist")
    screen.obey()
    wait_until(lambda: screen.download.done)
    turn(screen, "smoothing", 0.0)
    assert "go online and try again" in screen.status.value and screen.download is None and lab.state.problem == "digits"


def test_the_live_loop_opens_what_was_downloaded(lab, downloads, made_up, monkeypatch):
    monkeypatch.setattr(datasets, "fetch", lambda name: made_up(downloads, name))

    async def scene():
        lab.screen.begin()
        lab.screen.store("download", "cifar100")
        await until(lambda: lab.state.problem == "cifar100")

    asyncio.run(scene())
