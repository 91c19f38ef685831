"""The notebook user interface. ``race()`` works with and without a front end."""

from rwp_edu.lab.race import Race, race
from rwp_edu.lab.state import PRESETS, RaceState

__all__ = ["PRESETS", "Race", "RaceState", "race"]
