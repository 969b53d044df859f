"""``trm-fast data hermes|openai|xlam|...``: reads, summarizes and converts conversations with tools.

Each format of conversations registers the names of its commands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup
from typer.main import get_command

from trm_fast.cli.console import MAX_SEED, Json, check_outputs, err, out, print_json, write_lines
from trm_fast.errors import UserError
from trm_fast.writing import is_stream

if TYPE_CHECKING:
    from trm_fast.tasks.tool_calling import Loaded

Split = Callable[[list[Any]], tuple[list[Any], list[Any]]]
MAX_SHOWN = 20
"""The maximum number of refused rows to print."""

Source = Annotated[str, typer.Argument(metavar="FILE|hf:NAME", help="JSON or JSONL, also .gz, or a hub data set.")]
Preview = Annotated[int, typer.Option(min=0, max=10**9, help="Print the first N conversations.")]
Refused = Annotated[Path | None, typer.Option(help="JSONL file for the refused rows: where each is, and the reason.")]
HubSplit = Annotated[str, typer.Option("--hub-split", help="The split of hf:NAME to read.")]
Limit = Annotated[int | None, typer.Option(min=1, max=10**9, help="Read only the first N conversations.")]
To = Annotated[str, typer.Option("--to", metavar="FORMAT", help="The format to write --out in.")]
Out = Annotated[Path | None, typer.Option("--out", help="The .json or .jsonl file to write, also .gz.")]
ValSplit = Annotated[
    float,
    typer.Option(min=0, max=0.9, help="Share to hold out; --out NAME.json writes NAME_train.json and NAME_val.json."),
]
TrainSize = Annotated[
    int | None, typer.Option(min=1, max=10**9, help="Conversations in NAME_train.json; by default all others.")
]
ValSize = Annotated[
    int | None,
    typer.Option(min=1, max=10**9, help="Conversations in NAME_val.json, drawn at random; by default all others."),
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the split.")]


@cache
def format_commands() -> dict[str, Any]:
    """The commands that the formats register, by name."""
    from trm_fast.tasks.tool_calling import formats

    app = typer.Typer()
    app.callback()(lambda: None)  # makes it a group even with a single command
    for form in formats():
        for name, about in form.commands.items():
            make = _make_converter if about.writes else _make_reader
            command = make(name, form.name, about.writes)
            command.__name__, command.__doc__ = name, f"{about.about}\n\n[bold]Example[/bold]\n\n  {about.example}"
            app.command(name)(command)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return dict(group.commands)


class WithFormats(TyperGroup):
    """A group that also has a command for each format. Formats are imported only when the group is used, because that
    takes longer than all other commands need to start."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*format_commands(), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or format_commands().get(cmd_name)


def _make_converter(name: str, kind: str, writes: str) -> Callable[..., None]:
    def command(
        source: Source, output: Out = None, to: To = writes, val_split: ValSplit = 0.0, train_size: TrainSize = None,
        val_size: ValSize = None, preview: Preview = 0, limit: Limit = None, refused: Refused = None,
        hub_split: HubSplit = "train", seed: Seed = 0, json_output: Json = False,
    ) -> None:  # fmt: skip
        sized = train_size is not None or val_size is not None
        option = "--train-size and --val-size" if sized else "--val-split"
        if sized and val_split:
            raise UserError("give --val-split or --train-size and --val-size, not both", usage_error=True)
        if (sized or val_split) and output is None:
            raise UserError(f"{option}: --out is missing, the name for the files of the two parts", usage_error=True)
        check_outputs(out=output, refused=refused)
        if (sized or val_split) and output is not None and is_stream(output):
            raise UserError(f"{option}: two files are written, --out {output} must be a file's name", usage_error=True)
        write_row = _writer(to)
        loaded = _load(source, kind, limit, hub_split)
        split = _splitter(val_split, train_size, val_size, seed)
        written = None if output is None else _write(loaded, output, write_row, split)
        _report(name, source, loaded, preview, refused, written, json_output)

    return command


def _make_reader(name: str, kind: str, _: str) -> Callable[..., None]:
    def command(
        source: Source, preview: Preview = 0, limit: Limit = None, refused: Refused = None, json_output: Json = False
    ) -> None:
        check_outputs(refused=refused)
        _report(name, source, _load(source, kind, limit), preview, refused, None, json_output)

    return command


def _writer(name: str) -> Callable[[Any], dict[str, Any]]:
    from trm_fast.tasks.tool_calling import formats

    writers = {form.name: form.to_row for form in formats() if form.write is not None}
    if name not in writers:
        raise UserError(
            f"--to {name}: this format cannot be written; choose from {', '.join(writers)}", usage_error=True
        )
    return writers[name]


def _load(source: str, kind: str, limit: int | None, hub_split: str = "train") -> Loaded:
    from trm_fast.tasks.tool_calling import load

    return load(source, kind, hub_split, limit)


def _splitter(val_split: float, train_size: int | None, val_size: int | None, seed: int) -> Split | None:
    """Splits conversations into a training and a validation part as the options say; None if they don't."""
    from trm_fast.tasks.tool_calling import split_counts, split_rows

    if train_size is not None or val_size is not None:
        return lambda rows: split_counts(rows, train_size, val_size, seed)
    return (lambda rows: split_rows(rows, val_split, seed)) if val_split else None


def _write(
    loaded: Loaded, output: Path, write_row: Callable[[Any], dict[str, Any]], split: Split | None
) -> dict[str, int]:
    from trm_fast.tasks.tool_calling import Refusal, Refused, write

    parts = {output: loaded.conversations}
    if split is not None and loaded.conversations:
        train, validation = split(loaded.conversations)
        if neither := len(loaded.conversations) - len(train) - len(validation):
            err.print(f"{neither:,} of {len(loaded.conversations):,} conversations are in neither part")
        stem, dot, ending = output.name.partition(".")
        named = (("train", train), ("val", validation))
        parts = {output.with_name(f"{stem}_{name}{dot}{ending}"): part for name, part in named}
    written: dict[Path, list[Any]] = {}
    for path, conversations in parts.items():
        rows = written[path] = []
        for conversation in conversations:
            try:
                rows.append(write_row(conversation))
            except Refused as error:
                loaded.refused.append(Refusal(conversation.where, error.field, error.reason))
    if not any(written.values()):
        return {}
    for path, rows in written.items():
        write(path, rows)
    return {str(path): len(rows) for path, rows in written.items()}


def _report(
    name: str, source: str, loaded: Loaded, preview: int, refused: Path | None, written: dict[str, int] | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Prints what was read and ``written`` (None if that was not wanted).

    Raises:
        UserError: every row was refused.
    """
    from trm_fast.tasks.tool_calling import refusal_note

    refusals, counts = [row.to_json() for row in loaded.refused], loaded.counts()
    if refused is not None:
        write_lines(refused, (json.dumps(row, ensure_ascii=False) for row in refusals))
    if as_json:
        print_json({"source": source, "format": name} | counts | {"written": written or {}, "refusals": refusals})
        for note in refusal_note(loaded, source):
            err.print(note, style="yellow", soft_wrap=True)
    else:
        _print(name, source, loaded, preview, counts, written or {})
    if not loaded.conversations or written == {}:
        action = "written" if loaded.conversations else "read"
        raise UserError(f"{loaded.refused[0]} (none of {len(loaded.refused)} rows can be {action})")


def _print(
    name: str, source: str, loaded: Loaded, preview: int, counts: dict[str, Any], written: dict[str, int]
) -> None:
    from trm_fast.tasks.tool_calling import draw_conversation

    for conversation in loaded.conversations[:preview]:
        out.print(draw_conversation(conversation))
    out.print(f"{name}: {source}", soft_wrap=True)
    table = Table(show_header=False)
    decisions = counts.pop("decisions", {})
    for label, count in [*((key.replace("_", " "), n) for key, n in counts.items()), *decisions.items()]:
        table.add_row(label, f"{count:,}")
    for path, count in written.items():
        table.add_row("written", f"{count:,} rows in {path}")
    out.print(table)
    _print_rows("without an answer", [f"{c.where} {c.id}".strip() for c in loaded.conversations if not c.has_answer])
    _print_rows("refused", list(map(str, loaded.refused)), "; --refused FILE writes all of them")


def _print_rows(title: str, rows: list[str], more: str = "") -> None:
    if rows:
        out.print(title, style="yellow")
    for row in rows[:MAX_SHOWN]:
        out.print(row, soft_wrap=True)
    if len(rows) > MAX_SHOWN:
        out.print(f"... and {len(rows) - MAX_SHOWN} more{more}")
