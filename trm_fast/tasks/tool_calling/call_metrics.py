"""Scores predicted tool calls, compares them with a copying baseline, and makes tables of the results."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from trm_fast.tasks.statistics import Flags, add_f1, add_share
from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool
from trm_fast.tasks.tool_calling.data.validation import problems
from trm_fast.tasks.tool_calling.matching import argument_f1, ast_match, expected_calls, same_calls
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon
from trm_fast.tasks.tool_calling.text.values import cast, json_type

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
    rows: Sequence[Conversation], calls: Calls, lexicon: Lexicon, calls_with_count: Calls | None = None,
    called: frozenset[str] = frozenset(),
) -> dict[str, float]:  # fmt: skip
    """Scores the calls predicted for conversations.

    - ``decision_accuracy``, ``decision_f1``: whether any tool is called.
    - ``tool_accuracy``: the share of conversations in which exactly the expected tool is called. Counts conversations
      with one expected call and several tools.
    - ``tool_set_exact_open``: the share in which the called tools are the expected ones. Counts conversations that
      expect calls, but not to all tools.
    - ``tool_set_exact``: like ``tool_set_exact_open``, with the model told how many tools to call.
    - ``call_exact``: the share in which all calls are right, in any order. Counts conversations that expect calls,
      except a benchmark's questions.
    - ``argument_f1``: the F1 score of the arguments in these conversations.
    - ``schema_valid``: the share of predicted calls that are valid against their tools' schemas.
    - ``ast_match``: the share of a benchmark's questions whose predicted calls match the accepted ones, compared as the
      leaderboard does (``matching.ast_match``).

    The baseline calls the nearest tools by word overlap, as many as are expected, and copies quoted strings and numbers
    from the request in order. For ``decision_accuracy`` the baseline always calls a tool.

    Args:
        rows: the conversations.
        calls: the model's calls for each of them.
        lexicon: measures word overlap for the baseline.
        calls_with_count: the model's calls if it is told the number of tools to call. If given, ``tool_accuracy`` and
            ``tool_set_exact`` are computed from these, and also split into ``_seen`` and ``_unseen``.
        called: the tools called in training. A conversation is seen if it expects calls, and only to these tools.

    Returns:
        ``NAME``, the limits of its 95 % interval ``NAME_low`` and ``NAME_high``, and the baseline's ``NAME_baseline``.
        ``argument_f1`` has no interval. ``decision_f1``, ``schema_valid`` and, if ``calls_with_count`` is given,
        ``tool_set_exact_open`` have no baseline. Metrics without cases are left out.
    """
    expected = [expected_calls(row) for row in rows]
    names = [_names(row_calls) for row_calls in expected]
    copied = [copied_calls(row, lexicon, len(row_names)) for row, row_names in zip(rows, names, strict=True)]
    metrics: dict[str, float] = {}
    calls_expected, calls_made = flags(map(bool, expected)), flags(map(bool, calls))
    add_share(metrics, "decision_accuracy", calls_expected == calls_made, calls_expected)
    add_f1(metrics, "decision_f1", calls_expected, calls_made)
    one_call = flags(len(row_calls) == 1 and len(row.tools) > 1 for row_calls, row in zip(expected, rows, strict=True))
    has_choice = calls_expected & flags(len(n) < len(row.tools) for n, row in zip(names, rows, strict=True))
    names_exact, baseline_names_exact, names_exact_with_count = (
        flags(_names(row_calls) == row_names for row_calls, row_names in zip(predicted, names, strict=True))
        for predicted in (calls, copied, calls if calls_with_count is None else calls_with_count)
    )
    if calls_with_count is None:
        add_share(metrics, "tool_accuracy", names_exact[one_call], baseline_names_exact[one_call])
    else:
        seen = flags(bool(row_names) and row_names <= called for row_names in names)
        for name, cases in (("tool_accuracy", one_call), ("tool_set_exact", has_choice)):
            for suffix, subset in (("", cases), ("_seen", cases & seen), ("_unseen", cases & ~seen)):
                add_share(metrics, name + suffix, names_exact_with_count[subset], baseline_names_exact[subset])
    open_baseline = baseline_names_exact[has_choice] if calls_with_count is None else None
    add_share(metrics, "tool_set_exact_open", names_exact[has_choice], open_baseline)
    scored = [i for i, row in enumerate(rows) if row.accepted is None and expected[i]]
    exact, baseline_exact = (
        flags(same_calls(expected[i], predicted[i]) for i in scored) for predicted in (calls, copied)
    )
    add_share(metrics, "call_exact", exact, baseline_exact)
    metrics["argument_f1"], metrics["argument_f1_baseline"] = (
        argument_f1([expected[i] for i in scored], [predicted[i] for i in scored]) for predicted in (calls, copied)
    )
    calls_with_tools = [(call, row.tools) for row_calls, row in zip(calls, rows, strict=True) for call in row_calls]
    add_share(metrics, "schema_valid", flags(not problems(call, tools) for call, tools in calls_with_tools))
    benchmark_rows = [i for i, row in enumerate(rows) if row.accepted is not None]
    match, baseline_match = (
        flags(ast_match(predicted[i], rows[i].accepted or []) for i in benchmark_rows) for predicted in (calls, copied)
    )
    add_share(metrics, "ast_match", match, baseline_match)
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def _names(calls: Iterable[Call]) -> set[str]:
    return {call.name for call in calls}


def copied_calls(row: Conversation, lexicon: Lexicon, count: int) -> list[Call]:
    """The baseline's calls of the ``count`` nearest tools by word overlap. Each argument gets the first number or
    quoted string of the request that its schema accepts and that no earlier argument has used."""
    numbers = [m.group(0) for m in NUMBERS.finditer(row.query)]
    quoted = [next(g for g in m.groups() if g) for m in QUOTED.finditer(row.query)]
    nearest = {tool.name for tool in lexicon.nearest(row.query, row.tools, count)}
    return [Call(tool.name, _copied(tool, numbers, quoted)) for tool in row.tools if tool.name in nearest]


def _copied(tool: Tool, numbers: list[str], quoted: list[str]) -> dict[str, Any]:
    """The arguments of a call; removes the copied texts from ``numbers`` and ``quoted``."""
    values = {}
    for name, schema in tool.arguments.items():
        if name not in tool.parameters["required"] and "default" in schema and not quoted and not numbers:
            continue
        source = numbers if json_type(schema) in ("integer", "number") else quoted
        index = next((i for i, text in enumerate(source) if cast(text, schema) is not None), None)
        if index is not None:
            values[name] = cast(source.pop(index), schema)
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
