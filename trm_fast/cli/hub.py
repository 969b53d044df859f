"""``trm-fast push`` and ``trm-fast pull``: models on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trm_fast.cli.console import FromStep, Json, Model, TrustCode, print_result, step_number


def push(
    model: Model,
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository on the hub.")],
    from_step: FromStep = None,
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    branch: Annotated[str | None, typer.Option(help="Write to this branch instead of the main one.")] = None,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Upload a model of trm_fast",
    trust_code: TrustCode = False,
    json_output: Json = False,
) -> None:
    """
    Uploads a model with a model card to the Hugging Face hub.

    [bold]Examples[/bold]

      trm-fast push runs/mine someone/sudoku-mine --private

      HF_ENDPOINT=http://localhost:8000 trm-fast push sudoku-4x4 someone/sudoku-4x4
    """
    from trm_fast.interchange import sharing

    url = sharing.push(
        model, repository, from_step=step_number(from_step), private=private, branch=branch, trust_code=trust_code,
        message=message,
    )  # fmt: skip
    print_result(url, {"repository": repository, "url": url}, json_output)


def pull(
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME[@REVISION]", help="The repository on the hub.")],
    out_folder: Annotated[
        Path | None, typer.Option("--out", metavar="MODEL", help="Folder to write; by default NAME.")
    ] = None,
    json_output: Json = False,
) -> None:
    """
    Copies a model of the Hugging Face hub into a folder.

    [bold]Examples[/bold]

      trm-fast pull someone/sudoku-mine

      trm-fast pull someone/sudoku-mine@v1 --out models/sudoku
    """
    from trm_fast.interchange import sharing

    folder = sharing.pull(repository, out_folder or Path(repository.partition("@")[0].rpartition("/")[2]))
    print_result(str(folder), {"model": str(folder), "repository": repository}, json_output)
