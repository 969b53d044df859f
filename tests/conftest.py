"""Settings for the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two tests at a time must not fight over cores: OpenMP spins, and a 30 us op would take milliseconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run the ops' benchmarks, checks included, not the tests")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--benchmark"):
        config.args[:] = [str(ROOT / "bench")]
        config.option.benchmark_only = True
