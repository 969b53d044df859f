"""Shares, means and F1 scores, with 95 % confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]


def wilson_interval(successes: int, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 % by default. Unlike the normal interval it stays between 0 and 1.

    Examples:
        >>> low, high = wilson_interval(90, 100)
        >>> f"{low:.3f} {high:.3f}"
        '0.826 0.945'
    """
    p = successes / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def student_t_quantile(p: float, degrees: int) -> float:
    """The quantile of Student's t distribution, for 0.5 <= p < 1 and a whole number of degrees of freedom.

    The distribution function has a closed form in the angle atan(t / sqrt(degrees)) (Abramowitz and Stegun, 26.7.3 and
    26.7.4). Bisection of the angle inverts it.

    Examples:
        >>> f"{student_t_quantile(0.975, 2):.4f}"
        '4.3027'
    """
    below, above = 0.0, math.pi / 2
    for _ in range(60):
        angle = (below + above) / 2
        term = total = math.cos(angle) if degrees % 2 else 1.0
        for k in range(2 + degrees % 2, degrees, 2):
            term *= math.cos(angle) ** 2 * (k - 1) / k
            total += term
        within = math.sin(angle) * (total if degrees > 1 else 0.0)  # probability of a smaller |t|
        if degrees % 2:
            within = 2 / math.pi * (angle + within)
        below, above = (angle, above) if within < 2 * p - 1 else (below, angle)
    return math.sqrt(degrees) * math.tan(below)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of two or more independent values, by Student's t.

    Examples:
        >>> low, high = mean_interval([0.80, 0.82, 0.84])
        >>> f"{low:.3f} {high:.3f}"
        '0.770 0.870'
    """
    n, mean = len(values), statistics.fmean(values)
    half = student_t_quantile(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return mean - half, mean + half


def f1(actual: Flags, predicted: Flags) -> float:
    """The harmonic mean of precision and recall of flags, bool (N,); NaN if no flag is set in either array."""
    total = int(actual.sum()) + int(predicted.sum())
    return 2 * int((actual & predicted).sum()) / total if total else math.nan


def add_f1(metrics: dict[str, float], name: str, actual: Flags, predicted: Flags) -> None:
    """Adds the F1 score as ``name`` and its bootstrap interval, from 1,000 samples of N rows, as ``name_low`` and
    ``name_high``."""
    hit, miss, false = (int(flags.sum()) for flags in (actual & predicted, actual & ~predicted, ~actual & predicted))
    metrics[name], n = f1(actual, predicted), len(actual)
    drawn = np.random.default_rng(0).multinomial(n, [hit / n, miss / n, false / n, (n - hit - miss - false) / n], 1000)
    scores = 2 * drawn[:, 0] / np.maximum(1, 2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 2])
    metrics[f"{name}_low"], metrics[f"{name}_high"] = (float(q) for q in np.quantile(scores, (0.025, 0.975)))


def add_share(
    metrics: dict[str, float], name: str, right: Flags, baseline: Flags | None = None, *, interval: bool = True
) -> None:
    """Adds the share of right cases as ``name``, its interval as ``name_low`` and ``name_high``, and the share of
    ``baseline`` as ``name_baseline``. Adds nothing if there are no cases."""
    if not len(right):
        return
    metrics[name] = float(right.mean())
    if interval:
        metrics[f"{name}_low"], metrics[f"{name}_high"] = wilson_interval(int(right.sum()), len(right))
    if baseline is not None:
        metrics[f"{name}_baseline"] = float(baseline.mean())
