"""Metrics of calls, with their 95 % intervals and a baseline that copies from the request, and their tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from trm_fast.tasks.statistics import Flags, add_f1, add_share
from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool
from trm_fast.tasks.tool_calling.data.validation import problems
from trm_fast.tasks.tool_calling.matching import accepts, argument_f1, expected_calls, same_calls
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon
from trm_fast.tasks.tool_calling.text.values import cast, kind_of

QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|(?<!\w)'([^']+)'(?!\w)|`([^`]+)`")
NUMBERS = re.compile(r"(?<!\w)-?\d+(?:[.,]\d+)*(?!\w)")
TITLES = {
    "tool_accuracy": "Tool Accuracy (one call)",
    "tool_set_exact": "Tool Set Exact (number given)",
    "tool_set_exact_open": "Tool Set Exact (number not given)",
    "decision_accuracy": "Decision Accuracy",
    "decision_f1": "Decision F1",
    "call_exact": "Call Exact",
    "argument_f1": "Argument F1",
    "schema_valid": "Schema Valid",
    "offered": "Offered Tool Named",
    "ast_match": "AST Match",
    "known": "Offered Tools Known (others are never called)",
}


Calls = Sequence[Sequence[Call]]
"""The calls of each conversation."""


def measure_calls(
    rows: Sequence[Conversation], calls: Calls, lexicon: Lexicon, counted: Calls | None = None,
    called: frozenset[str] = frozenset(),
) -> dict[str, float]:  # fmt: skip
    """Metrics of the calls to conversations.

    - ``decision_accuracy``, ``decision_f1``: whether any tool is called. - ``tool_accuracy``: of conversations with one
    expected call and several tools, whether only that tool is called. - ``tool_set_exact_open``: of conversations that
    expect calls but not to all tools, whether the called tools are the expected ones. - ``call_exact``,
    ``argument_f1``: of conversations that expect calls, whether all calls are right, in any order, and the F1 score of
    their arguments. - ``schema_valid``: of all calls, whether they fit their tools' schemas. - ``ast_match``: of a
    benchmark's questions, whether their accepted answers match.

    The baseline calls the nearest tools by word overlap, as many as are expected, and copies quoted strings and numbers
    from the request in order.

    Args:
        rows: the conversations.
        calls: the model's calls to each of them.
        lexicon: measures word overlap for the baseline.
        counted: the model's calls when it is told the number of tools to call. Adds ``tool_set_exact``, which is of
            these calls, as is ``tool_accuracy``; both also as ``_seen`` and ``_unseen``.
        called: the tools called in training; a conversation counts as seen if it expects no other tool.

    Returns:
        ``NAME``, ``NAME_low`` and ``NAME_high`` (95 % interval) and ``NAME_baseline``. Metrics without a case are left
        out.
    """
    expected = [expected_calls(row) for row in rows]
    names = [_names(row_calls) for row_calls in expected]
    copied = [copied_calls(row, lexicon, len(row_names)) for row, row_names in zip(rows, names, strict=True)]
    metrics: dict[str, float] = {}
    calls_expected, calls_made = flags(map(bool, expected)), flags(map(bool, calls))
    add_share(metrics, "decision_accuracy", calls_expected == calls_made, calls_expected)
    add_f1(metrics, "decision_f1", calls_expected, calls_made)
    single = flags(len(row_calls) == 1 and len(row.tools) > 1 for row_calls, row in zip(expected, rows, strict=True))
    choice = calls_expected & flags(len(n) < len(row.tools) for n, row in zip(names, rows, strict=True))
    named, nearest, told = (
        flags(_names(row_calls) == n for row_calls, n in zip(part, names, strict=True))
        for part in (calls, copied, calls if counted is None else counted)
    )
    if counted is None:
        add_share(metrics, "tool_accuracy", told[single], nearest[single])
    else:
        seen = flags(bool(row_names) and row_names <= called for row_names in names)
        for name, cases in (("tool_accuracy", single), ("tool_set_exact", choice)):
            for suffix, part in (("", cases), ("_seen", cases & seen), ("_unseen", cases & ~seen)):
                add_share(metrics, name + suffix, told[part], nearest[part])
    add_share(metrics, "tool_set_exact_open", named[choice], nearest[choice] if counted is None else None)
    scored = [i for i, row in enumerate(rows) if row.accepted is None and expected[i]]
    exact, baseline_exact = (flags(same_calls(expected[i], part[i]) for i in scored) for part in (calls, copied))
    add_share(metrics, "call_exact", exact, baseline_exact)
    metrics["argument_f1"], metrics["argument_f1_baseline"] = (
        argument_f1([expected[i] for i in scored], [part[i] for i in scored]) for part in (calls, copied)
    )
    every = [(call, row.tools) for row_calls, row in zip(calls, rows, strict=True) for call in row_calls]
    add_share(metrics, "schema_valid", flags(not problems(call, tools) for call, tools in every))
    judged = [i for i, row in enumerate(rows) if row.accepted is not None]
    match, baseline_match = (
        flags(accepts(part[i], rows[i].accepted or []) for i in judged) for part in (calls, copied)
    )
    add_share(metrics, "ast_match", match, baseline_match)
    return {name: value for name, value in metrics.items() if value == value}


def _names(calls: Iterable[Call]) -> set[str]:
    return {call.name for call in calls}


def copied_calls(row: Conversation, lexicon: Lexicon, count: int) -> list[Call]:
    """The calls of the baseline: the ``count`` nearest tools by word overlap, with the request's numbers and quoted
    strings, in order, as the arguments that they fit."""
    numbers = [m.group(0) for m in NUMBERS.finditer(row.query)]
    quoted = [next(g for g in m.groups() if g) for m in QUOTED.finditer(row.query)]
    nearest = {tool.name for tool in lexicon.nearest(row.query, row.tools, count)}
    return [Call(tool.name, _copied(tool, numbers, quoted)) for tool in row.tools if tool.name in nearest]


def _copied(tool: Tool, numbers: list[str], quoted: list[str]) -> dict[str, Any]:
    """The arguments of a call; removes the copied texts from ``numbers`` and ``quoted``."""
    values = {}
    for name, schema in tool.parameters["properties"].items():
        if name not in tool.parameters["required"] and "default" in schema and not quoted and not numbers:
            continue
        source = numbers if kind_of(schema) in ("integer", "number") else quoted
        at = next((i for i, text in enumerate(source) if cast(text, schema) is not None), None)
        if at is not None:
            values[name] = cast(source.pop(at), schema)
    return values


def flags(values: Iterable[bool]) -> Flags:
    """An array of booleans."""
    return np.array(list(values), dtype=np.bool_)


def tables(metrics: dict[str, float]) -> list[Any]:
    """The metrics of ``measure_calls`` as a table to print."""
    suffixes = {"": "", "_seen": ", tools called in training", "_unseen": ", others"}
    return [
        results_table(metrics, {n + s: title + more for n, title in TITLES.items() for s, more in suffixes.items()})
    ]


def results_table(
    metrics: Mapping[str, float], titles: Mapping[str, str], show: Callable[[float], Any] = "{:.4f}".format
) -> Table:
    """A table with a row for each of ``titles`` that ``metrics`` has."""
    table = Table("Metric", "Value", "95 %", "Baseline", title="Evaluation Results")
    for name, title in titles.items():
        if name in metrics:
            lower, upper, baseline = (metrics.get(f"{name}_{part}") for part in ("low", "high", "baseline"))
            interval = "" if lower is None or upper is None else f"{lower:.4f} to {upper:.4f}"
            table.add_row(title, show(metrics[name]), interval, "" if baseline is None else f"{baseline:.4f}")
    return table
