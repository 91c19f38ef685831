"""A run: settings, record, and two engines, batched and one network after another."""

from rwp_edu.training.run import Mark, Record, Run

__all__ = ["Mark", "Record", "Run"]
