"""The code in docs/training.md runs as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from trm_fast.models import HEADS
from trm_fast.models.halting import RULES
from trm_fast.training import Trainer
from trm_fast.training.optimizers import OPTIMIZERS
from trm_fast.training.schedule import SCHEDULES

from .small import run_config

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def test_the_examples_on_the_page_train_a_run(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    assert len(blocks) == 6
    try:
        for block in blocks:
            exec(compile(block, "training.md", "exec", dont_inherit=True), names)
        model = {"halting": "steady", "head": {"kind": "softmax", "smoothing": 0.1}}
        config = run_config(model, optimizer="lion", schedule="linear", learning_rate=1e-3, steps=16)
        callback = names["BestAccuracy"]()
        summary = Trainer(config, tmp_path / "run", callbacks=[callback]).train()
        resumed = Trainer.resume(tmp_path / "run")  # a checkpoint holds the halting rule's memory
        assert resumed.step_function.carry.halting_memory[:, 0].any()
        assert callback.best == max(0.0, summary["evaluation"]["exact_accuracy"], summary["best"]["exact_accuracy"])
        assert config.training.learning_rate_at(16) == pytest.approx(1e-4)
    finally:
        added = ((OPTIMIZERS, "lion"), (SCHEDULES, "linear"), (RULES, "patient"), (RULES, "steady"), (HEADS, "softmax"))
        for registry, name in added:
            registry.pop(name, None)
