"""Tasks defined outside the package: the one in examples/, and names that are no task."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks import get_task, trusting_code
from trm_fast.training import make_config

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
        ("pathlib:Maze", "the module pathlib has no Maze"),
        ("pathlib:Path", "not a subclass"),
        ("trm_fast.tasks.base:Task", "does not define Config"),
        (".relative:Task", "is not MODULE:CLASS"),
        ("a b:Task", "is not MODULE:CLASS"),
        (":Task", "is not MODULE:CLASS"),
        ("pathlib:", "is not MODULE:CLASS"),
        ("pathlib:Path:x", "is not MODULE:CLASS"),
    ],
)
def test_names_that_are_no_task(name: str, message: str) -> None:
    with trusting_code(), pytest.raises(UserError, match=message):
        get_task(name)


CODE = """
from pathlib import Path
from trm_fast.tasks.symbols import Symbols, SymbolsConfig

Path("ran").touch()

class Config(SymbolsConfig):
    name: str = "{module}:Own"

class Own(Symbols):
    name, Config = "{module}:Own", Config
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder that leaves a file ``ran`` when it is imported."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(CODE.format(module=name))
    yield name
    sys.modules.pop(name, None)


def test_a_module_is_imported_only_where_code_is_trusted(module: str, tmp_path: Path) -> None:
    path = list(sys.path)
    for trust in (nullcontext(), trusting_code(False)):
        with trust, pytest.raises(UserError, match=f"runs the code of the module {module}.*--trust-code"):
            get_task(f"{module}:Own")
    assert not (tmp_path / "ran").exists()
    with trusting_code():
        task = get_task(f"{module}:Own")
    assert (tmp_path / "ran").exists()
    assert sys.path == path
    assert get_task(f"{module}:Own") is task, "the program has imported the module"


def test_a_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_that_fails.py").write_text("1 / 0")
    with trusting_code(), pytest.raises(UserError, match="cannot be imported: ZeroDivisionError: division by zero"):
        get_task("own_that_fails:Own")


def test_a_task_inside_another_is_code_too(module: str, tmp_path: Path) -> None:
    sections = {"task": {"name": "multi", "tasks": [{"name": f"{module}:Own"}]}, "model": {}}
    with pytest.raises(UserError, match="--trust-code"):
        make_config(sections, "config.yaml")
    assert not (tmp_path / "ran").exists()
    with trusting_code():
        make_config(sections, "config.yaml")
