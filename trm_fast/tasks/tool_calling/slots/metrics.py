"""Computes the metrics of ``tool-slots`` models, with intervals and baselines, and makes tables of them."""

from __future__ import annotations

import math

import numpy as np
from rich.table import Table
from rich.text import Text

from trm_fast.labels import SlotKind
from trm_fast.tasks.base import Array, Examples
from trm_fast.tasks.statistics import add_f1, add_share, f1
from trm_fast.tasks.tool_calling.call_metrics import results_table
from trm_fast.tasks.tool_calling.data.validation import problems
from trm_fast.tasks.tool_calling.slots.fields import Fields, SlotLabels
from trm_fast.tasks.tool_calling.text.tokenizer import Tokenizer

TITLES = {
    "decision_accuracy": "Decision Accuracy",
    "decision_precision": "Decision Precision",
    "decision_recall": "Decision Recall",
    "decision_f1": "Decision F1",
    "tool_accuracy": "Tool Accuracy",
    "slot_presence_accuracy": "Slot Presence",
    "slot_span_exact": "Slot Span Exact",
    "slot_value_exact": "Slot Value Exact",
    "argument_f1": "Argument F1",
    "call_exact": "Call Exact",
    "schema_valid": "Schema Valid",
}


def measure(examples: Examples, answers: Array, fields: Fields, tokenizer: Tokenizer) -> dict[str, float]:
    """Metrics of answers (N, 2 + 3 F) to examples.

    Metrics of tools, calls and arguments are over examples whose right answer is a call, ``schema_valid`` over the
    predicted calls. ``slot_span_exact`` is the share of slots with a span in the dialogue whose text is right, ignoring
    case. ``slot_value_exact`` is the share of all slots with a value whose value is right. The baselines answer the
    most frequent value of the training conversations.

    Returns:
        ``NAME``, ``NAME_low`` and ``NAME_high`` (95 % interval), some with ``NAME_baseline``; the counts of the
        confusion matrix; and ``slot_presence_accuracy.SLOT``. Metrics without cases are left out.
    """
    labels, answers = SlotLabels.of(np.asarray(examples.labels)), np.asarray(answers)
    expected, predicted = labels.decision == 1, answers[:, 0] == 1
    metrics: dict[str, float] = {
        "true_calls": int((expected & predicted).sum()), "missed_calls": int((expected & ~predicted).sum()),
        "false_calls": int((~expected & predicted).sum()), "true_answers": int((~expected & ~predicted).sum()),
    }  # fmt: skip
    always = np.full(len(expected), fields.frequent["decision"] == "tool_call")
    add_share(metrics, "decision_accuracy", expected == predicted, expected == always)
    add_share(metrics, "decision_precision", expected[predicted])
    add_share(metrics, "decision_recall", predicted[expected])
    add_f1(metrics, "decision_f1", expected, predicted)
    metrics["decision_f1_baseline"] = f1(expected, np.ones(len(expected), dtype=np.bool_))
    most_frequent = fields.tool_number(fields.frequent["tool"])
    labeled = expected & (labels.tool >= 0)
    add_share(
        metrics, "tool_accuracy", labels.tool[labeled] == answers[labeled, 1], labels.tool[labeled] == most_frequent
    )
    _add_slots(metrics, examples, answers, fields, tokenizer)
    _add_calls(metrics, examples, answers, fields, tokenizer)
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def _add_slots(
    metrics: dict[str, float], examples: Examples, answers: Array, fields: Fields, tokenizer: Tokenizer
) -> None:
    first = len(fields.arguments)
    expected, predicted = (SlotLabels.of(np.asarray(a)).kinds[:, first:] for a in (examples.labels, answers))
    labeled = expected >= 0
    right = (expected != SlotKind.NONE) == (predicted != SlotKind.NONE)
    most_frequent = np.array([fields.frequent["slots"].get(name, "") != "" for name in fields.slots])
    add_share(
        metrics, "slot_presence_accuracy", right[labeled], ((expected != SlotKind.NONE) == most_frequent)[labeled]
    )
    for i, name in enumerate(fields.slots):
        add_share(metrics, f"slot_presence_accuracy.{name}", right[labeled[:, i], i], interval=False)
    spans, values, baseline_spans = [], [], []
    for n, ids in enumerate(examples.inputs):
        for i in np.flatnonzero(expected[n] > SlotKind.NONE).tolist():
            value = fields.value(first + i, examples.labels[n], ids, tokenizer)
            answer = fields.value(first + i, answers[n], ids, tokenizer)
            same_text = value is not None and answer is not None and value.casefold() == answer.casefold()
            values.append(same_text)
            if expected[n, i] == SlotKind.SPAN:
                spans.append(same_text)
                frequent_value = fields.frequent["values"][fields.slots[i]]
                baseline_spans.append(value is not None and frequent_value.casefold() == value.casefold())
    add_share(metrics, "slot_span_exact", np.array(spans, dtype=bool), np.array(baseline_spans, dtype=bool))
    add_share(metrics, "slot_value_exact", np.array(values, dtype=bool))


def _add_calls(
    metrics: dict[str, float], examples: Examples, answers: Array, fields: Fields, tokenizer: Tokenizer
) -> None:
    exact, valid, hits, total, needed = [], [], 0, 0, 0
    offered = examples.extra["offered"]
    for n, ids in enumerate(examples.inputs):
        expected = fields.call(examples.labels[n], ids, tokenizer)
        call = fields.call(answers[n], ids, tokenizer)
        if call is not None:
            tools = [tool for tool, on in zip(fields.tools, offered[n], strict=True) if on]
            valid.append(not problems(call, tools))
        if expected is None:
            continue
        reachable = None not in expected.arguments.values()
        exact.append(reachable and call == expected)
        arguments = set() if call is None or call.name != expected.name else set(call.arguments.items())
        hits += len({item for item in expected.arguments.items() if item[1] is not None} & arguments)
        total, needed = total + len(arguments), needed + len(expected.arguments)
    add_share(metrics, "call_exact", np.array(exact, dtype=bool))
    add_share(metrics, "schema_valid", np.array(valid, dtype=bool))
    metrics["argument_f1"] = 2 * hits / (total + needed) if total + needed else math.nan


def tables(metrics: dict[str, float], fields: Fields) -> list[Table]:
    """The confusion matrix of the decision, the metrics, and the accuracy of each slot's presence.

    Values from 0.9 are green, from 0.7 yellow, lower ones red.
    """
    matrix = Table("Actual \\ Predicted", "tool_call", "direct_answer", title="Decision Confusion Matrix")
    counts = [int(metrics[name]) for name in ("true_calls", "missed_calls", "false_calls", "true_answers")]
    matrix.add_row("tool_call", Text(f"{counts[0]} (TP)", "green"), Text(f"{counts[1]} (FN)", "red"))
    matrix.add_row("direct_answer", Text(f"{counts[2]} (FP)", "red"), Text(f"{counts[3]} (TN)", "green"))
    results = results_table(metrics, TITLES, _colored)
    slots = Table("Slot Field", "Accuracy", title="Per-Slot Presence Accuracy")
    for slot in fields.slots:
        if (value := metrics.get(f"slot_presence_accuracy.{slot}")) is not None:
            slots.add_row(slot, _colored(value))
    return [matrix, results, slots]


def _colored(value: float) -> Text:
    return Text(f"{value:.4f}", "green" if value >= 0.9 else "yellow" if value >= 0.7 else "red")
