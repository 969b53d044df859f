"""Data that a task would not use are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.base import DataConfig, Dataset, Examples, Task, TaskConfig
from trm_fast.tasks.copy import Copy, CopyConfig
from trm_fast.tasks.loading import load_dataset, load_or_generate
from trm_fast.tasks.multi import Multi, MultiConfig
from trm_fast.tasks.symbols import Symbols, SymbolsConfig


class Generated(Task):
    """A task of a user's own that makes its data itself."""

    name, Config, seq_len = "tests:Generated", TaskConfig, 2

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        tokens = np.ones((4, 2), dtype=np.int32)
        examples = Examples(tokens, tokens, np.zeros(4, dtype=np.int32))
        return Dataset(examples, examples, "ones")

    def parse(self, text: str, where: str = "") -> Any: ...

    def format(self, question: Any, answer: Any) -> str:
        return ""


class Reading(Generated):
    """Reads files in ``dataset`` alone, and says so."""

    reads_files = True


@pytest.mark.parametrize("load", [load_dataset, load_or_generate])
@pytest.mark.parametrize("key", ["source", "test"])
def test_a_task_that_reads_no_files_refuses_them(load: Any, key: str, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("question,answer\n")
    for source in ("missing.csv", str(tmp_path / "there.csv"), "hf:somebody/something"):
        with pytest.raises(UserError, match=f"data.{key} = .*{source[-9:]}: the task tests:Generated reads no files"):
            load(Generated(), DataConfig(**{key: source}), 0)
        assert load_dataset(Reading(), DataConfig(**{key: source}), 0).source == "ones"
    assert load_dataset(Generated(), DataConfig(), 0).source == "ones"


def test_the_tasks_that_ship_read_files() -> None:
    for task in (Copy(), Symbols(), Multi(MultiConfig())):
        assert task.reads_files


def test_held_out_rows_are_counted_in_a_note(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("0.1,0.2\n" * 10)
    (tmp_path / "s.txt").write_text("ab\nba\naa\nbb\n")
    vectors, strings = Copy(CopyConfig(length=2)), Symbols(SymbolsConfig(length=2, symbols=2))
    for task, name, note in ((vectors, "v.csv", "3 of 10 vectors are"), (strings, "s.txt", "1 of 4 strings are")):
        data = task.dataset(DataConfig(source=str(tmp_path / name), holdout=0.3), 0)
        assert data.notes == [f"{note} held out for testing (data.holdout = 0.3; --holdout 0: none)"]
        assert task.dataset(DataConfig(source=str(tmp_path / name), holdout=0), 0).notes == []
        assert task.dataset(DataConfig(), 0).notes == []
