"""Other processes that import ``trm_fast`` from where the tests do: installed, or in a checkout."""

from __future__ import annotations

import os
from pathlib import Path

import trm_fast


def environment(**variables: str) -> dict[str, str]:
    """The environment of such a process, with one thread. It must not start in the root of a checkout, where
    ``python -m`` would find the checkout before an installed package."""
    return os.environ | {"PYTHONPATH": str(Path(trm_fast.__file__).parents[1]), "OMP_NUM_THREADS": "1"} | variables
