"""What a command imports: a person waits for it at every start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import environment

PUZZLE = "1.3.3...2.......1"[:16]
PROGRAM = """
import sys
sys.argv = ["trm-fast", *{arguments}]
from trm_fast.cli.main import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("imported:", *sys.modules)
"""


def imported(folder: Path, *arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(arguments=list(arguments))],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].removeprefix("imported: ").split())


def test_help_does_not_import_torch(tmp_path):
    assert not {"torch", "numpy", "psutil", "rich.progress", "ruamel.yaml"} & imported(tmp_path, "--help")


@pytest.mark.parametrize("command", ["solve", "train"])
def test_a_command_does_not_import_the_others(tmp_path, command):
    commands = {name for name in imported(tmp_path, command, "--help") if name.startswith("trm_fast.cli.")}
    assert f"trm_fast.cli.{command}" in commands
    assert not {"trm_fast.cli.sweep", "trm_fast.cli.serve", "trm_fast.cli.call", "trm_fast.cli.agent"} & commands


def test_solving_does_not_import_what_it_does_not_use(tmp_path):
    modules = imported(tmp_path, "solve", "sudoku-4x4", PUZZLE)
    assert "trm_fast.inference.solver" in modules
    unused = {"trm_fast.training", "trm_fast.web", "trm_fast.tasks.tool_calling", "typer.rich_utils", "rich.markdown"}
    unused |= {"datasets", "fastapi", "jsonschema", "matplotlib", "sentencepiece", "triton", "torch._inductor"}
    unused |= {"rich.progress", "rich.prompt", "ruamel.yaml", "torch._dynamo"}
    assert not unused & modules
