"""ONNX files compute the same as the model, for any batch size and every kind of input and state."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.interchange import locate
from trm_fast.interchange.onnx import export_solve, export_step
from trm_fast.models import ForwardOptions, TRMConfig
from trm_fast.nn import State

pytest.importorskip("onnx", reason="needs the extra onnx")
ort = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

SIZES: dict[str, Any] = {
    "vocab_size": 6, "seq_len": 6, "hidden_size": 8, "num_heads": 2, "inner_multiple": 4, "T_cycles": 2,
    "n_latent_steps": 2, "max_supervision_steps": 4,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "mixer": {},
    "rope": {"mixing": "attention", "positions": "rope"},
    "single": {"state": "single"},
    "pre": {"norm_position": "pre", "positions": "learned"},
    "prefix": {"prefix_tokens": 2, "puzzle_embedding_size": 12, "num_puzzles": 3},
    "values": {"inputs": "values", "input_width": 2, "head": {"kind": "values", "width": 3}},
    "causal": {"mixing": "attention", "causal": True},
    "gated norm": {"activation": "gated_norm"},
    "initial states": {"initial_states": 2},
    "groups": {"mixing": "groups", "groups": ["rows", "columns"], "grid_shape": (2, 3)},
    "symbols": {
        "mixing": "groups", "groups": ["rows", "columns"], "grid_shape": (2, 3), "symbols": "equivariant",
        "special_tokens": 2,
    },
}  # fmt: skip


def make(variant: str, **changes: Any) -> TRM:
    """A model whose rows halt at different steps, if at all."""
    torch.manual_seed(1)
    model = TRM(TRMConfig(**{**SIZES, **VARIANTS[variant], **changes})).eval()
    with torch.no_grad():
        model.q_head.weight.normal_()
        model.q_head.bias.fill_(-1.0)
        if model.puzzle_embedding is not None:
            model.puzzle_embedding.normal_()
    return model


def rows(model: TRM, count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    arrays = {"inputs": torch.randint(0, 6, (count, 6), generator=generator)}
    if model.config.inputs == "values":
        arrays["inputs"] = torch.randn(count, 6, 2, generator=generator)
    if model.config.prefix_tokens:
        arrays["puzzle_ids"] = torch.randint(0, 3, (count,), generator=generator)
    return arrays


def session(path: Path) -> Any:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def oracle(model: TRM) -> TRM:
    """The model in float64."""
    exact = copy.deepcopy(model).double()
    exact.compute_dtype = torch.float64
    return exact


def widened(tensor: torch.Tensor | None) -> Any:
    return tensor.double() if tensor is not None and tensor.is_floating_point() else tensor


CASES = [(variant, False) for variant in VARIANTS] + [("mixer", True), ("causal", True), ("prefix", True)]


@pytest.mark.parametrize(("variant", "masked"), CASES)
def test_step_equals_the_model(variant: str, masked: bool, tmp_path: Path) -> None:
    model = make(variant)
    export_step(model, tmp_path / "step.onnx", masked=masked)
    run = session(tmp_path / "step.onnx")
    for count in (1, 5):
        arrays = rows(model, count)
        if masked:
            arrays["mask"] = torch.arange(6) < 1 + torch.arange(count)[:, None]
        state = State(*(None if t is None else torch.randn_like(t) for t in model.initial_state(count)))
        with torch.no_grad():
            exact = oracle(model)
            ids = exact.puzzle_rows(arrays.get("puzzle_ids"), count)
            exact_state = State(*map(widened, state))
            options = ForwardOptions(static_shapes=True)  # padding is compared too
            want = exact(widened(arrays["inputs"]), exact_state, ids, arrays.get("mask"), options=options)
        fed = {**arrays, "z": state.z} | ({} if state.y is None else {"y": state.y})
        names = [o.name for o in run.get_outputs()]
        got = dict(zip(names, run.run(None, {k: v.numpy() for k, v in fed.items()}), strict=True))
        answer = "values" if variant == "values" else "logits"
        expected = {"next_z": want.state.z, "next_y": want.state.y, answer: want.logits, "q": want.q}
        assert got.keys() == {name for name, tensor in expected.items() if tensor is not None}
        for name, array in got.items():
            np.testing.assert_allclose(array, expected[name].numpy(), rtol=0, atol=1e-4, err_msg=name)


# An equivariant model cannot tell apart symbols of a symmetric puzzle, and rounding decides between them.
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "symbols"])
def test_the_loop_solves_as_the_model_does(variant: str, tmp_path: Path) -> None:
    model = make(variant, T_cycles=1, n_latent_steps=1)
    export_solve(model, tmp_path / "solve.onnx", 5)
    run = session(tmp_path / "solve.onnx")
    ended = set()
    for count in (1, 40):
        arrays = rows(model, count)
        want = oracle(model).solve(widened(arrays["inputs"]), 5, puzzle_ids=arrays.get("puzzle_ids"))
        names = [o.name for o in run.get_outputs()]
        got = dict(zip(names, run.run(None, {k: v.numpy() for k, v in arrays.items()}), strict=True))
        assert names == ["solution", "confidence", "steps", "converged"]
        np.testing.assert_array_equal(got["steps"], want["steps"].numpy())
        np.testing.assert_array_equal(got["converged"], want["converged"].numpy())
        np.testing.assert_allclose(got["confidence"], want["confidence"].numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(got["solution"], want["solution"].numpy(), rtol=0, atol=1e-4)
        ended |= set(want["steps"].tolist())
    assert len(ended) > 1, "all rows ended at the same step: freezing was not put to the test"


def test_a_trained_model(tmp_path: Path) -> None:
    located = locate("sudoku-4x4")
    export_solve(located.model, tmp_path / "solve.onnx", 16)
    inputs = located.task.dataset(located.data, 5).test.inputs[:100].astype(np.int64)
    inputs[::2, :4] = 1  # fewer givens than it was trained for, so some rows take more steps
    got = session(tmp_path / "solve.onnx").run(None, {"inputs": inputs})
    want = located.model.solve(torch.from_numpy(inputs), 16)
    assert len(set(want["steps"].tolist())) > 2
    same = got[2] == want["steps"].numpy()
    assert same.mean() > 0.95  # rounding may make a row halt a step earlier or later
    np.testing.assert_array_equal(got[0][same], want["solution"].numpy()[same])
    assert np.median(np.abs(got[1] - want["confidence"].numpy())) < 1e-4


def test_weights_are_in_the_file_once(tmp_path: Path) -> None:
    model = make("mixer")
    export_solve(model, tmp_path / "few.onnx", 2)
    export_solve(model, tmp_path / "many.onnx", 64)
    few, many = ((tmp_path / name).stat().st_size for name in ("few.onnx", "many.onnx"))
    assert abs(many - few) < 100


def test_initial_state_is_in_the_metadata(tmp_path: Path) -> None:
    import onnx

    model = make("mixer")
    export_step(model, tmp_path / "step.onnx")
    kept = {p.key: p.value for p in onnx.load(tmp_path / "step.onnx").metadata_props}
    np.testing.assert_allclose([float(v) for v in kept["z_init"].split()], model.z_init.numpy(), rtol=1e-6)
    assert "y_init" in kept


def test_unwritable_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        export_step(make("mixer"), tmp_path / "file" / "x.onnx")
