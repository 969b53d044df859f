"""Imports published checkpoints with every wrapper, and explains what is wrong with others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.interchange import from_published, published_config, published_names, read_published

ARCH: dict[str, Any] = {
    "vocab_size": 6,
    "seq_len": 5,
    "hidden_size": 8,
    "num_heads": 2,
    "expansion": 4,
    "H_cycles": 2,
    "L_cycles": 1,
    "L_layers": 2,
    "H_layers": 0,
    "halt_max_steps": 4,
    "halt_exploration_prob": 0.1,
    "pos_encodings": "rope",
    "puzzle_emb_ndim": 8,
    "puzzle_emb_len": 3,
    "num_puzzle_identifiers": 2,
}
KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "attention": ({}, False),
    "single": ({}, True),
    "mixer": ({"mlp_t": True, "pos_encodings": "none"}, False),
    "learned": ({"pos_encodings": "learned", "puzzle_emb_ndim": 0}, False),
}


def make(kind: str = "attention") -> tuple[TRM, dict[str, Tensor], dict[str, Any]]:
    """A model of ours, and the same one as the published code would have saved it."""
    changes, single = KINDS[kind]
    arch = ARCH | changes
    torch.manual_seed(0)
    model = TRM(published_config(arch, single=single)).eval()
    ours = {n: torch.randn_like(t) for n, t in model.state_dict().items()}
    model.load_state_dict(ours)
    theirs = {name: ours[our_name].clone() for our_name, name in published_names(model.config).items()}
    for name in ("q_head.weight", "q_head.bias"):  # their second output, "continue", is never trained
        theirs[name] = torch.cat((theirs[name], torch.randn_like(theirs[name])))
    return model, theirs, arch


def assert_same(got: TRM, want: TRM) -> None:
    assert got.config == want.config
    for name, tensor in want.state_dict().items():
        assert torch.equal(got.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "_orig_mod.model.inner.", "model.inner.", "module._orig_mod.", "inner."])
def test_names_with_and_without_wrappers(kind: str, prefix: str) -> None:
    model, theirs, arch = make(kind)
    assert_same(from_published({prefix + n: t for n, t in theirs.items()}, arch), model)


def test_the_published_single_latent_ends_a_cycle_without_the_question() -> None:
    config = published_config(ARCH, single=True)
    assert (config.state, config.inject_last) == ("single", False)
    assert published_config(ARCH, single=False).state == "dual"


def test_every_tensor_has_a_published_name() -> None:
    for kind in KINDS:
        model, _, _ = make(kind)
        names = published_names(model.config)
        assert names.keys() == model.state_dict().keys()
        assert len(set(names.values())) == len(names)


def test_low_precision_weights_become_float32() -> None:
    _, theirs, arch = make()
    model = from_published({n: t.bfloat16() for n, t in theirs.items()}, arch)
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("name", ["embed_tokens.embedding_weight", "q_head.bias", "L_init", "puzzle_emb.weights"])
def test_a_missing_tensor_is_named(name: str) -> None:
    _, theirs, arch = make()
    del theirs[name]
    with pytest.raises(UserError, match=f"no tensor '{name}'"):
        from_published(theirs, arch)


@pytest.mark.parametrize("name", ["lm_head.weight", "q_head.weight", "L_level.layers.1.mlp.down_proj.weight"])
def test_a_misshapen_tensor_is_named(name: str) -> None:
    _, theirs, arch = make()
    theirs[name] = torch.ones(7, 7)
    with pytest.raises(UserError, match=rf"{name} has shape \([17], 7\), the configuration expects"):
        from_published(theirs, arch)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": "8"}, "hidden_size = "),
        ({"L_layers": 2.5}, "num_layers = "),
        ({"num_heads": 3}, "num_heads 3"),
        ({"pos_encodings": "alibi"}, "positions = "),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_a_user_error(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"published configuration does not work: .*{words}"):
        published_config(ARCH | {"puzzle_emb_ndim": 0} | changes, single=False)


@pytest.mark.parametrize("key", ["hidden_size", "H_cycles", "vocab_size"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(UserError, match=f"has no key '{key}'"):
        published_config({k: v for k, v in ARCH.items() if k != key}, single=False)


def test_the_prefix_holds_a_puzzle_row() -> None:
    assert published_config(ARCH | {"puzzle_emb_len": 0, "puzzle_emb_ndim": 17}, single=False).prefix_tokens == 3
    assert published_config(ARCH, single=False).prefix_tokens == 3
    assert published_config(ARCH | {"puzzle_emb_ndim": 0}, single=False).prefix_tokens == 0


def test_files(tmp_path: Path) -> None:
    model, theirs, arch = make("mixer")
    torch.save(theirs | {"step": 5}, tmp_path / "step_5")  # numbers beside the tensors are ignored
    save_file(theirs, tmp_path / "w.safetensors")
    for name in ("step_5", "w.safetensors"):
        assert_same(from_published(read_published(tmp_path / name).tensors, arch), model)


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)

    def __init__(self, path: str) -> None:
        self.path = path


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "x": Bomb(str(tmp_path / "ran"))}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt cannot be read as weights") as error:
        read_published(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 20, None])
def test_unreadable_files(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UserError, match=f"{name} (cannot be read as weights: .|is damaged or not a safetensors file|does not exist)"
    ):
        read_published(tmp_path / name)


def test_something_else_in_a_torch_file(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "w.pt")
    with pytest.raises(UserError, match="contains a list, not a state dict"):
        read_published(tmp_path / "w.pt")


def test_an_embedding_without_width_is_no_tensor() -> None:
    """The published code keeps one in models that have no puzzle embedding."""
    _, theirs, arch = make("learned")
    from_published(theirs | {"puzzle_emb.weights": torch.zeros(1, 0)}, arch)
