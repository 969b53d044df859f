"""Part ``step``: the training step and the published one in stock PyTorch, eager and compiled, timed alternately.

The rows are those of bench/end_to_end.py: milliseconds, ratio, TFLOP/s as a share of a large product's, and memory. The
compiled baseline compiles only the network of two layers, which a step applies 21 times, because compiling a whole step
takes minutes."""

from __future__ import annotations

from functools import partial
from typing import Any

import end_to_end
from common import Part


def measure_case(part: Part, case: str, baseline: str) -> dict[str, Any]:
    """Compares the two sides on one case. Except in the self-test, also merges the row into
    bench/results/DEVICE/end_to_end.json of the checkout."""
    row = end_to_end.measure(
        case, threads=1, baseline=baseline, repeats=part.sizes.repeats, data=None, device=part.device,
        patience=max(1.0, part.left()),
    )  # fmt: skip
    if not part.tiny:
        end_to_end.write([row], end_to_end.FOLDER / "results" / end_to_end.device_name(part.device) / "end_to_end.json")
    del row["case"]
    return row


def measure(part: Part) -> None:
    for baseline in part.sizes.baselines:
        for case in part.sizes.steps:
            part.attempt(f"{case} against {baseline}", partial(measure_case, part, case, baseline), min_seconds=10.0)
