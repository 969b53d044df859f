"""ONNX files compute what the model computes, for any batch, with every kind of input and state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.errors import UserError
from trm_fast.interchange.onnx import export_solve, export_step
from trm_fast.nn import TRM, State, TRMConfig

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
    "pre-layer": {"norm": "layer", "norm_position": "pre", "positions": "learned"},
    "prefix": {"prefix_tokens": 2, "puzzle_embedding_size": 12, "num_puzzles": 3},
    "values": {"inputs": "values", "outputs": "values", "input_width": 2, "output_width": 3},
    "causal": {"mixing": "attention", "causal": True},
}


def make(variant: str) -> TRM:
    """A model whose rows halt at different steps, if at all."""
    torch.manual_seed(1)
    model = TRM(TRMConfig(**{**SIZES, **VARIANTS[variant]})).eval()
    with torch.no_grad():
        model.q_head.weight.normal_()
        model.q_head.bias.fill_(-1.0)
        if model.puzzle_embedding is not None:
            model.puzzle_embedding.normal_()
    return model


def rows(model: TRM, count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    given = {"inputs": torch.randint(0, 6, (count, 6), generator=generator)}
    if model.config.inputs == "values":
        given["inputs"] = torch.randn(count, 6, 2, generator=generator)
    if model.config.prefix_tokens:
        given["puzzle_ids"] = torch.randint(0, 3, (count,), generator=generator)
    return given


def session(path: Path) -> Any:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_is_the_model_s(variant: str, masked: bool, tmp_path: Path) -> None:
    model = make(variant)
    export_step(model, tmp_path / "step.onnx", masked=masked)
    run = session(tmp_path / "step.onnx")
    for count in (1, 5):
        given = rows(model, count)
        if masked:
            given["mask"] = torch.arange(6) < 1 + torch.arange(count)[:, None]
        state = State(*(None if t is None else torch.randn_like(t) for t in model.initial_state(count)))
        with torch.no_grad():
            ids = model.puzzle_rows(given.get("puzzle_ids"), count)
            want = model(given["inputs"], state, ids, given.get("mask"))
        fed = {**given, "z": state.z} | ({} if state.y is None else {"y": state.y})
        got = dict(zip([o.name for o in run.get_outputs()], run.run(None, {k: v.numpy() for k, v in fed.items()})))  # noqa: B905
        answer = "values" if variant == "values" else "logits"
        wanted = {"next_z": want.state.z, "next_y": want.state.y, answer: want.logits, "q": want.q}
        assert got.keys() == {name for name, tensor in wanted.items() if tensor is not None}
        for name, array in got.items():
            np.testing.assert_allclose(array, wanted[name].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loop_solves_as_the_model_does(variant: str, tmp_path: Path) -> None:
    model = make(variant)
    export_solve(model, tmp_path / "solve.onnx", 5)
    run = session(tmp_path / "solve.onnx")
    ended = set()
    for count in (1, 40):
        given = rows(model, count)
        want = model.solve(given["inputs"], 5, puzzle_ids=given.get("puzzle_ids"))
        names = [o.name for o in run.get_outputs()]
        got = dict(zip(names, run.run(None, {k: v.numpy() for k, v in given.items()}), strict=True))
        assert names == ["solution", "confidence", "steps", "converged"]
        np.testing.assert_array_equal(got["steps"], want["steps"].numpy())
        np.testing.assert_array_equal(got["converged"], want["converged"].numpy())
        np.testing.assert_allclose(got["confidence"], want["confidence"].numpy(), atol=1e-5)
        np.testing.assert_allclose(got["solution"], want["solution"].numpy(), atol=1e-4)
        ended |= set(want["steps"].tolist())
    assert len(ended) > 1, "all rows ended at the same step: freezing was not put to the test"


def test_weights_are_in_the_file_once(tmp_path: Path) -> None:
    model = make("mixer")
    export_solve(model, tmp_path / "few.onnx", 2)
    export_solve(model, tmp_path / "many.onnx", 64)
    few, many = ((tmp_path / name).stat().st_size for name in ("few.onnx", "many.onnx"))
    assert abs(many - few) < 100


def test_the_first_state_is_in_the_step_s_file(tmp_path: Path) -> None:
    import onnx

    model = make("mixer")
    export_step(model, tmp_path / "step.onnx")
    kept = {p.key: p.value for p in onnx.load(tmp_path / "step.onnx").metadata_props}
    np.testing.assert_allclose([float(v) for v in kept["z_init"].split()], model.z_init.numpy(), rtol=1e-6)
    assert "y_init" in kept


def test_a_place_that_can_t_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        export_step(make("mixer"), tmp_path / "file" / "x.onnx")
