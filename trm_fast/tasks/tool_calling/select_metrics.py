"""What a model that chooses tools gets right, each measure with its interval and a baseline beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from trm_fast.tasks.base import Array
from trm_fast.tasks.tool_calling.calls import calls_of, wanted_calls
from trm_fast.tasks.tool_calling.conversation import Call, Conversation, Tool
from trm_fast.tasks.tool_calling.lexical import Lexicon
from trm_fast.tasks.tool_calling.schema import problems
from trm_fast.tasks.tool_calling.selection import Request, Sizes
from trm_fast.tasks.tool_calling.slots_metrics import _f1, _share
from trm_fast.tasks.tool_calling.values import cast, kind_of, same

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


def measure(
    rows: Sequence[Conversation], requests: Sequence[Request], answers: Array, sizes: Sizes, lexicon: Lexicon,
    called: frozenset[str],
) -> dict[str, float]:  # fmt: skip
    """``NAME``, ``NAME_low`` and ``NAME_high`` (95 %), ``NAME_baseline``; a measure without a case is not there.

    ``tool_accuracy``: rows with one call and two or more tools. ``tool_set_exact``: rows that leave some tool out, with
    the number of called tools given; ``_open`` without it. Both again as ``_seen`` and ``_unseen``: whether every
    called tool was called in training. ``call_exact``: rows with calls, all of them right, in any order.
    Baselines: word overlap, and for arguments quoted strings and numbers copied in order.
    """
    gold = [accepted_calls(row) for row in rows]
    said = [calls_of(r, a, sizes) for r, a in zip(requests, answers, strict=True)]
    copied = [copy_calls(row, lexicon, len({c.name for c in g})) for row, g in zip(rows, gold, strict=True)]
    found: dict[str, float] = {}
    seen = flags(bool(g) and all(c.name in called for c in g) for g in gold)
    wanted, made = flags(map(bool, gold)), flags(map(bool, said))
    _share(found, "decision_accuracy", wanted == made, wanted)
    _f1(found, "decision_f1", wanted, made)
    names = [{c.name for c in g} for g in gold]
    one = flags(len(g) == 1 and len(row.tools) > 1 for g, row in zip(gold, rows, strict=True))
    some = wanted & flags(len(n) < len(row.tools) for n, row in zip(names, rows, strict=True))
    top = flags(
        {c.name for c in calls_of(r, a, sizes, count=len(n))} == n
        for r, a, n in zip(requests, answers, names, strict=True)
    )
    nearest = flags(_nearest(row, lexicon, len(n)) == n for row, n in zip(rows, names, strict=True))
    for name, cases in (("tool_accuracy", one), ("tool_set_exact", some)):
        for suffix, part in (("", cases), ("_seen", cases & seen), ("_unseen", cases & ~seen)):
            _share(found, name + suffix, top[part], nearest[part])
    free = flags({c.name for c in s} == n for s, n in zip(said, names, strict=True))
    _share(found, "tool_set_exact_open", free[some])
    scored = [i for i, row in enumerate(rows) if row.accepted is None and gold[i]]
    _share(found, "call_exact", flags(same_calls(gold[i], said[i]) for i in scored),
           flags(same_calls(gold[i], copied[i]) for i in scored))  # fmt: skip
    found["argument_f1"], found["argument_f1_baseline"] = (
        argument_f1([gold[i] for i in scored], [calls[i] for i in scored]) for calls in (said, copied)
    )
    calls = [(call, row.tools) for s, row in zip(said, rows, strict=True) for call in s]
    _share(found, "schema_valid", flags(not problems(call, tools) for call, tools in calls))
    judged = [i for i, row in enumerate(rows) if row.accepted is not None]
    _share(found, "ast_match", flags(ast_match(said[i], rows[i].accepted or []) for i in judged),
           flags(ast_match(copied[i], rows[i].accepted or []) for i in judged))  # fmt: skip
    return {name: value for name, value in found.items() if value == value}


def accepted_calls(row: Conversation) -> list[Call]:
    """The calls of a row, or a benchmark's with the first accepted value of each argument."""
    if row.accepted is None:
        return wanted_calls(row)
    return [
        Call(name, {k: v[0] for k, v in arguments.items() if v and v[0] != ""})
        for answer in row.accepted for name, arguments in answer.items()
    ]  # fmt: skip


def ast_match(calls: Sequence[Call], accepted: Sequence[Any]) -> bool:
    """BFCL's rule: as many calls as accepted ones, each with accepted values; "" among them is leave to omit."""
    rest = [(name, arguments) for answer in accepted for name, arguments in answer.items()]
    for call in calls:
        at = next((i for i, (name, allowed) in enumerate(rest) if name == call.name and _fits(call, allowed)), None)
        if at is None:
            return False
        rest.pop(at)
    return not rest


def _fits(call: Call, allowed: dict[str, list[Any]]) -> bool:
    named = all(any(same(value, v) for v in allowed.get(name, [])) for name, value in call.arguments.items())
    return named and all(name in call.arguments or "" in values for name, values in allowed.items())


def same_calls(gold: Sequence[Call], said: Sequence[Call]) -> bool:
    """The same calls in any order."""
    rest = list(said)
    for call in gold:
        at = next(
            (i for i, o in enumerate(rest) if o.name == call.name and same(dict(o.arguments), dict(call.arguments))),
            None,
        )
        if at is None:
            return False
        rest.pop(at)
    return not rest


def argument_f1(gold: Sequence[Sequence[Call]], said: Sequence[Sequence[Call]]) -> float:
    """F1 over (tool, argument, value) of all rows."""
    hits = needed = made = 0
    for g, s in zip(gold, said, strict=True):
        mine = [(c.name, k, v) for c in g for k, v in c.arguments.items()]
        rest = [(c.name, k, v) for c in s for k, v in c.arguments.items()]
        needed, made = needed + len(mine), made + len(rest)
        for name, key, value in mine:
            at = next((i for i, (n, k, v) in enumerate(rest) if n == name and k == key and same(v, value)), None)
            if at is not None:
                rest.pop(at)
                hits += 1
    return 2 * hits / (needed + made) if needed + made else float("nan")


def copy_calls(row: Conversation, lexicon: Lexicon, count: int) -> list[Call]:
    """The baseline: the ``count`` nearest tools by word overlap; numbers and quoted strings of the request, in order,
    for the required arguments that they fit."""
    numbers = [m.group(0) for m in NUMBERS.finditer(row.query)]
    quoted = [next(g for g in m.groups() if g) for m in QUOTED.finditer(row.query)]
    made = []
    nearest = _nearest(row, lexicon, count)
    for tool in row.tools:
        if tool.name in nearest:
            made.append(Call(tool.name, _copied(tool, numbers, quoted)))
    return made


def _copied(tool: Tool, numbers: list[str], quoted: list[str]) -> dict[str, Any]:
    """Takes what it uses from ``numbers`` and ``quoted``."""
    found = {}
    for name, schema in tool.parameters["properties"].items():
        if name not in tool.parameters["required"] and "default" in schema and not quoted and not numbers:
            continue
        source = numbers if kind_of(schema) in ("integer", "number") else quoted
        at = next((i for i, text in enumerate(source) if cast(text, schema) is not None), None)
        if at is not None:
            found[name] = cast(source.pop(at), schema)
    return found


def _nearest(row: Conversation, lexicon: Lexicon, count: int) -> set[str]:
    order = np.argsort(-np.array(lexicon.scores(row.query, row.tools)), kind="stable")
    return {row.tools[i].name for i in order[:count]}


def flags(values: Iterable[bool]) -> npt.NDArray[np.bool_]:
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
