"""The choice of backends: by call, by context, by environment variable, and what each refusal says."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trm_fast import ops
from trm_fast.ops._core import dispatch, registry, selection

X = torch.zeros(1, 4)


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs code with the package under test in another folder than the checkout."""
    package = Path(ops.__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(package)} | environ,
        cwd=package.anchor,
        capture_output=True,
        text=True,
        check=False,
    )


def test_auto_takes_kernels_that_exist(native):
    with ops.use_backend("auto"):
        assert dispatch.select("rms_norm", X) == "cpp"
        assert dispatch.select("rms_norm", X.half()) == "reference"
        assert dispatch.select("rms_norm", X.to("meta")) == "reference"


def test_a_call_lasts_and_a_context_restores_the_backend(native):
    previous = dispatch.select("swiglu", X)
    with ops.use_backend("cpp"):
        ops.use_backend("reference")
        assert dispatch.select("swiglu", X) == "reference"
    assert dispatch.select("swiglu", X) == previous


def test_a_backend_for_some_ops_only(native):
    with ops.use_backend("auto"), ops.use_backend("reference", ops=["swiglu"]):
        assert (dispatch.select("swiglu", X), dispatch.select("rms_norm", X)) == ("reference", "cpp")


def test_an_op_uses_the_chosen_backend(native, monkeypatch):
    monkeypatch.setattr(importlib.import_module("trm_fast.ops.swiglu"), "swiglu_reference", lambda *_: "the reference")
    with ops.use_backend("reference"):
        assert ops.swiglu(X) == "the reference"
    with ops.use_backend("cpp"):
        assert torch.equal(ops.swiglu(X), torch.zeros(1, 2))


def test_a_backend_requested_by_name_raises_if_it_cannot_run(native):
    with ops.use_backend("cpp"):
        with pytest.raises(ops.BackendUnavailable, match="swiglu has no float16"):
            ops.swiglu(X.half())
        with pytest.raises(ops.BackendUnavailable, match="run on cpu, not on meta"):
            ops.swiglu(X.to("meta"))


@pytest.mark.parametrize("name", ["triton", "cuda"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_backends_explain_why_they_cannot_run(name):
    previous = dict(selection.choices)
    with pytest.raises(ops.BackendUnavailable, match=f"backend '{name}' cannot run: .+"):
        ops.use_backend(name)
    assert selection.choices == previous


def test_unknown_names():
    with pytest.raises(ops.BackendUnavailable, match="choose one of auto, reference"):
        ops.use_backend("gpu")
    with pytest.raises(ops.BackendUnavailable, match="no op 'conv'"):
        ops.use_backend("auto", ops=["conv"])


def test_compiled_code_follows_a_change_of_backend(native):
    torch.compiler.reset()
    traced = torch.compile(lambda t: ops.rms_norm(t), fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5)
    for name in ("reference", "cpp"):
        with ops.use_backend(name):
            torch.testing.assert_close(traced(x), ops.rms_norm(x))


def test_table_gives_a_reason_for_every_backend():
    rows = ops.table()
    assert {row.op for row in rows} == set(registry.OPS)
    for row in rows:
        assert set(row.reasons) == set(selection.BACKENDS) - {"auto"}
        assert all(row.reasons.values())
        assert row.reasons[row.backend] == "available"


def test_missing_requirements_of_triton_are_named(monkeypatch, tmp_path):
    """They are noticed before the check of kernels, which would blame the kernel for the error."""
    monkeypatch.setattr(selection.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(selection, "INTERPRETED", False)
    monkeypatch.setattr(selection.sys, "platform", "linux")
    for name in ("CC", "CPATH", "C_INCLUDE_PATH"):
        monkeypatch.delenv(name, raising=False)

    def missing():
        return selection._triton_missing.__wrapped__()

    monkeypatch.setattr(selection.shutil, "which", lambda name: None)
    assert "C compiler" in missing()
    monkeypatch.setattr(selection.shutil, "which", {"gcc": None, "clang": "/usr/bin/clang"}.get)
    monkeypatch.setattr(selection.sysconfig, "get_path", lambda *_: str(tmp_path))
    assert f"no {tmp_path / 'Python.h'}" in missing()
    (tmp_path / "Python.h").touch()
    assert missing() is None


SLOW = pytest.mark.slow  # starts an interpreter
SETS = ["portable", "avx2", "avx512", "avx512bf16", "amxbf16"]


@pytest.mark.parametrize("cap", ["portable", *(pytest.param(isa, marks=SLOW) for isa in SETS[1:])])
def test_cpu_path_is_capped_by_the_environment(native, cap):
    best = python("from trm_fast import ops; print(ops.cpu_path())", TRM_FAST_CPU="").stdout.strip()
    run = python("from trm_fast import ops; print(ops.cpu_path())", TRM_FAST_CPU=cap)
    assert run.stdout.strip() == min(cap, best, key=SETS.index)


def test_wrong_cpu_path_names_the_choices(native):
    run = python("from trm_fast import ops; ops.use_backend('cpp')", TRM_FAST_CPU="sse9")
    assert f"no instruction set 'sse9': choose one of {', '.join(SETS)}, emulated" in run.stderr


def test_backend_from_the_environment(native):
    show = "import torch; from trm_fast.ops._core import dispatch; print(dispatch.select('swiglu', torch.zeros(2)))"
    assert python(show, TRM_FAST_BACKEND="reference").stdout.strip() == "reference"
    assert python(show, TRM_FAST_BACKEND="cpp").stdout.strip() == "cpp"
    assert "choose one of auto" in python(show, TRM_FAST_BACKEND="fast").stderr


def test_works_without_the_extension():
    """As in a pure-Python installation, everything runs, and a request for C++ says what is missing."""
    code = """
import sys; sys.modules["trm_fast._C"] = None
import torch
from trm_fast import ops
x = torch.ones(2, 4, requires_grad=True)
ops.stablemax_cross_entropy(ops.rms_norm(ops.swiglu(x)), torch.tensor([0, 1])).sum().backward()
assert x.grad.isfinite().all() and ops.cpu_path() == "none"
try: ops.use_backend("cpp")
except ops.BackendUnavailable as error: print(error)
"""
    run = python(code)
    assert "the C++ extension did not load" in run.stdout, run.stderr


def test_works_without_triton():
    """Nothing imports Triton before a request, and a request says what is missing."""
    code = """
import sys; sys.modules["triton"] = None
from trm_fast import ops
try: ops.use_backend("triton")
except ops.BackendUnavailable as error: print(error)
"""
    assert "triton is not installed" in python(code).stdout
    code = "import sys, torch, trm_fast.ops; print({n for n in sys.modules if n.startswith('trm_fast.triton_kernels')})"
    assert python(code).stdout.strip() == "set()"


@pytest.mark.skipif(registry.INTERPRETED or torch.cuda.is_available(), reason="Triton's kernels can run here")
def test_triton_on_a_cpu_names_the_interpreter():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    with pytest.raises(ops.BackendUnavailable, match="TRITON_INTERPRET=1"):
        ops.use_backend("triton")
    assert "TRITON_INTERPRET=1" in next(row for row in ops.table(["cpu"]) if row.op == "mlp").reasons["triton"]


def test_import_needs_torch_alone():
    unwanted = "'pydantic', 'typer', 'yaml', 'rich', 'matplotlib', 'triton'"
    code = f"import sys, trm_fast.ops; print(sorted({{{unwanted}}} & sys.modules.keys()))"
    assert python(code).stdout.strip() == "[]"
