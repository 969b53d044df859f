"""Evaluates a solver at several values of its options, and plots accuracy against compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trm_fast.errors import UserError, shown
from trm_fast.inference.evaluate import Evaluation
from trm_fast.inference.solver import Solver
from trm_fast.tasks.pictures import save_figure

SWEEPS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "steps": ("max_steps", int),
    "rollouts": ("rollouts", int),
    "symmetries": ("symmetries", int),
    "batch": ("batch_size", int),
    "noise": ("noise", float),
    "start": ("start", str),
    "resample-every": ("resample_every", int),
    "hints": ("hints", int),
    "select": ("select", str),
    "budget": ("budget", float),
}
"""The names of a sweep: the solver's options, and the types of their values."""


@dataclass(frozen=True)
class Sweep:
    """One line of the plot: an option with several values, and other options with one value each.

    Attributes:
        text: the sweep as the user wrote it.
        name: name of the option with several values.
        values: its values.
        fixed: the values of the other options, by name.
    """

    text: str
    name: str
    values: list[Any]
    fixed: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Sweep:
        """Parses ``NAME=A,B,... NAME=VALUE ...``.

        Raises:
            UserError: a name is unknown, or a value does not have the option's type.

        Examples:
            >>> Sweep.parse("rollouts=2,8 noise=0.3").fixed
            {'noise': 0.3}
        """
        options: dict[str, list[Any]] = {}
        for word in text.split():
            name, _, values = word.partition("=")
            try:
                options[name] = [SWEEPS[name][1](value) for value in values.split(",")]
            except (KeyError, ValueError):
                options = {}
                break
        names = list(options)
        repeated = any(len(set(values)) < len(values) for values in options.values())
        if not names or repeated or any(len(options[name]) > 1 for name in names[1:]):
            raise UserError(
                f"--sweep takes one of {', '.join(SWEEPS)} with different values, such as steps=1,2,4,8, and then "
                f"others with one value each, such as noise=0.3; not {shown(text)}",
                usage_error=True,
            )
        return cls(text, names[0], options[names[0]], {name: options[name][0] for name in names[1:]})

    def solver(self, base: Solver, value: Any) -> Solver:
        """The solver for one value. With a single try, it omits the options of further tries."""
        options = {SWEEPS[name][0]: v for name, v in {**self.fixed, self.name: value}.items()}
        tries = [options.get(name) or getattr(base.options, name) for name in ("rollouts", "symmetries")]
        if tries == [1, 1]:
            options |= {"noise": None, "start": None, "resample_every": None, "hints": None}
        return replace(base, **options)


@dataclass(frozen=True)
class Point:
    """The evaluation at one value, and the matrix FLOP of the network per question."""

    value: Any
    evaluation: Evaluation
    flop: float


def flop_per_question(solver: Solver, evaluation: Evaluation) -> float | None:
    """Matrix FLOP of the network per question, over all its tries; None if the solver has models of different cost."""
    costs = {model.config.gemm_flop(training=False) for model in solver.models}
    return costs.pop() * evaluation.mean_steps if len(costs) == 1 else None


def plot_sweeps(lines: list[tuple[Sweep, list[Point]]], path: Path, title: str) -> None:
    """Plots exact accuracy with its interval against FLOP per question, one line per sweep.

    Raises:
        UserError: the picture can't be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for sweep, points in lines:
        compute = [point.flop for point in points]
        accuracy = [100 * point.evaluation.exact_accuracy for point in points]
        bounds = [point.evaluation.interval for point in points]
        below = [y - 100 * lower for y, (lower, _) in zip(accuracy, bounds, strict=True)]
        above = [100 * upper - y for y, (_, upper) in zip(accuracy, bounds, strict=True)]
        axis.errorbar(compute, accuracy, yerr=[below, above], fmt="o-", capsize=3, label=sweep.text)
        for point, x, y in zip(points, compute, accuracy, strict=True):
            text = f"{sweep.name} {point.value}" if len(lines) == 1 else str(point.value)
            axis.annotate(text, (x, y), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axis.set(xlabel="matrix FLOP per question", ylabel="exact accuracy, %", xscale="log", title=title)
    axis.grid(alpha=0.3)
    if len(lines) > 1:
        axis.legend(fontsize=8)
    save_figure(figure, path)
