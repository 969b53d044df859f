"""Shares, means and F1 scores with confidence intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trm_fast.tasks.statistics import add_f1, add_share, f1, mean_interval, student_t_quantile, wilson_interval


@pytest.mark.parametrize(
    ("successes", "count", "lower", "upper"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_interval(successes: int, count: int, lower: float, upper: float) -> None:
    assert wilson_interval(successes, count) == pytest.approx((lower, upper), abs=6e-5)


def test_wilson_interval_of_another_level() -> None:
    lower, upper = wilson_interval(50, 100, z=1.0)
    assert (lower, upper) == pytest.approx((0.5 - 0.5 / 101**0.5, 0.5 + 0.5 / 101**0.5))


@pytest.mark.parametrize(
    ("p", "degrees", "t"),
    [  # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 4, 2.776),
        (0.975, 9, 2.262),
        (0.975, 30, 2.042),
        (0.975, 99, 1.984),
        (0.95, 5, 2.015),
        (0.999, 2, 22.327),
        (0.5, 7, 0.0),
    ],
)
def test_quantiles_of_student_t(p: float, degrees: int, t: float) -> None:
    assert student_t_quantile(p, degrees) == pytest.approx(t, abs=6e-4)


def test_interval_of_a_mean() -> None:
    # Student's own data (Biometrika 6, 1908): the mean difference of 1.58 hours has a t of 4.06 with 9 degrees.
    hours = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert mean_interval(hours) == pytest.approx((1.58 - 2.262 * 1.58 / 4.062, 1.58 + 2.262 * 1.58 / 4.062), abs=1e-3)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)


def test_share_has_an_interval_and_a_baseline() -> None:
    metrics: dict[str, float] = {}
    right, baseline = np.array([True, True, False, True]), np.array([True, False, False, False])
    add_share(metrics, "exact", right, baseline)
    lower, upper = wilson_interval(3, 4)
    assert metrics == {"exact": 0.75, "exact_low": lower, "exact_high": upper, "exact_baseline": 0.25}
    add_share(metrics, "none", right[:0])
    add_share(metrics, "plain", right, interval=False)
    assert metrics.keys() - {"exact", "exact_low", "exact_high", "exact_baseline"} == {"plain"}


def test_f1_is_inside_its_interval() -> None:
    actual, predicted = np.array([True, True, True, False]), np.array([True, True, False, True])
    assert f1(actual, predicted) == 2 * 2 / (3 + 3)
    assert math.isnan(f1(actual[3:], actual[3:]))
    metrics: dict[str, float] = {}
    add_f1(metrics, "f1", np.tile(actual, 50), np.tile(predicted, 50))
    assert metrics["f1_low"] < metrics["f1"] == 2 / 3 < metrics["f1_high"]
