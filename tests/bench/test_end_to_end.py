"""The benchmark of whole steps: its messages to the two processes, its results and its tables."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
import end_to_end  # noqa: E402
import report  # noqa: E402
import sides  # noqa: E402


class Pipe:
    """One end of a pipe, with the messages to receive and those that were sent."""

    def __init__(self, *messages):
        self.messages, self.sent = list(messages), []

    def recv(self):
        return self.messages.pop(0)

    def send(self, message):
        self.sent.append(message)


def test_the_product_does_not_count_as_memory_of_a_step(monkeypatch):
    """On this GPU a step needs 100 bytes and a product 5,000."""
    peak = [0]
    gpu = SimpleNamespace(type="cuda")

    def allocating(size):
        def work():
            peak[0] = max(peak[0], size)
            return 0.0

        return work

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.__setitem__(0, 30))
    monkeypatch.setattr(sides, "Problem", lambda *_: peak.__setitem__(0, 30) or SimpleNamespace(device=gpu))
    monkeypatch.setattr(sides, "our_side", lambda problem: allocating(130))
    monkeypatch.setattr(sides, "_product", lambda problem: allocating(5000))
    pipe = Pipe("step", "product", "step", "product", "memory", "end")
    sides.side(pipe, True, "train:mixer97:8", torch.get_num_threads(), "eager", None, "cuda")
    assert pipe.sent[-1] == 100


def test_a_side_that_does_not_answer_is_a_timeout():
    ours, other = multiprocessing.Pipe()
    with pytest.raises(TimeoutError, match="ours took more than 0 s: step"):
        end_to_end._take_turns("train:mixer97:8", [ours, ours], 1, "cuda", 0.1)
    assert other.recv() == "step"


def row(**changes):
    row = {"case": "train:mixer97:8", "threads": 1, "baseline": "eager", "baseline_ms": 20.0, "ms": 4.0, "ratio": 5.0,
           "gflops": 1e5, "gemm_share": 0.4, "peak_rss_ratio": 0.5, "dtype": "bfloat16"}  # fmt: skip
    return row | changes


def test_rows_are_merged_and_written_completely(tmp_path):
    path = tmp_path / "h200" / "end_to_end.json"
    end_to_end.write([row(), row(baseline="compiled")], path)
    with pytest.raises(TypeError):
        end_to_end.write([row(ms={1, 2})], path)
    end_to_end.write([row(ms=3.0)], path)
    assert [(r["baseline"], r["ms"]) for r in json.loads(path.read_text())] == [("eager", 3.0), ("compiled", 4.0)]


def test_the_table_of_a_gpu_names_its_dtype_and_baseline():
    text = report.table("h200", [row(), row(baseline="compiled-net", ratio=2.0)])
    assert "On `h200`, bfloat16," in text
    assert "float32" not in text
    assert "| compiled-net | 20.0 | 4.0 | **2.00 x** |" in text
    assert report.label(row(baseline="compiled-net")) == "train:mixer97:8  1 thr  compiled-net"
    assert report.label(row()) == "train:mixer97:8  1 thr"
