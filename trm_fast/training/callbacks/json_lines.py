"""``metrics.jsonl`` in the run's folder: a JSON object for each record. Every run has it."""

from __future__ import annotations

from trm_fast.training.callbacks.base import Callback, Run, register
from trm_fast.training.folder import Record, RunFolder


@register("json_lines")
class JsonLines(Callback):
    """Appends; what a resumed run had logged behind its checkpoint is cut before."""

    def on_start(self, run: Run) -> None:
        self.folder = RunFolder(run.folder)

    def on_log(self, record: Record) -> None:
        self.folder.record(record)
