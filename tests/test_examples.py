"""Every program in examples/ runs and prints what it promises. (tests/tasks/test_own_task.py runs own_task.py.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name)]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    assert not any(folder.iterdir()), "an example leaves nothing behind"
    return process.stdout


def test_the_page_lists_every_example() -> None:
    listed = set(re.findall(r"\]\((\w+\.\w+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".yaml")}


@pytest.mark.slow
def test_train_and_solve(tmp_path: Path) -> None:
    accuracy, answer = run("train_and_solve.py", tmp_path).splitlines()
    assert float(accuracy.split()[-1]) > 0.99
    assert answer.startswith("3124241342311342")
    assert answer.endswith("valid: True")


@pytest.mark.slow
def test_fine_tuning(tmp_path: Path) -> None:
    start, end = map(float, re.findall(r"\d\.\d+", run("fine_tuning.py", tmp_path)))
    assert start > 0.95
    assert end > 0.95


@pytest.mark.slow
def test_callback(tmp_path: Path) -> None:
    bars = [line.split()[-1] for line in run("callback.py", tmp_path).splitlines()]
    assert len(bars) == 10
    assert set("".join(bars)) == {"#"}
    assert len(bars[-1]) < len(bars[0]) == 40


@pytest.mark.slow
def test_ops_in_another_model(tmp_path: Path) -> None:
    losses = [float(line.split()[-1]) for line in run("ops_in_another_model.py", tmp_path).splitlines()]
    assert len(losses) == 4
    assert losses[-1] < 0.7 * losses[0]


def test_the_job_for_slurm_starts_and_resumes_a_run(tmp_path: Path) -> None:
    """With programs in the place of SLURM's that print what they are to run."""
    for name, text in {"srun": 'printf "%s\\n" "$@"', "scontrol": "printf 'first\\nsecond\\n'"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    variables = {"SLURM_JOB_NODELIST": "a,b", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "7"}
    environment = os.environ | variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(EXAMPLES / "slurm.sh"), str(tmp_path / "run"), "--preset", "sudoku"]

    def command_line() -> list[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    first = command_line()
    assert first[:3] == ["torchrun", "--nnodes=2", "--nproc-per-node=4"]
    assert "--rdzv-endpoint=first:29500" in first
    start = first.index("train")
    assert first[start:] == ["train", "--preset", "sudoku", "--out", str(tmp_path / "run")]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    assert command_line()[start:] == ["train", "--resume", str(tmp_path / "run")]
