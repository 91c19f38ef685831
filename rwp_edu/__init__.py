"""See why flat minima generalise, and how to find them: weight-perturbation training methods, live."""

__version__ = "0.1.0"
