"""The C++ module of puzzle generators and solvers; where it was not built, the same bytes come from Python."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def engine_for(task: str, reference: ModuleType) -> ModuleType:
    """The part of ``trm_fast._host`` for a task, or the Python module that it is tested against."""
    try:
        engine: ModuleType = getattr(import_module("trm_fast._host"), task)
    except ImportError:
        return reference
    return engine
