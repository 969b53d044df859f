"""Shows a run on stderr: in a terminal a bar with loss, accuracy, rate and time left, otherwise a line per record."""

from __future__ import annotations

from rich.console import Console as Terminal
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trm_fast.training.callbacks.base import Callback, Run, register
from trm_fast.training.folder import Record


@register("console")
class Console(Callback):
    """Prints notes, progress and evaluations. ``quiet`` leaves only notes and the bar."""

    def __init__(self, *, quiet: bool = False, terminal: Terminal | None = None) -> None:
        self.quiet = quiet
        # No markup, because file names and messages may contain square brackets.
        self.terminal = terminal or Terminal(stderr=True, highlight=False, markup=False, emoji=False)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.terminal,
        )  # fmt: skip
        self.training = self.bar.add_task("training", total=None, numbers="")
        self.evaluation = self.bar.add_task("evaluating", total=None, numbers="", visible=False)
        self.live = Live(self.bar if self.terminal.is_terminal else "", console=self.terminal, refresh_per_second=4)

    def on_note(self, text: str) -> None:
        self.terminal.print(text, style="yellow")

    def on_start(self, run: Run) -> None:
        training = run.config.training
        self.noun, self.batch_size, self.last = run.noun, training.batch_size, (run.step, run.seconds)
        self.steps, self.report = training.steps, run.report
        self.bar.update(self.training, total=training.steps, completed=run.step)
        self.bar.start_task(self.training)
        if not self.quiet:
            self.terminal.print(
                f"{run.config.task.name}: {run.train_count:,} {run.noun} to learn from, {run.test_count:,} unseen "
                f"({run.source}); {run.parameters:,} parameters; {run.folder}"
            )
        self.live.start()

    def on_step(self, step: int) -> None:
        self.bar.update(self.training, completed=step)

    def on_log(self, record: Record) -> None:
        if "loss" in record:
            self._training(record)
            return
        self.bar.update(self.evaluation, visible=False)
        if self.quiet:
            return
        if record["step"] < self.steps:  # the command prints the tables of the last step
            for part in self.report({name.removeprefix("eval_"): value for name, value in record.items()}):
                self.terminal.print(part)
        losses = [f"{name.removeprefix('eval_').replace('_', ' ')} {record[name]:.3f}" for name in losses_of(record)]
        self.terminal.print(
            f"step {record['step']}: {_share(record['eval_exact_accuracy'])} of "
            f"{record['eval_count']:,} unseen {self.noun} exactly right{''.join(f'; {text}' for text in losses)}"
        )

    def _training(self, record: Record) -> None:
        step, seconds = record["step"], record["seconds"]
        rate = (step - self.last[0]) * self.batch_size / max(1e-9, seconds - self.last[1])
        self.last = (step, seconds)
        exact = "-" if record["exact_accuracy"] is None else _share(record["exact_accuracy"])
        parts = "".join(
            f"  {name.removesuffix('_loss')} {record[name]:.3f}" for name in losses_of(record) if name != "loss"
        )
        numbers = f"loss {record['loss']:.3f}{parts}  exact {exact}  {rate:,.0f} sample-steps/s"
        self.bar.update(self.training, numbers=numbers)
        if not self.terminal.is_terminal and not self.quiet:
            self.terminal.print(f"step {step}  {numbers}  {seconds:.0f} s")

    def on_evaluation(self, done: int, count: int) -> None:
        self.bar.update(self.evaluation, completed=done, total=count, visible=True)

    def on_end(self, summary: Record | None) -> None:
        self.live.stop()


HIDDEN = ("answer_loss", "halting_loss")
"""Losses that are only shown together with parts of the answer's loss."""


def losses_of(record: Record) -> list[str]:
    """The losses in a record that are shown: the total, and if the head's loss has parts, these and the halting loss.

    Examples:
        >>> losses_of({"loss": 1.0, "answer_loss": 0.8, "halting_loss": 0.4})
        ['loss']
        >>> losses_of({"loss": 1.0, "answer_loss": 0.8, "halting_loss": 0.4, "tool_loss": 0.8})
        ['loss', 'halting_loss', 'tool_loss']
    """
    names = [name for name in record if name.removeprefix("eval_").endswith("loss") and record[name] is not None]
    plain = [name.removeprefix("eval_") for name in names]
    has_parts = any(name not in ("loss", *HIDDEN) for name in plain)
    hidden = ("answer_loss",) if has_parts else HIDDEN
    return [name for name, short in zip(names, plain, strict=True) if short not in hidden]


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"
