"""Timing kernels on a CPU, with a clock that the test controls."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import report
from trm_fast.ops._core import dispatch, registry, validation

from ..training.recorder import Recorder

CPU = torch.device("cpu")


@pytest.fixture
def fresh(native, monkeypatch, tmp_path):
    """No timings yet, and two kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(validation, "_verdicts", {})
    dispatch.timings.cache_clear()
    kernels = [(op, "cpp", torch.float32) for op in ("swiglu", "rms_norm")]
    monkeypatch.setattr(report, "kernels_on", lambda device: kernels)
    monkeypatch.setattr(report, "BATCHES", {"cpu": {"small": 1, "large": 2}})
    yield
    dispatch.timings.cache_clear()


def test_measuring_keeps_the_fastest(fresh):
    replays = []

    def recorder(work):
        work()  # a capture
        return lambda: replays.append(work())

    assert not list(report.measure("cpu", recorder, [torch.bfloat16]))
    assert not dispatch.timings("cpu")
    rows = list(report.measure("cpu", recorder, [torch.float32]))
    assert len(replays) == 2 * 2 * 2 * (report.WARM_UP["cpu"] + report.TIMED["cpu"])
    assert [row[:3] for row in rows[:2]] == [("swiglu", "float32", "small"), ("swiglu", "float32", "large")]
    fastest = {size: min(times, key=lambda name: times[name]) for _, _, size, times in rows[:2]}
    assert all(set(times) == {"reference", "cpp"} and min(times.values()) > 0 for *_, times in rows)
    assert dispatch.timings("cpu")["swiglu/float32"] == fastest
    dispatch.timings.cache_clear()  # the next process
    assert dispatch.timings("cpu")["swiglu/float32"] == fastest


def test_an_unreadable_table_is_ignored(fresh):
    validation.cache_folder("cpu").mkdir(parents=True)
    (validation.cache_folder("cpu") / "measured.json").write_text("[1, 2")  # incomplete, for example after a full disk
    assert dispatch.timings("cpu") == {}


@pytest.mark.parametrize("op", registry.OPS)
def test_timed_work_does_not_involve_the_host(native, op):
    """Random numbers from the host, or a copy to the device, would take longer than the kernels."""
    case = registry.OPS[op].timed(1)
    Recorder().capture(report.work(registry.OPS[op], case, case.inputs(torch.float32, CPU)))


@pytest.mark.parametrize(("seconds", "calls"), [(1e-3, 1 + 13 * 10), (0.008, 1 + 13 * 2), (0.5, 14)])
def test_a_slow_kernel_is_called_less_often(monkeypatch, seconds, calls):
    clock, called = [0.0], []

    def run():
        clock[0] += seconds
        called.append(None)

    monkeypatch.setattr(report, "_wait", lambda device: None)
    monkeypatch.setattr(report, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert report._median(run, torch.device("cuda")) == pytest.approx(1e3 * seconds)
    assert len(called) == calls


def test_a_kernel_that_cannot_be_timed_is_not_chosen_and_the_others_are_timed(fresh, monkeypatch):
    median = iter([2.0, None, 2.0, None, 2.0, 1.0, 2.0, 1.0])  # swiglu small and large, rms_norm small and large

    def milliseconds(*_):
        if (milliseconds := next(median)) is None:
            raise RuntimeError("out of resource: shared memory\nand more")
        return milliseconds

    monkeypatch.setattr(report, "_median", milliseconds)
    with pytest.warns(UserWarning, match=r"swiglu, cpp, torch.float32: not timed \(out of resource: shared memory\)"):
        rows = list(report.measure("cpu"))
    assert [row[3] for row in rows] == [{"reference": 2.0}] * 2 + [{"reference": 2.0, "cpp": 1.0}] * 2
    kept = json.loads((validation.cache_folder("cpu") / "measured.json").read_text())
    assert kept["rms_norm/float32"] == {"small": "cpp", "large": "cpp"}


def test_every_kernel_of_a_device_is_checked_again(native, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    validation.store("swiglu", "cpp", torch.float32, "cpu", "off by one")
    monkeypatch.setattr(validation, "check", lambda op, *_: "not finite" if op == "mlp" else None)
    rows = {
        (op, dtype): verdict for op, backend, dtype, verdict in report.check_all("cpu") if backend.startswith("cpp")
    }
    assert rows["swiglu", "float32"] == "passed"
    assert rows["mlp", "float32"] == "not finite"
    assert {op for op, _ in rows} == set(registry.OPS)
    assert "not finite" in validation.known_verdict("mlp", "cpp", torch.float32, "cpu")
    assert ops.table(["cpu"])  # it checks nothing
