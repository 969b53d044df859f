"""Draws accuracy against compute."""

from __future__ import annotations

from pathlib import Path

from trm_fast.errors import UserError
from trm_fast.inference.evaluate import Evaluation


def plot_sweep(name: str, results: list[tuple[int, Evaluation]], path: Path, title: str) -> None:
    """Draws exact accuracy with its interval against supervision steps per puzzle, one point per value of an option.

    Args:
        name: the option, such as ``rollouts``.
        results: its values and their evaluations.
        path: of the picture.
        title: of the picture.

    Raises:
        UserError: the picture can't be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    compute = [r.mean_steps for _, r in results]
    accuracy = [100 * r.exact_accuracy for _, r in results]
    below = [a - 100 * r.interval[0] for a, (_, r) in zip(accuracy, results, strict=True)]
    above = [100 * r.interval[1] - a for a, (_, r) in zip(accuracy, results, strict=True)]
    axis.errorbar(compute, accuracy, yerr=[below, above], fmt="o-", capsize=3)
    for (value, _), x, y in zip(results, compute, accuracy, strict=True):
        axis.annotate(f"{name} {value}", (x, y), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axis.set(xlabel="supervision steps per puzzle", ylabel="exact accuracy, %", xscale="log", title=title)
    axis.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be written: {error}") from None
