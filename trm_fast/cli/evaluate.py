"""``trm-fast eval``: the accuracy of a model on puzzles with known answers."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from trm_fast.cli import console
from trm_fast.cli.console import (
    check_outputs,
    counting,
    err,
    out,
    percent,
    pick_device,
    print_json,
    step_number,
    write_lines,
)
from trm_fast.cli.models import make_solver
from trm_fast.errors import UserError
from trm_fast.texts import json_text

if TYPE_CHECKING:
    from trm_fast.inference import Evaluation, Solver
    from trm_fast.inference.sweep import Point, Sweep
    from trm_fast.tasks.base import Examples
    from trm_fast.training.process_group import ProcessGroup


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|MODEL]",
            help="A run folder, a model folder, or a model that ships; by default the newest run in runs/.",
        ),
    ] = None,
    named_model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="RUN|MODEL", help="The same, as an option.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "--input",
            "-i",
            help="A file or hf:NAME, with all its rows; by default the run's unseen puzzles.",
        ),
    ] = None,
    split: Annotated[
        Literal["train", "test"] | None, typer.Option(help="Which part of the run's data, or of --data, to use.")
    ] = None,
    limit: console.Limit = None,
    also: console.Also = None,
    max_steps: console.MaxSteps = None,
    min_steps: console.MinSteps = 1,
    halt: console.Halt = True,
    rollouts: console.Rollouts = None,
    noise: console.Noise = None,
    symmetries: console.Symmetries = None,
    start: console.Start = None,
    resample_every: console.ResampleEvery = None,
    hints: console.Hints = None,
    select: console.Select = None,
    budget: console.Budget = None,
    answer_only_if: console.AnswerOnlyIf = None,
    seed: console.SolverSeed = 0,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME=A,B,... NAME=VALUE'",
            help="Measure at several values of steps, rollouts, symmetries, batch, noise, start, resample-every, "
            "hints, select or budget, with further options fixed; draws accuracy against FLOP. Repeat it for several "
            "lines.",
        ),
    ] = None,
    save_defaults: Annotated[
        bool,
        typer.Option(help="Store the options of the tries with the run or model folder: they become its defaults."),
    ] = False,
    submission: console.Submission = None,
    plot: Annotated[Path, typer.Option(help="File for the plot of --sweep.")] = Path("sweep.png"),
    batch_size: console.BatchSize = 64,
    from_step: console.FromStep = None,
    device: console.Device = "auto",
    trust_code: console.TrustCode = False,
    json_output: console.Json = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON to a file.")] = None,
) -> None:
    """
    Measures the accuracy of a model on puzzles with known answers.

    [bold]Examples[/bold]

      trm-fast eval

      trm-fast eval runs/sudoku-4x4

      trm-fast eval sudoku-6x6 --data puzzles.csv --json

      trm-fast eval runs/mine --max-steps 64 --rollouts 16 --noise 0.3

      trm-fast eval runs/arc-small --symmetries 32 --submission submission.json

      trm-fast eval runs/mine --sweep steps=1,2,4,8,16,32,64

      trm-fast eval runs/mine --sweep symmetries=2,8,32 --sweep "rollouts=2,8,32 noise=0.3"

      trm-fast eval runs/mine --symmetries 16 --max-steps 32 --save-defaults

      trm-fast eval runs/mine --also runs/second --also runs/third

      torchrun --nproc-per-node 4 -m trm_fast.cli eval runs/mine --data test.csv
    """
    began = time.perf_counter()  # loading torch and the model is a part of the budget
    from trm_fast.training.process_group import join

    group, device = join(pick_device(device))
    from trm_fast.inference.sweep import Point, Sweep, flop_per_question, plot_sweeps
    from trm_fast.interchange import locate
    from trm_fast.interchange.locate import store_options
    from trm_fast.tasks.loading import load_dataset
    from trm_fast.tasks.pictures import figure_format

    if model is not None and named_model is not None:
        raise UserError(f"the model is given twice, as {model} and as --model {named_model}", usage_error=True)
    model = model or named_model or _newest_run()
    check_outputs(output=output, submission=submission, plot=plot if sweep else None)
    if sweep:
        figure_format(plot)  # fails now if it is unknown
    single = ("--submission", submission is not None), ("--save-defaults", save_defaults), ("--also", bool(also))
    for option, requested in single:
        if sweep and requested:
            raise UserError(f"{option} needs a single measurement: leave out --sweep", usage_error=True)
    if also and save_defaults:
        raise UserError("--save-defaults stores options of one model: leave out --also", usage_error=True)
    located = locate(model, from_step=step_number(from_step), device=device, trust_code=trust_code)
    left_out: dict[str, int] = {}
    if data is not None and split is None:
        source = data
        examples, left_out, notes = located.task.read_counted(data, limit)
    else:
        section = located.data if data is None else located.data.model_copy(update={"source": data, "test": None})
        dataset = load_dataset(located.task, section, located.seed)
        notes = dataset.notes
        examples = dataset.train if split == "train" else dataset.test
        source = f"{split or 'test'} split of {dataset.source}"
    for note in notes if group.writes else ():
        err.print(note, style="yellow", soft_wrap=True)
    examples = examples.take(slice(limit))
    solver = make_solver(
        located, also, device, trust_code,
        max_steps=max_steps, min_steps=min_steps, halt=halt, batch_size=batch_size,
        rollouts=rollouts, noise=noise, symmetries=symmetries, start=start, resample_every=resample_every, hints=hints,
        select=select, answer_only_if=answer_only_if, seed=seed,
        budget=None if budget is None else max(0.0, budget - time.perf_counter() + began),
    )  # fmt: skip
    about = {"model": located.label, "data": source} | ({"also": also} if also else {}) | left_out
    label = " and ".join([located.label, *(also or [])])
    reports: list[dict[str, Any]] = []
    if not sweep:
        if submission is not None:
            located.task.submission(examples.take(slice(0)), [])  # fails now if the task has no submissions
        result = _measure(solver, examples, "evaluating", group)
        reports.append(result.to_json() | {"flop": flop_per_question(solver, result)} | about)
        if not group.writes:
            return
        if not json_output:
            _print(result, f"{label} on {source}", located.task.report(result.metrics), left_out)
        if submission is not None:
            write_lines(submission, [json_text(located.task.submission(examples, result.solved.ranked))])
        if save_defaults:
            store_options(model, solver.options, trust_code=trust_code)
    else:
        lines: list[tuple[Sweep, list[Point]]] = []
        for line in map(Sweep.parse, sweep):
            points: list[Point] = []
            for value in line.values:
                varied = line.solver(solver, value)
                result = _measure(varied, examples, f"{line.name} {value}", group)
                flop = flop_per_question(varied, result)
                assert flop is not None  # there is one model
                points.append(Point(value, result, flop))
            lines.append((line, points))
            reports += [
                {line.name: p.value} | line.fixed | p.evaluation.to_json() | {"flop": p.flop} | about for p in points
            ]
            if group.writes and not json_output:
                _print_sweep(line, points, f"{located.label} on {source}")
        if not group.writes:
            return
        plot_sweeps(lines, plot, located.label)
        if not json_output:
            out.print(str(plot), soft_wrap=True)
    if output is not None:
        write_lines(output, [json_text(report) for report in reports])
    if json_output:
        for report in reports:
            print_json(report)


def _newest_run() -> str:
    """The newest run in ``runs/``, which a message names.

    Raises:
        UserError: there is none.
    """
    from trm_fast.interchange.locate import bundled_names
    from trm_fast.run_folder import newest_run

    run = newest_run(Path("runs"))
    if run is None:
        ships = ", ".join(bundled_names()) or "none"
        raise UserError(f"runs/ has no run: name a run, a model, or one that ships: {ships}", usage_error=True)
    err.print(f"the newest run: {run}", soft_wrap=True)
    return str(run)


def _measure(solver: Solver, examples: Examples, label: str, group: ProcessGroup) -> Evaluation:
    """Evaluates all examples. Each process of torchrun solves its share, and all get the same result."""
    import numpy as np

    from trm_fast.inference import evaluate as measure
    from trm_fast.inference import score
    from trm_fast.inference.tries import Solved

    with counting(label) if group.writes else nullcontext() as progress:
        if group.size == 1 or not len(examples):
            return measure(solver, examples, progress)
        start, numbers = time.perf_counter(), np.arange(len(examples))[group.share(len(examples))]
        part = solver.run(examples, only=numbers, progress=progress) if len(numbers) else None
        solved = Solved.joined([other for other in group.gather_objects(part) if other is not None])
        return score(solver, examples, solved, max(group.gather_objects(time.perf_counter() - start)))


def _print(result: Evaluation, title: str, report: list[Any], left_out: dict[str, int]) -> None:
    table = Table(title=title, show_header=False, title_justify="left")
    for row in console.accuracy_rows(result.to_json(), with_measures=not report):
        table.add_row(*row)
    if result.valid is not None:
        table.add_row("valid answers", percent(result.valid))
    table.add_row("count", f"{result.count:,}")
    for reason, count in left_out.items():
        if count:
            table.add_row(f"not measured: {reason.replace('_', ' ')}", f"{count:,}")
    table.add_row("supervision steps", f"{result.mean_steps:.2f} on average; {percent(result.converged)} converged")
    table.add_row("speed", f"{result.puzzles_per_second:,.1f} puzzles/s")
    for part in (*report, table):
        out.print(part)


def _print_sweep(sweep: Sweep, points: list[Point], title: str) -> None:
    heading = f"{title}; {' '.join(sweep.text.split()[1:])}" if sweep.fixed else title
    columns = "exact accuracy", "95 %", "steps", "FLOP", "puzzles/s"
    table = Table(sweep.name, *columns, title=heading)
    for point in points:
        r = point.evaluation
        accuracies = percent(r.exact_accuracy), console.interval(r.interval)
        costs = f"{r.mean_steps:.2f}", f"{point.flop:.3g}", f"{r.puzzles_per_second:,.1f}"
        table.add_row(str(point.value), *accuracies, *costs)
    out.print(table)
