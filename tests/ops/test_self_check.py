"""The check of kernels on a device not met before, tried on the CPU: there, too, kernels can be wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import backend, self_check, winners
from trm_fast.ops.check_cases import timed_case

from ..training.recorder import Recorder

CPU = torch.device("cpu")
X = torch.zeros(2, 4)

# auto waits for the check on the CPU, as it does on a GPU: what it then takes for two ops, and the warnings.
CHOOSE = """
import json, sys, warnings, torch
from trm_fast import ops
from trm_fast.ops import backend
backend.CHECKED = ("cpu",)
if "broken" in sys.argv:
    library = torch.library.Library("trm_fast", "IMPL")
    library.impl("swiglu_fwd", lambda x, dim: 1.01 * ops.reference.swiglu(x, dim), "CPU", allow_override=True)
ops.use_backend("auto")
with warnings.catch_warnings(record=True) as caught, torch.inference_mode():
    warnings.simplefilter("always")
    x = torch.zeros(2, 4)
    chosen = [backend.select(op, x) for op in ("swiglu", "rms_norm", "swiglu")]
rows = {row.op: row.reasons["cpp"] for row in ops.table(["cpu"], [torch.float32])}
print(json.dumps([chosen, [str(w.message) for w in caught if "kernel of" in str(w.message)], rows]))
"""


def choose(cache: Path, *words: str) -> tuple[list[str], list[str], dict[str, str]]:
    package = Path(ops.__file__).parents[2]
    environ = os.environ | {"PYTHONPATH": str(package), "XDG_CACHE_HOME": str(cache)}
    # From elsewhere: a checkout that is not built would hide the package that is installed.
    run = subprocess.run([sys.executable, "-c", CHOOSE, *words], env=environ, cwd="/", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    chosen, warned, rows = json.loads(run.stdout)
    return chosen, warned, rows


def test_a_wrong_kernel_is_switched_off_and_named_once(native, tmp_path):
    chosen, (warned,), rows = choose(tmp_path, "broken")
    assert chosen == ["reference", "cpp", "reference"]
    assert "cpp kernel of swiglu for torch.float32 is switched off" in warned
    assert "output: error" in rows["swiglu"]
    assert rows["rms_norm"] == "available"
    assert "not checked on this device yet" in rows["mlp"]
    # The next process knows, and doesn't repeat itself.
    assert choose(tmp_path)[:2] == (["reference", "cpp", "reference"], [])


def test_right_kernels_pass_and_a_folder_that_cannot_be_written_is_no_harm(native):
    chosen, warned, rows = choose(Path("/proc/nowhere"))
    assert (chosen, warned, rows["swiglu"]) == (["cpp", "cpp", "cpp"], [], "available")


@pytest.mark.parametrize("op", ["rms_norm", "latent_step", "adam_atan2_", "stablemax_cross_entropy", "sign_sgd_rows_"])
def test_the_cpp_kernels_pass(native, op):
    assert self_check.check(op, "cpp", torch.float32, CPU) is None


@pytest.mark.parametrize("op", backend.KERNELS)
def test_every_op_has_cases_that_see_an_error(native, monkeypatch, op):
    """The reference stands in for a kernel: right as it is, wrong when its result is a hundredth off."""
    monkeypatch.setattr(backend, "select", lambda *_: "reference")
    monkeypatch.setattr(ops, op, getattr(ops.reference, op))
    assert self_check.check(op, "cpp", torch.float32, CPU) is None

    def wrong(*inputs, **options):
        out = getattr(ops.reference, op)(*inputs, **options)
        if out is None:  # in place
            first = inputs[0][0] if isinstance(inputs[0], list) else inputs[0]
            first.mul_(1.01)
        elif isinstance(out, tuple):
            out = (out[0], 1.01 * out[1])
        else:
            out = 1.01 * out
        return out

    monkeypatch.setattr(ops, op, wrong)
    assert "error" in str(self_check.check(op, "cpp", torch.float32, CPU))


def test_a_kernel_without_gradient_is_judged_by_its_output(native):
    if backend.cpu_path() != backend.BFLOAT16_PATH:
        pytest.skip("this CPU has no products of bfloat16")
    for op in backend.FORWARD_ONLY:
        assert self_check.check(op, "cpp", torch.bfloat16, CPU) is None


def test_a_kernel_that_raises_has_failed(native, monkeypatch):
    def launch(*_):
        raise RuntimeError("an illegal memory access was encountered\nCUDA kernel errors might be ...")

    monkeypatch.setattr(ops, "swiglu", launch)
    assert self_check.check("swiglu", "cpp", torch.float32, CPU) == (
        "RuntimeError: an illegal memory access was encountered"
    )


def test_a_check_that_took_the_process_with_it_has_failed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen = {}
    monkeypatch.setattr(self_check, "_results", lambda _: seen)
    monkeypatch.setattr(self_check, "check", lambda *_: os._exit(3))
    child = os.fork()
    if child == 0:
        self_check.passed("swiglu", "cpp", torch.float32, "cpu")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert self_check.kept(self_check.cache_file("cpu")) == {"swiglu/cpp/float32": self_check.UNFINISHED}


def test_a_check_that_a_time_limit_ended_has_not_failed(monkeypatch, tmp_path):
    """As by ``timeout``, while a kernel compiles."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(self_check, "_results", lambda _, found={}: found)
    monkeypatch.setattr(self_check, "check", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(60))
    child = os.fork()
    if child == 0:
        try:
            self_check.passed("swiglu", "cpp", torch.float32, "cpu")
        except SystemExit as end:
            os._exit(int(str(end)))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
    assert self_check.kept(self_check.cache_file("cpu")) == {}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_auto_settled_stays_while_another_op_is_checked(monkeypatch):
    """Compiled later, an op that was forgotten would get the reference."""
    row = ("mlp", "cuda", torch.bfloat16)
    monkeypatch.setattr(backend, "_table", {row: "triton"})
    monkeypatch.setattr(backend, "_spare", {row: "triton"})
    with ops.use_backend("auto"):
        with ops.use_backend("reference", ops=["swiglu"]):
            assert backend._table[row] == "triton"
        assert backend._table[row] == "triton"
        with ops.use_backend("reference", ops=["mlp"]):  # its own check, or a measurement
            assert row not in backend._table
        assert row not in backend._table
    monkeypatch.undo()
    backend._rebuild()


def test_no_check_inside_a_capture(monkeypatch):
    monkeypatch.setattr(self_check, "_results", lambda _: {"rms_norm/cuda/float32": None})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(self_check, "check", lambda *_: pytest.fail("a check inside a capture"))
    assert self_check.passed("swiglu", "cuda", torch.float32, "cuda") is None
    assert self_check.passed("rms_norm", "cuda", torch.float32, "cuda") is True


def test_the_cache_belongs_to_one_build(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = self_check.cache_file("cpu")
    monkeypatch.setattr(self_check, "build_hash", lambda: "another")
    assert before.parent == tmp_path / "trm_fast" / "self_check"
    assert self_check.cache_file("cpu") != before
    before.parent.mkdir(parents=True)
    before.write_text("[1, 2")  # cut off, by hand or by a full disk
    assert self_check.kept(before) == {}


def test_the_choice_among_kernels_that_passed(monkeypatch):
    table = {"card": {"rms_norm/bfloat16": {"small": "cuda", "large": "triton"}, "mlp/bfloat16": {"large": "triton"}}}
    monkeypatch.setattr(winners, "_tables", lambda: table)

    def choice(op, *passed, device="card", dtype=torch.bfloat16):
        return winners.choose(device, op, dtype, passed)

    assert choice("rms_norm", "triton", "cuda") == ("cuda", "triton")
    assert choice("rms_norm", "cuda") == ("cuda", "cuda")  # the winner is switched off
    assert choice("rms_norm", "triton", "cuda", device="new") == ("cuda", "cuda")
    assert choice("mlp", "cuda") == ("reference", "reference")  # the winner is switched off
    assert choice("latent_step", "triton", "cuda") == ("triton", "triton")  # a matrix op that was not measured
    assert choice("latent_step", "triton", "cuda", dtype=torch.float32) == ("reference", "reference")
    assert choice("mlp", "cpp", device="new") == ("cpp", "cpp")
    assert choice("rms_norm") == ("reference", "reference")


def test_small_and_large_inputs(native, monkeypatch):
    monkeypatch.setitem(backend._table, ("swiglu", "cpu", torch.float32), ("reference", "cpp"))
    assert backend.select("swiglu", X) == "reference"
    assert backend.select("swiglu", torch.empty(1).expand(backend.SMALL + 2)) == "cpp"


def test_measuring_keeps_the_fastest(native, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tables: winners.Table = {}
    monkeypatch.setattr(winners, "_tables", lambda: tables)
    monkeypatch.setattr(backend, "KERNELS", {"swiglu": {"cpp": (torch.float32,)}})
    monkeypatch.setattr(winners, "BATCHES", {"cpu": (1, 2)})
    replays = []

    def recorded(work):
        work()  # a capture
        return lambda: replays.append(work())

    assert not winners.known("cpu")
    assert not list(winners.measure("cpu", recorded, [torch.bfloat16]))
    rows = list(winners.measure("cpu", recorded, [torch.float32]))
    assert len(replays) == 2 * 2 * (winners.WARM_UP["cpu"] + winners.TIMED["cpu"])
    assert [row[:3] for row in rows] == [("swiglu", "float32", "small"), ("swiglu", "float32", "large")]
    fastest = {size: min(times, key=lambda name: times[name]) for _, _, size, times in rows}
    assert all(set(times) == {"reference", "cpp"} and min(times.values()) > 0 for *_, times in rows)
    assert winners.winners(self_check.device_name("cpu"), "swiglu", torch.float32) == fastest
    assert self_check.kept(winners._file("cpu")) == tables
    assert winners.known("cpu")


def test_what_is_timed_asks_the_host_for_nothing(native, monkeypatch):
    """Random numbers made on the host, or copied to the device, would take longer than the kernels."""
    for op in backend.KERNELS:
        case = timed_case(op, 1)
        work = case.work(getattr(ops, op), case.inputs(torch.float32, CPU))
        Recorder().capture(work)
    order = [op for op, dtype in winners._by_weight() if dtype == torch.bfloat16]
    assert set(order[: len(winners.MATRIX_OPS)]) == winners.MATRIX_OPS


def test_the_time_is_for_what_a_training_step_takes():
    """Products in float32 last, then what is float16."""
    order = winners._by_weight()
    assert order[0] == ("latent_recursion", torch.bfloat16)
    slow = [order.index((op, torch.float32)) for op in winners.MATRIX_OPS]
    optimizer = order.index(("adam_atan2_", torch.float32))
    rest = [i for i, (_, dtype) in enumerate(order) if dtype == torch.bfloat16]
    assert max(*rest, optimizer) < min(slow) < max(slow) < order.index(("mlp", torch.float16))


@pytest.mark.parametrize(("seconds", "calls"), [(1e-3, 1 + 13 * 10), (0.008, 1 + 13 * 2), (0.5, 14)])
def test_a_slow_kernel_is_called_less_often(monkeypatch, seconds, calls):
    clock, made = [0.0], []

    def run():
        clock[0] += seconds
        made.append(None)

    monkeypatch.setattr(winners, "_wait", lambda device: None)
    monkeypatch.setattr(winners, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert winners._median(run, torch.device("cuda")) == pytest.approx(1e3 * seconds)
    assert len(made) == calls


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing is known of any kernel."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    self_check._results.cache_clear()
    yield
    self_check._results.cache_clear()


def test_what_other_processes_found_is_kept(fresh):
    found = {("swiglu", "cpp", torch.float32): "off by one", ("rms_norm", "cpp", torch.float32): None}
    self_check.keep_verdicts("cpu", found)
    self_check._results.cache_clear()  # the next process
    assert self_check.passed("swiglu", "cpp", torch.float32, "cpu") is False
    assert "off by one" in str(self_check.failure("swiglu", "cpp", torch.float32, "cpu"))
    assert self_check.failure("rms_norm", "cpp", torch.float32, "cpu") is None


def test_a_check_that_a_person_stops_says_nothing(fresh, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(self_check, "check", stopped)
    with pytest.raises(KeyboardInterrupt):
        self_check.passed("swiglu", "cpp", torch.float32, "cpu")
    assert self_check.kept(self_check.cache_file("cpu")) == {}
    assert "not checked" in str(self_check.failure("swiglu", "cpp", torch.float32, "cpu"))


def test_a_device_that_is_gone_is_no_kernels_fault(fresh, monkeypatch):
    def gone(device):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(self_check, "_must_be_alive", gone)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        self_check.passed("swiglu", "cpp", torch.float32, "cpu")
    assert "not checked" in str(self_check.failure("swiglu", "cpp", torch.float32, "cpu"))
    assert not self_check.cache_file("cpu").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_a_check_that_was_broken_off_is_no_verdict(fresh, monkeypatch, error):
    """Ctrl-C while kernels are compiled, or a card that another program fills, must not switch one off for good."""
    found = {("rms_norm", "cpp", torch.float32): None}
    self_check.keep_verdicts("cpu", found)

    def launch(*_):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(ops, "swiglu", launch)
        with pytest.raises(error):
            self_check.passed("swiglu", "cpp", torch.float32, "cpu")
    assert self_check.kept(self_check.cache_file("cpu")) == {"rms_norm/cpp/float32": None}
    assert self_check.passed("swiglu", "cpp", torch.float32, "cpu") is True


# What one of several processes does: it notes that it checks, takes its time, and keeps what it found.
CHECK = """
import json, sys, time, torch
from trm_fast.ops import self_check
made = []
def check(op, *_):
    made.append(op)
    print("checking", flush=True)
    time.sleep(0.5)
self_check.check = check
known = [self_check.passed(op, "cpp", torch.float32, "cpu") for op in ("swiglu", "rms_norm", "stablemax")]
print(json.dumps([known, made]))
"""


def test_several_processes_check_each_kernel_once(tmp_path):
    """As those that torchrun starts at once: one in the middle of a check has not died of it."""
    environ = os.environ | {"PYTHONPATH": str(Path(ops.__file__).parents[2]), "XDG_CACHE_HOME": str(tmp_path)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CHECK], env=environ, cwd="/", stdout=subprocess.PIPE, text=True, bufsize=1
        )

    first = start()
    assert first.stdout.readline() == "checking\n"
    processes = [first, start(), start()]
    results = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    assert [known for known, _ in results] == [[True] * 3] * 3
    assert sorted(op for _, made in results for op in made) == ["rms_norm", "stablemax", "swiglu"]


def test_a_process_checks_on_its_own_card(monkeypatch):
    """The first one of its kind may be another process's, or full."""
    names = ["A", "B", "A", "A"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda card: names[torch.device("cuda", card).index])
    for current, cards in ((0, [0, 1]), (2, [2, 1]), (1, [0, 1])):
        monkeypatch.setattr(torch.cuda, "current_device", lambda current=current: current)
        assert [card.index for card in self_check._cards("cuda")] == cards


def test_what_cannot_be_timed_is_no_winner_and_loses_no_other(native, fresh, monkeypatch):
    def milliseconds(op, name, *_):
        if (op, name) == ("swiglu", "cpp"):
            raise RuntimeError("out of resource: shared memory\nand more")
        return 1.0 if name == "cpp" else 2.0

    tables: winners.Table = {}
    monkeypatch.setattr(winners, "_tables", lambda: tables)
    monkeypatch.setattr(winners, "_milliseconds", milliseconds)
    kernels = {"swiglu": {"cpp": (torch.float32,)}, "rms_norm": {"cpp": (torch.float32,)}}
    monkeypatch.setattr(backend, "KERNELS", kernels)
    with pytest.warns(UserWarning, match=r"swiglu, cpp, torch.float32: not timed \(out of resource: shared memory\)"):
        rows = list(winners.measure("cpu"))
    assert [row[3] for row in rows] == [{"reference": 2.0}] * 2 + [{"reference": 2.0, "cpp": 1.0}] * 2
    assert winners.winners(self_check.device_name("cpu"), "rms_norm", torch.float32)["small"] == "cpp"
