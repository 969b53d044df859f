"""``trm-fast agent`` and ``trm-fast mcp``: the solver for people at a prompt, and for other programs' agents."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from trm_fast.cli.console import Device, MaxSteps, Noise, Rollouts, Symmetries, out, pick_device

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
    tool = ReasoningTool(model, device=pick_device(device), **options)
    tool.types()  # reports a missing model now, not at the first puzzle
    run(tool, out)


def mcp(
    model: Reference = None,
    transport: Annotated[
        Literal["stdio", "http"], typer.Option(help="stdio for a client that starts this command, http for many.")
    ] = "stdio",
    host: Annotated[str, typer.Option(help="Address that the HTTP server listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the HTTP server.")] = 8765,
    max_steps: MaxSteps = None,
    rollouts: Rollouts = None,
    noise: Noise = None,
    symmetries: Symmetries = None,
    device: Device = "auto",
) -> None:
    """
    Offers the solver to LLM agents over the Model Context Protocol, as the tool recursive_reasoning.

    [bold]Examples[/bold]

      trm-fast mcp

      trm-fast mcp sudoku-cpu --rollouts 8 --noise 0.3

      trm-fast mcp --transport http --port 8765
    """
    from trm_fast.agent.mcp_server import serve
    from trm_fast.agent.tool import ReasoningTool

    options = {"max_steps": max_steps, "rollouts": rollouts, "noise": noise, "symmetries": symmetries}
    serve(ReasoningTool(model, device=pick_device(device), **options), transport, host, port)
