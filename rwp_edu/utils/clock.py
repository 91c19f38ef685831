"""The clock of everything that works for so long and then looks at a screen, and of the seconds a run has taken.

It is asked as ``clock.now()``, so that a test that sets another ``now`` decides how fast the machine is.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

now: Callable[[], float] = perf_counter
