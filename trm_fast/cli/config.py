"""``trm-fast config``: every key of a configuration, with its value, default and meaning."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Annotated, Any

import typer
from rich.table import Table

from trm_fast.cli.console import Json, out, print_json
from trm_fast.errors import UserError


def config(
    reference: Annotated[
        str | None,
        typer.Argument(metavar="[PRESET]", help="A preset, a run folder or a YAML file; without it, all defaults."),
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Show only the keys whose values differ from OTHER's, also a preset..."),
    ] = None,
    json_output: Json = False,
) -> None:
    """
    Shows every key of a configuration: its value, its default, and what it does.

    [bold]Examples[/bold]

      trm-fast config

      trm-fast config sudoku-4x4

      trm-fast config sudoku-cpu --diff sudoku-extreme

      trm-fast config runs/first --json
    """
    from trm_fast.training.keys import changed_keys, config_keys, default_keys, read_sections

    if reference is None:
        if diff is not None:
            raise UserError("--diff compares with a preset, a run or a file: name that first", usage_error=True)
        _show(None, default_keys(), json_output)
        return
    keys = config_keys(*read_sections(reference))
    if diff is None:
        _show(reference, keys, json_output)
        return
    rows = changed_keys(keys, config_keys(*read_sections(diff)))
    if json_output:
        names = ("key", "value", "other", "meaning")
        print_json({"config": reference, "other": diff, "keys": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    table = Table("key", reference, diff, "meaning")
    for name, first, second, meaning in rows:
        table.add_row(name, _text(first), _text(second), meaning)
    out.print(table if rows else f"{reference} and {diff} have the same values")


def _show(reference: str | None, keys: list[Any], as_json: bool) -> None:
    if as_json:
        print_json({"config": reference, "keys": [key.to_json() for key in keys]})
        return
    for section, group in groupby(keys, key=lambda key: key.name.partition(".")[0]):
        columns = ("default",) if reference is None else ("value", "set by", "default")
        table = Table(section, *columns, "type", "meaning", title_justify="left")
        for key in group:
            values = () if reference is None else (_text(key.value), key.set_by)
            table.add_row(key.name.partition(".")[2], *values, _text(key.default), key.type, key.meaning)
        out.print(table)


def _text(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
