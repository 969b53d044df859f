"""Fixtures: commands that run in this process and return their output and exit status, and a small trained run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from trm_fast.cli.main import main


class Result(NamedTuple):
    """What a command returned and printed. ``err`` has each message in one line, however long the paths in it are;
    ``printed_err`` has the lines that were printed."""

    code: int
    out: str
    err: str
    printed_err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["trm-fast", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        out, err = capsys.readouterr()
        return Result(code, out, err.replace("\n  ", " "), err)

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of six steps with a tiny sudoku model, which is enough for everything but accuracy."""
    from trm_fast.training import Trainer, apply_settings, make_config, read_preset

    small = ["model.hidden_size=16", "training.steps=6", "training.batch_size=8", "training.log_every=2"]
    small += ["training.checkpoint_every=3", "task.train_count=60", "task.test_count=20"]
    out = tmp_path_factory.mktemp("runs") / "tiny"
    Trainer(make_config(apply_settings(read_preset("sudoku-4x4"), small), "test"), out).train()
    return out
