"""Layouts of checkpoints of other programs: their names and options, as those of the published code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trm_fast.errors import UserError

NANO = {
    "input_embedding.": "embed_tokens.",
    "lenet.": "L_level.",
    "z_H_init": "H_init",
    "z_L_init": "L_init",
    "pos_embedding.": "rotary_emb.",
}
"""Names of nano-trm, whose network is the published one, and the published names."""
NANO_MARK = "input_embedding.embedding_weight"
NANO_OPTIONS = {
    "H_cycles": "H_cycles",
    "L_cycles": "L_cycles",
    "N_supervision": "halt_max_steps",
    "num_heads": "num_heads",
    "ffn_expansion": "expansion",
    "rope_theta": "rope_theta",
    "puzzle_emb_len": "puzzle_emb_len",
}
"""Hyperparameters of nano-trm, and the published keys."""
NANO_POSITIONS = {"1d": "rope", None: "none"}
LUCIDRAINS = ("input_embed.weight", "latent_init_embed")


def renamed(content: Any, where: str) -> Any:
    """A checkpoint with the published names of its tensors, at any depth. Other layouts stay as they are.

    Raises:
        UserError: it is of a program whose models do not fit.
    """
    if not isinstance(content, Mapping):
        return [renamed(value, where) for value in content] if isinstance(content, list | tuple) else content
    names = [str(name) for name in content]
    if all(any(name.endswith(mark) for name in names) for mark in LUCIDRAINS):
        raise UserError(
            f"{where} is a TinyRecursiveModel of lucidrains, which does not fit: its halting head (to_halt_pred) reads "
            "the mean of all positions, and its network has norms with weights and linear maps with biases"
        )
    nano = any(name.endswith(NANO_MARK) for name in names)
    if nano and any(".mlp_t." in name for name in names):
        raise UserError(
            f"{where} is a nano-trm model with use_mlp, which does not fit: its token mixer normalizes channels, that "
            "of the published code normalizes over positions"
        )
    result: dict[Any, Any] = {}
    for name, value in content.items():
        new = _published(str(name)) if nano and isinstance(value, Tensor) else name
        if new in result:
            raise UserError(f"{where} has two tensors for {new}")
        result[new] = renamed(value, where)
    return result


def _published(name: str) -> str:
    for theirs, ours in NANO.items():
        start, match, end = name.rpartition(theirs)
        if match and (not start or start.endswith(".")):
            return f"{start}{ours}{end}"
    return name


def arch_of(content: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """The published configuration keys that a checkpoint of nano-trm states in ``hyper_parameters``.

    Raises:
        UserError: it has an option that a TRM here does not have.
    """
    options = content.get("hyper_parameters")
    state = content.get("state_dict")
    if not isinstance(options, Mapping) or not isinstance(state, Mapping) or "H_cycles" not in options:
        return {}
    positions = options.get("pos_emb_type")
    if positions not in NANO_POSITIONS:
        raise UserError(f"{where}: pos_emb_type {positions!r} (rows and columns) does not fit; 1d and None do")
    for key in ("use_conv_swiglu", "use_board_swiglu", "attn_gate_type"):
        if options.get(key):
            raise UserError(f"{where}: {key} {options[key]!r} does not fit: a TRM here has no such layer")
    arch = {ours: options[theirs] for theirs, ours in NANO_OPTIONS.items() if options.get(theirs) is not None}
    return arch | {"pos_encodings": NANO_POSITIONS[positions]}
