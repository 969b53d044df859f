"""Logs to Weights & Biases, which its environment variables configure, such as ``WANDB_PROJECT`` and ``WANDB_MODE``."""

from __future__ import annotations

import os
from typing import Any

import wandb

from trm_fast.tasks.files import write_text
from trm_fast.training.callbacks.base import Callback, Run, register, scalars
from trm_fast.training.folder import Record

ID = "wandb_id.txt"
"""The file in the run folder that holds the run's id at W&B, so that a resumed run continues the same curves."""


@register("wandb")
class WandB(Callback):
    """Logs scalars by optimizer step, the configuration, and the final evaluation."""

    def on_start(self, run: Run) -> None:
        path = run.folder / ID
        run_id = path.read_text(encoding="utf-8").strip() if run.step and path.exists() else None
        project = os.environ.get("WANDB_PROJECT", "trm-fast")
        self.run: Any = wandb.init(
            project=project, name=run.folder.name, dir=run.folder, id=run_id, resume="allow",
            config=run.config.model_dump(mode="json"),
        )  # fmt: skip
        write_text(path, f"{self.run.id}\n")

    def on_log(self, record: Record) -> None:
        self.run.log(scalars(record), step=record["step"])

    def on_end(self, summary: Record | None) -> None:
        if summary is not None and summary["evaluation"]:
            self.run.summary.update({f"final/{k}": v for k, v in summary["evaluation"].items()})
        self.run.finish(exit_code=0 if summary is not None else 1)
