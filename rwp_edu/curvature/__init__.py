"""Curvature of any loss: Hessian products, traces, eigenvalues, sharpness, slices, smoothing."""

from rwp_edu.curvature.smoothing import (
    Estimate,
    derivatives,
    expected_rise,
    gradient_variance,
    hessian,
    hessian_change,
    hessian_trace,
    squared_hessian_trace,
)

__all__ = [
    "Estimate",
    "derivatives",
    "expected_rise",
    "gradient_variance",
    "hessian",
    "hessian_change",
    "hessian_trace",
    "squared_hessian_trace",
]
