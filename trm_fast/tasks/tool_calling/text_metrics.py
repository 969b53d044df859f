"""What generated calls get right, with intervals and the baselines of copying beside them."""

from __future__ import annotations

from collections.abc import Sequence

from trm_fast.tasks.tool_calling.conversation import Call, Conversation
from trm_fast.tasks.tool_calling.lexical import Lexicon
from trm_fast.tasks.tool_calling.schema import problems
from trm_fast.tasks.tool_calling.select_metrics import (
    accepted_calls,
    argument_f1,
    ast_match,
    copy_calls,
    flags,
    same_calls,
)  # fmt: skip
from trm_fast.tasks.tool_calling.slots_metrics import _f1, _share


def measure_calls(rows: Sequence[Conversation], said: Sequence[Sequence[Call]], lexicon: Lexicon) -> dict[str, float]:
    """``NAME``, ``NAME_low`` and ``NAME_high`` (95 %), ``NAME_baseline``; a measure without a case is not there.

    ``tool_accuracy``: rows with one call and two or more tools, whether that tool alone is called; ``tool_set_exact``:
    rows that leave some tool out; ``call_exact``: all calls of a row with calls, in any order; ``offered``: calls that
    name an offered tool. Baselines as for chosen tools, the number of called tools given.
    """
    gold = [accepted_calls(row) for row in rows]
    copied = [copy_calls(row, lexicon, len({c.name for c in g})) for row, g in zip(rows, gold, strict=True)]
    names, found_names, near = ([{c.name for c in calls} for calls in part] for part in (gold, said, copied))
    found: dict[str, float] = {"generated": float(len(rows))}
    wanted, made = flags(map(bool, gold)), flags(map(bool, said))
    _share(found, "decision_accuracy", wanted == made, wanted)
    _f1(found, "decision_f1", wanted, made)
    right = flags(n == f for n, f in zip(names, found_names, strict=True))
    nearest = flags(n == f for n, f in zip(names, near, strict=True))
    one = flags(len(g) == 1 and len(row.tools) > 1 for g, row in zip(gold, rows, strict=True))
    some = wanted & flags(len(n) < len(row.tools) for n, row in zip(names, rows, strict=True))
    _share(found, "tool_accuracy", right[one], nearest[one])
    _share(found, "tool_set_exact_open", right[some], nearest[some])
    scored = [i for i, row in enumerate(rows) if row.accepted is None and gold[i]]
    exact, copied_exact = (flags(same_calls(gold[i], part[i]) for i in scored) for part in (said, copied))
    _share(found, "call_exact", exact, copied_exact)
    found["argument_f1"], found["argument_f1_baseline"] = (
        argument_f1([gold[i] for i in scored], [part[i] for i in scored]) for part in (said, copied)
    )
    calls = [(call, row.tools) for s, row in zip(said, rows, strict=True) for call in s]
    _share(found, "offered", flags(any(t.name == call.name for t in tools) for call, tools in calls))
    _share(found, "schema_valid", flags(not problems(call, tools) for call, tools in calls))
    judged = [i for i, row in enumerate(rows) if row.accepted is not None]
    match, copied_match = (flags(ast_match(part[i], rows[i].accepted or []) for i in judged) for part in (said, copied))
    _share(found, "ast_match", match, copied_match)
    return {name: value for name, value in found.items() if value == value}
