"""``trm-fast train``: starts, resumes and fine-tunes runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.table import Table

from trm_fast.cli import console, options
from trm_fast.cli.console import accuracy_rows, err, measures, out, pick_device, print_json, step_number
from trm_fast.cli.run_config import merged_settings, new_config, resumed_config
from trm_fast.errors import UserError

if TYPE_CHECKING:
    from trm_fast.interchange import Located
    from trm_fast.training import RunConfig

LONG_SECONDS = 3600.0
"""Before a run that is expected to take longer, a message gives its time and a preset that suits a CPU."""

GRID = "Puzzles of your own (task grid): inferred from the data unless set; symmetries never are"
"""The title of the options of the task grid in the help."""

UNMEASURED = "the kernels were not timed on this {} yet: run trm-fast info --measure once, and auto uses the fastest"


def train(
    context: typer.Context,
    preset: Annotated[
        str | None, typer.Option(help="A configuration that ships; without an option [bold]train[/bold] lists them.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Your own YAML file.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "--train-data",
            help="A file or hf:NAME; by default the task's generator. Without --preset and --config: a table of "
            "puzzles of your own, with the columns question and answer. Sets data.source.",
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="ROWSxCOLUMNS|LENGTH", rich_help_panel=GRID, help="Shape of a question.")
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(rich_help_panel=GRID, help="The symbols, such as .123456; with spaces between words.")
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(rich_help_panel=GRID, help="What separates cells in text; '' if each character is a cell."),
    ] = None,
    symmetries: Annotated[
        str | None, typer.Option(rich_help_panel=GRID, help="What keeps a puzzle right: rotate,reflect,transpose.")
    ] = None,
    exchangeable: Annotated[
        str | None, typer.Option(rich_help_panel=GRID, help="Symbols that may be exchanged for each other.")
    ] = None,
    val_data: Annotated[
        str | None, typer.Option("--val-data", help="A file or hf:NAME to test on. Sets data.test.")
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            "--holdout",
            "--val-split",
            help="Share of the data to hold out for testing if it has no test set, 0 for none. Sets data.holdout.",
        ),
    ] = None,
    tokenizer: options.Tokenizer = None,
    batch_size: options.BatchSize = None,
    learning_rate: options.LearningRate = None,
    warmup_ratio: options.WarmupRatio = None,
    layers: options.Layers = None,
    hidden_size: options.HiddenSize = None,
    heads: options.Heads = None,
    h_cycles: options.HCycles = None,
    l_cycles: options.LCycles = None,
    supervision_steps: options.SupervisionSteps = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as training.batch_size=16; repeatable."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of the whole run, including those before a resume.")
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="Length in passes over the data: examples x epochs / batch size steps, as published."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop this call after this many minutes.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the weights, the data and its order.")] = None,
    device: console.Device = "auto",
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue a run.")] = None,
    from_step: console.FromStep = None,
    init_from: Annotated[
        str | None, typer.Option(metavar="RUN|MODEL", help="Fine-tune: start with the weights of a run or a model.")
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", "--output", "-o", metavar="RUN", help="Folder of the run; runs/PRESET by default."),
    ] = None,
    graph: Annotated[
        bool,
        typer.Option("--graph/--no-graph", help="On a GPU each step is one CUDA graph; --no-graph turns that off."),
    ] = True,
    log: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Also log to tensorboard, wandb or another callback, by its name; repeatable. "
            "The console and metrics.jsonl always log.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show how much memory and time the run would take, and end.")
    ] = False,
    trust_code: console.TrustCode = False,
    json_output: console.Json = False,
) -> None:
    """
    Trains a model, evaluates it on unseen puzzles and saves it.

    [bold]Examples[/bold]

      trm-fast train --preset sudoku-4x4

      trm-fast train --preset sudoku-cpu --minutes 10 --out runs/mine

      trm-fast train --preset sudoku-4x4 --batch-size 32 --lr 3e-3 -o runs/small

      trm-fast train --preset sudoku --data puzzles.csv.gz --set training.clip_norm=1.0

      trm-fast train --data mine.csv --shape 6x6 --symmetries rotate,reflect

      trm-fast train --preset sudoku-6x6 --log tensorboard --log wandb

      trm-fast train --resume runs/mine --steps 2000

      trm-fast train --preset sudoku-6x6 --init-from sudoku-6x6 --steps 300

      torchrun --nproc-per-node 4 --max-restarts 3 -m trm_fast.cli train --preset sudoku --out runs/sudoku

    Ctrl-C saves a checkpoint and ends; --resume then continues bit for bit.
    """
    from trm_fast.interchange import locate
    from trm_fast.run_folder import unused_folder
    from trm_fast.training import Trainer
    from trm_fast.training.callbacks import ALWAYS, callback_names, make_callback
    from trm_fast.training.callbacks.console import Console
    from trm_fast.training.process_group import join, may_restart, restarted_run

    console.refuse_arguments(context)
    console.check_positive("--minutes", minutes)
    if steps is not None and epochs is not None:
        raise UserError("give --steps or --epochs, not both", usage_error=True)
    if preset is None and config is None and data is None and resume is None:
        if init_from is not None:
            recipes = "--preset NAME, --config FILE.yaml, or --data FILE with puzzles of your own"
            raise UserError(f"--init-from needs a recipe: {recipes}", usage_error=True)
        _show_presets()
        raise typer.Exit(2)
    data_alone = data is not None and preset is None and config is None and resume is None  # puzzles of one's own
    if data_alone:
        preset = "grid"
    settings = merged_settings(settings or [], {
        "--data": ("data.source", data),
        "--val-data": ("data.test", val_data),
        "--holdout": ("data.holdout", holdout),
        "--shape": ("task.shape", shape),
        "--vocabulary": ("task.vocabulary", vocabulary),
        "--separator": ("task.separator", separator),
        "--symmetries": ("task.symmetries", symmetries),
        "--exchangeable": ("task.exchangeable", exchangeable),
        "--tokenizer": ("task.tokenizer", tokenizer),
        "--steps": ("training.steps", steps),
        "--seed": ("training.seed", seed),
        "--batch-size": ("training.batch_size", batch_size),
        "--lr": ("training.learning_rate", learning_rate),
        "--warmup-ratio": ("training.warmup_ratio", warmup_ratio),
        "--layers": ("model.num_layers", layers),
        "--hidden-size": ("model.hidden_size", hidden_size),
        "--heads": ("model.num_heads", heads),
        "--h-cycles": ("model.T_cycles", h_cycles),
        "--l-cycles": ("model.n_latent_steps", l_cycles),
        "--supervision-steps": ("model.max_supervision_steps", supervision_steps),
        "--no-graph": ("training.graph", None if graph else "off"),
    })  # fmt: skip

    def find_trained(device: str) -> Located | None:
        if init_from is None:
            return None
        located = locate(init_from, from_step=step_number(from_step), device=device, trust_code=trust_code)
        if data_alone and located.task.name != preset:
            raise UserError(
                f"{init_from} is a model for {located.task.name}: name the recipe with --preset, as it was trained, or "
                "--config",
                usage_error=True,
            )
        return located

    if dry_run:
        if resume is not None:
            raise UserError("--dry-run is for a new run, not for --resume", usage_error=True)
        planned = new_config(preset, config, settings, epochs, find_trained("cpu"))
        _dry_run(planned, pick_device(device), json_output)
        return
    group, device = join(pick_device(device))
    restarted = None if resume is not None else restarted_run(out_folder)
    if restarted is not None:  # the run has all that the command says
        resume, settings, trust_code = restarted, [], True
        preset = config = init_from = from_step = epochs = None
    optional = [name for name in callback_names() if name not in ALWAYS]
    if unknown := [name for name in log or () if name not in optional]:
        raise UserError(f"--log {unknown[0]}: choose from {', '.join(optional)}", usage_error=True)
    callbacks = [Console(quiet=json_output, terminal=err), *map(make_callback, log or ())]
    if resume is not None:
        if init_from is not None:
            raise UserError("--resume continues with the run's own weights: leave out --init-from", usage_error=True)
        if epochs is not None:
            raise UserError("--resume takes --steps, the run's new total, not --epochs", usage_error=True)
        if out_folder is not None and out_folder.resolve() != resume.resolve():
            raise UserError(
                f"--resume continues in the run's own folder: leave out --out {out_folder}", usage_error=True
            )
        run_config = resumed_config(resume, preset, config, settings, trust_code)
        trainer = Trainer.resume(
            resume, from_step=step_number(from_step), config=run_config, device=device, callbacks=callbacks, group=group
        )
        if trainer.step >= trainer.config.training.steps:
            trainer.callbacks.on_note(
                f"{resume} has all of its {trainer.step} steps; --steps N with a larger N continues it"
            )
    else:
        if from_step is not None and init_from is None:
            raise UserError("--from goes with --resume or --init-from", usage_error=True)
        trained = find_trained(device)
        run_config = new_config(preset, config, settings, epochs, trained)
        init = trained.model if trained else None
        if holdout is not None and (run_config.data.source is None or run_config.data.test is not None):
            err.print("--holdout is not used: the data has a test set of its own", style="yellow")
        folder = out_folder or unused_folder(Path("runs") / (preset or (config.stem if config else "run")))
        folder = group.gather_objects(folder)[0]
        if group.writes:
            _announce(run_config, device, preset)
        trainer = Trainer(run_config, folder, device=device, callbacks=callbacks, group=group, init=init)
        if may_restart():
            trainer.save()  # for processes that end before the first checkpoint
    summary = trainer.train(minutes=minutes)
    if not group.writes:
        return
    if json_output:
        print_json(summary | {"run": str(trainer.out)})
    else:
        evaluation = summary["evaluation"]
        _print_summary(summary, trainer.out, trainer.task.report(measures(evaluation)) if evaluation else [])
    if summary["interrupted"]:
        err.print(f"stopped at step {summary['steps']}; continue with: trm-fast train --resume {trainer.out}")
        raise typer.Exit(130)


def _show_presets() -> None:
    """Prints what can be trained: the presets with their first words, and the tasks."""
    from trm_fast.tasks import task_names
    from trm_fast.training import preset_names
    from trm_fast.training.read_config import about_preset

    table = Table("preset", "about", title="trm-fast train --preset NAME", title_justify="left")
    for name in preset_names():
        table.add_row(name, about_preset(name))
    err.print(table)
    err.print(
        f"--config FILE.yaml reads a configuration of your own, for a task of {', '.join(task_names())} or "
        "one that you write; --data FILE changes the data of a preset; --resume RUN continues a run."
    )


def _announce(config: RunConfig, device: str, preset: str | None) -> None:
    """Warns before a run on a GPU without timings, and before a long run on a CPU."""
    import torch

    from trm_fast.ops._core import dispatch
    from trm_fast.training import make_config, read_preset
    from trm_fast.training.estimate import duration, matrix_rate, nearest_quick_preset, run_seconds

    kind = torch.device(device).type
    if kind == "cuda" and not dispatch.timings(kind):
        err.print(UNMEASURED.format(torch.cuda.get_device_name(device)), style="yellow")
    if kind != "cpu":
        return
    rate = matrix_rate(torch.device(device))
    seconds, steps = run_seconds(config, rate), config.training.steps
    whole = seconds if preset is None else run_seconds(make_config(read_preset(preset), preset), rate)
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

    from trm_fast.tasks.loading import load_or_generate
    from trm_fast.training.estimate import duration, estimate

    _, dataset = load_or_generate(config.make_task(), config.data, config.training.seed)
    for note in dataset.notes:
        err.print(note, style="yellow")
    costs = estimate(config, dataset.train.take(slice(0)), torch.device(device))
    if json_output:
        print_json(costs)
        return
    table = Table(title=f"{config.task.name} on {device} ({costs['dtype']}), not started", show_header=False)
    size = {name: decimal(value) for name, value in costs.items() if name.endswith("_bytes")}
    parts = f", in {costs['parts']} parts" if costs["parts"] > 1 else ""
    table.add_row("data", f"{len(dataset.train):,} {dataset.source}")
    table.add_row("parameters", f"{costs['parameters']:,}")
    table.add_row("weights, gradients, optimizer, average", size["weights_bytes"])
    table.add_row("carry and examples", size["carry_bytes"])
    table.add_row(f"activations (recompute: {costs['recompute']})", size["activation_bytes"])
    table.add_row("memory, about", f"{size['memory_bytes']} of {size['free_bytes']} free")
    table.add_row("a step", f"{costs['flop_per_step'] / 1e12:.3f} TFLOP for {costs['batch_size']} rows{parts}")
    table.add_row("measured rate", f"{costs['flop_per_second'] / 1e9:,.0f} GFLOP/s of matrix products")
    table.add_row(
        "time, about",
        f"{duration(costs['seconds'])} for {costs['steps']:,} steps of {costs['seconds_per_step']:.3g} s",
    )
    out.print(table)


def _print_summary(summary: dict[str, Any], folder: Path, report: list[Any]) -> None:
    for part in report:  # the task's own tables
        out.print(part)
    table = Table(title=summary["task"], show_header=False, title_justify="left")
    table.add_row("data", summary["data"])
    table.add_row("steps", f"{summary['steps']:,}  ({summary['sample_steps']:,} sample-steps)")
    table.add_row(
        "time", f"{summary['seconds']:.1f} s  ({summary['sample_steps_per_second'] or 0:,.0f} sample-steps/s)"
    )
    table.add_row("parameters", f"{summary['parameters']:,}")
    if evaluation := summary["evaluation"]:
        for row in accuracy_rows(evaluation, with_measures=not report):
            table.add_row(*row)
        table.add_row("unseen", f"{evaluation['count']:,}, {evaluation['mean_steps']:.2f} supervision steps each")
    table.add_row("run", str(folder))
    out.print(table)
