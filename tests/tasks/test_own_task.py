"""Tasks defined outside the package: the one in examples/, and names that are no task."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks import get_task

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_the_example_task_trains_and_solves(tmp_path: Path) -> None:
    for name in ("own_task.py", "own_task.yaml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    commands = re.findall(r"^    trm-fast (.*)$", (EXAMPLES / "own_task.py").read_text(encoding="utf-8"), re.M)
    outputs = []
    for line in commands:
        command = [sys.executable, "-m", "trm_fast.cli", *line.split(), "--json"]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr
        outputs.append(json.loads(process.stdout))
    trained, solved = outputs
    assert trained["evaluation"]["exact_accuracy"] > 0.9
    assert solved["solution"] == "hgfedcba"
    assert solved["valid"] is True


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Task", "cannot be imported: No module named"),
        ("pathlib:Maze", "cannot be imported: module 'pathlib' has no attribute"),
        ("pathlib:Path", "not a subclass"),
    ],
)
def test_names_that_are_no_task(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_task(name)
