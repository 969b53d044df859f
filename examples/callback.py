"""Follows a run with a callback of your own, which prints the loss of each logged step as a bar.

To offer it on the command line as ``trm-fast train --log bars``, put it into ``trm_fast/training/callbacks/``.
"""

import tempfile

from trm_fast import Trainer
from trm_fast.training import Callback, apply_settings, make_config, read_preset
from trm_fast.training.callbacks import Run
from trm_fast.training.folder import Record


class LossBars(Callback):
    """Prints the loss of each logged step as a bar, relative to the first loss."""

    def on_start(self, run: Run) -> None:
        self.first = 0.0

    def on_log(self, record: Record) -> None:
        if "loss" in record:
            self.first = self.first or record["loss"]
            width = round(40 * record["loss"] / self.first)
            print(f"step {record['step']:4}  {record['loss']:.3f}  {'#' * width}")


sections = apply_settings(read_preset("sudoku-4x4"), ["training.steps=200", "training.log_every=20"])
with tempfile.TemporaryDirectory() as folder:
    Trainer(make_config(sections, "callback.py"), f"{folder}/run", callbacks=[LossBars()]).train()
