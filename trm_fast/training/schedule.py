"""Learning-rate schedules. A new one is one function here, registered by its name."""

from __future__ import annotations

import math
from collections.abc import Callable

from trm_fast.registry import Registry

Schedule = Callable[[float, float], float]
"""(progress from the end of the warm-up, 0, to the last step, 1; the last rate) -> the rate there. Rates are shares of
``training.learning_rate``."""

SCHEDULES: Registry[Schedule] = Registry("schedule")


def register(schedule: Schedule) -> Schedule:
    """Makes a function the schedule that ``training.schedule`` calls by the function's name."""
    SCHEDULES[schedule.__name__] = schedule
    return schedule


@register
def constant(progress: float, final: float) -> float:
    """The same rate to the end, whatever ``final`` is: the published recipe."""
    return 1.0


@register
def cosine(progress: float, final: float) -> float:
    """Half a cosine from the full rate to ``final``."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
