"""What a tool-slots model gets right, each measure with its interval and a baseline beside it; drawn as tables."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from rich.table import Table
from rich.text import Text

from trm_fast.labels import SlotKind
from trm_fast.tasks.base import Array, Examples
from trm_fast.tasks.tool_calling.fields import Fields
from trm_fast.tasks.tool_calling.schema import problems
from trm_fast.tasks.tool_calling.tokenizer import Tokenizer

Flags = npt.NDArray[np.bool_]
NAMES = {
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
    """``NAME``, ``NAME_low`` and ``NAME_high`` (95 %), ``NAME_baseline`` where there is one, counts of the confusion
    matrix, and ``slot_presence_accuracy.SLOT``. NaN is left out: a measure without a case is not there.

    Tool, call and argument measures are over rows whose right answer is a call, ``schema_valid`` over calls made.
    ``slot_span_exact``: over slots that stand in the dialogue, whether the right text is given, in whatever case;
    ``slot_value_exact``: over all given slots. Baselines are what the training rows have most often.
    """
    labels, answers = np.asarray(examples.labels), np.asarray(answers)
    wanted, said = labels[:, 0] == 1, answers[:, 0] == 1
    found: dict[str, float] = {
        "true_calls": int((wanted & said).sum()), "missed_calls": int((wanted & ~said).sum()),
        "false_calls": int((~wanted & said).sum()), "true_answers": int((~wanted & ~said).sum()),
    }  # fmt: skip
    always = np.full(len(labels), fields.frequent["decision"] == "tool_call")
    _share(found, "decision_accuracy", wanted == said, wanted == always)
    _share(found, "decision_precision", wanted[said])
    _share(found, "decision_recall", said[wanted])
    _f1(found, "decision_f1", wanted, said)
    found["decision_f1_baseline"] = f1(wanted, np.ones(len(labels), dtype=np.bool_))
    usual = fields.tool_number(fields.frequent["tool"])
    known = wanted & (labels[:, 1] >= 0)
    _share(found, "tool_accuracy", labels[known, 1] == answers[known, 1], labels[known, 1] == usual)
    _slots(found, examples, answers, fields, tokenizer)
    _calls(found, examples, answers, fields, tokenizer)
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _slots(found: dict[str, float], examples: Examples, answers: Array, fields: Fields, tokenizer: Tokenizer) -> None:
    A, F = len(fields.arguments), fields.count
    gold, said = (np.asarray(a)[:, 2 + A : 2 + F] for a in (examples.labels, answers))
    labelled = gold >= 0
    same = (gold != SlotKind.NONE) == (said != SlotKind.NONE)
    usually = np.array([fields.frequent["slots"].get(name, "") != "" for name in fields.slots])
    _share(found, "slot_presence_accuracy", same[labelled], ((gold != SlotKind.NONE) == usually)[labelled])
    for i, name in enumerate(fields.slots):
        _share(found, f"slot_presence_accuracy.{name}", same[labelled[:, i], i], interval=False)
    spans, values, usual_spans = [], [], []
    for n, ids in enumerate(examples.inputs):
        for i in np.flatnonzero(gold[n] > SlotKind.NONE).tolist():
            right = fields.value(A + i, examples.labels[n], ids, tokenizer)
            given = fields.value(A + i, answers[n], ids, tokenizer)
            same_text = right is not None and given is not None and right.casefold() == given.casefold()
            values.append(same_text)
            if gold[n, i] == SlotKind.SPAN:
                spans.append(same_text)
                usual = fields.frequent["values"][fields.slots[i]]
                usual_spans.append(right is not None and usual.casefold() == right.casefold())
    _share(found, "slot_span_exact", np.array(spans, dtype=bool), np.array(usual_spans, dtype=bool))
    _share(found, "slot_value_exact", np.array(values, dtype=bool))


def _calls(found: dict[str, float], examples: Examples, answers: Array, fields: Fields, tokenizer: Tokenizer) -> None:
    exact, valid, hits, made, needed = [], [], 0, 0, 0
    offered = examples.extra["offered"]
    for n, ids in enumerate(examples.inputs):
        right = fields.call(examples.labels[n], ids, tokenizer)
        given = fields.call(answers[n], ids, tokenizer)
        if given is not None:
            tools = [tool for tool, on in zip(fields.tools, offered[n], strict=True) if on]
            valid.append(not problems(given, tools))
        if right is None:
            continue
        reached = None not in right.arguments.values()
        exact.append(reached and given == right)
        theirs = set() if given is None or given.name != right.name else set(given.arguments.items())
        hits += len({item for item in right.arguments.items() if item[1] is not None} & theirs)
        made, needed = made + len(theirs), needed + len(right.arguments)
    _share(found, "call_exact", np.array(exact, dtype=bool))
    _share(found, "schema_valid", np.array(valid, dtype=bool))
    found["argument_f1"] = 2 * hits / (made + needed) if made + needed else math.nan


def f1(wanted: Flags, said: Flags) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is found."""
    total = int(wanted.sum()) + int(said.sum())
    return 2 * int((wanted & said).sum()) / total if total else math.nan


def _f1(found: dict[str, float], name: str, wanted: Flags, said: Flags) -> None:
    """F1 with a bootstrap interval: 1,000 drawings of as many rows."""
    hit, miss, false = (int(flags.sum()) for flags in (wanted & said, wanted & ~said, ~wanted & said))
    found[name], n = f1(wanted, said), len(wanted)
    drawn = np.random.default_rng(0).multinomial(n, [hit / n, miss / n, false / n, (n - hit - miss - false) / n], 1000)
    scores = 2 * drawn[:, 0] / np.maximum(1, 2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 2])
    found[f"{name}_low"], found[f"{name}_high"] = (float(q) for q in np.quantile(scores, (0.025, 0.975)))


def _share(
    found: dict[str, float], name: str, right: Flags, baseline: Flags | None = None, *, interval: bool = True
) -> None:
    from trm_fast.inference.evaluate import wilson_interval

    if not len(right):
        return
    found[name] = float(right.mean())
    if interval:
        found[f"{name}_low"], found[f"{name}_high"] = wilson_interval(int(right.sum()), len(right))
    if baseline is not None:
        found[f"{name}_baseline"] = float(baseline.mean())


def tables(metrics: dict[str, float], fields: Fields) -> list[Table]:
    """The decision's confusion matrix, the measures, and each slot's presence; coloured from 0.9 and from 0.7."""
    matrix = Table("Actual \\ Predicted", "tool_call", "direct_answer", title="Decision Confusion Matrix")
    counts = [int(metrics[name]) for name in ("true_calls", "missed_calls", "false_calls", "true_answers")]
    matrix.add_row("tool_call", Text(f"{counts[0]} (TP)", "green"), Text(f"{counts[1]} (FN)", "red"))
    matrix.add_row("direct_answer", Text(f"{counts[2]} (FP)", "red"), Text(f"{counts[3]} (TN)", "green"))
    results = Table("Metric", "Value", "95 %", "Baseline", title="Evaluation Results")
    for name, title in NAMES.items():
        if name in metrics:
            low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
            interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
            baseline = metrics.get(f"{name}_baseline")
            results.add_row(title, _coloured(metrics[name]), interval, "" if baseline is None else f"{baseline:.4f}")
    slots = Table("Slot Field", "Accuracy", title="Per-Slot Presence Accuracy")
    for slot in fields.slots:
        if (value := metrics.get(f"slot_presence_accuracy.{slot}")) is not None:
            slots.add_row(slot, _coloured(value))
    return [matrix, results, slots]


def _coloured(value: float) -> Text:
    return Text(f"{value:.4f}", "green" if value >= 0.9 else "yellow" if value >= 0.7 else "red")
