"""``trm-fast sweep``: trains variants of a configuration with several seeds, and compares them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from trm_fast.cli import console
from trm_fast.cli.console import counting, err, out, percent, pick_device, print_json
from trm_fast.cli.run_config import chosen_sections, option_settings
from trm_fast.errors import UserError, shown

if TYPE_CHECKING:
    from trm_fast.inference import Evaluation, Solver
    from trm_fast.tasks.base import Examples
    from trm_fast.training.sweep import Sweep

SHARES = ("exact_accuracy", "cell_accuracy", "converged", "valid")
"""Metrics that are shown as percentages."""


def sweep(
    context: typer.Context,
    preset: Annotated[
        str | None, typer.Option(help="A configuration that ships; [bold]trm-fast info[/bold] lists them.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Your own YAML file.")] = None,
    data: Annotated[str | None, typer.Option(help="A file or hf:NAME; by default the task's generator.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key in all variants; repeatable.")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=A,B,...",
            help="Values of a key; several --vary make a grid. With --optuna also a range LOW..HIGH.",
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME: KEY=A KEY=B'",
            help="A named variant that changes some keys, or none; repeatable. With --vary each one gets the grid.",
        ),
    ] = None,
    optuna: Annotated[
        int | None,
        typer.Option(min=1, max=10**6, metavar="N", help="Let Optuna choose N variants from the values of --vary."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds to train every variant with.")] = "0,1,2",
    steps: Annotated[int | None, typer.Option(min=1, max=10**9, help="Optimizer steps of each run.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Training time of each run, which ends earlier at training.steps.")
    ] = None,
    processor_time: Annotated[
        bool,
        typer.Option("--processor-time", help="Measure training time as processor time per thread (shared machines)."),
    ] = False,
    metric: Annotated[str, typer.Option(help="The measure to compare, a name in an evaluation's JSON.")] = (
        "exact_accuracy"
    ),
    eval_data: Annotated[
        str | None, typer.Option(help="Compare on this file (or hf:NAME) instead of the data's test set.")
    ] = None,
    limit: console.Limit = None,
    max_steps: console.MaxSteps = None,
    rollouts: console.Rollouts = 1,
    noise: console.Noise = 0.0,
    symmetries: console.Symmetries = 1,
    device: console.Device = "auto",
    out_folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder of the sweep.")] = Path("sweep"),
    json_output: console.Json = False,
) -> None:
    """
    Trains variants of a configuration with several seeds, and compares them.

    [bold]Examples[/bold]

      trm-fast sweep --preset sudoku-4x4 --vary training.learning_rate=3e-3,6e-3 --seeds 0,1,2 --out sweeps/lr

      trm-fast sweep --preset sudoku-4x4 --variant plain: --variant "wide: model.hidden_size=96 training.steps=900"

      trm-fast sweep --preset sudoku-cpu --vary model.hidden_size=96,128 --minutes 5 --eval-data hard.csv --max-steps 64

      trm-fast sweep --preset sudoku-4x4 --optuna 20 --vary training.learning_rate=1e-3..1e-1 --seeds 0

    Repeat a command that was interrupted: finished runs are kept, and the interrupted one is resumed.
    """
    from trm_fast.training import apply_settings
    from trm_fast.training.callbacks.console import Console
    from trm_fast.training.plot import plot_variants
    from trm_fast.training.sweep import PLOT, SWEEP, Plan, Sweep, read_metric

    console.refuse_arguments(context)
    console.check_positive("--minutes", minutes)
    solver = {"max_steps": max_steps, "rollouts": rollouts, "noise": noise, "symmetries": symmetries}
    if eval_data is None and (limit, *solver.values()) != (None, None, 1, 0.0, 1):
        raise UserError("--limit and the solver's options go with --eval-data", usage_error=True)
    common = [*(settings or []), *option_settings({"training.steps": steps, "data.source": data})]
    plan = Plan(
        sections=apply_settings(chosen_sections(preset, config), common),
        seeds=_seeds(seeds),
        minutes=minutes,
        processor_time=processor_time,
        eval_data=eval_data,
        eval_limit=limit,
        solver={} if eval_data is None else solver,
        **_variants(vary or [], variant or [], optuna),
    )
    study = Sweep(
        out_folder, plan, metric=metric, device=pick_device(device), measure=_measure,
        callbacks=lambda: [Console(quiet=True, terminal=err)],
    )  # fmt: skip
    _run(study)
    result = study.save()
    values = [
        [read_metric(run, metric) for run in study.finished_runs(v) if not run["diverged"]] for v in study.variants
    ]
    picture = plot_variants(result["variants"], values, metric, out_folder / PLOT)
    if json_output:
        print_json(result | {"out": str(out_folder)})
        return
    _print(result["variants"], metric)
    out.print(f"{out_folder / SWEEP}, {picture}", soft_wrap=True)


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,19}", part) for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--seeds takes different whole numbers, such as 0,1,2, not {shown(text)}", usage_error=True)
    return [int(part) for part in parts]


def _variants(vary: list[str], named: list[str], trials: int | None) -> dict[str, Any]:
    """The arguments of ``Plan`` that define its variants."""
    from trm_fast.training.search import parse_range, parse_values
    from trm_fast.training.sweep import grid, parse_variant

    if not vary and (trials or not named):
        raise UserError("give --vary KEY=A,B with the values to compare", usage_error=True)
    if trials and named:
        raise UserError("--optuna chooses from --vary: leave out --variant", usage_error=True)
    space = dict(map(parse_values, vary))
    if len(space) < len(vary):
        raise UserError("--vary takes all values of a key at once: KEY=A,B", usage_error=True)
    if not trials and (ranges := [key for key, values in space.items() if parse_range(values, key)]):
        raise UserError(f"--vary {ranges[0]}: a range needs --optuna N; a grid takes values A,B,C", usage_error=True)
    variants = [] if trials else grid(list(map(parse_variant, named)), space)
    if "training.seed" in {*space, *(key for variant in variants for key in variant.settings)}:
        raise UserError("--seeds sets training.seed of all variants", usage_error=True)
    return {"variants": variants, "space": space if trials else {}, "trials": trials or 0}


def _measure(solver: Solver, examples: Examples) -> Evaluation:
    from trm_fast.inference import evaluate

    with counting("evaluating") as progress:
        return evaluate(solver, examples, progress)


def _run(study: Sweep) -> None:
    """Trains the pending runs, and prints lines about each."""
    from trm_fast.training.sweep import read_metric

    for variant, seed in study.pending():
        number = f"{len(study.runs) + 1} of {study.total}"
        err.print(f"run {number}: {variant.name}, seed {seed}", soft_wrap=True)
        if (run := study.train(variant, seed)) is None:
            err.print("interrupted; repeat the command to continue")
            raise typer.Exit(130)
        study.save()
        if run["diverged"]:
            err.print(run["diverged"], style="yellow", soft_wrap=True)
        else:
            value = _text(read_metric(run, study.metric), study.metric)
            err.print(f"run {number}: {study.metric} {value} after {run['steps']:,} steps, {run['seconds']} s")


def _print(rows: list[dict[str, Any]], metric: str) -> None:
    table = Table(title=metric.replace("_", " "), title_justify="left")
    table.add_column("variant", overflow="fold", min_width=12)
    for name in ("n", "mean", "sd", "95 %", "steps", "sample-steps", "seconds"):
        table.add_column(name, overflow="fold")
    for row in rows:
        interval = " to ".join(_text(end, metric) for end in row["interval"] or ())
        diverged = f" + {row['diverged']} diverged" if row["diverged"] else ""
        work = [f"{row[key] or 0:,.0f}" for key in ("steps", "sample_steps")]
        figures = _text(row["mean"], metric), _text(row["sd"], metric), interval or "-"
        table.add_row(row["variant"], f"{row['n']}{diverged}", *figures, *work, f"{row['seconds'] or 0:,.1f}")
    out.print(table)


def _text(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return percent(value) if metric in SHARES else f"{value:.4f}"
