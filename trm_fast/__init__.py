"""Trains Tiny Recursive Models, solves puzzles with them and serves them, fast.

``trm_fast.ops`` needs only torch. The names below load their modules at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trm_fast.version import __version__

if TYPE_CHECKING:
    from trm_fast.agent import ReasoningTool, run_task
    from trm_fast.api import TRM
    from trm_fast.inference import Solver
    from trm_fast.models import TRMConfig
    from trm_fast.training import Trainer
    from trm_fast.training.optimizers import AdamATan2

_MODULES = {
    "TRM": "trm_fast.api",
    "TRMConfig": "trm_fast.models",
    "Trainer": "trm_fast.training",
    "AdamATan2": "trm_fast.training.optimizers",
    "Solver": "trm_fast.inference",
    "ReasoningTool": "trm_fast.agent",
    "run_task": "trm_fast.agent",
}

__all__ = ["TRM", "AdamATan2", "ReasoningTool", "Solver", "TRMConfig", "Trainer", "__version__", "run_task"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'trm_fast' has no attribute {name!r}")
