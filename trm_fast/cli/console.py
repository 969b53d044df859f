"""What the commands share: consoles, common options, the choice of a device, and output as text or JSON."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperCommand

from trm_fast.errors import UserError, shown
from trm_fast.texts import json_text
from trm_fast.writing import check_file, is_stream

if TYPE_CHECKING:
    import torch

DASHES = "Write -- before a puzzle that starts with -, or give it as a file or on standard input."

# Markup is off because file names, messages and puzzles may contain square brackets, emoji codes because of colons.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


class PuzzleCommand(TyperCommand):
    """A command with a puzzle as an argument. If the puzzle looks like an option, the error says what to do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        puzzle = any(re.fullmatch(r"-[-\s\d.,;_*?xX|]{3,}", argument) for argument in args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # click's, which some versions of typer contain under another name
            if puzzle and isinstance(message := getattr(error, "message", None), str):
                error.message = f"{message} {DASHES}"  # type: ignore[attr-defined]
            raise


MAX_COUNT, MAX_ROWS, MAX_SEED = 1_000_000, 1 << 20, 2**64 - 1
"""The largest number of steps or tries, size of a batch, and seed."""

STORED = "by default as stored with the model"

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 and so on; auto uses a GPU if there is one.")]
FromStep = Annotated[
    str | None, typer.Option("--from", metavar="step_N", help="Checkpoint of the run to use instead of the newest.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
BatchSize = Annotated[int, typer.Option(min=1, max=MAX_ROWS, help="Number of puzzles that are solved together.")]
Halt = Annotated[bool, typer.Option("--halt/--no-halt", help="--no-halt runs all steps, as the published code does.")]
MaxSteps = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MAX_COUNT,
        help=f"Maximum number of steps per try; {STORED}, or else 16 or the training's, whichever is larger.",
    ),
]
MinSteps = Annotated[
    int, typer.Option(min=1, max=MAX_COUNT, help="Supervision steps that every puzzle takes before it may halt.")
]
Noise = Annotated[
    float | None,
    typer.Option(min=0, help=f"Standard deviation of the noise in all tries but the first, such as 0.3; {STORED}."),
]
Rollouts = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_COUNT, help=f"Tries for each puzzle; all but the first add --noise; {STORED}."),
]
Also = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="MODEL",
        help="A further model, which tries the puzzles that those before it have not solved; repeatable. For tasks "
        "with rules.",
    ),
]
Symmetries = Annotated[
    int | None, typer.Option(min=1, max=MAX_COUNT, help=f"Symmetric images of each puzzle to try; {STORED}.")
]
Start = Annotated[
    Literal["fixed", "each", "random", "last"] | None,
    typer.Option(
        help="Where further tries start: the model's initial state, each of its initial states in turn, a random "
        f"state, or the last state of the previous rollout; {STORED}."
    ),
]
ResampleEvery = Annotated[
    int | None,
    typer.Option(
        metavar="STEPS", min=0, max=MAX_COUNT,
        help="Every STEPS steps, rollouts exchange states in proportion to the odds that their answers are right; "
        f"0: never; {STORED}.",
    ),
]  # fmt: skip
Hints = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, max=MAX_COUNT,
        help="Each further rollout reads N random cells of the first rollout's answer as if they were given; "
        f"0: none; {STORED}.",
    ),
]  # fmt: skip
Select = Annotated[
    Literal["auto", "rules", "confidence", "majority", "first"] | None,
    typer.Option(
        help="Which try to return: a valid one, the most confident, the most frequent answer, or the try that halts in "
        f"the fewest steps; {STORED}."
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", min=0,
        help="Time for the whole command; then each puzzle gets its best answer so far, if it has one.",
    ),
]  # fmt: skip
AnswerOnlyIf = Annotated[
    str | None,
    typer.Option(metavar="CONDITION", help="valid or 'confidence>=X': give no other answers."),
]
SolverSeed = Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of the noise and the symmetries.")]
Limit = Annotated[int | None, typer.Option(min=1, max=10**9, help="Read only the first N rows.")]
Submission = Annotated[
    Path | None,
    typer.Option(help="File for the guesses, in the form of the task's competition (arc: submission.json)."),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="The model's own task is code in a module that its configuration names: import and run it."
    ),
]
Model = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run folder, a model folder, or a model that ships.")]


def refuse_arguments(context: typer.Context) -> None:
    """Refuses arguments of a command that takes only options.

    Raises:
        UserError: there are some, such as the ``key=value`` of other trainers.
    """
    if context.args:
        raise UserError(f"unexpected {context.args[0]!r}: --set KEY=VALUE changes a key", usage_error=True)


def pick_device(name: str) -> str:
    """The name of the device to use: ``auto`` becomes ``cuda`` or ``cpu``, every other name is checked.

    Raises:
        UserError: the device does not exist or cannot be used here.
    """
    import torch

    automatic = name == "auto"
    if automatic:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        # Under torchrun each process chooses its GPU later; a tensor made here would take memory on the first one.
        if not automatic and not (device.type == "cuda" and "LOCAL_RANK" in os.environ):
            torch.zeros(1, device=device).item()
    except Exception as error:  # devices that torch knows but this build lacks raise any kind
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"--device {name} can't be used here: {reason}", usage_error=True) from None
    if device.type == "cuda" and torch.cuda.is_available():
        _use_gpu(device)
    return name


def _use_gpu(device: torch.device) -> None:
    """Makes the GPU the current one, so that nothing runs on another. Announces the first use of a kind of GPU."""
    import torch

    from trm_fast.ops._core import validation

    if device.index is not None:
        torch.cuda.set_device(device)
    if os.environ.get("RANK", "0") == "0" and not validation.cache_folder("cuda").exists():
        name = torch.cuda.get_device_name(device)
        err.print(f"first use of this {name}: the kernels are compiled and checked for it, which takes a while")


def step_number(text: str | None) -> int | None:
    """The number N in ``step_N`` or ``N``; None for None.

    Raises:
        UserError: the text is neither.

    Examples:
        >>> step_number("step_200")
        200
    """
    if text is None:
        return None
    number = text.removeprefix("step_")
    if not re.fullmatch("[0-9]{1,15}", number):
        raise UserError(f"--from takes a checkpoint such as step_200, not {shown(text)}", usage_error=True)
    return int(number)


def check_positive(option: str, value: float | None) -> None:
    """Checks the value of an option if it is given.

    Raises:
        UserError: it is not a positive number, or infinite.
    """
    if value is not None and not 0 < value < 1e15:
        raise UserError(f"{option} must be a number above 0, not {value}", usage_error=True)


def percent(value: float) -> str:
    """A fraction as a percentage.

    Examples:
        >>> percent(0.984)
        '98.40 %'
    """
    return f"{100 * value:.2f} %"


COMMON = (
    "exact_accuracy", "cell_accuracy", "coverage", "answered_accuracy", "count", "mean_steps", "converged", "valid",
    "interval", "seconds", "puzzles_per_second",
)  # fmt: skip
"""Keys that the JSON of every evaluation contains; the other entries are the task's own measures."""


def measures(evaluation: dict[str, Any]) -> dict[str, float]:
    """The task's own measures in an evaluation's JSON."""
    return {name: value for name, value in evaluation.items() if name not in COMMON}


def accuracy_rows(evaluation: dict[str, Any], *, with_measures: bool) -> list[tuple[str, str]]:
    """The accuracies in an evaluation's JSON as rows of a table, followed by the task's own measures if wanted."""
    exact = f"{percent(evaluation['exact_accuracy'])}  (95 %: {interval(evaluation['interval'])})"
    rows = [("exact accuracy", exact), ("cell accuracy", percent(evaluation["cell_accuracy"]))]
    if evaluation.get("coverage", 1.0) < 1.0:
        answered = evaluation["answered_accuracy"]
        rows.append(("answered", percent(evaluation["coverage"])))
        rows.append(("exact accuracy of answered", "-" if answered is None else percent(answered)))
    if with_measures:
        rows += [(name.replace("_", " "), f"{value:.4f}") for name, value in measures(evaluation).items()]
    return rows


def interval(bounds: Sequence[float]) -> str:
    """The two ends of an interval of fractions, as percentages.

    Examples:
        >>> interval((0.97, 0.99))
        '97.00 % to 99.00 %'
    """
    return " to ".join(map(percent, bounds))


@contextmanager
def counting(label: str) -> Iterator[Any]:
    """Shows a progress bar on stderr if that is a terminal; yields the callback ``(done, total)`` that moves it."""
    if not err.is_terminal:
        yield lambda done, count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    columns = text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    typer.echo(json_text(value))


def print_result(text: str, facts: dict[str, Any], as_json: bool) -> None:
    """Prints what a command produced: ``text`` for people, ``facts`` as JSON."""
    if as_json:
        print_json(facts)
    else:
        out.print(text, soft_wrap=True)


def check_outputs(**files: Path | None) -> None:
    """Checks the files of output options before the work starts, as far as that is known before writing.

    Args:
        files: the file by the option's name; None for an option that is not used.

    Raises:
        UserError: one of them cannot be written, or two options name the same file.
    """
    used = {f"--{name}": path for name, path in files.items() if path is not None}
    for option, path in used.items():
        try:
            check_file(path)
        except UserError as error:
            raise UserError(f"{option}: {error}", usage_error=True) from None
    targets = [os.path.realpath(path) for path in used.values() if not is_stream(path)]
    if len(set(targets)) < len(targets):
        raise UserError(f"{' and '.join(used)} must name different files", usage_error=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file completely or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    from trm_fast.tasks.files import write_text

    write_text(path, "".join(f"{line}\n" for line in lines))
