"""The files of a run folder: configuration, metrics and summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trm_fast.errors import UserError
from trm_fast.run_folder import CONFIG, METRICS
from trm_fast.tasks.files import write_text
from trm_fast.texts import json_text, parse_json, read_text
from trm_fast.training.config import RunConfig, TrainingConfig
from trm_fast.training.read_config import make_config, read_yaml

Record = dict[str, Any]


def cut_metrics(run: Path, last: int, training: TrainingConfig) -> None:
    """Cuts ``metrics.jsonl`` to what an uninterrupted run would have logged up to step ``last``. It removes later
    records, a half-written last line, and evaluations that took place only because an earlier call ended."""

    def regular(record: Record) -> bool:
        step = record["step"]
        due = training.eval_every and step % training.eval_every == 0 and step < training.steps
        return step <= last and ("loss" in record or bool(due))

    kept = [json_text(record) for record in read_metrics(run) if regular(record)]
    write_text(run / METRICS, "".join(line + "\n" for line in kept))


def read_run_config(run: Path) -> RunConfig:
    """Reads the configuration of a run folder.

    Raises:
        UserError: the folder holds no run, or its configuration is invalid.
    """
    path = run / CONFIG
    if not path.is_file():
        raise UserError(f"{run} is not a run: it has no {CONFIG}")
    return make_config(read_yaml(path), str(path))


def read_metrics(run: Path) -> list[Record]:
    """Reads the records of ``metrics.jsonl``. An incomplete last line of a killed run is ignored.

    Raises:
        UserError: a line is not a record of metrics, or the file can't be read.
    """
    path = run / METRICS
    text = read_text(path) if path.exists() else ""
    records = []
    for number, line in enumerate(text.split("\n")[:-1], 1):  # what follows the last line feed is incomplete
        try:
            record = parse_json(line, f"{path}:{number}: ")
        except UserError as error:
            raise UserError(f"{error}; remove the line") from None
        if not _valid(record):
            raise UserError(f"{path}:{number}: not a record of metrics; remove the line")
        records.append(record)
    return records


def _valid(record: Any) -> bool:
    """Whether a record has a step, and nothing but texts, numbers that plots can show, and null for what is unknown."""
    if not isinstance(record, dict) or not isinstance(record.get("step"), int) or isinstance(record["step"], bool):
        return False
    values = (value for value in record.values() if value is not None and not isinstance(value, str | bool))
    flat = (part for value in values for part in (value if isinstance(value, list) else [value]))
    return all(isinstance(part, int | float) and abs(part) < 1e300 for part in flat)
