"""Accuracy against compute, as a picture."""

from __future__ import annotations

from pathlib import Path

from trm_fast.errors import UserError
from trm_fast.inference.evaluate import Evaluation


def plot_sweep(name: str, results: list[tuple[int, Evaluation]], path: Path, title: str) -> None:
    """Draws exact accuracy with its interval over the supervision steps that a puzzle took, a point a value."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    compute = [r.mean_steps for _, r in results]
    accuracy = [100 * r.exact_accuracy for _, r in results]
    low = [a - 100 * r.interval[0] for a, (_, r) in zip(accuracy, results, strict=True)]
    high = [100 * r.interval[1] - a for a, (_, r) in zip(accuracy, results, strict=True)]
    axis.errorbar(compute, accuracy, yerr=[low, high], fmt="o-", capsize=3)
    for (value, _), x, y in zip(results, compute, accuracy, strict=True):
        axis.annotate(f"{name} {value}", (x, y), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axis.set(xlabel="supervision steps a puzzle", ylabel="exact accuracy, %", xscale="log", title=title)
    axis.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be written: {error}") from None
