"""What the tuner compares: every part's launches and its reference, at small sizes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from trm_fast.ops import backend

BENCH = Path(__file__).parents[3] / "bench"
sys.path[:0] = [str(BENCH), str(BENCH / "gpu")]
import card  # noqa: E402
import tuned  # noqa: E402


@pytest.mark.parametrize("part", tuned.KERNELS)
def test_a_part_computes_its_reference(device, monkeypatch, part):
    for name, value in {"D": 32, "INNER": 48, "HEADS": 2, "WIDTHS": {19: 32}}.items():
        monkeypatch.setattr(tuned, name, value)
    if backend.INTERPRETED:  # whose products in bfloat16 are wrong
        monkeypatch.setitem(tuned._random.__kwdefaults__, "dtype", torch.float32)
    made = tuned.PARTS[part](19, 2, str(device))
    for backward in {"_bwd" in kernel for kernel in tuned.KERNELS[part]}:
        for _ in range(2):  # the second call starts where the first did
            results, truth = made.run(backward), made.truth(backward)
            assert [t.shape for t in results] == [t.shape for t in truth]
            assert card.error(results, truth) < (1e-5 if backend.INTERPRETED else 0.02)
