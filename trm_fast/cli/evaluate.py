"""``trm-fast eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from trm_fast.cli.console import (
    Device,
    FromStep,
    Json,
    Model,
    counting,
    err,
    out,
    pick_device,
    print_json,
    share,
    step_number,
    write_lines,
)


def evaluate(
    model: Model,
    data: Annotated[
        str | None, typer.Option(help="A file or hf:NAME, every row of it; by default the run's own unseen puzzles.")
    ] = None,
    split: Annotated[
        Literal["train", "test"] | None, typer.Option(help="Part of the run's data, or of --data.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Supervision steps at most; by default 16, or as in training.")
    ] = None,
    min_steps: Annotated[int, typer.Option(min=1, help="Supervision steps before a puzzle may halt.")] = 1,
    halt: Annotated[bool, typer.Option("--halt/--no-halt", help="--no-halt runs all steps, as published.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Puzzles at a time.")] = 64,
    from_step: FromStep = None,
    device: Device = "auto",
    json_output: Json = False,
    output: Annotated[Path | None, typer.Option(help="Write the JSON to a file, too.")] = None,
) -> None:
    """
    Measures a model on puzzles whose answers are known.

    [bold]Examples[/bold]

      trm-fast eval runs/sudoku-4x4

      trm-fast eval sudoku-6x6 --data puzzles.csv --json

      trm-fast eval runs/mine --split train --no-halt --max-steps 32
    """
    from trm_fast.inference import Solver
    from trm_fast.inference import evaluate as measure
    from trm_fast.interchange import locate

    found = locate(model, from_step=step_number(from_step), device=pick_device(device))
    if data is not None and split is None:
        examples, source = found.task.read(data), data
    else:
        section = found.data if data is None else found.data.model_copy(update={"source": data, "test": None})
        dataset = found.task.dataset(section, found.seed)
        for note in dataset.notes:
            err.print(f"[yellow]{note}[/yellow]")
        examples = dataset.train if split == "train" else dataset.test
        source = f"{split or 'test'} split of {dataset.source}"
    examples = examples.take(slice(limit))
    solver = Solver(found.model, found.task, max_steps=max_steps, min_steps=min_steps, halt=halt, batch_size=batch_size)
    with counting("evaluating") as progress:
        result = measure(solver, examples, progress)
    report = result.to_json() | {"model": found.label, "data": source}
    if output is not None:
        write_lines(output, [json.dumps(report)])
    if json_output:
        print_json(report)
        return
    low, high = result.interval
    table = Table(title=f"{found.label} on {source}", show_header=False, title_justify="left")
    table.add_row("exact accuracy", f"{share(result.exact_accuracy)}  (95 %: {share(low)} to {share(high)})")
    table.add_row("cell accuracy", share(result.cell_accuracy))
    if result.valid is not None:
        table.add_row("answers that obey the rules", share(result.valid))
    table.add_row("puzzles", f"{result.count:,}")
    table.add_row("supervision steps", f"{result.mean_steps:.2f} each; {share(result.converged)} halted by themselves")
    table.add_row("speed", f"{result.puzzles_per_second:,.1f} puzzles/s")
    out.print(table)
