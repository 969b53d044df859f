"""The program ``trm-fast``: its commands, and its exit status (0, 1 for a failure, 2 for a usage error)."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from trm_fast.cli.console import PuzzleCommand
from trm_fast.errors import UserError, in_lines, shortened
from trm_fast.version import __version__


class Entry(NamedTuple):
    """Where a command is: a function of a module in this folder, or the commands of its ``app``."""

    panel: str
    module: str
    function: str | None = None
    options: Mapping[str, Any] = MappingProxyType({})


EXTRA = {"context_settings": {"allow_extra_args": True}}  # console.refuse_arguments explains them
COMMANDS = {
    "train": Entry("Main", "train", "train", EXTRA),
    "eval": Entry("Main", "evaluate", "evaluate"),
    "solve": Entry("Main", "solve", "solve", {"cls": PuzzleCommand}),
    "call": Entry("Main", "call", "call"),
    "sweep": Entry("Main", "sweep", "sweep", EXTRA),
    "serve": Entry("Main", "serve", "serve"),
    "agent": Entry("Agents", "agent", "agent"),
    "mcp": Entry("Agents", "agent", "mcp"),
    "config": Entry("Tools", "config", "config"),
    "data": Entry("Tools", "data"),
    "tokenizer": Entry("Tools", "tokenizer"),
    "plot": Entry("Tools", "plot", "plot"),
    "import": Entry("Tools", "interchange", "import_"),
    "export": Entry("Tools", "interchange", "export"),
    "push": Entry("Tools", "hub", "push"),
    "pull": Entry("Tools", "hub", "pull"),
    "info": Entry("Tools", "info", "info"),
}


def make_app(arguments: list[str]) -> typer.Typer:
    """The program for some arguments. If they begin with a command, the program has no other: typer builds all commands
    that it knows, which takes as long as loading a model."""
    app = typer.Typer(
        help="Tiny Recursive Models: train, evaluate and solve.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "token_normalize_func": lambda name: name.replace("_", "-"),  # --batch_size is --batch-size
        },
    )
    app.callback()(_common)
    for name in arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS:
        panel, module, function, options = COMMANDS[name]
        source = import_module(f"trm_fast.cli.{module}")
        if function is None:
            app.add_typer(source.app, name=name, rich_help_panel=panel)
        else:
            app.command(name=name, rich_help_panel=panel, **options)(getattr(source, function))
    return app


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


def _common(
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
    # Importing torch creates half a million objects, and by default Python looks for garbage after every 700 of them,
    # which takes a tenth of the time.
    gc.set_threshold(100_000, *gc.get_threshold()[1:])
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be text that the terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = make_app(sys.argv[1:])(standalone_mode=False)
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
        from typer.rich_utils import rich_format_error  # here, because it imports all of rich

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
