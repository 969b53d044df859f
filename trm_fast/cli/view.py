"""A run as it goes, and its summary, in a terminal or a log."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from trm_fast.cli.console import err, measures, out, share


def print_summary(summary: dict[str, Any], folder: Path, report: list[Any]) -> None:
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
