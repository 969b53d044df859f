"""Shares and F1 scores with 95 % confidence intervals."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]


def wilson_interval(successes: int, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 % by default. Unlike the normal interval it stays between 0 and 1.

    Example:
        >>> low, high = wilson_interval(90, 100)
        >>> f"{low:.3f} {high:.3f}"
        '0.826 0.945'
    """
    p = successes / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


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
