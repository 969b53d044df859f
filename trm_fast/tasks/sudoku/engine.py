"""Generator and solver: C++ where ``trm_fast._host`` was built, else the same bytes from Python.

This is the one place that chooses. ``reason`` says why the C++ module is missing, None where it is there.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.sudoku import reference

Ratings = npt.NDArray[np.int32]
ANY_RATING = reference.ANY_RATING


engine: ModuleType = reference
reason: str | None = None
try:
    engine = import_module("trm_fast._host").sudoku
except ImportError as error:
    reason = str(error)
