"""Infers configurations from published checkpoints and options, and refuses wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.interchange import published_config, published_names, read_published
from trm_fast.interchange.inferring import infer_model, read_arch
from trm_fast.tasks.symbols import Symbols, SymbolsConfig

TASK = Symbols(SymbolsConfig(length=5, symbols=5))
ARCH: dict[str, Any] = {
    "vocab_size": 6, "seq_len": 5, "hidden_size": 128, "num_heads": 2, "expansion": 4, "H_cycles": 2, "L_cycles": 1,
    "L_layers": 2, "halt_max_steps": 4, "pos_encodings": "rope", "puzzle_emb_ndim": 128, "puzzle_emb_len": 3,
    "num_puzzle_identifiers": 4,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "mixer": {"mlp_t": True, "pos_encodings": "none"},
    "learned": {"pos_encodings": "learned"},
    "plain": {"puzzle_emb_ndim": 0, "num_puzzle_identifiers": 1},
    "wide": {"expansion": 6},
    "deep": {"L_layers": 3},
}
UNSEEN: dict[str, dict[str, Any]] = {
    "attention": {"num_heads": 2, "H_cycles": 2, "L_cycles": 1, "pos_encodings": "rope", "puzzle_emb_len": 3},
    "mixer": {"H_cycles": 2, "L_cycles": 1},
    "learned": {"num_heads": 2, "H_cycles": 2, "L_cycles": 1},
    "plain": {"num_heads": 2, "H_cycles": 2, "L_cycles": 1, "pos_encodings": "rope"},
}


def make(kind: str = "attention", single: bool = False) -> tuple[TRM, dict[str, Tensor], dict[str, Any]]:
    """A model of ours, the same one as the published code saves it, and its configuration."""
    arch = ARCH | KINDS[kind]
    torch.manual_seed(0)
    model = TRM(published_config(arch, single=single)).eval()
    ours = model.state_dict()
    theirs = {name: ours[our_name].clone() for our_name, name in published_names(model.config).items()}
    for name in ("q_head.weight", "q_head.bias"):
        theirs[name] = torch.cat((theirs[name], torch.randn_like(theirs[name])))
    return model, theirs, arch


def assert_same_answers(got: TRM, want: TRM) -> None:
    inputs = torch.randint(0, 6, (3, 5), generator=torch.Generator().manual_seed(0))
    for name in ("solution", "confidence"):
        assert torch.equal(got.solve(inputs, 3)[name], want.solve(inputs, 3)[name])


@pytest.mark.parametrize("kind", UNSEEN)
@pytest.mark.parametrize("single", [False, True])
def test_few_options_are_needed(kind: str, single: bool) -> None:
    model, theirs, _ = make(kind, single)
    got = infer_model({"_orig_mod.model.inner." + n: t for n, t in theirs.items()}, UNSEEN[kind], TASK)
    ignored = {"num_heads", "max_supervision_steps"} if kind == "mixer" else {"max_supervision_steps"}
    assert got.config.model_dump(exclude=ignored) == model.config.model_dump(exclude=ignored)
    assert got.config.max_supervision_steps == 16  # as published, where nothing says otherwise
    assert_same_answers(got, model)


@pytest.mark.parametrize("kind", KINDS)
def test_published_configuration_is_enough(kind: str, tmp_path: Path) -> None:
    model, theirs, arch = make(kind)
    # As in the published YAML: these come from the data set, or refer to other keys.
    written = {k: v for k, v in arch.items() if k not in ("vocab_size", "seq_len", "num_puzzle_identifiers")}
    written |= {"name": "recursive_reasoning.trm@Model", "loss": {"name": "x"}, "puzzle_emb_ndim": "${.hidden_size}"}
    if not arch["puzzle_emb_ndim"]:
        written["puzzle_emb_ndim"] = 0
    for content in (written, {"arch": written, "lr": 1e-4, "data_paths": ["x"]}):
        (tmp_path / "c.yaml").write_text(json.dumps(content))
        got = infer_model(theirs, read_arch(tmp_path / "c.yaml"), TASK)
        assert got.config == model.config
        assert_same_answers(got, model)


@pytest.mark.parametrize("kind", UNSEEN)
def test_missing_option_is_named(kind: str) -> None:
    _, theirs, _ = make(kind)
    options = {"num_heads": "--heads", "H_cycles": "--cycles", "L_cycles": "--latent-steps",
               "pos_encodings": "--positions", "puzzle_emb_len": "--prefix-tokens"}  # fmt: skip
    for left_out in UNSEEN[kind]:
        arch = {k: v for k, v in UNSEEN[kind].items() if k != left_out}
        with pytest.raises(
            UserError, match=f"do not determine {left_out}: use --config or {options[left_out]}"
        ) as error:
            infer_model(theirs, arch, TASK)
        assert error.value.usage_error


def test_puzzle_embeddings_are_resized_or_dropped() -> None:
    _, theirs, arch = make()
    theirs["puzzle_emb.weights"] = torch.randn(4, 128)
    rows = infer_model(theirs, arch, TASK, puzzles=7).puzzle_embedding
    assert rows is not None
    torch.testing.assert_close(rows, theirs["puzzle_emb.weights"].mean(0).expand(7, -1))
    dropped = infer_model(theirs, arch, TASK, puzzles=0)
    assert (dropped.puzzle_embedding, dropped.config.prefix_tokens) == (None, 0)
    for kind in ("mixer", "learned"):
        _, theirs, arch = make(kind)
        with pytest.raises(UserError, match="cannot be removed"):
            infer_model(theirs, arch, TASK, puzzles=0)
    _, theirs, arch = make("plain")
    assert infer_model(theirs, arch, TASK, puzzles=0).puzzle_embedding is None


def test_another_architecture_is_refused_by_its_names() -> None:
    model, theirs, arch = make()
    with pytest.raises(UserError, match=r"no tensors extra\.weight, more\.bias"):
        infer_model(theirs | {"extra.weight": torch.ones(1), "more.bias": torch.ones(1)}, arch, TASK)
    two = {"H" + name[1:]: tensor + 1 for name, tensor in theirs.items() if name.startswith("L_level.")}
    with pytest.raises(UserError, match=r"two networks \(HRM\): H_level\.layers.* and L_level\.layers.* differ"):
        infer_model(theirs | two, arch, TASK)
    tied = {name: theirs["L" + name[1:]] for name in two}
    assert_same_answers(infer_model(theirs | tied, arch, TASK), model)
    only = {name: tensor for name, tensor in theirs.items() if not name.startswith("L_level.")} | tied
    assert_same_answers(infer_model(only, arch, TASK), model)
    buffers = {"rotary_emb.cos_cached": torch.ones(3), "puzzle_emb.local_ids": torch.ones(2)}
    assert_same_answers(infer_model(theirs | buffers, arch, TASK), model)
    with pytest.raises(UserError, match=r"not a published checkpoint: it has no embed_tokens.embedding_weight, but a"):
        infer_model({"a": torch.ones(1)}, arch, TASK)
    del theirs["L_level.layers.1.mlp.down_proj.weight"]
    with pytest.raises(UserError, match=r"no tensor 'L_level\.layers\.1\.mlp\.down_proj\.weight'"):
        infer_model(theirs, arch, TASK)


def test_another_task_is_refused() -> None:
    _, theirs, arch = make("mixer")
    with pytest.raises(UserError, match="has 6 tokens, the task symbols has 9: is it for another --task"):
        infer_model(theirs, arch, Symbols(SymbolsConfig(length=5, symbols=8)))
    with pytest.raises(UserError, match="the model has 8 positions, the task 9"):
        infer_model(theirs, arch, Symbols(SymbolsConfig(length=9, symbols=5)))


def test_files_that_keep_several_sets(tmp_path: Path) -> None:
    _, theirs, _ = make("mixer")
    other = {name: tensor + 1 for name, tensor in theirs.items()}
    torch.save({"model_state_dict": theirs, "ema_shadow": other, "step": 3, "optimizer": {"lr": 1}}, tmp_path / "both")
    assert torch.equal(read_published(tmp_path / "both").tensors["L_init"], other["L_init"])
    assert torch.equal(read_published(tmp_path / "both", "raw").tensors["L_init"], theirs["L_init"])
    torch.save({"model": theirs}, tmp_path / "one")
    assert torch.equal(read_published(tmp_path / "one").tensors["L_init"], theirs["L_init"])
    torch.save({"ema": theirs}, tmp_path / "averaged")
    with pytest.raises(UserError, match="has no raw weights; it contains ema"):
        read_published(tmp_path / "averaged", "raw")


@pytest.mark.parametrize("content", ["a: [", "3", "a: 1", None])
def test_bad_configurations(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError, match=r"c\.yaml(: No such file|: not valid YAML| is not a published configuration)"):
        read_arch(tmp_path / "c.yaml")
