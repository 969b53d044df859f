"""Checks an installed wheel: its native parts load, an op runs, and a model that ships with it solves a puzzle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PUZZLE = ".36.45.1...61.34..52.6...5.2...42.13"
SOLUTION = "236145415326163452524631351264642513"


def main() -> None:
    import torch

    import trm_fast
    from trm_fast import ops

    record = ops.build_record()
    for part in ("ops", "host"):
        assert record[part]["built"], record[part]["reason"]
    x = torch.randn(3, 40)
    with ops.use_backend("cpp"):
        y = ops.rms_norm(x)
    torch.testing.assert_close(y, ops.reference.rms_norm(x))
    command = [str(Path(sys.executable).parent / "trm-fast"), "solve", "sudoku-6x6", PUZZLE, "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert answer["solution"] == SOLUTION, answer
    path = os.path.dirname(trm_fast.__file__)
    print(f"{path}: the kernels run as {ops.cpu_path()} with torch {torch.__version__}, and the puzzle is solved")


if __name__ == "__main__":
    main()
