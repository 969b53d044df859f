"""Chooses the C++ implementation of puzzle generators and solvers, or the one in Python if it was not built."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def engine_for(task: str, reference: ModuleType) -> ModuleType:
    """The submodule of ``trm_fast._host`` for a task, or ``reference`` if the C++ module was not built.

    Both give the same bytes; tests compare them.
    """
    try:
        engine: ModuleType = getattr(import_module("trm_fast._host"), task)
    except ImportError:
        return reference
    return engine
