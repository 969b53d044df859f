"""Limits of the operating system: memory, the size of files, file names that are not text."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process import environment

from .case import MODEL, PUZZLE
from .files import build

pytestmark = pytest.mark.slow


def run(words: list[Any], folder: Path, **limits: int) -> subprocess.CompletedProcess[bytes]:
    """Runs ``trm-fast`` in a folder with limits, such as ``RLIMIT_AS``."""

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    command = [sys.executable, "-m", "trm_fast.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, preexec_fn=limit, timeout=600)


@pytest.mark.parametrize(
    "words",
    [
        ["solve", MODEL, "bombs/zeros.csv.gz"],
        ["solve", MODEL, "bombs/line.csv.gz"],
        ["data", "xlam", "bombs/line.json.gz"],
        ["train", "--config", "configs/bomb.yaml"],
        ["train", "--preset", MODEL, "--out", "new/run", "--set", "model.hidden_size=20000"],
        ["train", "--preset", MODEL, "--out", "new/run", "--set", "task.train_count=99999999"],
    ],
)
def test_little_memory(words: list[str], tmp_path: Path) -> None:
    build(tmp_path)
    ended = run(words, tmp_path, RLIMIT_AS=3 << 30)
    lines = ended.stderr.decode().splitlines()
    assert ended.returncode in (1, 2), ended
    assert 1 <= len(lines) <= 10, lines
    assert "Traceback" not in ended.stderr.decode()
    assert "a bug in trm-fast" not in ended.stderr.decode()
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["export", MODEL, "--format", "safetensors", "--out", "out"],
        ["export", MODEL, "--format", "onnx", "--part", "step", "--out", "out"],
        ["data", "sudoku", "--size", "4", "--count", "5000", "--out", "out"],
        ["eval", MODEL, "--limit", "2", "--sweep", "steps=1", "--plot", "out"],
    ],
)
def test_a_full_disk_leaves_nothing(words: list[str], tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk, which only root could make."""
    ended = run(words, tmp_path, RLIMIT_FSIZE=5000)
    assert ended.returncode == 1
    assert b"error: cannot write out: File too large" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_training_with_an_intact_run(tmp_path: Path) -> None:
    words = ["train", "--preset", MODEL, "--steps", "3", "--out", "run", "--set", "task.train_count=50"]
    ended = run([*words, "--set", "task.test_count=10"], tmp_path, RLIMIT_FSIZE=20_000)
    assert ended.returncode == 1
    assert b"could not be written (File too large)" in ended.stderr
    assert b"free some space" not in ended.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert run(["train", "--resume", "run"], tmp_path).returncode == 0


def test_names_that_are_not_text(tmp_path: Path) -> None:
    name = b"answers-\xff.jsonl"
    ended = run(["solve", MODEL, PUZZLE, "--output", name], tmp_path)
    assert ended.returncode == 0, ended
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [name]
    assert run(["solve", MODEL, b"missing-\xff.csv"], tmp_path).returncode in (1, 2)


def test_standard_output_as_a_file(tmp_path: Path) -> None:
    ended = run(["solve", MODEL, PUZZLE, "--output", "/dev/stdout"], tmp_path)
    assert ended.returncode == 0, ended
    assert ended.stdout.startswith(b'{"solution": "3124241342311342"')
    assert b"answers in /dev/stdout" in ended.stdout
    assert Path("/dev/stdout").is_symlink()
