"""Every CPU kernel with every instruction set of this machine, on the check cases of its op, against the reference."""

from __future__ import annotations

import pytest

from trm_fast.ops import report
from trm_fast.ops._core import registry, selection, validation

from .conftest import ISAS

KERNELS = [(op, dtype) for op, stated in registry.OPS.items() for dtype in stated.kernels["cpp"]]


@pytest.mark.parametrize(("op", "dtype"), KERNELS, ids=lambda value: str(value).removeprefix("torch."))
def test_every_kernel_agrees(isa, op, dtype):
    if reason := selection.unavailable(op, "cpp", "cpu", dtype):
        pytest.skip(reason)
    assert validation.check(op, "cpp", dtype, "cpu") is None


def test_the_listed_instruction_sets_end_with_the_one_in_use(isa):
    assert report.cpu_paths() == list(ISAS[: ISAS.index(isa) + 1])


def test_every_allowed_instruction_set_is_checked(native, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(validation, "check", lambda *_: f"ran as {native.cpu_path()}")
    allowed = ISAS[: ISAS.index(native.cpu_path()) + 1]  # TRM_FAST_CPU may forbid those that the machine has above it
    rows = report.check_all("cpu")
    verdicts = {backend: result for op, backend, dtype, result in rows if (op, dtype) == ("swiglu", "float32")}
    assert verdicts == {f"cpp {name}": f"ran as {name}" for name in allowed}


def test_the_instruction_set_in_use_stays_when_a_check_is_interrupted(native, monkeypatch, tmp_path):
    def interrupt(*_):
        assert native.cpu_path() == "portable"
        raise KeyboardInterrupt

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(validation, "check", interrupt)
    previous = native.cpu_path()
    with pytest.raises(KeyboardInterrupt):
        list(report.check_all("cpu"))
    assert native.cpu_path() == previous


def test_the_peak_of_every_instruction_set(native, isa):
    one = native.peak_flops(False, 1)
    assert 1e8 < one < 1e13
    assert native.peak_flops(False, 2) > 0
    products = native.peak_flops(True, 1)
    if isa.endswith("bf16"):
        assert products > 1e8
    else:
        assert products is None


@pytest.mark.parametrize("threads", [0, -1, 10**9])
def test_a_peak_of_an_impossible_number_of_threads(native, threads):
    with pytest.raises(ValueError, match="threads must be from 1 to 4096"):
        native.peak_flops(False, threads)
