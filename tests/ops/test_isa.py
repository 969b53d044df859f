"""Every CPU kernel with every instruction set of this machine, on the check cases of its op, against the reference."""

from __future__ import annotations

import pytest

from trm_fast.ops import report
from trm_fast.ops._core import registry, selection, validation

KERNELS = [(op, dtype) for op, stated in registry.OPS.items() for dtype in stated.kernels["cpp"]]


@pytest.mark.parametrize(("op", "dtype"), KERNELS, ids=lambda value: str(value).removeprefix("torch."))
def test_every_kernel_agrees(isa, op, dtype):
    if reason := selection.unavailable(op, "cpp", "cpu", dtype):
        pytest.skip(reason)
    assert validation.check(op, "cpp", dtype, "cpu") is None


def test_all_of_them_are_checked_and_the_one_in_use_stays(native, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(validation, "check", lambda *_: "not finite" if native.cpu_path() == "portable" else None)
    previous = native.cpu_path()
    rows = list(report.check_all("cpu"))
    assert native.cpu_path() == previous
    verdicts = {backend: result for op, backend, dtype, result in rows if (op, dtype) == ("swiglu", "float32")}
    assert verdicts.pop("cpp portable") == "not finite"
    assert set(verdicts) == {f"cpp {name}" for name in report.cpu_paths()[1:]}
    assert set(verdicts.values()) <= {"passed"}
