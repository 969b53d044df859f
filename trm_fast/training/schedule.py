"""Learning-rate schedules. A new one is one function here, registered by its name."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float, float], float]
"""(progress from the end of the warm-up, 0, to the last step, 1; the last rate) -> the rate there. Rates are shares of
``training.learning_rate``."""

SCHEDULES: dict[str, Schedule] = {}


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


def rate_at(
    step: int, rate: float, schedule: Schedule, *, hold_steps: int, warmup_steps: int, last_step: int, final: float
) -> float:
    """The learning rate of step 1, 2, ...: 0 for ``hold_steps``, linear over ``warmup_steps`` up to ``rate``, then the
    schedule up to ``last_step``, where it stays."""
    warm = hold_steps + warmup_steps
    if step < warm or step <= hold_steps:
        return rate * max(0, step - hold_steps) / max(1, warmup_steps)
    return rate * schedule(min(1.0, (step - warm) / max(1, last_step - warm)), final)
