"""Learning-rate schedules: functions, each registered under its name."""

from __future__ import annotations

import math
from collections.abc import Callable

from trm_fast.registry import Registry

Schedule = Callable[[float, float], float]
"""(progress, final) -> rate. Progress runs from 0 at the end of the warm-up to 1 at the last step, where the rate is
``final``. Rates are shares of ``training.learning_rate``."""

SCHEDULES: Registry[Schedule] = Registry("schedule")


def register(schedule: Schedule) -> Schedule:
    """Registers a function as a schedule under its name, for ``training.schedule``."""
    SCHEDULES[schedule.__name__] = schedule
    return schedule


@register
def constant(progress: float, final: float) -> float:
    """The full rate until the end, as published; ``final`` is ignored."""
    return 1.0


@register
def cosine(progress: float, final: float) -> float:
    """Half a cosine from the full rate to ``final``.

    Examples:
        >>> [round(cosine(progress, 0.0), 2) for progress in (0.0, 0.5, 1.0)]
        [1.0, 0.5, 0.0]
    """
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
