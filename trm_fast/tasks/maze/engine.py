"""Generator and shortest paths: C++ where ``trm_fast._host`` was built, else the same bytes from Python.

This is the one place that chooses. ``reason`` says why the C++ module is missing, None where it is there.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.maze import reference

Distances = npt.NDArray[np.int32]
UNIT = reference.UNIT


engine: ModuleType = reference
reason: str | None = None
try:
    engine = import_module("trm_fast._host").maze
except (ImportError, AttributeError) as error:  # the latter: a module built before there were mazes
    reason = str(error)
