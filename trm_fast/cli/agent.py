"""``trm-fast agent`` and ``trm-fast mcp``: the solver for people at a prompt, and for other programs' agents."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from trm_fast.cli.console import Device, MaxSteps, Noise, Rollouts, Symmetries, TrustCode, err, out, pick_device
from trm_fast.errors import UserError

Reference = Annotated[
    str | None,
    typer.Argument(metavar="[RUN|MODEL]", help="A run or a model; by default a model that ships and reads the puzzle."),
]


def agent(
    model: Reference = None,
    max_steps: MaxSteps = None,
    rollouts: Rollouts = None,
    noise: Noise = None,
    symmetries: Symmetries = None,
    device: Device = "auto",
    trust_code: TrustCode = False,
) -> None:
    """
    Solves puzzles at a prompt: solve, generate, model, info, trajectory, help, quit.

    [bold]Examples[/bold]

      trm-fast agent

      trm-fast agent runs/mine --rollouts 8 --noise 0.3

      echo "solve 3.......4.3...42" | trm-fast agent sudoku-4x4
    """
    from trm_fast.agent.shell import run
    from trm_fast.agent.tool import ReasoningTool

    options = {"max_steps": max_steps, "rollouts": rollouts, "noise": noise, "symmetries": symmetries}
    tool = ReasoningTool(model, device=pick_device(device), trust_code=trust_code, **options)
    tool.types()  # reports a missing model now, not at the first puzzle
    run(tool, out)


def mcp(
    model: Reference = None,
    transport: Annotated[
        Literal["stdio", "http"], typer.Option(help="stdio for a client that starts this command, http for many.")
    ] = "stdio",
    host: Annotated[
        str | None,
        typer.Option(help="Address that the HTTP server listens on, by default 127.0.0.1. Others need a token."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the HTTP server, by default 8765.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="What HTTP clients must send as Authorization: Bearer TOKEN. Better set TRM_FAST_MCP_TOKEN, because "
            "other users see command lines."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name of this machine that HTTP clients may use; repeatable."),
    ] = None,
    max_steps: MaxSteps = None,
    rollouts: Rollouts = None,
    noise: Noise = None,
    symmetries: Symmetries = None,
    device: Device = "auto",
    trust_code: TrustCode = False,
) -> None:
    """
    Offers the solver to LLM agents over the Model Context Protocol, as the tool recursive_reasoning.

    [bold]Examples[/bold]

      trm-fast mcp

      trm-fast mcp sudoku-cpu --rollouts 8 --noise 0.3

      trm-fast mcp --transport http --port 8765

      TRM_FAST_MCP_TOKEN=... trm-fast mcp --transport http --host 0.0.0.0 --allowed-host solver.example.org
    """
    from trm_fast.agent.http import TOKEN_VARIABLE, serve_http
    from trm_fast.agent.mcp_server import make_server
    from trm_fast.agent.stdio import serve_stdio
    from trm_fast.agent.tool import ReasoningTool

    if transport == "stdio" and (host, port, token, allowed_host or None) != (None,) * 4:
        raise UserError("--host, --port, --token and --allowed-host go with --transport http", usage_error=True)

    options = {"max_steps": max_steps, "rollouts": rollouts, "noise": noise, "symmetries": symmetries}
    tool = ReasoningTool(model, device=pick_device(device), trust_code=trust_code, **options)
    tool.types()  # reports a model that cannot be loaded now, not at the first puzzle
    server = make_server(tool)
    if transport == "stdio":
        serve_stdio(server)
        return
    token = (os.environ.get(TOKEN_VARIABLE) or None) if token is None else token
    serve_http(
        server, "127.0.0.1" if host is None else host, port or 8765, token, allowed_host or (),
        lambda line: err.print(line, soft_wrap=True),
    )  # fmt: skip
