"""Options of all tests and benchmarks: ``--slow``, ``--benchmark``, and the number of processes.

This file is here, not in ``tests``, so that the options are known whatever files are named.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests that run at the same time must not compete for cores. OpenMP's threads spin while they wait, and then an op of
# 30 us would take milliseconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent
MAX_PROCESSES = 8  # each of them loads torch and collects all tests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests as well")
    parser.addoption(
        "--benchmark",
        action="store_true",
        help="run the ops' benchmarks, or those of the files given, instead of the tests",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--benchmark"):
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args[:] = [str(ROOT / "bench")]
        config.option.benchmark_only = True


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Runs the whole suite on all cores if pytest-xdist is installed; ``-n 0`` keeps it in one process."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    alone = "PYTEST_XDIST_WORKER" in os.environ or config.option.usepdb or config.getoption("--benchmark")
    if whole and not alone and config.pluginmanager.hasplugin("xdist") and config.option.numprocesses is None:
        config.option.numprocesses = min(MAX_PROCESSES, os.cpu_count() or 1)
        config.option.dist = "worksteal"


def leaves_out_slow(config: pytest.Config) -> bool:
    """Whether to leave out slow tests. They run with ``--slow``, with a marker (``-m slow``) or when named."""
    named = any("::" in argument for argument in config.args)
    return not (config.getoption("--slow") or config.option.markexpr or named)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if leaves_out_slow(config):
        config.hook.pytest_deselected(items=[item for item in items if "slow" in item.keywords])
        items[:] = [item for item in items if "slow" not in item.keywords]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if leaves_out_slow(config):
        terminalreporter.write_line("slow tests are left out; pytest --slow runs them as well")
