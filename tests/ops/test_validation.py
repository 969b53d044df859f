"""The check of kernels on a new device, tested on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trm_fast import ops
from trm_fast.ops._core import registry, validation

CPU = torch.device("cpu")

# On the CPU, too, auto now takes kernels only after their check. Prints the choice for two ops, and the warnings.
CHOOSE = """
import json, sys, warnings, torch
from trm_fast import ops
from trm_fast.ops._core import dispatch, selection
selection.CHECKED = ("cpu",)
selection.choices.clear()
if "broken" in sys.argv:
    library = torch.library.Library("trm_fast", "IMPL")
    library.impl("swiglu_fwd", lambda x, dim: 1.01 * ops.reference.swiglu(x, dim), "CPU", allow_override=True)
ops.use_backend("auto")
with warnings.catch_warnings(record=True) as caught, torch.inference_mode():
    warnings.simplefilter("always")
    x = torch.zeros(2, 4)
    chosen = [dispatch.select(op, x) for op in ("swiglu", "rms_norm", "swiglu")]
rows = {row.op: row.reasons["cpp"] for row in ops.table(["cpu"], [torch.float32])}
print(json.dumps([chosen, [str(w.message) for w in caught if "kernel of" in str(w.message)], rows]))
"""


def choose(cache: Path, *words: str) -> tuple[list[str], list[str], dict[str, str]]:
    package = Path(ops.__file__).parents[2]
    environ = os.environ | {"PYTHONPATH": str(package), "XDG_CACHE_HOME": str(cache)}
    # In another folder, because a checkout without a build would hide the installed package.
    run = subprocess.run([sys.executable, "-c", CHOOSE, *words], env=environ, cwd="/", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    chosen, warned, rows = json.loads(run.stdout)
    return chosen, warned, rows


def test_a_wrong_kernel_is_switched_off_and_named_once(native, tmp_path):
    for words in (["broken"], []):  # the second process reads the verdict, and warns again
        chosen, (warned,), rows = choose(tmp_path, *words)
        assert chosen == ["reference", "cpp", "reference"]
        assert "cpp kernel of swiglu for torch.float32 is switched off" in warned
        assert "error" in rows["swiglu"]
        assert rows["rms_norm"] == "available"
        assert "not checked on this device yet" in rows["mlp"]


def test_right_kernels_pass_and_a_folder_that_cannot_be_written_is_no_harm(native):
    chosen, warned, rows = choose(Path("/proc/nowhere"))
    assert (chosen, warned, rows["swiglu"]) == (["cpp", "cpp", "cpp"], [], "available")


@pytest.mark.parametrize("op", ["rms_norm", "latent_step", "adam_atan2_", "stablemax_cross_entropy", "sign_sgd_rows_"])
def test_the_cpp_kernels_pass(native, op):
    assert validation.check(op, "cpp", torch.float32, CPU) is None


def stand_in(monkeypatch: pytest.MonkeyPatch, op: str, function: Callable[..., Any]) -> None:
    monkeypatch.setitem(registry.OPS, op, replace(registry.OPS[op], function=function))


@pytest.mark.parametrize("op", registry.OPS)
def test_every_op_has_cases_that_see_an_error(native, monkeypatch, op):
    """With the reference as kernel: right as it is, wrong if its result is off by a hundredth."""
    stand_in(monkeypatch, op, registry.OPS[op].reference)
    assert validation.check(op, "cpp", torch.float32, CPU) is None

    def wrong(*inputs, **options):
        out = registry.OPS[op].reference(*inputs, **options)
        if out is None:  # in place
            first = inputs[0][0] if isinstance(inputs[0], list) else inputs[0]
            first.mul_(1.01)
        elif isinstance(out, tuple):
            out = (out[0], 1.01 * out[1])
        else:
            out = 1.01 * out
        return out

    stand_in(monkeypatch, op, wrong)
    assert "error" in str(validation.check(op, "cpp", torch.float32, CPU))


def test_a_kernel_that_raises_has_failed(native, monkeypatch):
    def launch(*_):
        raise RuntimeError("an illegal memory access was encountered\nCUDA kernel errors might be ...")

    stand_in(monkeypatch, "swiglu", launch)
    assert validation.check("swiglu", "cpp", torch.float32, CPU) == (
        "RuntimeError: an illegal memory access was encountered"
    )


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No verdicts yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(validation, "_verdicts", {})


def verdict(op: str) -> str:
    return validation.verdict(op, "cpp", torch.float32, "cpu")


def test_a_check_that_crashed_the_process_twice_has_failed(fresh, monkeypatch):
    """Once may be a time limit during compilation; twice is the kernel."""
    monkeypatch.setattr(validation, "check", lambda *_: os._exit(3))
    for _ in range(2):
        child = os.fork()
        if child == 0:
            verdict("swiglu")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert verdict("swiglu") == validation.UNFINISHED


def test_a_check_that_a_time_limit_ended_has_not_failed(fresh, native):
    validation.store("swiglu", "cpp", torch.float32, "cpu", validation.STARTED)
    assert verdict("swiglu") == validation.PASSED


def test_the_cache_belongs_to_one_build(fresh, monkeypatch, tmp_path):
    previous = validation.cache_folder("cpu")
    monkeypatch.setattr(validation, "_build_hash", lambda: "another")
    assert previous.parent == tmp_path / "trm_fast" / "checked"
    assert validation.cache_folder("cpu") != previous
    monkeypatch.undo()


def test_a_verdict_that_was_cut_off_is_none(fresh):
    """After a full disk, or while another process writes."""
    folder = validation.cache_folder("cpu")
    folder.mkdir(parents=True)
    (folder / "swiglu-cpp-float32.txt").write_text("")
    assert validation.known_verdict("swiglu", "cpp", torch.float32, "cpu") is None


def test_what_other_processes_found_is_kept(fresh, monkeypatch):
    validation.store("swiglu", "cpp", torch.float32, "cpu", "off by one")
    validation.store("rms_norm", "cpp", torch.float32, "cpu", None)
    monkeypatch.setattr(validation, "_verdicts", {})  # the next process
    assert verdict("swiglu") == "off by one"
    assert verdict("rms_norm") == validation.PASSED


def test_a_device_that_is_gone_is_no_kernels_fault(fresh, monkeypatch):
    def gone():
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", gone)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        validation.verdict("swiglu", "cuda", torch.float32, "cuda")
    assert validation.known_verdict("swiglu", "cuda", torch.float32, "cuda") is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_a_check_that_was_broken_off_is_no_verdict(fresh, native, monkeypatch, error):
    """Ctrl-C during compilation, or a GPU without free memory, must not switch a kernel off."""

    def launch(*_):
        raise error

    with monkeypatch.context() as broken:
        stand_in(broken, "swiglu", launch)
        with pytest.raises(error):
            verdict("swiglu")
    assert validation.known_verdict("swiglu", "cpp", torch.float32, "cpu") is None
    assert verdict("swiglu") == validation.PASSED


# One of several processes: it records its checks, takes some time for them, and keeps the verdicts.
CHECK = """
import json, sys, time, torch
from trm_fast.ops._core import validation
made = []
def check(op, *_):
    made.append(op)
    print("checking", flush=True)
    time.sleep(0.5)
validation.check = check
known = [validation.verdict(op, "cpp", torch.float32, "cpu") for op in ("swiglu", "rms_norm", "stablemax")]
print(json.dumps([known, made]))
"""


@pytest.mark.slow
def test_several_processes_check_each_kernel_once(tmp_path):
    """Like processes that torchrun starts together: a check that is still running has not failed."""
    environ = os.environ | {"PYTHONPATH": str(Path(ops.__file__).parents[2]), "XDG_CACHE_HOME": str(tmp_path)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CHECK], env=environ, cwd="/", stdout=subprocess.PIPE, text=True, bufsize=1
        )

    first = start()
    assert first.stdout.readline() == "checking\n"
    processes = [first, start(), start()]
    results = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    assert [verdicts for verdicts, _ in results] == [["passed"] * 3] * 3
    assert sorted(op for _, checked in results for op in checked) == ["rms_norm", "stablemax", "swiglu"]


@pytest.mark.parametrize("factor", [2, 3])
def test_a_kernel_may_err_so_much_and_no_more(factor: int) -> None:
    """In norm ``factor`` times the error of the reference in the kernel's dtype; 1.5 times that at the worst
    element."""
    truth = torch.ones(64, dtype=torch.float64)
    plain = (truth + 1e-3).float()

    def judged(error: torch.Tensor) -> str | None:
        return validation.disagreement((truth + error).float(), plain, truth, factor, torch.zeros_like(truth))

    everywhere, single = torch.full_like(truth, 1e-3), torch.zeros_like(truth)
    single[5] = 1e-3
    assert judged(0.98 * factor * everywhere) is None
    assert "error" in (judged(1.02 * factor * everywhere) or "")
    assert judged(1.47 * factor * single) is None
    assert "error" in (judged(1.53 * factor * single) or "")


@pytest.mark.parametrize(("result", "factor"), [("output", 2), ("output", 20), ("gradient 0", 3), ("gradient 0", 30)])
def test_the_tolerance_is_the_one_that_the_op_states(result: str, factor: int) -> None:
    swiglu = registry.OPS["swiglu"]

    def rough(*inputs, **options):
        """In float32 it errs by a thousandth, so that rounding does not matter."""
        out = swiglu.reference(*inputs, **options)
        return out if out.dtype == torch.float64 else 1.001 * out

    tolerance = (factor, 1) if result == "output" else (1, factor)
    op, case = replace(swiglu, reference=rough, tolerance=tolerance), swiglu.cases[0]
    inputs = case.inputs(torch.float32, CPU)
    truth = case.run(swiglu.reference, [t.double() for t in inputs])

    def judged(error: float) -> str | None:
        kernel = truth | {result: (1 + error) * truth[result]}
        return validation.compare_with_reference(op, case, inputs, {name: t.float() for name, t in kernel.items()})

    assert judged(0.98e-3 * factor) is None
    assert (judged(1.02e-3 * factor) or "").startswith(f"{result}: error")
