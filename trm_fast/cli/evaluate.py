"""``trm-fast eval``: the accuracy of a model on puzzles with known answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from trm_fast.cli import console
from trm_fast.cli.console import counting, err, out, percent, pick_device, print_json, step_number, write_lines
from trm_fast.errors import UserError

if TYPE_CHECKING:
    from trm_fast.inference import Evaluation, Solver
    from trm_fast.tasks.base import Examples

SWEEPS = {"steps": "max_steps", "rollouts": "rollouts", "symmetries": "symmetries", "batch": "batch_size"}


def evaluate(
    model: console.Model,
    data: Annotated[
        str | None, typer.Option(help="A file or hf:NAME, with all its rows; by default the run's unseen puzzles.")
    ] = None,
    split: Annotated[
        Literal["train", "test"] | None, typer.Option(help="Which part of the run's data, or of --data, to use.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N rows.")] = None,
    max_steps: console.MaxSteps = None,
    min_steps: console.MinSteps = 1,
    halt: console.Halt = True,
    rollouts: console.Rollouts = 1,
    noise: console.Noise = 0.0,
    symmetries: console.Symmetries = 1,
    select: console.Select = "auto",
    seed: console.SolverSeed = 0,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="NAME=A,B,...", help=f"Measure at several values of {', '.join(SWEEPS)}; draws a plot."),
    ] = None,
    submission: console.Submission = None,
    plot: Annotated[Path, typer.Option(help="File for the plot of --sweep.")] = Path("sweep.png"),
    batch_size: console.BatchSize = 64,
    from_step: console.FromStep = None,
    device: console.Device = "auto",
    json_output: console.Json = False,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON to a file.")] = None,
) -> None:
    """
    Measures the accuracy of a model on puzzles with known answers.

    [bold]Examples[/bold]

      trm-fast eval runs/sudoku-4x4

      trm-fast eval sudoku-6x6 --data puzzles.csv --json

      trm-fast eval runs/mine --max-steps 64 --rollouts 16 --noise 0.3

      trm-fast eval runs/arc-small --symmetries 32 --submission submission.json

      trm-fast eval runs/mine --sweep steps=1,2,4,8,16,32,64
    """
    from trm_fast.inference import Solver
    from trm_fast.interchange import locate

    if sweep is not None and submission is not None:
        raise UserError("--submission needs a single measurement: leave out --sweep", usage_error=True)
    located = locate(model, from_step=step_number(from_step), device=pick_device(device))
    if data is not None and split is None:
        examples, source = located.task.read(data), data
    else:
        section = located.data if data is None else located.data.model_copy(update={"source": data, "test": None})
        dataset = located.task.dataset(section, located.seed)
        for note in dataset.notes:
            err.print(note, style="yellow")
        examples = dataset.train if split == "train" else dataset.test
        source = f"{split or 'test'} split of {dataset.source}"
    examples = examples.take(slice(limit))
    solver = Solver(
        located.model, located.task, max_steps=max_steps, min_steps=min_steps, halt=halt, batch_size=batch_size,
        rollouts=rollouts, noise=noise, symmetries=symmetries, select=select, seed=seed,
    )  # fmt: skip
    about = {"model": located.label, "data": source}
    reports: list[dict[str, Any]] = []
    if sweep is None:
        if submission is not None:
            located.task.submission(examples.take(slice(0)), [])  # fails now if the task has no submissions
        result = _measure(solver, examples, "evaluating")
        reports.append(result.to_json() | about)
        if not json_output:
            _print(result, f"{located.label} on {source}", located.task.report(result.metrics))
        if submission is not None:
            write_lines(submission, [json.dumps(located.task.submission(examples, result.solved.ranked))])
    else:
        from trm_fast.inference.sweep import plot_sweep

        name, values = _sweep(sweep)
        results = []
        for value in values:
            option: dict[str, Any] = {SWEEPS[name]: value}
            results.append((value, _measure(replace(solver, **option), examples, f"{name} {value}")))
        reports += [{name: value} | result.to_json() | about for value, result in results]
        plot_sweep(name, results, plot, located.label)
        if not json_output:
            _print_sweep(name, results, f"{located.label} on {source}")
            out.print(str(plot), soft_wrap=True)
    if output is not None:
        write_lines(output, [json.dumps(report) for report in reports])
    if json_output:
        for report in reports:
            print_json(report)


def _measure(solver: Solver, examples: Examples, label: str) -> Evaluation:
    from trm_fast.inference import evaluate as measure

    with counting(label) as progress:
        return measure(solver, examples, progress)


def _sweep(text: str) -> tuple[str, list[int]]:
    name, _, values = text.partition("=")
    numbers = [v.strip() for v in values.split(",")]
    if name not in SWEEPS or not all(v.isdigit() and int(v) > 0 for v in numbers):
        raise UserError(
            f"--sweep takes one of {', '.join(SWEEPS)} and numbers, such as steps=1,2,4,8, not {text!r}",
            usage_error=True,
        )
    return name, [int(v) for v in numbers]


def _print(result: Evaluation, title: str, report: list[Any]) -> None:
    table = Table(title=title, show_header=False, title_justify="left")
    for row in console.accuracy_rows(result.to_json(), with_measures=not report):
        table.add_row(*row)
    if result.valid is not None:
        table.add_row("valid answers", percent(result.valid))
    table.add_row("count", f"{result.count:,}")
    table.add_row("supervision steps", f"{result.mean_steps:.2f} on average; {percent(result.converged)} converged")
    table.add_row("speed", f"{result.puzzles_per_second:,.1f} puzzles/s")
    for part in (*report, table):
        out.print(part)


def _print_sweep(name: str, results: list[tuple[int, Evaluation]], title: str) -> None:
    table = Table(name, "exact accuracy", "95 %", "cell accuracy", "mean steps", "puzzles/s", title=title)
    for value, r in results:
        accuracies = percent(r.exact_accuracy), console.interval(r.interval), percent(r.cell_accuracy)
        table.add_row(str(value), *accuracies, f"{r.mean_steps:.2f}", f"{r.puzzles_per_second:,.1f}")
    out.print(table)
