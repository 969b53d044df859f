"""Checkpoints with several sets of weights: the average is taken, by whatever name, or nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from trm_fast.errors import UserError
from trm_fast.interchange import from_published, read_published

from .test_published import assert_same, make

MODEL, RAW, ARCH = make("mixer")
AVERAGE = {name: tensor + 1 for name, tensor in RAW.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}


def wrapped(tensors: dict[str, Tensor], prefix: str = "_orig_mod.model.inner.") -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split("/")):
        value = {key: value}
    return value


@pytest.mark.parametrize(
    "path",
    ["ema", "model_ema", "modelEMA", "EMAModel", "shadow", "averaged_model", "avg_params", "swa_state_dict", "polyak",
     "ema_helper/shadow", "ema/module", "callbacks/EMACallback/state", "train_state/ema_params", "optimizer/ema"],
)  # fmt: skip
def test_the_average_is_taken_by_any_name_and_at_any_depth(path: str, tmp_path: Path) -> None:
    content = {"model": wrapped(RAW), "optimizer": OPTIMIZER, "step": 5} | {}
    for key, value in nested(path, wrapped(AVERAGE, "module.")).items():
        content[key] = {**content.get(key, {}), **value}
    torch.save(content, tmp_path / "w.pt")
    average = read_published(tmp_path / "w.pt")
    assert average.name == path.replace("/", ".")
    assert torch.equal(from_published(average.tensors, ARCH).z_init, AVERAGE["L_init"])
    for kind in ("raw", "model"):
        assert_same(from_published(read_published(tmp_path / "w.pt", kind).tensors, ARCH), MODEL)
    assert torch.equal(read_published(tmp_path / "w.pt", average.name).tensors["L_init"], AVERAGE["L_init"])


@pytest.mark.parametrize("prefix", ["ema.", "ema.model.inner.", "model_ema.module."])
def test_sets_are_told_apart_by_prefixes(prefix: str, tmp_path: Path) -> None:
    """Files of safetensors have no depth."""
    save_file(wrapped(RAW, "model.inner.") | wrapped(AVERAGE, prefix), tmp_path / "w.safetensors")
    average = read_published(tmp_path / "w.safetensors")
    assert average.name == prefix.strip(".")
    assert torch.equal(from_published(average.tensors, ARCH).z_init, AVERAGE["L_init"])
    assert_same(from_published(read_published(tmp_path / "w.safetensors", "raw").tensors, ARCH), MODEL)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ({"model": RAW, "teacher": AVERAGE}, "ema", r"several sets of weights \(model, teacher\): choose one with --w"),
        ({"model": RAW, "teacher": AVERAGE}, "raw", r"several sets of raw weights \(model, teacher\)"),
        ({"ema": RAW, "ema_slow": AVERAGE}, "ema", r"several sets of ema weights \(ema, ema_slow\)"),
        ({"model": RAW, "ema": {"shadow_params": [*AVERAGE.values()]}}, "ema", "'ema.shadow_params' has no names"),
        ({"model": RAW, "ema": {str(i): t for i, t in enumerate(AVERAGE.values())}}, "ema", "average in 'ema' has no"),
        ({"model": RAW, "ema": AVERAGE}, "mean", r"no weights named 'mean'; it has model, ema"),
        ({"ema": AVERAGE}, "raw", "has no raw weights; it contains ema"),
        ({"step": 3}, "ema", "has no ema weights; it contains step"),
        ({}, "ema", "has no ema weights; it contains nothing"),
    ],
)  # fmt: skip
def test_nothing_is_guessed(content: Any, kind: str, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=message):
        read_published(tmp_path / "w.pt", kind)


def test_names_that_are_no_average(tmp_path: Path) -> None:
    """``schema`` has the letters, and an optimizer's averages are those of gradients."""
    moments = {name: torch.zeros_like(tensor) for name, tensor in RAW.items()}
    content = {"model": wrapped(RAW), "schema": {"v": torch.ones(1)}, "optimizer": {"exp_avg": moments} | OPTIMIZER}
    torch.save(content, tmp_path / "w.pt")
    assert read_published(tmp_path / "w.pt").name == "model"
    torch.save(wrapped(AVERAGE, "module.") | {"n_averaged": torch.tensor(7)}, tmp_path / "swa.pt")
    only = read_published(tmp_path / "swa.pt")  # as torch.optim.swa_utils.AveragedModel saves itself
    assert torch.equal(from_published(only.tensors, ARCH).z_init, AVERAGE["L_init"])


def test_two_tensors_of_one_name_are_refused() -> None:
    from_published({**wrapped(RAW, "model."), "L_init": RAW["L_init"]}, ARCH)
    with pytest.raises(UserError, match=r"L_init and another tensor are both L_init, but differ"):
        from_published({**wrapped(RAW, "model."), "L_init": AVERAGE["L_init"]}, ARCH)
