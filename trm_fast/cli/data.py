"""``trm-fast data``: generates puzzles, and reads and converts conversations (``tool_data``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from trm_fast.cli import tool_data
from trm_fast.cli.console import MAX_SEED, Json, check_outputs, counting, print_result
from trm_fast.errors import UserError, shown

MAX_COUNT = 100_000_000
"""The largest number of puzzles."""

app = typer.Typer(cls=tool_data.WithFormats, help="Make data sets.", no_args_is_help=True)


@app.command()
def sudoku(
    output: Annotated[Path, typer.Option("--out", help="CSV file to write; .csv.gz is compressed.")],
    count: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Number of puzzles.")] = 1000,
    size: Annotated[int, typer.Option(help="4, 6 or 9.")] = 9,
    min_givens: Annotated[
        int | None, typer.Option(help="Minimum number of givens; by default a medium range for the size.")
    ] = None,
    max_givens: Annotated[int | None, typer.Option(help="Maximum number of givens.")] = None,
    min_rating: Annotated[int | None, typer.Option(help="Minimum search count; 0 if singles are enough.")] = None,
    max_rating: Annotated[int | None, typer.Option(help="Maximum search count.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same puzzles.")] = 0,
    json_output: Json = False,
) -> None:
    """
    Generates sudokus with exactly one solution each, as CSV (source, question, answer, rating).

    [bold]Examples[/bold]

      trm-fast data sudoku --count 10000 --min-givens 28 --max-givens 32 --out puzzles.csv.gz

      trm-fast data sudoku --size 6 --count 500 --seed 7 --out six.csv
    """
    from trm_fast.tasks.sudoku import generate, write
    from trm_fast.tasks.sudoku.puzzles import ANY_RATING
    from trm_fast.tasks.sudoku.task import GIVENS

    if size not in GIVENS:
        raise UserError(f"--size must be 4, 6 or 9, not {size}", usage_error=True)
    check_outputs(out=output)
    fewest, largest = GIVENS[size]
    fewest = min(fewest, max_givens or fewest) if min_givens is None else min_givens
    largest = max(largest, fewest) if max_givens is None else max_givens
    ratings = {
        "min_rating": 0 if min_rating is None else min_rating,
        "max_rating": ANY_RATING if max_rating is None else max_rating,
    }
    with counting("generating") as progress:
        puzzles = generate(size, count, (fewest, largest), seed, **ratings, progress=lambda done: progress(done, count))
    write(output, puzzles)
    facts = {"out": str(output), "count": count, "size": size, "givens": [fewest, largest], "seed": seed}
    print_result(f"{count:,} puzzles in {output}", facts, json_output)


@app.command()
def maze(
    output: Annotated[Path, typer.Option("--out", help="CSV file to write; .csv.gz is compressed.")],
    count: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Number of mazes.")] = 1000,
    size: Annotated[str, typer.Option(help="Rows and columns, such as 30 or 20x40; at most 64.")] = "30",
    min_density: Annotated[float, typer.Option(help="Minimum probability of a wall.")] = 0.3,
    max_density: Annotated[float, typer.Option(help="Maximum probability of a wall, below 1.")] = 0.5,
    min_distance: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Minimum number of steps from S to G; by default the published 109 at 30x30, scaled for other sizes.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same mazes.")] = 0,
    json_output: Json = False,
) -> None:
    """
    Generates mazes and their shortest paths, as CSV (source, question, answer, rating: steps from S to G).

    [bold]Examples[/bold]

      trm-fast data maze --count 1000 --out mazes.csv.gz

      trm-fast data maze --size 9 --count 5000 --min-distance 12 --seed 7 --out small.csv
    """
    from trm_fast.tasks.maze import generate, write
    from trm_fast.tasks.maze.mazes import default_distance

    parts = size.lower().split("x")
    if len(parts) > 2 or not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        raise UserError(
            f"--size takes a number or ROWSxCOLUMNS, such as 30 or 20x40, not {shown(size)}", usage_error=True
        )
    shape = int(parts[0]), int(parts[-1])
    check_outputs(out=output)
    distance = default_distance(shape) if min_distance is None else min_distance
    with counting("generating") as progress:
        mazes = generate(
            shape, count, seed, densities=(min_density, max_density), distance=distance,
            progress=lambda done: progress(done, count),
        )  # fmt: skip
    write(output, mazes)
    facts = {
        "out": str(output), "count": count, "size": shape, "densities": [min_density, max_density],
        "min_distance": distance, "seed": seed,
    }  # fmt: skip
    print_result(f"{count:,} mazes in {output}", facts, json_output)
