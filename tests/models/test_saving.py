"""Model folders: round trips, and errors that name the damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.models import TRMConfig
from trm_fast.models.saving import read_model_config

from .small import VARIANTS, model, tokens


@pytest.mark.parametrize("name", VARIANTS)
def test_a_saved_model_is_loaded_unchanged(name: str, tmp_path: Path) -> None:
    trm = model(**VARIANTS[name])
    trm.save_pretrained(tmp_path / "a" / "b", notes={"name": "other"})
    again = TRM.from_pretrained(tmp_path / "a" / "b")
    assert again.config == trm.config
    assert not again.training
    for key, tensor in trm.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    rows = trm.puzzle_rows(None, 2)
    first, second = (m.eval()(tokens(2), m.initial_state(2), rows).logits for m in (trm, again))
    assert torch.equal(first, second)
    assert read_model_config(tmp_path / "a" / "b")["notes"] == {"name": "other"}
    assert {p.name for p in (tmp_path / "a" / "b").iterdir()} == {"config.json", "model.safetensors"}


def test_saving_over_another_model(tmp_path: Path) -> None:
    model(0).save_pretrained(tmp_path)
    model(1, num_layers=1).save_pretrained(str(tmp_path))
    assert TRM.from_pretrained(str(tmp_path)).config.num_layers == 1


def test_a_failed_write_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(0).save_pretrained(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trm_fast.models.saving.save_file", full)
    with pytest.raises(UserError, match="No space"):
        model(1).save_pretrained(tmp_path)
    assert torch.equal(TRM.from_pretrained(tmp_path).z_init, model(0).z_init)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))

    return apply


def change_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "is not a model: it has no config.json"),
    "not json": (lambda f: (f / "config.json").write_text("{"), "config.json: not valid JSON"),
    "not text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json is not UTF-8 text"),
    "a folder": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
        "cannot read .*config.json: Is a directory",
    ),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "has no section 'model'"),
    "no section": (edit(lambda c: c.pop("model")), "has no section 'model'"),
    "other version": (edit(lambda c: c.update(format_version=3)), "format_version 3; this version reads 1 to 2"),
    "unknown key": (edit(lambda c: c["model"].update(depth=3)), r"model\.depth"),
    "wrong type": (edit(lambda c: c["model"].update(hidden_size="8")), r"model\.hidden_size"),
    "inconsistent": (edit(lambda c: c["model"].update(causal=True)), "causal needs mixing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "cut weights": (cut, "damaged or not a safetensors"),
    "garbage": (lambda f: (f / "model.safetensors").write_bytes(b"garbage" * 9), "damaged or not a safetensors"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged or not a safetensors"),
    "missing tensor": (change_tensors(lambda t: t.pop("z_init")), "z_init is missing"),
    "unknown tensor": (change_tensors(lambda t: t.update(other=torch.ones(1))), "other is unknown"),
    "not finite": (change_tensors(lambda t: t["z_init"].fill_(float("nan"))), "z_init has values that are not finite"),
    "integers": (change_tensors(lambda t: t.update(z_init=t["z_init"].int())), "z_init has integers"),
    "too deep": (lambda f: (f / "config.json").write_text("[" * 9999), "nested more than 100 deep"),
    "wrong shape": (
        change_tensors(lambda t: t.update(z_init=torch.ones(9))),
        r"z_init has shape \(9,\), the model has \(8,\)",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    damage, words = DAMAGES[name]
    model().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        TRM.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_weights_of_another_size_are_rejected(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    edit(lambda c: c.update(model=TRMConfig().model_dump(mode="json")))(tmp_path)
    with pytest.raises(UserError, match="has shape"):
        TRM.from_pretrained(tmp_path)
