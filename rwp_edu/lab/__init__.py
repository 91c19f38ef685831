"""The notebook user interface. Every lab works with and without a front end."""

from rwp_edu.lab.explorers.claim import Trial, TrialState, trial
from rwp_edu.lab.explorers.flatness_correlation import Scatter, ScatterState, scatter
from rwp_edu.lab.explorers.gradient_variance import TwoPointsLab, TwoPointsState, two_points
from rwp_edu.lab.explorers.landscape import Landscape, LandscapeState, landscape
from rwp_edu.lab.explorers.radii import Distances, DistancesState, distances
from rwp_edu.lab.explorers.smoothing import SmoothingLab, SmoothingState, smoothing
from rwp_edu.lab.explorers.update import UpdateLab, UpdateState, update
from rwp_edu.lab.explorers.workers import Workers, WorkersState, workers
from rwp_edu.lab.race.race import Race, race
from rwp_edu.lab.race.state import PRESETS, RaceState
from rwp_edu.lab.race.summary import said

__all__ = [
    "Distances",
    "DistancesState",
    "Landscape",
    "LandscapeState",
    "PRESETS",
    "Race",
    "RaceState",
    "Scatter",
    "ScatterState",
    "SmoothingLab",
    "SmoothingState",
    "Trial",
    "TrialState",
    "TwoPointsLab",
    "TwoPointsState",
    "UpdateLab",
    "UpdateState",
    "Workers",
    "WorkersState",
    "distances",
    "landscape",
    "race",
    "said",
    "scatter",
    "smoothing",
    "trial",
    "two_points",
    "update",
    "workers",
]
