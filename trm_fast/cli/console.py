"""What the commands share: consoles, devices, numbers in words, options that mean the same everywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trm_fast.errors import UserError

if TYPE_CHECKING:
    import torch

# No markup: file names and messages may hold square brackets.
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")]
FromStep = Annotated[
    str | None, typer.Option("--from", metavar="step_N", help="The run's checkpoint to use, not the newest.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Puzzles that think at a time.")]
Halt = Annotated[bool, typer.Option("--halt/--no-halt", help="--no-halt runs all steps, as published.")]
MaxSteps = Annotated[
    int | None, typer.Option(min=1, help="Supervision steps at most; by default 16, or as in training.")
]
MinSteps = Annotated[int, typer.Option(min=1, help="Supervision steps before a puzzle may halt.")]
Noise = Annotated[float, typer.Option(min=0, help="Standard deviation of the rollouts' noise, such as 0.3.")]
Rollouts = Annotated[int, typer.Option(min=1, help="Tries at each puzzle, all but the first with --noise.")]
Select = Annotated[
    Literal["auto", "rules", "confidence", "majority"],
    typer.Option(help="The try that counts: one that obeys the rules, the surest, or the most frequent."),
]
SolverSeed = Annotated[int, typer.Option("--seed", min=0, help="Of noise and symmetries.")]
Submission = Annotated[
    Path | None, typer.Option(help="Write the guesses in the format of the task's competition (arc: submission.json).")
]
Symmetries = Annotated[int, typer.Option(min=1, help="Symmetric images of each puzzle to try.")]
Model = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run folder, a model folder, or a model that ships.")]


def pick_device(name: str) -> str:
    """``auto`` resolved, anything else checked."""
    import torch

    known = name == "auto"
    if known:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        # One of several processes has yet to find its GPU: to touch the first one would take memory there.
        if not known and not (device.type == "cuda" and "LOCAL_RANK" in os.environ):
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} can't be used here: {reason}", wrong_use=True) from None
    if device.type == "cuda" and torch.cuda.is_available():
        _met(device)
    return name


def _met(device: torch.device) -> None:
    """Makes a GPU the current one, so that nothing is done on another; says so where its kernels are not known yet."""
    import torch

    from trm_fast.ops._core import validation

    if device.index is not None:
        torch.cuda.set_device(device)
    if os.environ.get("RANK", "0") == "0" and not validation.cache_folder("cuda").exists():
        name = torch.cuda.get_device_name(device)
        err.print(f"first use of this {name}: its kernels are compiled and checked, once; that takes a while")


def step_number(text: str | None) -> int | None:
    """N of ``step_N`` (or of N)."""
    if text is None:
        return None
    number = text.removeprefix("step_")
    if not number.isdigit():
        raise UserError(f"--from takes a checkpoint such as step_200, not {text!r}", wrong_use=True)
    return int(number)


def share(value: float) -> str:
    return f"{100 * value:.2f} %"


COMMON = (
    "exact_accuracy", "cell_accuracy", "count", "mean_steps", "converged", "valid", "interval", "seconds",
    "puzzles_per_second",
)  # fmt: skip
"""What every evaluation has; the rest of its JSON are measures of its task."""


def measures(evaluation: dict[str, Any]) -> dict[str, float]:
    """The task's own measures in an evaluation's JSON."""
    return {name: value for name, value in evaluation.items() if name not in COMMON}


def accuracy(evaluation: dict[str, Any], *, own_tables: bool) -> list[tuple[str, str]]:
    """Rows of a table about an evaluation's JSON; with the task's measures, where no table of its own has them."""
    low, high = evaluation["interval"]
    own = {} if own_tables else measures(evaluation)
    return [
        ("exact accuracy", f"{share(evaluation['exact_accuracy'])}  (95 %: {share(low)} to {share(high)})"),
        ("cell accuracy", share(evaluation["cell_accuracy"])),
        *((name.replace("_", " "), f"{value:.4f}") for name, value in own.items()),
    ]


@contextmanager
def counting(label: str) -> Iterator[Any]:
    """A callback (done, all) that drives a bar with count and time left on stderr."""
    columns = TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value))


def say(text: str, facts: dict[str, Any], as_json: bool) -> None:
    """What a command made, in words or as JSON."""
    if as_json:
        print_json(facts)
    else:
        out.print(text, soft_wrap=True)


def check_folder(output: Path) -> None:
    if not output.parent.is_dir():
        raise UserError(f"--out {output}: there is no folder {output.parent}", wrong_use=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file whole or not at all."""
    from trm_fast.tasks.files import write_text

    write_text(path, "".join(f"{line}\n" for line in lines))
