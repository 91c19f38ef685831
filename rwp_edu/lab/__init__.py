"""The notebook user interface. Every lab works with and without a front end."""

from rwp_edu.lab.arrows import UpdateLab, UpdateState, update
from rwp_edu.lab.at_once import Workers, WorkersState, workers
from rwp_edu.lab.distances import Distances, DistancesState, distances
from rwp_edu.lab.race import Race, race
from rwp_edu.lab.scatter import Scatter, ScatterState, scatter
from rwp_edu.lab.smoothed import SmoothingLab, SmoothingState, smoothing
from rwp_edu.lab.state import PRESETS, RaceState
from rwp_edu.lab.terrain import Landscape, LandscapeState, landscape
from rwp_edu.lab.trial import Trial, TrialState, trial
from rwp_edu.lab.variance import TwoPointsLab, TwoPointsState, two_points
from rwp_edu.lab.words import said

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
