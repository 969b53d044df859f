"""``trm-fast data hermes|xlam|swift|sgd|bfcl``: reads conversations with tools, says what is in them, converts them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from trm_fast.cli.console import Json, out, print_json, write_lines
from trm_fast.errors import UserError

FORMATS = {"hermes": "hermes", "xlam": "swift", "swift": "swift", "sgd": "slots", "bfcl": "bfcl"}
SHOWN = 20
"""Refused rows that are printed."""

Source = Annotated[str, typer.Argument(metavar="FILE|hf:NAME", help="JSON or JSONL, .gz too, or a hub data set.")]
Preview = Annotated[int, typer.Option(min=0, help="Draw the first so many conversations.")]
Refused = Annotated[Path | None, typer.Option(help="Write the refused rows' places and reasons as JSONL.")]
HubSplit = Annotated[str, typer.Option("--hub-split", help="hf:NAME: the split to read.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many conversations.")]
To = Annotated[Literal["swift", "hermes", "slots"], typer.Option("--to", help="The format that --out has.")]
Out = Annotated[Path | None, typer.Option("--out", help="The .json or .jsonl to write, .gz too.")]
ValSplit = Annotated[
    float, typer.Option(min=0, max=0.9, help="Share held out: --out NAME.json becomes NAME_train.json, NAME_val.json.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the split.")]


def _converting(kind: str, to: Literal["swift", "hermes", "slots"], about: str, example: str) -> Callable[..., None]:
    """The command that reads conversations of a kind; ``to``: what it writes unless it is told otherwise."""

    def command(
        source: Source, output: Out = None, to: To = to, val_split: ValSplit = 0.0, preview: Preview = 0,
        limit: Limit = None, refused: Refused = None, hub_split: HubSplit = "train", seed: Seed = 0,
        json_output: Json = False,
    ) -> None:  # fmt: skip
        _convert(kind, source, output, to, val_split, preview, limit, refused, hub_split, seed, json_output)

    command.__name__, command.__doc__ = kind, f"{about}\n\n[bold]Example[/bold]\n\n  {example}"
    return command


hermes = _converting(
    "hermes", "swift",
    "Reads ShareGPT/Hermes conversations (human/gpt or user/assistant) and writes the SWIFT agent format.",
    "trm-fast data hermes chats.json --preview 2 --val-split 0.1 --out swift.json",
)  # fmt: skip
xlam = _converting(
    "xlam", "swift",
    'Reads xLAM rows in SWIFT JSON; parameters without "properties" become JSON schema.',
    "trm-fast data xlam xlam_swift_train.json.gz --preview 1",
)  # fmt: skip
swift = _converting(
    "swift", "hermes",
    "Reads the SWIFT agent format and writes ShareGPT/Hermes.",
    "trm-fast data swift swift.json --out hermes.json",
)  # fmt: skip
sgd = _converting(
    "sgd", "slots",
    "Reads rows of history, decision, tool and slots, as the preset tool-slots learns from.",
    "trm-fast data sgd rows.jsonl --val-split 0.1 --out rows.jsonl",
)  # fmt: skip


def bfcl(
    source: Source, preview: Preview = 0, limit: Limit = None, refused: Refused = None, json_output: Json = False
) -> None:
    """
    Reads questions of the Berkeley Function-Calling Leaderboard and the answers beside them. A benchmark: it measures,
    so there is nothing to write.

    [bold]Example[/bold]

      trm-fast data bfcl bfcl_simple.jsonl.gz --preview 2
    """
    _convert("bfcl", source, None, "swift", 0.0, preview, limit, refused, "train", 0, json_output)


COMMANDS = (hermes, xlam, swift, sgd, bfcl)


def _convert(
    name: str, source: str, output: Path | None, to: str, val_split: float, preview: int, limit: int | None,
    refused: Path | None, hub_split: str, seed: int, json_output: bool,
) -> None:  # fmt: skip
    from trm_fast.tasks.tool_calling import files

    if val_split and output is None:
        raise UserError("--val-split needs --out: it says where the two parts go", wrong_use=True)
    if output is not None and not output.parent.is_dir():
        raise UserError(f"--out {output}: there is no folder {output.parent}", wrong_use=True)
    loaded = files.load(source, FORMATS[name], hub_split)
    loaded.conversations = loaded.conversations[:limit]
    written = {} if output is None else _write(loaded, output, to, val_split, seed)
    if refused is not None:
        write_lines(refused, (json.dumps(row.to_json(), ensure_ascii=False) for row in loaded.refused))
    report = {"source": source, "format": name} | loaded.counts()
    if json_output:
        print_json(report | {"written": written, "refusals": [row.to_json() for row in loaded.refused]})
        return
    _print(report, loaded, preview, written)


def _write(loaded: Any, output: Path, to: str, val_split: float, seed: int) -> dict[str, int]:
    from trm_fast.tasks.tool_calling import files
    from trm_fast.tasks.tool_calling.conversation import Refused
    from trm_fast.tasks.tool_calling.formats import WRITERS

    parts = {output: loaded.conversations}
    if val_split:
        train, held = files.split_rows(loaded.conversations, val_split, seed)
        stem, dot, ending = output.name.partition(".")
        parts = {output.with_name(f"{stem}_{name}{dot}{ending}"): p for name, p in (("train", train), ("val", held))}
    written = {}
    for path, conversations in parts.items():
        rows = []
        for conversation in conversations:
            try:
                rows.append(WRITERS[to](conversation))
            except Refused as error:
                loaded.refused.append(files.Refusal(conversation.where, error.field, error.reason))
        files.write(path, rows)
        written[str(path)] = len(rows)
    return written


def _print(report: dict[str, Any], loaded: Any, preview: int, written: dict[str, int]) -> None:
    from trm_fast.tasks.tool_calling.drawing import draw_conversation

    for conversation in loaded.conversations[:preview]:
        out.print(draw_conversation(conversation))
    out.print(f"{report['format']}: {report['source']}", soft_wrap=True)
    table = Table(show_header=False)
    for name, value in report.items():
        if name not in ("source", "format", "decisions"):
            table.add_row(name.replace("_", " "), f"{value:,}")
    for decision, count in report.get("decisions", {}).items():
        table.add_row(decision, f"{count:,}")
    for path, count in written.items():
        table.add_row("written", f"{count:,} rows in {path}")
    out.print(table)
    if loaded.refused:
        out.print("refused", style="yellow")
    for row in loaded.refused[:SHOWN]:
        out.print(f"{row.where}: {row.field}: {row.reason}", soft_wrap=True)
    if len(loaded.refused) > SHOWN:
        out.print(f"... and {len(loaded.refused) - SHOWN} more: --refused FILE writes all")
