"""The names of the files in a run folder, and which folders are runs."""

from __future__ import annotations

from pathlib import Path

CONFIG, METRICS, SUMMARY, MODEL, BEST = "config.yaml", "metrics.jsonl", "summary.json", "model", "best_model"


def unused_folder(base: Path) -> Path:
    """``base``, or the first of ``base-2``, ``base-3``, ... that does not exist."""
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def newest_run(parent: Path) -> Path | None:
    """The run folder in ``parent`` that was written last and has weights; None if there is none."""

    def written(run: Path) -> float:
        return max(path.stat().st_mtime for name in (CONFIG, METRICS, SUMMARY) if (path := run / name).is_file())

    def has_weights(run: Path) -> bool:
        return (run / MODEL).is_dir() or any(run.glob("checkpoints/step_*"))

    runs = [path.parent for path in parent.glob(f"*/{CONFIG}") if path.is_file() and has_weights(path.parent)]
    return max(runs, key=written, default=None)
