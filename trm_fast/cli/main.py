"""The program ``trm-fast``: its commands, and its exit status (0, 1 for a failure, 2 for a usage error)."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, NoReturn

import typer
from typer.rich_utils import rich_format_error

from trm_fast.cli import (
    agent,
    call,
    config,
    data,
    evaluate,
    info,
    interchange,
    plot,
    serve,
    solve,
    sweep,
    tokenizer,
    train,
)
from trm_fast.cli.console import PuzzleCommand
from trm_fast.errors import UserError, in_lines, shortened
from trm_fast.version import __version__

app = typer.Typer(
    help="Tiny Recursive Models: train, evaluate and solve.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
EXTRA = {"allow_extra_args": True}  # console.refuse_arguments explains them
app.command(rich_help_panel="Main", context_settings=EXTRA)(train.train)
app.command(name="eval", rich_help_panel="Main")(evaluate.evaluate)
app.command(rich_help_panel="Main", cls=PuzzleCommand)(solve.solve)
app.command(rich_help_panel="Main")(call.call)
app.command(rich_help_panel="Main", context_settings=EXTRA)(sweep.sweep)
app.command(rich_help_panel="Main")(serve.serve)
app.command(rich_help_panel="Agents")(agent.agent)
app.command(rich_help_panel="Agents")(agent.mcp)
app.command(rich_help_panel="Tools")(config.config)
app.add_typer(data.app, name="data", rich_help_panel="Tools")
app.add_typer(tokenizer.app, name="tokenizer", rich_help_panel="Tools")
app.command(rich_help_panel="Tools")(plot.plot)
app.command(name="import", rich_help_panel="Tools")(interchange.import_)
app.command(rich_help_panel="Tools")(interchange.export)
app.command(rich_help_panel="Tools")(info.info)

USAGE = 300
"""The largest number of characters of a message about a wrong option, which is printed in a box."""

OUT_OF_MEMORY = (
    "the memory is used up. To use less, lower --batch-size or the size of the model, or train with "
    "--set training.recompute=latent."
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"trm-fast {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    # OpenMP's threads spin between two kernels by default. With one other busy process on two cores a training step of
    # sudoku-4x4 then takes 290 ms instead of 30 (on an idle machine 11 ms, either way). OpenMP reads this when torch
    # loads it.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be text that the terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error), 2 if error.usage_error else 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:  # the program that reads the output has exited, as in `trm-fast solve ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        _fail(str(error), 1)
    except MemoryError:
        _fail(OUT_OF_MEMORY, 1)
    except typer.Abort:
        _fail("interrupted", 1)
    except Exception as error:
        _report(error)
    raise SystemExit(status if isinstance(status, int) else 0)


def _report(error: Exception) -> NoReturn:
    """Ends with a message about an exception that is no UserError: a wrong option, too little memory, or a bug."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's exceptions for wrong options
        if isinstance(getattr(error, "message", None), str):
            error.message = shortened(error.message, USAGE)  # type: ignore[attr-defined]
        rich_format_error(error)  # type: ignore[arg-type]
        raise SystemExit(error.exit_code)
    if os.environ.get("TRM_FAST_DEBUG"):
        raise error
    text = (str(error) or type(error).__name__).splitlines()[0]
    if type(error).__name__ == "OutOfMemoryError":  # torch's, for a device
        _fail(f"{text}\n{OUT_OF_MEMORY}", 1)
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text:
        _fail(OUT_OF_MEMORY, 1)
    if isinstance(error, RecursionError):
        _fail("the input is nested too deeply", 1)
    _fail(f"a bug in trm-fast ({type(error).__name__}): {text}\nTRM_FAST_DEBUG=1 shows where.", 1)


def _fail(message: str, code: int) -> NoReturn:
    print(in_lines(f"error: {shortened(message)}"), file=sys.stderr)
    raise SystemExit(code)
