"""Small generated ARC tasks, and the paths of the real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(os.environ.get("TRM_FAST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "arc"


def real(name: str) -> str:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{path} is not there (set TRM_FAST_DATA)")
    return str(path)


def mirrored(seed: int, tests: int = 1) -> dict[str, Any]:
    """A task whose outputs are the mirrored inputs."""
    rng = np.random.default_rng(seed)
    grids = [rng.integers(0, 10, (rng.integers(2, 4), 3)) for _ in range(3 + tests)]
    pairs = [{"input": g.tolist(), "output": g[:, ::-1].tolist()} for g in grids]
    return {"train": pairs[:3], "test": pairs[3:]}


def raised(seed: int) -> dict[str, Any]:
    """A task whose outputs have one more row than the inputs."""
    rng = np.random.default_rng(seed)
    grids = [rng.integers(0, 10, (2, 2)) for _ in range(3)]
    pairs = [{"input": g.tolist(), "output": [*g.tolist(), [1, 1]]} for g in grids]
    return {"train": pairs[:2], "test": pairs[2:]}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path
