"""Part ``training``: trains ``--preset`` on Sudoku-Extreme's 1,000 puzzles in the time that is left, and tests it.

Another call with the same ``--out`` resumes the run. The tests use one try per puzzle, then symmetries, then rollouts.
Their puzzles (DATA/hard_test.csv.gz: puzzles with 17 givens, and the hardest ones collected in forums) are harder than
Sudoku-Extreme's own test set, so the accuracies cannot be compared with published ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from common import Part
from plan import MIN_SECONDS, TEST_SECONDS

from trm_fast.inference import Solver, evaluate
from trm_fast.interchange import locate
from trm_fast.tasks.base import DataConfig

TRAIN, TEST = "extreme_train_1k.csv.gz", "hard_test.csv.gz"


def data(part: Part) -> Path | None:
    """The folder with both files, or None if the puzzles are generated, which only --self-test allows."""
    if part.data is None and part.tiny:
        return None
    for folder in (part.data, part.data / "sudoku") if part.data else ():
        if (folder / TEST).exists():
            return folder
    raise FileNotFoundError(f"no {TEST} in {part.data}: give its folder with --data")


def train(part: Part, run: Path) -> dict[str, Any]:
    minutes = max(MIN_SECONDS, part.left() - TEST_SECONDS) / 60
    command = [sys.executable, "-m", "trm_fast.cli", "train", "--json", "--device", part.device]
    command += ["--minutes", f"{minutes:.3f}"]
    if (run / "config.yaml").exists():
        command += ["--resume", str(run)]
    else:
        folder = data(part)
        settings = {"data.test": folder / TEST if folder else "null", **part.sizes.settings}
        settings |= {"data.source": folder / TRAIN if folder else "null"}
        command += ["--preset", part.preset, "--out", str(run)]
        command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {' '.join(command)}")
    for name in ("metrics.jsonl", "summary.json", "config.yaml"):
        shutil.copy(run / name, part.out / f"{run.name}_{name}")
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"preset": part.preset, "minutes": minutes, **summary}


def test(part: Part, run: Path, choices: dict[str, Any]) -> dict[str, Any]:
    located = locate(str(run), device=part.device)
    folder = data(part)
    examples = located.task.read(str(folder / TEST)) if folder else located.task.dataset(DataConfig(), 0).test
    examples = examples.take(slice(part.sizes.puzzles))
    solver = Solver(located.model, located.task, batch_size=768, **choices)
    return {"choices": choices, **evaluate(solver, examples).to_json()}


def measure(part: Part) -> None:
    run = part.out / f"run_{part.preset}"
    part.attempt("train", partial(train, part, run))
    for choices in part.sizes.solver_variants:
        name = ", ".join(f"{key} {value}" for key, value in choices.items()) or "one try"
        part.attempt(f"test, {name}", partial(test, part, run, choices), min_seconds=5.0)
