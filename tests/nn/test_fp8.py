"""FP8 products: they round like the format, only in cycles without gradient, and stay close to exact ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.models import ForwardOptions, TRMConfig
from trm_fast.nn import fp8
from trm_fast.training import Trainer

from ..training.small import run_config

SIZES = {"vocab_size": 6, "seq_len": 6, "hidden_size": 32, "num_heads": 2, "inner_multiple": 16}


def make(T: int = 3, **changes: object) -> TRM:
    torch.manual_seed(0)
    return TRM(TRMConfig(**{**SIZES, "T_cycles": T, "n_latent_steps": 2, "mixing": "attention", **changes}))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_rounding_keeps_three_mantissa_bits(scale: float) -> None:
    torch.manual_seed(0)
    x = scale * torch.randn(64, 48)
    rounded, factor = fp8.quantized(x)
    assert rounded.dtype == torch.float8_e4m3fn
    back = rounded.float() * factor
    # The error is at most half a unit of the last of 3 bits, or half of the smallest subnormal number, 2^-9.
    assert ((back - x).abs() <= x.abs() / 16 + factor * 2**-10 * 1.001).all()
    assert back.abs().max() == pytest.approx(x.abs().max().item(), rel=1e-6)
    assert fp8.quantized(torch.zeros(2, 2))[0].float().abs().max() == 0


def test_a_product_multiplies_the_rounded_factors() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(2, 5, 32), torch.randn(48, 32)
    precision = fp8.Fp8Precision("fp8-emulated")
    got = precision.linear(x, w)
    (a, s), (b, t) = fp8.quantized(x), fp8.quantized(w)
    want = (a.double() * s.double()) @ (b.double() * t.double()).T
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)
    assert 1e-3 < float((got - x @ w.T).norm() / (x @ w.T).norm()) < 0.06
    odd = torch.randn(48, 30)
    assert torch.equal(precision.linear(x[..., :30], odd), torch.nn.functional.linear(x[..., :30], odd))


@pytest.mark.parametrize("mixing", ["mlp", "attention"])
def test_only_cycles_without_gradient_are_rounded(mixing: str) -> None:
    inputs = torch.randint(1, 6, (4, 6))
    for T, differs in ((1, False), (3, True)):
        model = make(T, mixing=mixing)
        exact = model(inputs, model.initial_state(4)).logits
        options = ForwardOptions(no_grad_products="fp8-emulated")
        rounded = model(inputs, model.initial_state(4), options=options).logits
        assert torch.equal(exact, rounded) != differs
        with torch.no_grad():  # inference does not use FP8
            solved = model(inputs, model.initial_state(4), options=options).logits
            assert torch.equal(solved, model(inputs, model.initial_state(4)).logits)


@pytest.mark.gpu
def test_the_device_multiplies_like_the_emulation() -> None:
    if not torch.cuda.is_available() or fp8.unsupported_reason(torch.device("cuda")):
        pytest.skip("needs a GPU with FP8 products")
    torch.manual_seed(0)
    x, w = torch.randn(3, 7, 512, device="cuda").bfloat16(), torch.randn(1536, 512, device="cuda")
    want, got = (fp8.Fp8Precision(mode).linear(x, w).float() for mode in ("fp8-emulated", "fp8"))
    assert float((got - want).norm() / want.norm()) < 4e-3


def test_fp8_needs_a_device_that_supports_it(tmp_path: Path) -> None:
    assert "CUDA" in str(fp8.unsupported_reason(torch.device("cpu")))
    with pytest.raises(UserError, match="no_grad_dtype = fp8: FP8 products need a CUDA device, not cpu"):
        Trainer(run_config(no_grad_dtype="fp8"), tmp_path / "run")


def test_a_run_with_fp8_cycles_learns(tmp_path: Path) -> None:
    model = {"hidden_size": 32, "inner_multiple": 16, "T_cycles": 2}
    losses = {}
    for dtype in ("same", "fp8-emulated"):
        trainer = Trainer(run_config(model, no_grad_dtype=dtype, steps=30, eval_every=0), tmp_path / dtype)
        for _ in range(30):
            trainer._one_step()
        losses[dtype] = trainer.step_function.read_totals()["loss"]
    assert losses["same"] != losses["fp8-emulated"]
    assert losses["fp8-emulated"] == pytest.approx(losses["same"], rel=0.1)
