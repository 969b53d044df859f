"""``trm-fast import`` and ``trm-fast export``: converts models from and for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trm_fast.cli.console import FromStep, Json, MaxSteps, Model, TrustCode, err, print_result, step_number
from trm_fast.errors import UserError


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="A step_N file of the published code, a .ckpt of nano-trm, or a .safetensors file.")
    ],
    out_folder: Annotated[Path, typer.Option("--out", metavar="MODEL", help="Folder to write the model to.")],
    task: Annotated[
        str, typer.Option(help="The model's task: its name, or its section, such as '{name: sudoku, size: 9}'.")
    ],
    config: Annotated[Path | None, typer.Option(help="The run's all_config.yaml, or the YAML of its arch.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads.")] = None,
    cycles: Annotated[int | None, typer.Option(min=1, help="T, published as H_cycles.")] = None,
    latent_steps: Annotated[int | None, typer.Option(min=0, help="n, published as L_cycles.")] = None,
    positions: Annotated[Literal["rope", "none"] | None, typer.Option(help="Position encoding.")] = None,
    prefix_tokens: Annotated[int | None, typer.Option(min=1, help="Length of the prefix.")] = None,
    puzzles: Annotated[
        int | None, typer.Option(min=0, max=1 << 30, help="Resize the puzzle embedding to N mean rows; 0 removes it.")
    ] = None,
    weights: Annotated[
        str,
        typer.Option(metavar="ema|raw|NAME", help="Which weights of a file that has several sets: by kind or by name."),
    ] = "ema",
    json_output: Json = False,
) -> None:
    """
    Converts a checkpoint of the published code into a model folder.

    [bold]Examples[/bold]

      trm-fast import step_65104 --task sudoku --config all_config.yaml --out sudoku-extreme

      trm-fast import step_65104 --task sudoku --cycles 3 --latent-steps 6 --out sudoku-extreme
    """
    from trm_fast.interchange import read_published
    from trm_fast.interchange.inferring import infer_model, read_arch
    from trm_fast.tasks import trusting_code
    from trm_fast.training import make_config, parse_section

    if (out_folder / "config.json").exists():
        raise UserError(f"{out_folder} already contains a model: choose another --out", usage_error=True)
    with trusting_code():  # the user typed the name of the task
        run_config = make_config({"task": parse_section(task, "--task")}, "--task")
    solved_task = run_config.make_task()
    options = {
        "num_heads": heads,
        "H_cycles": cycles,
        "L_cycles": latent_steps,
        "pos_encodings": positions,
        "puzzle_emb_len": prefix_tokens,
    }
    chosen = read_published(checkpoint, weights)
    arch = chosen.arch | (read_arch(config) if config is not None else {})
    arch |= {key: value for key, value in options.items() if value is not None}
    model = infer_model(chosen.tensors, arch, solved_task, puzzles)
    for option, used in (("--prefix-tokens", prefix_tokens is not None), ("--puzzles", bool(puzzles))):
        if used and not model.config.prefix_tokens:
            raise UserError(f"{option}: the model has no puzzle embedding and no prefix", usage_error=True)
    model.save_pretrained(out_folder, task=solved_task)
    c, count = model.config, model.num_parameters()
    print_result(
        f"{out_folder}: {solved_task.name}, {count:,} parameters, {c.num_layers} layers of {c.mixing} at "
        f"{c.hidden_size}, T {c.T_cycles}, n {c.n_latent_steps}, {c.max_supervision_steps} supervision steps"
        + (f"; its weights are {chosen.name!r} of {checkpoint}" if chosen.name else ""),
        {"model": str(out_folder), "parameters": count, "weights": chosen.name or None} | c.model_dump(),
        json_output,
    )


def export(
    model: Model,
    format_: Annotated[Literal["safetensors", "onnx"], typer.Option("--format", help="The format to write.")],
    out_path: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="Model folder or .onnx file to write.")
    ] = None,
    part: Annotated[
        Literal["solve", "step"], typer.Option(help="For onnx: the whole halting loop, or one supervision step.")
    ] = "solve",
    max_steps: MaxSteps = None,
    from_step: FromStep = None,
    trust_code: TrustCode = False,
    json_output: Json = False,
) -> None:
    """
    Writes a model for other programs: a folder of safetensors, or ONNX.

    [bold]Examples[/bold]

      trm-fast export runs/mine --format safetensors --out my-model

      trm-fast export sudoku-6x6 --format onnx --out sudoku.onnx
    """
    from trm_fast.hub import CARD
    from trm_fast.inference.solver import DEFAULT_STEPS
    from trm_fast.interchange import locate
    from trm_fast.interchange.sharing import write_model

    if format_ == "safetensors" and (part != "solve" or max_steps is not None):
        raise UserError("--part and --max-steps go with --format onnx", usage_error=True)
    located = locate(model, from_step=step_number(from_step), trust_code=trust_code)
    name = Path(model).name
    if format_ == "safetensors":
        target = out_path or Path(f"{name}-model")
        if (target / "config.json").exists():
            raise UserError(f"{target} already contains a model: choose another --out", usage_error=True)
        if (target / CARD).exists():
            err.print(f"{target / CARD} stays as it is: no model card is written", soft_wrap=True)
        write_model(located, model, target, target.name, step_number(from_step))
    else:
        from trm_fast.interchange.onnx import export_solve, export_step

        target = out_path or Path(f"{name}.onnx")
        if part == "step":
            export_step(located.model, target, masked=located.task.masked)
        else:
            limit = max_steps or max(DEFAULT_STEPS, located.model.config.max_supervision_steps)
            export_solve(located.model, target, limit, masked=located.task.masked)
    print_result(str(target), {"path": str(target), "format": format_}, json_output)
