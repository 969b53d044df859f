"""Converts checkpoints of the published implementation: names, configuration keys and weights.

The checkpoints are state dicts whose keys may start with the names of wrappers (``_orig_mod.``, ``model.``,
``inner.``). Pickles are loaded only with ``weights_only``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.interchange.layouts import arch_of, renamed
from trm_fast.interchange.weight_sets import WeightSet, choose_weights
from trm_fast.memory import require_memory
from trm_fast.models import TRMConfig
from trm_fast.models.weights import check_memory, check_numbers, meta_model, read_tensors
from trm_fast.validation import validated

_WRAPPERS = ("_orig_mod.", "module.", "model.", "inner.")
_COMPUTED = ("rotary_emb.", "puzzle_emb.local_", "n_averaged")
"""Prefixes of tables, buffers and counters that some checkpoints contain. They are recomputed, not loaded."""


def published_config(config: Mapping[str, Any], *, single: bool) -> TRMConfig:
    """The configuration for published ``arch`` keys. ``single``: whether the model has only a latent state.

    Raises:
        UserError: a key is missing or invalid.
    """
    try:
        hidden, rows = config["hidden_size"], config.get("puzzle_emb_ndim", 0)
        prefix = config.get("puzzle_emb_len", 16) or -(-rows // hidden)  # 0: as many as a row fills
        keys = {
            "vocab_size": config["vocab_size"],
            "seq_len": config["seq_len"],
            "hidden_size": hidden,
            "num_layers": config["L_layers"],
            "num_heads": config["num_heads"],
            "expansion": float(config["expansion"]),
            "mixing": "mlp" if config.get("mlp_t", False) else "attention",
            "positions": config.get("pos_encodings", "none"),
            "rope_theta": float(config.get("rope_theta", 1e4)),
            "norm_eps": float(config.get("rms_norm_eps", 1e-5)),
            "state": "single" if single else "dual",
            "inject_last": not single,  # the published code ends with the network applied to z alone
            "T_cycles": config["H_cycles"],
            "n_latent_steps": config["L_cycles"],
            "max_supervision_steps": config["halt_max_steps"],
            "prefix_tokens": prefix if rows else 0,
            "puzzle_embedding_size": rows or 1,
            "num_puzzles": config.get("num_puzzle_identifiers", 1),
        }
    except KeyError as error:
        raise UserError(f"the published configuration has no key {error}") from None
    return validated(TRMConfig, keys, "", "the published configuration does not work")


def published_names(config: TRMConfig) -> dict[str, str]:
    """The published name of each tensor, by its name here."""
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
    """Builds a model from a published state dict and its ``arch`` configuration.

    Raises:
        UserError: a tensor is missing, has another shape or does not belong to the architecture.
    """
    tensors = unwrapped(state)
    ours_config = published_config(config, single="H_init" not in tensors)
    sizes = meta_model(ours_config, "the weights")
    names, parameters = published_names(ours_config), sizes.state_dict()
    # Published checkpoints without a puzzle embedding contain an empty tensor for it.
    published = {name for name, tensor in tensors.items() if tensor.numel()}
    if unknown := sorted(published - set(names.values())):
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise UserError(f"the configured architecture has no tensors {', '.join(unknown[:3])}{more}")
    loaded = {}
    for ours, theirs in names.items():
        if theirs not in tensors:
            raise UserError(f"the published weights have no tensor {theirs!r}")
        # The published Q head has a second output, a "continue" value that is never trained.
        tensor = tensors[theirs][:1] if ours.startswith("q_head.") else tensors[theirs]
        if tensor.shape != parameters[ours].shape:
            raise UserError(
                f"{theirs} has shape {tuple(tensor.shape)}, the configuration expects {tuple(parameters[ours].shape)}"
            )
        loaded[ours] = tensor
    check_memory(sizes, "the weights", copies=2)
    check_numbers(loaded, "the weights")
    model = TRM(ours_config)
    model.load_state_dict({name: tensor.float() for name, tensor in loaded.items()})
    return model


def read_published(weights: Path, kind: str = "ema") -> WeightSet:
    """Reads the weights of a published checkpoint: ``.safetensors``, or a torch file of plain tensors.

    Those of nano-trm get the published names, and ``arch`` has the options that the file states.

    If the file contains several sets of weights, ``kind`` selects the averaged weights (``ema``), the others (``raw``),
    or a set by its name.

    Raises:
        UserError: the file cannot be read, or has no weights of this kind.
    """
    if not weights.exists():
        raise UserError(f"{weights} does not exist")
    if not weights.is_file():
        raise UserError(f"{weights} is not a file")
    require_memory(weights.stat().st_size, str(weights), "take a smaller file")
    try:
        if weights.suffix == ".safetensors":
            state: Any = read_tensors(weights)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch explains its own formats
                state = torch.load(weights, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except UnpicklingError as error:
        # torch's own message advises to load the file without this protection.
        names = ", ".join(re.findall(r"GLOBAL ([\w.]+)", str(error))[:3]) or "no plain tensors"
        raise UserError(
            f"{weights} cannot be read as weights: it holds Python objects ({names}), which could run code; only "
            "tensors are read. Save its state dict, or convert it to safetensors"
        ) from None
    except Exception as error:  # torch.load can raise any exception on damaged bytes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{weights} cannot be read as weights: {reason}") from None
    if not isinstance(state, dict):
        raise UserError(f"{weights} contains a {type(state).__name__}, not a state dict")
    arch = arch_of(state, str(weights))
    return replace(choose_weights(renamed(state, str(weights)), kind, str(weights)), arch=arch)


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes the names of wrappers from the tensors' names. Two networks with equal weights (HRM layout) become one.

    Raises:
        UserError: the checkpoint has two different networks, or two different tensors of one name.
    """
    tensors: dict[str, Tensor] = {}
    for full_name, tensor in state.items():
        name = _unwrapped(full_name)
        if name in tensors and not torch.equal(tensors[name], tensor):
            raise UserError(f"{full_name} and another tensor are both {name}, but differ")
        if not name.startswith(_COMPUTED):
            tensors[name] = tensor
    upper = {name: "L" + name[1:] for name in tensors if name.startswith("H_level.")}
    for name, lower in upper.items():
        if lower in tensors and not torch.equal(tensors[name], tensors[lower]):
            raise UserError(f"two networks (HRM): {name} and {lower} differ, but a TRM has a single network")
    if len({*upper.values()} - tensors.keys()) not in (0, len(upper)):
        raise UserError(f"two networks (HRM): only some tensors such as {next(iter(upper))} are also in L_level")
    return {upper.get(name, name): tensor for name, tensor in tensors.items()}


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name
