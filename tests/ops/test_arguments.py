"""What every op refuses: integers, complex numbers, several devices and mixed dtypes."""

from __future__ import annotations

import pytest
import torch

from trm_fast import ops
from trm_fast.ops._core import registry
from trm_fast.ops.packing import pack_weights
from trm_fast.ops.tensors import check_tensors

CASES = [
    pytest.param(op, case, id=f"{name}-{i}")
    for name, op in registry.OPS.items()
    for i, case in enumerate(op.cases)
    if case.differentiable and "cpp" in case.backends
]


def call(op, case, inputs, change, which):
    changed = [change(t) if i in which else t for i, t in enumerate(inputs)]
    return case.call(op.function, *changed)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize(("op", "case"), CASES)
def test_only_real_numbers_on_one_device(native, op, case, backend):
    inputs, count = case.inputs(torch.float32, torch.device("cpu")), len(case.shapes)
    with ops.use_backend(backend):
        for dtype in (torch.int64, torch.complex64):
            with pytest.raises(TypeError, match=f"{op.name}: .* must be floating-point, but is {dtype}"):
                call(op, case, inputs, lambda t, dtype=dtype: t.to(dtype), range(count))
            for i in range(1, count):
                with pytest.raises((TypeError, ValueError), match=f"{dtype}"):
                    call(op, case, inputs, lambda t, dtype=dtype: t.to(dtype), [i])
        for i in range(count if count > 1 else 0):
            with pytest.raises(ValueError, match="meta"):
                call(op, case, inputs, lambda t: t.to("meta"), [i])


@pytest.mark.parametrize("op", ["mlp", "token_mixer", "group_mixer", "attention"])
@pytest.mark.parametrize("which", [[0], [1], [1, 2]])
def test_weights_have_the_dtype_of_the_input(op, which):
    definition = registry.OPS[op]
    inputs = definition.cases[0].inputs(torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match=rf"{op}: the weights must have the dtype of the input, but h is .*bfloat16"):
        call(definition, definition.cases[0], inputs, torch.Tensor.bfloat16, which)
    with torch.autocast("cpu", torch.bfloat16):
        out = call(definition, definition.cases[0], inputs, torch.Tensor.bfloat16, which)
    assert out.isfinite().all()


def test_weight_updates_refuse_integers_and_complex_numbers():
    lr, step = torch.tensor(0.1), torch.tensor(1)
    for dtype in (torch.int64, torch.complex64):
        wrong = [torch.ones(2, 3, dtype=dtype)]
        with pytest.raises(TypeError, match="adam_atan2_: params must be floating-point"):
            ops.adam_atan2_(wrong, wrong, wrong, wrong, lr, step)
        with pytest.raises(TypeError, match="sign_sgd_rows_: weight must be floating-point"):
            ops.sign_sgd_rows_(wrong[0], wrong[0], torch.tensor([0, 1]), lr, 0.1)
        with pytest.raises(TypeError, match=r"pack_weights: weights\[0\] must be floating-point"):
            pack_weights(wrong * 4, tokens=3)
    right = [torch.ones(2, 3) for _ in range(4)]
    lists = [[t] for t in right]
    with pytest.raises(TypeError, match=r"copies must be floating-point, but is torch\.int64"):
        ops.adam_atan2_(*lists, lr, step, copies=[torch.ones(2, 3, dtype=torch.int64)])
    with pytest.raises(TypeError, match="lr must be a 0-dim tensor of real numbers"):
        ops.adam_atan2_(*lists, torch.tensor(0.1j), step)
    with pytest.raises(TypeError, match="lr must be a 0-dim tensor of real numbers"):
        ops.sign_sgd_rows_(right[0], right[1], torch.tensor([0, 1]), torch.tensor(0.1j), 0.1)


def test_the_message_names_the_tensor():
    a, b = torch.zeros(2), torch.zeros(2, dtype=torch.int8)
    for tensors, message in (
        ((b,), "f: h must be"), ((a, None, b), r"f: weights\[1\] must"), ((a, a, a, b), r"f: weights\[2\]"),
        ((a, b), "f: weights must"), (([1.0],), "f: h must be a tensor, not list"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=message):
            check_tensors("f", "h weights", *tensors)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_attention_needs_a_head(native, random, backend):
    with ops.use_backend(backend):
        for heads in (0, -2, 3):
            with pytest.raises(ValueError, match=f"{heads} heads must divide 8"):
                ops.attention(random(2, 3, 8), random(24, 8), random(8, 8), heads)
