"""What a model that chooses tools gets right, each measure with its interval and a baseline beside it."""

from __future__ import annotations

from collections.abc import Sequence

from trm_fast.tasks.base import Array
from trm_fast.tasks.statistics import add_f1, add_share
from trm_fast.tasks.tool_calling.call_metrics import add_call_measures, copied_calls, flags, nearest_tools
from trm_fast.tasks.tool_calling.data.conversation import Conversation
from trm_fast.tasks.tool_calling.matching import expected_calls
from trm_fast.tasks.tool_calling.select.calls import calls_of
from trm_fast.tasks.tool_calling.select.request import Request, RequestLimits
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon


def measure(
    rows: Sequence[Conversation], requests: Sequence[Request], answers: Array, limits: RequestLimits, lexicon: Lexicon,
    called: frozenset[str],
) -> dict[str, float]:  # fmt: skip
    """``NAME``, ``NAME_low`` and ``NAME_high`` (95 %), ``NAME_baseline``; a measure without a case is not there.

    ``tool_accuracy``: rows with one call and two or more tools. ``tool_set_exact``: rows that leave some tool out, with
    the number of called tools given; ``_open`` without it. Both again as ``_seen`` and ``_unseen``: whether every
    called tool was ``called`` in training. ``call_exact``: rows with calls, all of them right, in any order.
    Baselines: word overlap, and for arguments quoted strings and numbers copied in order.
    """
    expected = [expected_calls(row) for row in rows]
    names = [{call.name for call in row_calls} for row_calls in expected]
    calls = [calls_of(request, answer, limits) for request, answer in zip(requests, answers, strict=True)]
    copied = [copied_calls(row, lexicon, len(row_names)) for row, row_names in zip(rows, names, strict=True)]
    metrics: dict[str, float] = {}
    seen = flags(bool(row_names) and row_names <= called for row_names in names)
    calls_expected, calls_made = flags(map(bool, expected)), flags(map(bool, calls))
    add_share(metrics, "decision_accuracy", calls_expected == calls_made, calls_expected)
    add_f1(metrics, "decision_f1", calls_expected, calls_made)
    single = flags(len(row_calls) == 1 and len(row.tools) > 1 for row_calls, row in zip(expected, rows, strict=True))
    choice = calls_expected & flags(len(n) < len(row.tools) for n, row in zip(names, rows, strict=True))
    counted = flags(
        {call.name for call in calls_of(request, answer, limits, count=len(row_names))} == row_names
        for request, answer, row_names in zip(requests, answers, names, strict=True)
    )
    nearest = flags(nearest_tools(row, lexicon, len(n)) == n for row, n in zip(rows, names, strict=True))
    for name, cases in (("tool_accuracy", single), ("tool_set_exact", choice)):
        for suffix, part in (("", cases), ("_seen", cases & seen), ("_unseen", cases & ~seen)):
            add_share(metrics, name + suffix, counted[part], nearest[part])
    uncounted = flags({call.name for call in row_calls} == n for row_calls, n in zip(calls, names, strict=True))
    add_share(metrics, "tool_set_exact_open", uncounted[choice])
    add_call_measures(metrics, rows, expected, calls, copied)
    return {name: value for name, value in metrics.items() if value == value}
