"""The records of training that callbacks get and ``metrics.jsonl`` keeps."""

from __future__ import annotations

from collections.abc import Mapping

from trm_fast.training.config import RunConfig
from trm_fast.training.folder import Record
from trm_fast.training.step import TOTALS


def training_record(step: int, totals: Mapping[str, float], config: RunConfig, seconds: float) -> Record:
    """The record of the steps since the last one: means per row, or per finished row.

    Args:
        step: the last optimizer step.
        totals: the sums over these steps (``TrainStep.read_totals``). Parts of the loss are among them, each
            with the number of rows that have a label for it.
        config: the configuration of the run.
        seconds: training time of the run so far.
    """
    rows, finished = totals["rows"], totals["finished"]
    parts = [name for name in totals if name not in TOTALS and f"{name}_rows" in totals]

    def mean(name: str, count: float) -> float | None:
        return totals[name] / count if count else None

    return {
        "step": step,
        "sample_steps": step * config.training.batch_size,
        "loss": totals["loss"] / rows,
        "answer_loss": totals["answer_loss"] / rows,
        "halting_loss": totals["halting_loss"] / rows,
        **{f"{name}_loss": mean(name, totals[f"{name}_rows"]) for name in parts},
        "exact_accuracy": mean("exact", finished),
        "cell_accuracy": mean("cells", finished),
        "halting_accuracy": mean("q_right", finished),
        "mean_steps": mean("steps", finished),
        "finished": int(finished),
        "learning_rate": config.training.learning_rate_at(step),
        **({"depth": config.model_at(step).effective_depth} if config.training.depth else {}),
        "seconds": round(seconds, 3),
    }
