"""Every hostile input ends with a short error that says what is wrong and where; nothing is written or run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process import environment

from . import files, models, options
from .case import Case
from .worker import ADDRESS_SPACE

pytestmark = pytest.mark.slow
CASES = options.CASES + files.CASES + models.CASES
MEMORY = 2 << 30
LINES, WIDTH = 10, 200
WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all hostile files."""
    from trm_fast.training import Trainer, apply_settings, make_config, read_preset

    folder = tmp_path_factory.mktemp("hostile")
    small = ["model.hidden_size=16", "training.steps=6", "training.batch_size=8", "training.log_every=2"]
    small += ["training.checkpoint_every=3", "task.train_count=60", "task.test_count=20"]
    Trainer(make_config(apply_settings(read_preset("sudoku-4x4"), small), "test"), folder / "good").train()
    work = folder / "work"
    work.mkdir()
    files.build(work)
    models.build(work, folder / "good" / "model", folder / "good")
    return work


@pytest.fixture(scope="module")
def results(inputs: Path) -> list[dict[str, Any]]:
    """What each case did. A new process continues where one has ended."""
    table, log = inputs.parent / "cases.json", inputs.parent / "results.jsonl"
    table.write_text(json.dumps([{"command": case.command, "stdin": case.stdin} for case in CASES]))
    outcomes: list[dict[str, Any]] = []
    variables = environment(COLUMNS="100")
    variables.pop("TRM_FAST_MCP_TOKEN", None)
    while len(outcomes) < len(CASES):
        command = [sys.executable, WORKER, table, str(len(outcomes)), log]
        ended = subprocess.run(command, cwd=inputs, env=variables, capture_output=True, text=True)
        outcomes = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        if len(outcomes) < len(CASES):
            crash = f"the process ended with {ended.returncode}: {ended.stderr[-500:]}"
            outcomes.append({"code": -1, "crash": crash, "stderr": "", "peak": 0, "changed": [], "seconds": 0})
            with log.open("a") as stream:
                print(json.dumps(outcomes[-1]), file=stream)
    return outcomes


def problems(case: Case, result: dict[str, Any]) -> list[str]:
    """What is wrong with the way in which a command ended."""
    lines = result["stderr"].strip().splitlines()
    text = " ".join(result["stderr"].replace("│", " ").split())
    checks = {
        result["crash"]: bool(result["crash"]),
        f"exit status {result['code']}": result["code"] not in (1, 2),
        f"{len(lines)} lines": not 1 <= len(lines) <= LINES,
        f"a line of {max(map(len, lines), default=0)} characters": any(len(line) >= WIDTH for line in lines),
        "a traceback or a bug": "Traceback" in text or "a bug in trm-fast" in text,
        f"no word of {case.words!r}": " ".join(case.words.split()) not in text,
        f"files were changed: {result['changed']}": bool(result["changed"]),
        f"{result['peak'] >> 20} MiB": result["peak"] > MEMORY,
    }
    return [problem for problem, wrong in checks.items() if wrong]


def test_there_are_enough_inputs() -> None:
    assert len({(case.command, case.stdin) for case in CASES}) >= 300
    assert ADDRESS_SPACE > MEMORY


def test_every_input_ends_with_a_short_error(inputs: Path, results: list[dict[str, Any]]) -> None:
    failed = []
    for case, result in zip(CASES, results, strict=True):
        if wrong := problems(case, result):
            shown = " ".join(word if len(word) < 80 else f"{word[:30]}..." for word in case.command)
            failed.append(f"{shown!r}: {'; '.join(wrong)}\n    {result['stderr'].strip()[:600]}")
    assert not failed, f"{len(failed)} of {len(CASES)}:\n" + "\n".join(failed)
    assert not (inputs / "new" / "ran").exists()
    assert list((inputs / "new").iterdir()) == []
