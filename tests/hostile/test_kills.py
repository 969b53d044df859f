"""Commands that are killed at random times leave their outputs complete or absent, and a killed run resumes exactly."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tests.process import environment

from .case import write_published

pytestmark = pytest.mark.slow
KILLS = 30
SMALL = ["--set", "model.hidden_size=16", "--set", "task.train_count=60", "--set", "task.test_count=20"]
SMALL += ["--set", "training.batch_size=8", "--set", "training.checkpoint_every=5", "--set", "training.log_every=10"]
IMPORT = ["--task", "{name: sudoku, size: 4}", "--cycles", "1", "--latent-steps", "1"]
COMMANDS: dict[str, list[str]] = {
    "answers.jsonl": ["solve", "sudoku-4x4", "{in}/puzzles.csv", "--output", "{out}/answers.jsonl", "--max-steps", "2"],
    "puzzles.csv.gz": ["data", "sudoku", "--size", "6", "--count", "3000", "--out", "{out}/puzzles.csv.gz"],
    "exported": ["export", "sudoku-4x4", "--format", "safetensors", "--out", "{out}/exported"],
    "model.onnx": ["export", "sudoku-4x4", "--format", "onnx", "--part", "step", "--out", "{out}/model.onnx"],
    "imported": ["import", "{in}/published.safetensors", *IMPORT, "--out", "{out}/imported"],
}
"""Commands by the file or folder that they write."""
TRAIN = ["train", "--preset", "sudoku-4x4", *SMALL, "--steps", "60", "--out", "{out}/run"]


class Inputs(NamedTuple):
    folder: Path
    expected: dict[str, dict[str, bytes]]
    """The files of each output of a command that was not killed, by their paths."""
    seconds: dict[str, float]


def command(words: list[str], folder: Path, out: Path) -> list[str]:
    filled = [word.replace("{in}", str(folder)).replace("{out}", str(out)) for word in words]
    return [sys.executable, "-m", "trm_fast.cli", *filled]


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def start(words: list[str], folder: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(words, folder, out), cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def finish(words: list[str], folder: Path, out: Path) -> float:
    began = time.monotonic()
    assert start(words, folder, out).wait() == 0
    return time.monotonic() - began


def kill(process: subprocess.Popen[bytes], moment: Callable[[], bool]) -> int:
    """Kills a process at a moment, unless it ends before; its exit status."""
    while process.poll() is None and not moment():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait()


def moment(rng: random.Random, seconds: float, out: Path | None = None) -> Callable[[], bool]:
    """A random time, mostly in the second half of a command, or shortly after the first file appears in ``out``."""
    began, wait = time.monotonic(), rng.uniform(0.4, 1.05) * seconds
    if out is None or rng.random() < 0.5:
        return lambda: time.monotonic() > began + wait
    delay, seen = rng.uniform(0, 0.05), []

    def written() -> bool:
        if not seen and any(out.iterdir()):
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() > seen[0] + delay

    return written


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("in")
    write_published(folder / "published.safetensors")
    finish(["data", "sudoku", "--size", "4", "--count", "200", "--out", "{in}/puzzles.csv"], folder, folder)
    whole = tmp_path_factory.mktemp("whole")
    seconds = {name: finish(words, folder, whole) for name, words in COMMANDS.items()}
    return Inputs(folder, {name: contents(whole / name) for name in COMMANDS}, seconds)


@pytest.mark.parametrize("name", COMMANDS)
def test_outputs_are_complete_or_absent(name: str, inputs: Inputs, tmp_path: Path) -> None:
    rng = random.Random(name)
    for number in range(KILLS // (len(COMMANDS) + 1)):
        out = tmp_path / str(number)
        out.mkdir()
        process = start(COMMANDS[name], inputs.folder, out)
        kill(process, moment(rng, inputs.seconds[name], out))
        if (out / name).exists():
            assert contents(out / name) == inputs.expected[name]
        assert [path.name for path in out.iterdir() if not path.name.startswith(".") and path.name != name] == []
        shutil.rmtree(out)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(inputs: Inputs, tmp_path: Path) -> None:
    rng = random.Random(0)
    whole, out = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    out.mkdir()
    seconds = finish(TRAIN, inputs.folder, whole)
    killed = 0
    for _ in range(10 * KILLS):
        begun = (out / "run" / "config.yaml").exists()
        process = start(["train", "--resume", "{out}/run"] if begun else TRAIN, inputs.folder, out)
        if killed == KILLS // (len(COMMANDS) + 1):
            assert process.wait() == 0
            break
        killed += kill(process, moment(rng, seconds)) == -signal.SIGKILL
        for checkpoint in (out / "run").glob("checkpoints/step_*"):
            assert {"state.json", "model.safetensors"} <= {file.name for file in checkpoint.iterdir()}
    for part in ("model/model.safetensors", "checkpoints/step_60/model.safetensors"):
        ours, theirs = load_file(out / "run" / part), load_file(whole / "run" / part)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert not [path for path in (out / "run").rglob(".*") if path.name.endswith(".part")]
