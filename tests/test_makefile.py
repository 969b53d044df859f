"""The Makefile: make help lists every target, and the README's quick start is two commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = ("demo", "test", "build", "train", "eval", "lint", "format", "bench", "docs", "clean")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_help_lists_every_target() -> None:
    assert re.findall(r"^  make (\w+)", make("help"), re.M) == ["help", *TARGETS]
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert phony
    assert phony[1].split() == ["help", *TARGETS]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_does_something(target: str, tmp_path: Path) -> None:
    commands = make("-n", target, f"VENV={tmp_path / 'venv'}")
    if target != "clean":
        assert f"-m venv {tmp_path / 'venv'}" in commands  # the environment comes first
    assert commands.splitlines()[-1].strip()


def test_the_quick_start_is_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Quick start\n(.*?)^## ", text, re.M | re.S)
    assert section
    assert re.findall(r"^```bash\n(.*?)^```", section[1], re.M | re.S) == ["make demo\n", "make test\n"]


def test_another_python_and_folder_can_be_chosen(tmp_path: Path) -> None:
    commands = make("-n", "demo", f"VENV={tmp_path}", "PYTHON=python9")
    assert f"python9 -m venv {tmp_path}" in commands
    assert f"{tmp_path}/bin/trm-fast solve runs/demo" in commands
