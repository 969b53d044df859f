"""``trm-fast plot``: draws the curves of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trm_fast.cli.console import check_outputs, out


def plot(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "--out", help="The PNG to write; RUN/curves.png by default.")
    ] = None,
) -> None:
    """
    Draws the loss and accuracy curves of a run as a PNG.

    [bold]Example[/bold]

      trm-fast plot runs/sudoku-4x4
    """
    from trm_fast.training.plot import plot_run

    check_outputs(output=output)
    out.print(str(plot_run(run, output)), soft_wrap=True)
