"""Which kernel ``auto`` takes among those that passed their check on a device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from trm_fast import ops
from trm_fast.ops._core import dispatch, selection, validation
from trm_fast.ops._core.selection import Choice

X = torch.zeros(2, 4)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(validation, "device_name", lambda device: "card")
    previous = dict(selection.choices)
    yield
    selection.choices.clear()
    selection.choices.update(previous)


def test_choices_stay_while_another_op_is_checked():
    """Without its choice, an op that is compiled later would get the reference."""
    row = ("mlp", "cuda", torch.bfloat16)
    with ops.use_backend("auto"):
        selection.choices[row] = Choice("triton", "triton", "triton")
        with ops.use_backend("reference", ops=["swiglu"]):
            assert selection.choices[row].small == "triton"
        assert selection.choices[row].small == "triton"
        with ops.use_backend("reference", ops=["mlp"]):  # as its check and its timing do
            assert row not in selection.choices
        assert row not in selection.choices


def test_no_check_inside_a_capture(monkeypatch):
    """A capture uses the verdicts that exist; the next call after it checks the remaining kernels."""
    verdicts = {"cuda": "passed"}
    monkeypatch.setattr(selection, "unavailable", lambda op, name, *_: None if name in ("cuda", "triton") else "no")
    monkeypatch.setattr(validation, "known_verdict", lambda op, name, *_: verdicts.get(name))
    monkeypatch.setattr(validation, "verdict", lambda *_: pytest.fail("a check inside a capture"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert dispatch._resolve("rms_norm", "cuda", torch.float32).small == "cuda"
    assert ("rms_norm", "cuda", torch.float32) not in selection.choices
    verdicts["triton"] = "not finite"
    with pytest.warns(UserWarning, match="triton kernel of rms_norm for torch.float32 is switched off: not finite"):
        assert dispatch._resolve("rms_norm", "cuda", torch.float32).small == "cuda"
    assert ("rms_norm", "cuda", torch.float32) in selection.choices


def test_the_choice_among_kernels_that_passed(monkeypatch):
    timed = {"rms_norm/bfloat16": {"small": "cuda", "large": "triton"}, "mlp/bfloat16": {"large": "triton"}}
    monkeypatch.setattr(dispatch, "timings", lambda device: timed if device == "cuda" else {})

    def choice(op, *passed, device="cuda", dtype=torch.bfloat16):
        return dispatch.choose(op, device, dtype, passed)[:2]

    assert choice("rms_norm", "triton", "cuda") == ("cuda", "triton")
    assert choice("rms_norm", "cuda") == ("cuda", "cuda")  # the fastest is switched off
    assert choice("rms_norm", "triton", "cuda", device="new") == ("cuda", "cuda")
    assert choice("mlp", "cuda") == ("reference", "reference")  # the fastest is switched off
    assert choice("latent_step", "triton", "cuda") == ("triton", "triton")  # a matrix op that was not timed
    assert choice("latent_step", "triton", "cuda", dtype=torch.float32) == ("reference", "reference")
    assert choice("mlp", "cpp", device="new") == ("cpp", "cpp")
    assert choice("rms_norm") == ("reference", "reference")


def test_small_and_large_inputs(native):
    selection.choices["swiglu", "cpu", torch.float32] = Choice("reference", "cpp")
    assert dispatch.select("swiglu", X) == "reference"
    assert dispatch.select("swiglu", torch.empty(1).expand(selection.SMALL + 2)) == "cpp"


def test_another_kernel_serves_layers_that_the_fastest_does_not_support(monkeypatch):
    available = {"cuda", "triton"}
    monkeypatch.setattr(selection, "unavailable", lambda op, name, *_: None if name in available else "no")
    monkeypatch.setattr(validation, "verdict", lambda *_: "passed")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    timed = {"latent_recursion/bfloat16": {"small": "cuda", "large": "triton"}}
    monkeypatch.setattr(dispatch, "timings", lambda device: timed)
    choice = dispatch._resolve("latent_recursion", "cuda", torch.bfloat16)
    assert choice[:3] == ("cuda", "triton", "triton")
    z = torch.empty(2, 3, 1024, dtype=torch.bfloat16)
    selection.choices["latent_recursion", "cpu", torch.bfloat16] = choice._replace(large="cuda")
    assert dispatch.select_masked("latent_recursion", None, True, 8, z) == "triton"
    assert dispatch.select_masked("latent_recursion", None, True, 2, z) == "reference", "heads are too wide"
    available.remove("triton")
    assert dispatch._resolve("latent_recursion", "cuda", torch.bfloat16).general == "reference"
