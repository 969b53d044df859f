"""Imports checkpoints of nano-trm, compared with an independent forward in plain PyTorch, and refuses others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trm_fast.errors import UserError
from trm_fast.interchange import read_published
from trm_fast.interchange.inferring import infer_model
from trm_fast.nn.recursion import State
from trm_fast.tasks import make_task

D, HEADS, INNER, PREFIX, LENGTH, VOCABULARY = 8, 2, 256, 2, 16, 6
OPTIONS: dict[str, Any] = {
    "H_cycles": 2, "L_cycles": 2, "N_supervision": 4, "num_heads": HEADS, "ffn_expansion": 2, "rope_theta": 10000,
    "puzzle_emb_len": PREFIX, "pos_emb_type": "1d", "use_conv_swiglu": False, "use_mlp": False,
}  # fmt: skip


def checkpoint(*, mixer: bool = False, **changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    state = {
        "input_embedding.embedding_weight": torch.randn(VOCABULARY, D),
        "lm_head.weight": torch.randn(VOCABULARY, D),
        "q_head.weight": torch.randn(1, D),
        "q_head.bias": torch.randn(1),
        "z_H_init": torch.randn(D),
        "z_L_init": torch.randn(D),
        "puzzle_emb.weights": torch.randn(1, D),
        "puzzle_emb.local_weights": torch.zeros(4, D),
        "puzzle_emb.local_ids": torch.zeros(4, dtype=torch.int32),
    }
    T = PREFIX + LENGTH
    for i in range(2):
        name = f"lenet.layers.{i}"
        if mixer:
            state[f"{name}.mlp_t.gate_up_proj.weight"] = torch.randn(2 * INNER, T) / T**0.5
            state[f"{name}.mlp_t.down_proj.weight"] = torch.randn(T, INNER) / INNER**0.5
        else:
            state[f"{name}.self_attn.qkv_proj.weight"] = torch.randn(3 * D, D) / D**0.5
            state[f"{name}.self_attn.o_proj.weight"] = torch.randn(D, D) / D**0.5
        state[f"{name}.mlp.gate_up_proj.weight"] = torch.randn(2 * INNER, D) / D**0.5
        state[f"{name}.mlp.down_proj.weight"] = torch.randn(D, INNER) / INNER**0.5
    return {"state_dict": state, "hyper_parameters": OPTIONS | {"use_mlp": mixer} | changes, "epoch": 3}


def expected(state: dict[str, Tensor], options: dict[str, Any], tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and halting logit of one supervision step."""
    T, width = PREFIX + LENGTH, D // HEADS
    rates = 1 / 10000 ** (torch.arange(0, width, 2) / width)
    angles = torch.outer(torch.arange(T), rates).repeat(1, 2)

    def turned(x: Tensor) -> Tensor:  # (B, heads, T, width)
        if options["pos_emb_type"] is None:
            return x
        first, second = x.chunk(2, -1)
        return x * angles.cos() + torch.cat((-second, first), -1) * angles.sin()

    def norm(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def swiglu(x: Tensor, name: str) -> Tensor:
        gate, up = F.linear(x, state[f"{name}.gate_up_proj.weight"]).chunk(2, -1)
        return F.linear(F.silu(gate) * up, state[f"{name}.down_proj.weight"])

    def network(h: Tensor) -> Tensor:
        for i in range(2):
            name = f"lenet.layers.{i}"
            qkv = F.linear(h, state[f"{name}.self_attn.qkv_proj.weight"]).view(len(h), T, 3 * HEADS, width)
            q, k, v = qkv.transpose(1, 2).split(HEADS, 1)
            weights = (turned(q) @ turned(k).transpose(-1, -2) / width**0.5).softmax(-1)
            mixed = (weights @ v).transpose(1, 2).reshape(len(h), T, D)
            h = norm(h + F.linear(mixed, state[f"{name}.self_attn.o_proj.weight"]))
            h = norm(h + swiglu(h, f"{name}.mlp"))
        return h

    prefix = F.pad(state["puzzle_emb.weights"], (0, (PREFIX - 1) * D)).view(1, PREFIX, D).expand(len(tokens), -1, -1)
    x = D**0.5 * torch.cat((prefix, state["input_embedding.embedding_weight"][tokens]), 1)
    y, z = (state[name].expand_as(x) for name in ("z_H_init", "z_L_init"))
    for _ in range(options["H_cycles"]):
        for _ in range(options["L_cycles"]):
            z = network(z + y + x)
        y = network(y + z)
    q = F.linear(y[:, 0], state["q_head.weight"], state["q_head.bias"])
    return F.linear(y, state["lm_head.weight"])[:, PREFIX:], q[:, 0]


@pytest.mark.parametrize("changes", [{}, {"pos_emb_type": None}])
def test_nano_trm(changes: dict[str, Any], tmp_path: Path) -> None:
    content = checkpoint(**changes)
    torch.save(content, tmp_path / "last.ckpt")
    chosen = read_published(tmp_path / "last.ckpt")
    model = infer_model(chosen.tensors, chosen.arch, make_task({"name": "sudoku", "size": 4}, "test"))
    assert (model.config.T_cycles, model.config.n_latent_steps, model.config.max_supervision_steps) == (2, 2, 4)
    tokens = torch.randint(1, VOCABULARY, (3, LENGTH))
    with torch.no_grad():
        out = model(tokens, model.initial_state(3), model.puzzle_rows(None, 3))
    logits, q = expected(content["state_dict"], content["hyper_parameters"], tokens)
    assert isinstance(out.state, State)
    torch.testing.assert_close(out.logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.q, q, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos_emb_type": "2d"}, "pos_emb_type '2d'"),
        ({"use_conv_swiglu": True}, "use_conv_swiglu True"),
        ({"mixer": True}, "normalizes channels"),
        ({"attn_gate_type": "headwise"}, "attn_gate_type 'headwise'"),
    ],
)
def test_nano_trm_with_other_layers(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save(checkpoint(**changes), tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=message):
        read_published(tmp_path / "last.ckpt")


def test_convolutions_without_options_are_refused_by_their_tensors(tmp_path: Path) -> None:
    state = checkpoint()["state_dict"] | {"lenet.layers.0.mlp.dwconv.weight": torch.zeros(4, 1, 3)}
    torch.save(state, tmp_path / "weights.pt")
    chosen = read_published(tmp_path / "weights.pt")
    arch = {"H_cycles": 2, "L_cycles": 2, "num_heads": 2, "pos_encodings": "rope", "puzzle_emb_len": 2}
    with pytest.raises(UserError, match=r"no tensors L_level\.layers\.0\.mlp\.dwconv\.weight"):
        infer_model(chosen.tensors, arch, make_task({"name": "sudoku", "size": 4}, "test"))


def test_lucidrains_is_refused_by_name(tmp_path: Path) -> None:
    names = ("input_embed.weight", "output_init_embed", "latent_init_embed", "to_pred.weight", "to_halt_pred.1.weight")
    torch.save({"model": {name: torch.zeros(2, 2) for name in names}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="lucidrains, which does not fit: its halting head"):
        read_published(tmp_path / "model.pt")
