"""Writes TensorBoard's event files into the run folder, for ``tensorboard --logdir runs``."""

from __future__ import annotations

from torch.utils.tensorboard import SummaryWriter

from trm_fast.training.callbacks.base import Callback, Run, register, scalars
from trm_fast.training.folder import Record


@register("tensorboard")
class TensorBoard(Callback):
    """Writes scalars by optimizer step, and the configuration as text."""

    def on_start(self, run: Run) -> None:
        # purge_step hides what was logged after the checkpoint from which the run resumes.
        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1 if run.step else None)
        if not run.step:
            self.writer.add_text("config", f"```\n{run.config.to_yaml()}```")

    def on_log(self, record: Record) -> None:
        for name, value in scalars(record).items():
            self.writer.add_scalar(name, value, record["step"])

    def on_end(self, summary: Record | None) -> None:
        self.writer.close()
