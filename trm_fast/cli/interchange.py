"""``trm-fast import`` and ``trm-fast export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trm_fast.cli.console import FromStep, Json, MaxSteps, Model, say, step_number
from trm_fast.errors import UserError


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A step_N file of the published code, or .safetensors.")],
    out_folder: Annotated[Path, typer.Option("--out", metavar="MODEL", help="Folder of the model.")],
    task: Annotated[
        str, typer.Option(help="What it solves: a task's name, or its section, such as '{name: sudoku, size: 9}'.")
    ],
    config: Annotated[Path | None, typer.Option(help="Its all_config.yaml, or the arch YAML.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads.")] = None,
    cycles: Annotated[int | None, typer.Option(min=1, help="T, published as H_cycles.")] = None,
    latent_steps: Annotated[int | None, typer.Option(min=0, help="n, published as L_cycles.")] = None,
    positions: Annotated[Literal["rope", "none"] | None, typer.Option(help="Positions of attention.")] = None,
    prefix_tokens: Annotated[int | None, typer.Option(min=1, help="Places of the puzzle embedding.")] = None,
    puzzles: Annotated[
        int | None, typer.Option(min=0, help="Resize the puzzle embedding to so many mean rows; 0 drops it.")
    ] = None,
    weights: Annotated[Literal["ema", "raw"], typer.Option(help="Which, in a file that keeps both.")] = "ema",
    json_output: Json = False,
) -> None:
    """
    Turns a checkpoint of the published code into a model to use here.

    [bold]Examples[/bold]

      trm-fast import step_65104 --task sudoku --config all_config.yaml --out sudoku-extreme

      trm-fast import step_65104 --task sudoku --cycles 3 --latent-steps 6 --out sudoku-extreme
    """
    from trm_fast.interchange import read_published
    from trm_fast.interchange.inferring import model_of, read_arch
    from trm_fast.training import make_config, parse_section

    if (out_folder / "config.json").exists():
        raise UserError(f"{out_folder} holds a model already: choose another --out", wrong_use=True)
    run_config = make_config({"task": parse_section(task)}, "--task")
    made = run_config.make_task()
    given = {
        "num_heads": heads,
        "H_cycles": cycles,
        "L_cycles": latent_steps,
        "pos_encodings": positions,
        "puzzle_emb_len": prefix_tokens,
    }
    arch = read_arch(config) if config is not None else {}
    arch |= {key: value for key, value in given.items() if value is not None}
    model = model_of(read_published(checkpoint, weights), arch, made, puzzles)
    model.save_pretrained(out_folder, task=run_config.task.model_dump(mode="json"))
    made.save_assets(out_folder)
    c = model.config
    say(
        f"{out_folder}: {made.name}, {model.num_parameters():,} parameters, {c.num_layers} layers of {c.mixing} at "
        f"{c.hidden_size}, T {c.T_cycles}, n {c.n_latent_steps}, {c.max_supervision_steps} supervision steps",
        {"model": str(out_folder), "parameters": model.num_parameters()} | c.model_dump(),
        json_output,
    )


def export(
    model: Model,
    format_: Annotated[Literal["safetensors", "onnx"], typer.Option("--format", help="What to write.")],
    out_path: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="The model folder or .onnx file to write.")
    ] = None,
    part: Annotated[
        Literal["solve", "step"], typer.Option(help="onnx: the whole halting loop, or one supervision step.")
    ] = "solve",
    max_steps: MaxSteps = None,
    from_step: FromStep = None,
    json_output: Json = False,
) -> None:
    """
    Writes a model for other programs: a folder of safetensors, or ONNX.

    [bold]Examples[/bold]

      trm-fast export runs/mine --format safetensors --out my-model

      trm-fast export sudoku-6x6 --format onnx --out sudoku.onnx
    """
    from trm_fast.inference.solver import DEFAULT_STEPS
    from trm_fast.interchange import locate

    if format_ == "safetensors" and (part != "solve" or max_steps is not None):
        raise UserError("--part and --max-steps go with --format onnx", wrong_use=True)
    found = locate(model, from_step=step_number(from_step))
    name = Path(model).name
    if format_ == "safetensors":
        target = out_path or Path(f"{name}-model")
        if (target / "config.json").exists():
            raise UserError(f"{target} holds a model already: choose another --out", wrong_use=True)
        found.model.save_pretrained(target, task=found.section)
        found.task.save_assets(target)
    else:
        from trm_fast.interchange.onnx import export_solve, export_step

        target = out_path or Path(f"{name}.onnx")
        if part == "step":
            export_step(found.model, target, masked=found.task.masked)
        else:
            most = max_steps or max(DEFAULT_STEPS, found.model.config.max_supervision_steps)
            export_solve(found.model, target, most, masked=found.task.masked)
    say(str(target), {"path": str(target), "format": format_}, json_output)
