"""What measures of calls have in common, however the calls were made: the baseline of copying, and the tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from trm_fast.tasks.statistics import Flags, add_share
from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool
from trm_fast.tasks.tool_calling.data.validation import problems
from trm_fast.tasks.tool_calling.matching import accepts, argument_f1, same_calls
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon
from trm_fast.tasks.tool_calling.text.values import cast, kind_of

QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|(?<!\w)'([^']+)'(?!\w)|`([^`]+)`")
NUMBERS = re.compile(r"(?<!\w)-?\d+(?:[.,]\d+)*(?!\w)")
NAMES = {
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
"""The calls of each row."""


def add_call_measures(
    metrics: dict[str, float], rows: Sequence[Conversation], expected: Calls, calls: Calls, baseline: Calls
) -> None:
    """``call_exact`` and ``argument_f1`` of rows that expect calls, ``schema_valid`` of calls, and ``ast_match`` of a
    benchmark's rows."""
    scored = [i for i, row in enumerate(rows) if row.accepted is None and expected[i]]
    exact, baseline_exact = (flags(same_calls(expected[i], part[i]) for i in scored) for part in (calls, baseline))
    add_share(metrics, "call_exact", exact, baseline_exact)
    metrics["argument_f1"], metrics["argument_f1_baseline"] = (
        argument_f1([expected[i] for i in scored], [part[i] for i in scored]) for part in (calls, baseline)
    )
    every = [(call, row.tools) for row_calls, row in zip(calls, rows, strict=True) for call in row_calls]
    add_share(metrics, "schema_valid", flags(not problems(call, tools) for call, tools in every))
    judged = [i for i, row in enumerate(rows) if row.accepted is not None]
    match, baseline_match = (
        flags(accepts(part[i], rows[i].accepted or []) for i in judged) for part in (calls, baseline)
    )
    add_share(metrics, "ast_match", match, baseline_match)


def copied_calls(row: Conversation, lexicon: Lexicon, count: int) -> list[Call]:
    """The baseline: the ``count`` nearest tools by word overlap; numbers and quoted strings of the request, in order,
    for the required arguments that they fit."""
    numbers = [m.group(0) for m in NUMBERS.finditer(row.query)]
    quoted = [next(g for g in m.groups() if g) for m in QUOTED.finditer(row.query)]
    nearest = nearest_tools(row, lexicon, count)
    return [Call(tool.name, _copied(tool, numbers, quoted)) for tool in row.tools if tool.name in nearest]


def _copied(tool: Tool, numbers: list[str], quoted: list[str]) -> dict[str, Any]:
    """Takes what it uses from ``numbers`` and ``quoted``."""
    values = {}
    for name, schema in tool.parameters["properties"].items():
        if name not in tool.parameters["required"] and "default" in schema and not quoted and not numbers:
            continue
        source = numbers if kind_of(schema) in ("integer", "number") else quoted
        at = next((i for i, text in enumerate(source) if cast(text, schema) is not None), None)
        if at is not None:
            values[name] = cast(source.pop(at), schema)
    return values


def nearest_tools(row: Conversation, lexicon: Lexicon, count: int) -> set[str]:
    """The names of the tools that share most words with a request."""
    order = np.argsort(-np.array(lexicon.scores(row.query, row.tools)), kind="stable")
    return {row.tools[i].name for i in order[:count]}


def flags(values: Iterable[bool]) -> Flags:
    return np.array(list(values), dtype=np.bool_)


def tables(metrics: dict[str, float]) -> list[Any]:
    results = Table("Metric", "Value", "95 %", "Baseline", title="Evaluation Results")
    for name, title in NAMES.items():
        for suffix in ("", "_seen", "_unseen"):
            if (key := name + suffix) in metrics:
                low, high, base = (metrics.get(f"{key}_{part}") for part in ("low", "high", "baseline"))
                interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
                label = title + {"": "", "_seen": ", tools called in training", "_unseen": ", others"}[suffix]
                results.add_row(label, f"{metrics[key]:.4f}", interval, "" if base is None else f"{base:.4f}")
    return [results]
