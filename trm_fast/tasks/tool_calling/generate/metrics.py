"""What generated calls get right, with intervals and the baselines of copying beside them."""

from __future__ import annotations

from collections.abc import Sequence

from trm_fast.tasks.statistics import add_f1, add_share
from trm_fast.tasks.tool_calling.call_metrics import Calls, add_call_measures, copied_calls, flags
from trm_fast.tasks.tool_calling.data.conversation import Conversation
from trm_fast.tasks.tool_calling.matching import expected_calls
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon


def measure_calls(rows: Sequence[Conversation], calls: Calls, lexicon: Lexicon) -> dict[str, float]:
    """``NAME``, ``NAME_low`` and ``NAME_high`` (95 %), ``NAME_baseline``; a measure without a case is not there.

    ``tool_accuracy``: rows with one call and two or more tools, whether that tool alone is called; ``tool_set_exact``:
    rows that leave some tool out; ``call_exact``: all calls of a row with calls, in any order; ``offered``: calls that
    name an offered tool. Baselines as for chosen tools, the number of called tools given.
    """
    expected = [expected_calls(row) for row in rows]
    names = [{call.name for call in row_calls} for row_calls in expected]
    copied = [copied_calls(row, lexicon, len(row_names)) for row, row_names in zip(rows, names, strict=True)]
    metrics: dict[str, float] = {"generated": float(len(rows))}
    calls_expected, calls_made = flags(map(bool, expected)), flags(map(bool, calls))
    add_share(metrics, "decision_accuracy", calls_expected == calls_made, calls_expected)
    add_f1(metrics, "decision_f1", calls_expected, calls_made)
    right, nearest = (
        flags({call.name for call in row_calls} == n for row_calls, n in zip(part, names, strict=True))
        for part in (calls, copied)
    )
    single = flags(len(row_calls) == 1 and len(row.tools) > 1 for row_calls, row in zip(expected, rows, strict=True))
    choice = calls_expected & flags(len(n) < len(row.tools) for n, row in zip(names, rows, strict=True))
    add_share(metrics, "tool_accuracy", right[single], nearest[single])
    add_share(metrics, "tool_set_exact_open", right[choice], nearest[choice])
    offered = [
        any(tool.name == call.name for tool in row.tools)
        for row_calls, row in zip(calls, rows, strict=True)
        for call in row_calls
    ]
    add_share(metrics, "offered", flags(offered))
    add_call_measures(metrics, rows, expected, calls, copied)
    return {name: value for name, value in metrics.items() if value == value}
