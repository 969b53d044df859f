"""A run says what it was trained on, and a resumed run uses the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks import hub
from trm_fast.tasks.sudoku import files, generate
from trm_fast.tasks.tables import Table
from trm_fast.training import RunConfig, Trainer, make_config
from trm_fast.training.folder import read_run_config

from .small import SECTIONS, KillAt, Killed

CONFIG: RunConfig = make_config(SECTIONS | {"data": {"source": "hf:someone/sudoku"}}, "test")


def unreachable(source: str, split: str, limit: int | None = None) -> Table:
    raise hub.Unavailable(f"{source}: no hub here")


def reachable(source: str, split: str, limit: int | None = None) -> Table:
    puzzles = generate(4, 40, (9, 12), {"train": 1, "test": 2}[split])
    return Table(files.as_lines(puzzles.questions), files.as_lines(puzzles.answers), [], ["row"] * 40)


def test_generated_puzzles_are_named_in_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "load", unreachable)
    with pytest.raises(Killed):
        (trainer := Trainer(CONFIG, tmp_path / "run", callbacks=[KillAt(12)])).train()
    assert trainer.config.data.source is None
    assert read_run_config(tmp_path / "run").data.source is None
    monkeypatch.setattr(hub, "load", reachable)
    resumed = Trainer.resume(tmp_path / "run")
    np.testing.assert_array_equal(resumed.dataset.train.inputs, trainer.dataset.train.inputs)
    assert "generator" in resumed.train()["data"]


@pytest.mark.parametrize("stop", [3, 12])
def test_a_run_on_the_hub_is_not_resumed_on_something_else(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first checkpoint and after it."""
    monkeypatch.setattr(hub, "load", reachable)
    with pytest.raises(Killed):
        Trainer(CONFIG, tmp_path / "run", callbacks=[KillAt(stop)]).train()
    assert read_run_config(tmp_path / "run").data.source == "hf:someone/sudoku"
    monkeypatch.setattr(hub, "load", unreachable)
    with pytest.raises(UserError, match="no hub here; a resumed run needs the data"):
        Trainer.resume(tmp_path / "run")
    monkeypatch.setattr(hub, "load", reachable)
    assert Trainer.resume(tmp_path / "run").train()["data"] == "hf:someone/sudoku"
