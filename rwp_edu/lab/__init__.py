"""The notebook user interface. ``race()`` and ``update()`` work with and without a front end."""

from rwp_edu.lab.race import Race, race
from rwp_edu.lab.state import PRESETS, RaceState
from rwp_edu.lab.arrows import UpdateLab, UpdateState, update

__all__ = ["PRESETS", "Race", "RaceState", "UpdateLab", "UpdateState", "race", "update"]
