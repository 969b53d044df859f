"""Part b of the GPU's benchmarks, on the CPU: what it compares, and that one that fails costs its own time alone."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "gpu"))
import op_cases
import ops as bench_ops

TOP = {"copy_tbps": 1.0, "gemm_tflops": 1.0}


@pytest.fixture
def cases():
    torch.manual_seed(0)
    return op_cases.cases(2, tiny=True, dtype=torch.float32, device="cpu")


def test_every_case_is_compiled_anew(cases, monkeypatch):
    """And none of them called as it is, as torch.compile does after eight variants of one function."""
    traced = []

    def backend(graph, _):
        traced.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    differentiable = [case for case in cases if case.leaves]
    assert 2 * len(differentiable) > torch._dynamo.config.recompile_limit
    for case in differentiable:
        for backward in (False, True):
            before = len(traced)
            run = bench_ops.implementations(case, "cpu", compiled=True)["compile"]
            assert bench_ops.error_of(case, run) < 1e-6
            if backward:
                bench_ops.with_gradients(run, case.leaves, torch.randn_like(run()))
            assert len(traced) == before + 1, f"{case.op}, {'with' if backward else 'without'} gradients"


def test_a_backward_that_fails_costs_its_own_time_alone(cases, monkeypatch):
    case = next(case for case in cases if case.op == "swiglu")

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            raise RuntimeError("out of resources")

    plain = bench_ops.implementations
    monkeypatch.setattr(
        bench_ops, "implementations",
        lambda case, *rest: plain(case, *rest) | {"broken": lambda: Broken.apply(case.call(bench_ops.reference))},
    )  # fmt: skip
    row = bench_ops.measured(case, "cpu", 2, True, TOP)
    assert "out of resources" in row["failed"]["broken"]
    assert "reference" in row["implementations"]
    assert "broken" not in row["implementations"]
    assert "broken" in bench_ops.measured(case, "cpu", 2, False, TOP)["implementations"]


def test_bytes_are_those_of_both_passes(cases):
    (norm,) = (case for case in cases if (case.op, case.label) == ("rms_norm", "channels"))
    forward, both = (bench_ops.measured(norm, "cpu", 2, backward, TOP) for backward in (False, True))
    size = norm.leaves[0].numel() * 4
    assert (forward["bytes"], both["bytes"]) == (3 * size, 6 * size)  # x, residual, y; dy, y, dx
    for row in (forward, both):
        found = row["implementations"]["reference"]
        assert found["gb_per_s"] == pytest.approx(1e-6 * row["bytes"] / found["ms"], rel=0.01, abs=0.06)
