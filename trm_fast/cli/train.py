"""``trm-fast train``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from trm_fast.cli.console import (
    Device,
    FromStep,
    Json,
    err,
    measures,
    out,
    pick_device,
    print_json,
    share,
    step_number,
)
from trm_fast.errors import UserError

if TYPE_CHECKING:
    from trm_fast.training import RunConfig

LONG_SECONDS = 3600.0
"""A run that takes longer is announced with its time and what suits a CPU instead."""

EXAMPLES = """
Trains a model, evaluates it on unseen puzzles and saves it.

[bold]Examples[/bold]

  trm-fast train --preset sudoku-4x4

  trm-fast train --preset sudoku-cpu --minutes 10 --out runs/mine

  trm-fast train --preset sudoku --data puzzles.csv.gz --set training.batch_size=64

  trm-fast train --resume runs/mine --steps 2000

  trm-fast train --preset sudoku-6x6 --init-from sudoku-6x6 --steps 300

  torchrun --nproc-per-node 4 -m trm_fast.cli train --preset sudoku

Ctrl-C saves a checkpoint and ends; --resume goes on exactly where it was.
"""


def train(
    preset: Annotated[str | None, typer.Option(help="A recipe that ships: see [bold]trm-fast info[/bold].")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of your own.")] = None,
    data: Annotated[str | None, typer.Option(help="A file, or hf:NAME; the task's generator by default.")] = None,
    val_split: Annotated[
        float | None, typer.Option(help="Share of the data held out, where it has no test set: data.holdout.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Such as training.batch_size=16; repeatable.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of the whole run, those before a resume included.")
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="Length in passes: training examples x epochs / batch size steps, as published."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes of this call.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, data and order.")] = None,
    device: Device = "auto",
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run.")] = None,
    from_step: FromStep = None,
    init_from: Annotated[
        str | None, typer.Option(metavar="RUN|MODEL", help="Fine-tune: start from a run, a model folder or a name.")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="Folder of the run; runs/PRESET by default.")
    ] = None,
    graph: Annotated[
        bool, typer.Option("--graph/--no-graph", help="On a GPU the step is one CUDA graph; --no-graph calls it.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run will need in memory and time, and end.")
    ] = False,
    json_output: Json = False,
) -> None:
    from trm_fast.interchange import locate
    from trm_fast.training import Trainer
    from trm_fast.training.world import join

    if minutes is not None and minutes <= 0:
        raise UserError("--minutes must be more than 0", wrong_use=True)
    settings = [*([] if val_split is None else [f"data.holdout={val_split}"]), *(settings or [])]
    if dry_run and resume is None:
        planned = _configured(preset, config, data, settings, steps, epochs, seed, init_from is not None)
        _dry_run(planned, pick_device(device), json_output)
        return
    if dry_run:
        raise UserError("--dry-run is for a new run, not for --resume", wrong_use=True)
    world, device = join(pick_device(device))
    view = View(quiet=json_output, silent=not world.writes)
    if not graph:
        settings = [*settings, "training.graph=off"]
    if resume is not None:
        if init_from is not None:
            raise UserError("--resume goes on with its own weights: leave out --init-from", wrong_use=True)
        if epochs is not None:
            raise UserError("--resume takes --steps, the run's new total, not --epochs", wrong_use=True)
        if out_folder is not None and out_folder.resolve() != resume.resolve():
            raise UserError(f"--resume goes on in its own folder: leave out --out {out_folder}", wrong_use=True)
        run_config = _resumed(resume, preset, config, data, settings, steps, seed)
        trainer = Trainer.resume(
            resume, from_step=step_number(from_step), config=run_config, device=device, reporter=view, world=world
        )
        if trainer.step >= trainer.config.training.steps:
            view.note(f"{resume} has all of its {trainer.step} steps; --steps N with a larger N goes on")
    else:
        if from_step is not None and init_from is None:
            raise UserError("--from goes with --resume or --init-from", wrong_use=True)
        run_config = _configured(preset, config, data, settings, steps, epochs, seed, init_from is not None)
        init = None if init_from is None else locate(init_from, from_step=step_number(from_step), device=device).model
        folder = out_folder or _free_folder(Path("runs") / (preset or (config.stem if config else "run")))
        folder = world.objects(folder)[0]
        if world.writes:
            _announce(run_config, device, preset)
        trainer = Trainer(run_config, folder, device=device, reporter=view, world=world, init=init)
    with view.showing(trainer):
        summary = trainer.train(minutes=minutes)
    if not world.writes:
        return
    if json_output:
        print_json(summary | {"run": str(trainer.out)})
    else:
        evaluation = summary["evaluation"]
        _print_summary(summary, trainer.out, trainer.task.report(measures(evaluation)) if evaluation else [])
    if summary["interrupted"]:
        err.print(f"stopped at step {summary['steps']}; go on with: trm-fast train --resume {trainer.out}")
        raise typer.Exit(130)


train.__doc__ = EXAMPLES


def _configured(
    preset: str | None,
    config: Path | None,
    data: str | None,
    settings: list[str],
    steps: int | None,
    epochs: float | None,
    seed: int | None,
    tuning: bool,
) -> RunConfig:
    """``tuning``: with the schedule for a model that is trained already, where ``settings`` say nothing else."""
    from trm_fast.training import fine_tuning, make_config, preset_names

    if (preset is None) == (config is None):
        raise UserError(f"give --preset NAME or --config FILE; presets: {', '.join(preset_names())}", wrong_use=True)
    if steps is not None and epochs is not None:
        raise UserError("give --steps or --epochs, not both", wrong_use=True)
    sections = fine_tuning(_sections(preset, config)) if tuning else _sections(preset, config)
    made = make_config(_changed(sections, settings, steps, seed, data), preset or str(config))
    if epochs is None:
        return made
    if epochs <= 0:
        raise UserError("--epochs must be more than 0", wrong_use=True)
    examples = len(made.make_task().dataset(made.data, made.training.seed).train)
    total = max(1, -(-int(examples * epochs) // made.training.batch_size))
    return made.model_copy(update={"training": made.training.model_copy(update={"steps": total})})


def _resumed(
    run: Path,
    preset: str | None,
    config: Path | None,
    data: str | None,
    settings: list[str],
    steps: int | None,
    seed: int | None,
) -> RunConfig:
    """The run's own configuration with changes to how it trains; its problem, model and random numbers stay."""
    from trm_fast.training import make_config
    from trm_fast.training.folder import read_run_config

    own = read_run_config(run)
    made = make_config(_changed(own.model_dump(mode="json"), settings, steps, seed, data), str(run))
    fixed: list[tuple[str, Any, Any]] = [
        ("task", made.task, own.task),
        ("model", made.model, own.model),
        ("data", made.data, own.data),
        ("training.seed", made.training.seed, own.training.seed),
        ("training.batch_size", made.training.batch_size, own.training.batch_size),
    ]
    if preset is not None or config is not None:
        named = make_config(_sections(preset, config), preset or str(config))
        fixed += [("task", named.task, own.task), ("model", named.model, own.model)]
    if changed := [name for name, new, old in fixed if new != old]:
        raise UserError(f"{run} was started with another {changed[0]}: a resumed run keeps it", wrong_use=True)
    return made


def _sections(preset: str | None, config: Path | None) -> dict[str, Any]:
    from trm_fast.training import read_preset
    from trm_fast.training.config import read_yaml

    return read_preset(preset) if preset is not None else read_yaml(config or Path())


def _changed(
    sections: dict[str, Any], settings: list[str], steps: int | None, seed: int | None, data: str | None
) -> dict[str, Any]:
    """``sections`` with ``--set`` and the options that are short for one key."""
    from trm_fast.training import apply_settings

    result = apply_settings(sections, settings)
    for section, key, value in (("training", "steps", steps), ("training", "seed", seed), ("data", "source", data)):
        if value is not None:
            result.setdefault(section, {})[key] = value
    return result


def _free_folder(base: Path) -> Path:
    """``base``, or the first of ``base-2``, ``base-3``, ... that is not there."""
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _announce(config: RunConfig, device: str, preset: str | None) -> None:
    """What to expect, said at once where it is long."""
    import torch

    from trm_fast.training import make_config, read_preset
    from trm_fast.training.estimate import duration, matrix_rate, nearest_quick_preset, seconds_of

    if torch.device(device).type != "cpu":
        return
    rate = matrix_rate(torch.device(device))
    seconds, steps = seconds_of(config, rate), config.training.steps
    whole = seconds if preset is None else seconds_of(make_config(read_preset(preset), preset), rate)
    if max(seconds, whole) < LONG_SECONDS:
        return
    text = f"about {duration(seconds)} for {steps:,} steps on this CPU ({rate / 1e9:.0f} GFLOP/s)"
    if whole > seconds:
        text += f"; the whole of {preset} takes {duration(whole)}"
    quick = nearest_quick_preset(config, rate, LONG_SECONDS)
    if quick and quick != preset:
        text += f"; --preset {quick} suits a CPU"
    err.print(text, style="yellow")


def _dry_run(config: RunConfig, device: str, json_output: bool) -> None:
    import torch

    from trm_fast.training.estimate import duration, estimate

    dataset = config.make_task().dataset(config.data, config.training.seed)
    made = estimate(config, dataset.train.take(slice(0)), torch.device(device))
    if json_output:
        print_json(made.to_json())
        return
    table = Table(title=f"{config.task.name} on {device} ({made.dtype}), not started", show_header=False)
    size = {name: decimal(getattr(made, name)) for name in made.to_json() if name.endswith("_bytes")}
    parts = f", in {made.parts} parts" if made.parts > 1 else ""
    table.add_row("data", f"{len(dataset.train):,} {dataset.source}")
    table.add_row("parameters", f"{made.parameters:,}")
    table.add_row("weights, gradients, optimizer, average", size["weights_bytes"])
    table.add_row("carry and examples", size["carry_bytes"])
    table.add_row(f"activations (recompute: {made.recompute})", size["activation_bytes"])
    table.add_row("memory, about", f"{size['memory_bytes']} of {size['free_bytes']} free")
    table.add_row("a step", f"{made.flop_per_step / 1e12:.3f} TFLOP for {made.batch_size} rows{parts}")
    table.add_row("measured rate", f"{made.flop_per_second / 1e9:,.0f} GFLOP/s of matrix products")
    table.add_row("time, about", f"{duration(made.seconds)} for {made.steps:,} steps of {made.seconds_per_step:.3g} s")
    out.print(table)


def _print_summary(summary: dict[str, Any], folder: Path, report: list[Any]) -> None:
    for part in report:  # the task's own tables of its measures
        out.print(part)
    table = Table(title=summary["task"], show_header=False, title_justify="left")
    table.add_row("data", summary["data"])
    table.add_row("steps", f"{summary['steps']:,}  ({summary['sample_steps']:,} sample-steps)")
    table.add_row(
        "time", f"{summary['seconds']:.1f} s  ({summary['sample_steps_per_second'] or 0:,.0f} sample-steps/s)"
    )
    table.add_row("parameters", f"{summary['parameters']:,}")
    if evaluation := summary["evaluation"]:
        low, high = evaluation["interval"]
        table.add_row("exact accuracy", f"{share(evaluation['exact_accuracy'])}  (95 %: {share(low)} to {share(high)})")
        table.add_row("cell accuracy", share(evaluation["cell_accuracy"]))
        for name, value in measures(evaluation).items() if not report else ():
            table.add_row(name.replace("_", " "), f"{value:.4f}")
        table.add_row("unseen", f"{evaluation['count']:,}, {evaluation['mean_steps']:.2f} supervision steps each")
    table.add_row("run", str(folder))
    out.print(table)


class View:
    """Draws a run on stderr: a bar with loss, accuracy, rate and time left; without a terminal a line a log."""

    def __init__(self, *, quiet: bool = False, silent: bool = False) -> None:
        self.quiet, self.silent = quiet or silent, silent
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=err,
        )  # fmt: skip
        self.training = self.bar.add_task("training", total=None, numbers="")
        self.evaluation = self.bar.add_task("evaluating", total=None, numbers="", visible=False)
        self.last: tuple[int, float] = (0, 0.0)
        self.batch, self.noun = 0, "puzzles"

    def showing(self, trainer: Any) -> AbstractContextManager[Any]:
        training = trainer.config.training
        self.noun = trainer.task.noun
        self.batch, self.last = training.batch_size, (trainer.step, trainer.seconds)
        self.bar.update(self.training, total=training.steps, completed=trainer.step)
        self.bar.start_task(self.training)
        if not self.quiet:
            data, noun = trainer.dataset, trainer.task.noun
            err.print(
                f"{trainer.task.name}: {len(data.train):,} {noun} to learn from, {len(data.test):,} unseen "
                f"({data.source}); {trainer.model.num_parameters():,} parameters; {trainer.out}"
            )
        if self.silent:
            return nullcontext()
        return Live(self.bar if err.is_terminal else "", console=err, refresh_per_second=4)

    def note(self, text: str) -> None:
        if not self.silent:
            err.print(text, style="yellow")

    def stepped(self, step: int) -> None:
        self.bar.update(self.training, completed=step)

    def logged(self, record: dict[str, Any]) -> None:
        if "loss" in record:
            step, seconds = record["step"], record["seconds"]
            rate = (step - self.last[0]) * self.batch / max(1e-9, seconds - self.last[1])
            self.last = (step, seconds)
            exact = "-" if record["exact_accuracy"] is None else share(record["exact_accuracy"])
            numbers = f"loss {record['loss']:.3f}  exact {exact}  {rate:,.0f} sample-steps/s"
            self.bar.update(self.training, numbers=numbers)
            if not err.is_terminal and not self.quiet:
                err.print(f"step {step}  {numbers}  {seconds:.0f} s")
        else:
            self.bar.update(self.evaluation, visible=False)
            if not self.quiet:
                err.print(
                    f"step {record['step']}: {share(record['eval_exact_accuracy'])} of "
                    f"{record['eval_count']:,} unseen {self.noun} exactly right"
                )

    def evaluating(self, done: int, count: int) -> None:
        self.bar.update(self.evaluation, completed=done, total=count, visible=True)
