"""``trm-fast serve``: a web page with live models and live training, and its JSON API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trm_fast.cli.console import Device, err, pick_device


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN|MODEL]...", help="Runs or models to offer besides those that ship."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    runs: Annotated[Path, typer.Option(help="Folder whose runs are shown, and where new ones are trained.")] = Path(
        "runs"
    ),
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than the loopback address need a token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            help="What clients must send as Authorization: Bearer TOKEN; without it, --host makes one. Better set "
            "TRM_FAST_WEB_TOKEN, because other users see command lines."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name by which browsers may call this server; repeatable."),
    ] = None,
    device: Device = "auto",
) -> None:
    """
    Serves a web page that solves puzzles step by step, trains models and evaluates them, and its JSON API.

    [bold]Examples[/bold]

      trm-fast serve

      trm-fast serve runs/first --port 9000

      TRM_FAST_WEB_TOKEN=... trm-fast serve --host 0.0.0.0 --allowed-host solver.example.org
    """
    from trm_fast.web import ServerOptions, serve

    options = ServerOptions(
        tuple(models or ()), runs, host, port, token, tuple(allowed_host or ()), pick_device(device)
    )
    serve(options, lambda line: err.print(line, soft_wrap=True))
