"""Writes ``metrics.jsonl`` in the run folder, one JSON object per record. Every run has this callback."""

from __future__ import annotations

from trm_fast.errors import UserError
from trm_fast.run_folder import METRICS
from trm_fast.texts import json_text
from trm_fast.training.callbacks.base import Callback, Run, register
from trm_fast.training.folder import Record


@register("json_lines")
class JsonLines(Callback):
    """Appends records. When a run resumes, the trainer removes the records after its checkpoint."""

    def on_start(self, run: Run) -> None:
        self.path = run.folder / METRICS

    def on_log(self, record: Record) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json_text(record) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}") from None
