"""The published implementation's names, configuration keys and weights, and ours.

Its checkpoints are state dicts whose keys may carry prefixes of wrappers (``_orig_mod.``, ``model.``, ``inner.``).
No pickle is loaded without ``weights_only``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from trm_fast.errors import UserError
from trm_fast.nn import TRM, TRMConfig

_WRAPPERS = ("_orig_mod.", "module.", "model.", "inner.")


def published_config(config: Mapping[str, Any], *, single: bool) -> TRMConfig:
    """Our configuration for the published ``arch`` keys; ``single`` for the variant with one latent."""
    try:
        hidden, rows = config["hidden_size"], config.get("puzzle_emb_ndim", 0)
        prefix = config.get("puzzle_emb_len", 16) or -(-rows // hidden)  # 0 stands for: as many as a row fills
        return TRMConfig(
            vocab_size=config["vocab_size"],
            seq_len=config["seq_len"],
            hidden_size=hidden,
            num_layers=config["L_layers"],
            num_heads=config["num_heads"],
            expansion=float(config["expansion"]),
            mixing="mlp" if config.get("mlp_t", False) else "attention",
            positions=config.get("pos_encodings", "none"),
            rope_theta=float(config.get("rope_theta", 1e4)),
            norm_eps=float(config.get("rms_norm_eps", 1e-5)),
            state="single" if single else "dual",
            inject_last=not single,  # the published single-z code applies the network to z alone at last
            T_cycles=config["H_cycles"],
            n_latent_steps=config["L_cycles"],
            max_supervision_steps=config["halt_max_steps"],
            prefix_tokens=prefix if rows else 0,
            puzzle_embedding_size=rows or 1,
            num_puzzles=config.get("num_puzzle_identifiers", 1),
        )
    except KeyError as error:
        raise UserError(f"the published configuration has no key {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{key}: " for key in first["loc"][:1])
        raise UserError(f"the published configuration does not work: {where}{first['msg']}") from None


def published_names(config: TRMConfig) -> dict[str, str]:
    """Our name of each tensor -> the published one."""
    names = {
        "embedding.tokens.weight": "embed_tokens.embedding_weight",
        "head.linear.weight": "lm_head.weight",
        "q_head.weight": "q_head.weight",
        "q_head.bias": "q_head.bias",
        "z_init": "L_init",
    }
    if config.state == "dual":
        names["y_init"] = "H_init"
    if config.prefix_tokens:
        names["puzzle_embedding"] = "puzzle_emb.weights"
    if config.positions == "learned":
        names["embedding.positions.weight"] = "embed_pos.embedding_weight"
    mixing = {
        "mlp": {"gate_up": "mlp_t.gate_up_proj", "down": "mlp_t.down_proj"},
        "attention": {"qkv": "self_attn.qkv_proj", "out": "self_attn.o_proj"},
    }[config.mixing]
    for i in range(config.num_layers):
        ours, theirs = f"net.blocks.{i}", f"L_level.layers.{i}"
        names |= {f"{ours}.mix.part.{a}.weight": f"{theirs}.{b}.weight" for a, b in mixing.items()}
        names |= {f"{ours}.mlp.part.{a}.weight": f"{theirs}.mlp.{a}_proj.weight" for a in ("gate_up", "down")}
    return names


def from_published(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> TRM:
    """A model from a published state dict and its ``arch`` configuration; a missing or misshapen one is a UserError."""
    tensors = {_unwrapped(name): tensor for name, tensor in state.items()}
    model = TRM(published_config(config, single="H_init" not in tensors))
    wanted = model.state_dict()
    loaded = {}
    for ours, theirs in published_names(model.config).items():
        if theirs not in tensors:
            raise UserError(f"the published weights have no tensor {theirs!r}")
        # Their Q head has a second output, for a "continue" value that is never trained.
        tensor = tensors[theirs][:1] if ours.startswith("q_head.") else tensors[theirs]
        if tensor.shape != wanted[ours].shape:
            raise UserError(
                f"{theirs} has shape {tuple(tensor.shape)}, the configuration wants {tuple(wanted[ours].shape)}"
            )
        loaded[ours] = tensor.float()
    model.load_state_dict(loaded)
    return model


def read_published(weights: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint (``.safetensors``, or a torch file of plain tensors)."""
    try:
        if weights.suffix == ".safetensors":
            return load_file(weights)
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{weights} does not exist") from None
    except Exception as error:  # torch.load raises whatever the damaged bytes lead it to
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{weights} can't be read as weights: {reason}") from None
    if not isinstance(state, dict):
        raise UserError(f"{weights} holds a {type(state).__name__}, not a state dict")
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name
