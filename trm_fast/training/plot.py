"""Plots the curves of a run, and the variants of a sweep, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path

from trm_fast.errors import UserError
from trm_fast.run_folder import CONFIG
from trm_fast.tasks.pictures import save_figure
from trm_fast.training.folder import Record, read_metrics

CURVES = "curves.png"


def plot_run(run: Path, target: Path | None = None) -> Path:
    """Plots loss, accuracy, supervision steps and learning rate of a run.

    Args:
        run: the run folder.
        target: path of the PNG; by default ``curves.png`` in the run folder.

    Returns:
        The path of the PNG.

    Raises:
        UserError: the folder holds no run or no metrics yet, or the PNG can't be written.
    """
    if not (run / CONFIG).is_file():
        raise UserError(f"{run} is not a run: it has no {CONFIG}")
    records = read_metrics(run)
    logged = [r for r in records if r.get("loss") is not None]
    evaluated = [r for r in records if r.get("eval_exact_accuracy") is not None]
    if not logged:
        raise UserError(f"{run} has no metrics yet: nothing to plot")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, 2)
    steps = [r["step"] for r in logged]

    def values(name: str) -> list[float]:
        return [nan if (value := r.get(name)) is None else value for r in logged]  # None: no example had finished

    axes[0, 0].plot(steps, values("loss"))
    axes[0, 0].set(title="Loss", yscale="log")
    axes[0, 1].plot(steps, values("exact_accuracy"), label="training, whole answers")
    axes[0, 1].plot(steps, values("cell_accuracy"), label="training, cells", alpha=0.6)
    if evaluated:
        x, y = [r["step"] for r in evaluated], [r["eval_exact_accuracy"] for r in evaluated]
        axes[0, 1].plot(x, y, "o-", label="unseen, averaged weights")
    axes[0, 1].set(title="Accuracy", ylim=(-0.02, 1.02))
    axes[0, 1].legend()
    axes[1, 0].plot(steps, values("mean_steps"))
    axes[1, 0].set(title="Supervision steps until halting", xlabel="optimizer step")
    axes[1, 1].plot(steps, values("learning_rate"))
    axes[1, 1].set(title="Learning rate", xlabel="optimizer step")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.suptitle(run.name)
    path = target or run / CURVES
    save_figure(figure, path)
    return path


def plot_variants(rows: Sequence[Record], values: Sequence[Sequence[float]], metric: str, path: Path) -> Path:
    """Plots the metric of a sweep's variants: the mean with its interval, and a dot for each run.

    Args:
        rows: the variants' results, as in ``sweep.json``.
        values: the metric of each variant's runs.
        metric: name of the metric.
        path: path of the PNG.

    Returns:
        The path of the PNG.

    Raises:
        UserError: the PNG can't be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 0.4 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for height, (row, numbers) in enumerate(zip(rows, values, strict=True)):
        axis.plot(numbers, [height] * len(numbers), "o", color="C0", alpha=0.4)
        if row["mean"] is not None:
            lower, upper = row["interval"] or (row["mean"], row["mean"])
            axis.hlines(height, lower, upper, color="C1")
            axis.plot(row["mean"], height, "D", color="C1")
    axis.set(xlabel=metric.replace("_", " "), title="mean with its 95 % interval, and single runs")
    axis.set_yticks(range(len(rows)), [row["variant"] for row in rows])
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    save_figure(figure, path)
    return path
