"""A task from elsewhere: the one that the README shows, word for word."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks import get_task

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    section = re.search(r"^## Add a task\n(.*?)^## ", README.read_text(encoding="utf-8"), re.M | re.S)
    assert section
    return re.findall(rf"^```{language}\n(.*?)^```", section[1], re.M | re.S)


@pytest.mark.slow
def test_the_task_of_the_readme(tmp_path: Path) -> None:
    (code,), (config,), (commands,) = blocks("python"), blocks("yaml"), blocks("bash")
    assert len(code.splitlines()) < 100
    (tmp_path / "reverse.py").write_text(code)
    (tmp_path / "reverse.yaml").write_text(config)
    said = ""
    for line in commands.splitlines():
        command = [sys.executable, "-m", "trm_fast.cli", *line.split()[1:], "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    trained, solved = map(json.loads, said.splitlines())
    assert trained["evaluation"]["exact_accuracy"] > 0.9
    assert solved["solution"] == "hgfedcba"
    assert solved["valid"] is True


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:Task", "can't be loaded: No module named"),
        ("pathlib:Maze", "can't be loaded: module 'pathlib' has no attribute"),
        ("pathlib:Path", "not a subclass"),
    ],
)
def test_what_is_no_task(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        get_task(name)
