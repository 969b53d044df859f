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
import ceiling  # noqa: E402
import end_to_end  # noqa: E402
import report  # noqa: E402
import sides  # noqa: E402

from trm_fast.ops._core import selection  # noqa: E402


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
    sides.side(pipe, True, "train:mixer97:8", torch.get_num_threads(), "eager", None, "cuda", "bfloat16")
    assert pipe.sent[-1] == 100


def test_a_side_that_does_not_answer_is_a_timeout():
    ours, other = multiprocessing.Pipe()
    with pytest.raises(TimeoutError, match="ours took more than 0 s: step"):
        end_to_end._take_turns("train:mixer97:8", [ours, ours], 1, "bfloat16", 0.1)
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
    end_to_end.write([row(ms=3.0), row(dtype="float32", ms=9.0)], path)
    rows = [(r["baseline"], r["dtype"], r["ms"]) for r in json.loads(path.read_text())]
    assert rows == [("eager", "bfloat16", 3.0), ("compiled", "bfloat16", 4.0), ("eager", "float32", 9.0)]


def test_the_table_names_dtypes_and_baselines():
    results = [row(), row(baseline="compiled-net", ratio=2.0), row(dtype="float32", peak_share=0.8)]
    heading, _, columns, _, *lines = report.table("h200", results).splitlines()
    assert "On `h200`, by" in heading
    assert "| share of peak | share of GEMM |" in columns
    assert "| bfloat16 | compiled-net | 20.0 | 4.0 | **2.00 x** | 100000 |  | 40% |" in lines[1]
    assert "| float32 | eager | 20.0 | 4.0 | **5.00 x** | 100000 | 80% | 40% |" in lines[2]
    assert report.label(results[0]) == "train:mixer97:8  1 thr  bfloat16"
    assert report.label(results[1]) == "train:mixer97:8  1 thr  bfloat16  compiled-net"


@pytest.fixture
def best(monkeypatch):
    """Measured peaks and bandwidths, in GFLOP/s and GB/s; other load slows the second measurement."""
    peaks = {"float32": [260e9, 100e9], "bfloat16": [520e9, 300e9]}
    bandwidths = [20e9, 5e9]
    monkeypatch.setattr(ceiling, "peak_flops", lambda dtype, threads: peaks[dtype].pop(0) if peaks[dtype] else None)
    monkeypatch.setattr(ceiling, "bandwidth", lambda threads: bandwidths.pop(0))
    return peaks


def test_the_share_of_the_peak_is_that_of_the_dtype(best):
    limits = ceiling.Ceiling(2)
    limits.measure()
    limits.measure()
    common = {"fma_peak_gflops": 260.0, "bfloat16_peak_gflops": 520.0, "copy_gbytes_per_s": 20.0}
    assert limits.row("float32", 208e9) == {"peak_gflops": 260.0, "peak_share": 0.8, **common}
    assert limits.row("bfloat16", 208e9) == {"peak_gflops": 520.0, "peak_share": 0.4, **common}


def test_a_peak_that_the_processor_lacks_is_empty(best):
    best["bfloat16"].clear()
    limits = ceiling.Ceiling(1)
    limits.measure()
    row = limits.row("bfloat16", 208e9)
    assert row["peak_share"] is None
    assert row["bfloat16_peak_gflops"] is None
    assert limits.row("float32", 208e9)["peak_share"] == 0.8


def test_nothing_is_measured_on_a_gpu():
    assert set(ceiling.Ceiling(1).row("bfloat16", 1e12).values()) == {None}


def test_results_in_bfloat16_need_products_in_bfloat16(monkeypatch, capsys):
    monkeypatch.setattr(ceiling, "peak_flops", lambda dtype, threads: None if dtype == "bfloat16" else 1e11)
    with pytest.raises(ValueError, match="no results in bfloat16: this CPU's kernels"):
        end_to_end.measure("train:sudoku-4x4:2", 1, "eager", 1, None, dtype="bfloat16")
    monkeypatch.setattr(sys, "argv", ["end_to_end.py", "--only", "train:sudoku-4x4:2", "--dtype", "bfloat16"])
    with pytest.raises(SystemExit):
        end_to_end.main()
    assert "no results in bfloat16" in capsys.readouterr().err
    assert ceiling.missing("bfloat16", "cuda") is None


@pytest.mark.parametrize("available", [True, False])
def test_the_default_is_every_dtype_of_the_processor(monkeypatch, capsys, available):
    measured = []

    def measure(*arguments, dtype):
        measured.append(dtype)
        return row(dtype=dtype, peak_share=None)

    monkeypatch.setattr(ceiling, "peak_flops", lambda dtype, threads: 1e11 if available else None)
    monkeypatch.setattr(end_to_end, "measure", measure)
    command = ["end_to_end.py", "--only", "train:sudoku-4x4:2", "--threads", "1", "--no-write"]
    monkeypatch.setattr(sys, "argv", command)
    end_to_end.main()
    assert measured == (["float32", "bfloat16"] if available else ["float32"])
    assert ("no results in bfloat16" in capsys.readouterr().err) != available


def test_a_case_has_its_share_of_the_peak():
    result = end_to_end.measure("train:sudoku-4x4:2", 1, "eager", 1, None)
    assert result["dtype"] == "float32"
    assert result["copy_gbytes_per_s"] > 0
    if selection.EXTENSION_MISSING:
        assert result["peak_share"] is None
    else:
        assert result["peak_share"] > 0
        assert result["peak_gflops"] == result["fma_peak_gflops"]
