"""Infers the configuration of a published checkpoint from its tensors' shapes, a configuration file and options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.interchange.published import from_published, unwrapped
from trm_fast.memory import require_memory
from trm_fast.models.config import TRMConfig
from trm_fast.tasks.base import Task
from trm_fast.texts import MAX_CONFIG, parse_yaml, read_text

OPTIONS = {
    "num_heads": "--heads",
    "H_cycles": "--cycles",
    "L_cycles": "--latent-steps",
    "pos_encodings": "--positions",
    "puzzle_emb_len": "--prefix-tokens",
}
"""Published keys that the shapes do not determine, and the command-line options that set them."""

EXPANSION, MULTIPLE = 4.0, 256


def read_arch(path: Path) -> dict[str, Any]:
    """The keys of a published ``arch`` YAML file, or of the ``arch`` section of an ``all_config.yaml``.

    Raises:
        UserError: the file cannot be read, or is not such a configuration.
    """
    try:
        content = parse_yaml(read_text(path, MAX_CONFIG), str(path))
    except UserError as error:
        raise UserError(str(error), usage_error=True) from None
    arch = content.get("arch", content) if isinstance(content, dict) else None
    if not isinstance(arch, dict) or "H_cycles" not in arch:
        raise UserError(
            f"{path} is not a published configuration: it has no arch section with H_cycles", usage_error=True
        )
    # Drop references to other keys (${...}): the shapes of the weights determine their values.
    return {key: value for key, value in arch.items() if not (isinstance(value, str) and "${" in value)}


def infer_model(state: Mapping[str, Tensor], arch: Mapping[str, Any], task: Task, puzzles: int | None = None) -> TRM:
    """Builds the model of a published state dict for a task.

    Args:
        state: the tensors by their published names.
        arch: the published configuration keys, which are needed for what the shapes do not determine.
        task: the task that the model solves.
        puzzles: new number of rows of the puzzle embedding. Each new row is the mean of the old rows, as in the
            published code for another data set. 0 removes the embedding and its prefix, which is possible only with
            attention and without learned positions. None keeps the embedding.

    Raises:
        UserError: a key is missing, or the weights do not fit the configuration or the task.
    """
    tensors = unwrapped(state)
    arch_keys = {**arch, **shapes(tensors), "seq_len": task.seq_len}
    _resolve_prefix(tensors, arch_keys)
    if arch_keys["vocab_size"] != task.vocab_size:
        raise UserError(
            f"embed_tokens.embedding_weight has {arch_keys['vocab_size']} tokens, the task {task.name} has "
            f"{task.vocab_size}: is it for another --task?"
        )
    for key, option in OPTIONS.items():
        needed = {"puzzle_emb_len": bool(arch_keys["puzzle_emb_ndim"]), "num_heads": not arch_keys["mlp_t"]}
        if arch_keys.get(key) is None and needed.get(key, True):
            raise UserError(f"the weights do not determine {key}: use --config or {option}", usage_error=True)
    arch_keys.setdefault("halt_max_steps", 16)
    if arch_keys["mlp_t"]:
        arch_keys["num_heads"] = arch_keys.get("num_heads") or 1  # a token mixer has no heads
    if puzzles is not None and arch_keys["puzzle_emb_ndim"]:
        tensors = _resized(tensors, arch_keys, puzzles)
    arch_keys["expansion"] = _expansion(tensors, arch_keys)
    return from_published(tensors, arch_keys)


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``arch`` keys that follow from the shapes of tensors.

    Raises:
        UserError: the tensors are not a published checkpoint.
    """
    embedding = tensors.get("embed_tokens.embedding_weight")
    if embedding is None or embedding.dim() != 2:
        some = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise UserError(f"this is not a published checkpoint: it has no embed_tokens.embedding_weight, but {some}")
    layers = {int(m[1]) for name in tensors if (m := re.match(r"L_level\.layers\.(\d{1,6})\.", name))}
    arch: dict[str, Any] = {
        "vocab_size": embedding.shape[0],
        "hidden_size": embedding.shape[1],
        "L_layers": len(layers),
        "mlp_t": any(".mlp_t." in name for name in tensors),
        "puzzle_emb_ndim": 0,
    }
    rows = tensors.get("puzzle_emb.weights")
    if rows is not None and rows.dim() == 2:
        arch |= {"num_puzzle_identifiers": rows.shape[0], "puzzle_emb_ndim": rows.shape[1]}
    if "embed_pos.embedding_weight" in tensors:
        arch["pos_encodings"] = "learned"
    elif arch["mlp_t"]:
        arch["pos_encodings"] = "none"  # rotary positions exist only with attention
    return arch


def _positions(tensors: Mapping[str, Tensor]) -> int | None:
    """The number of positions, prefix included, from a tensor with a dimension of this size; None if there is none."""
    for name in ("embed_pos.embedding_weight", "L_level.layers.0.mlp_t.gate_up_proj.weight"):
        if name in tensors and tensors[name].dim() == 2:
            return tensors[name].shape[0 if name.startswith("embed") else 1]
    return None


def _resolve_prefix(tensors: Mapping[str, Tensor], arch_keys: dict[str, Any]) -> None:
    positions = _positions(tensors)
    if not arch_keys["puzzle_emb_ndim"]:
        arch_keys["puzzle_emb_len"] = 0
    elif positions is not None:
        arch_keys["puzzle_emb_len"] = positions - arch_keys["seq_len"]
    prefix = arch_keys.get("puzzle_emb_len")
    if positions is not None and prefix is not None and (prefix < 0 or positions != arch_keys["seq_len"] + prefix):
        raise UserError(
            f"the model has {positions} positions, the task {arch_keys['seq_len']}: is it for another --task?"
        )


def _resized(tensors: Mapping[str, Tensor], arch_keys: dict[str, Any], puzzles: int) -> dict[str, Tensor]:
    result = dict(tensors)
    rows = result.pop("puzzle_emb.weights")
    if puzzles:
        arch_keys["num_puzzle_identifiers"] = puzzles
        require_memory(2 * puzzles * rows.shape[1] * 4, f"--puzzles {puzzles}", "take fewer")
        return result | {"puzzle_emb.weights": rows.float().mean(0, keepdim=True).expand(puzzles, -1).contiguous()}
    if _positions(tensors) is not None:
        raise UserError(
            "the puzzle embedding cannot be removed: the token mixer or the learned positions include its prefix",
            usage_error=True,
        )
    arch_keys.update(puzzle_emb_ndim=0, puzzle_emb_len=0, num_puzzle_identifiers=1)
    return result


def _expansion(tensors: Mapping[str, Tensor], arch_keys: Mapping[str, Any]) -> float:
    """An expansion that gives the SwiGLU layers their widths: the configured one or the published 4 if possible."""
    widths = {}  # width -> inner
    for name in ("mlp.gate_up_proj.weight", "mlp_t.gate_up_proj.weight"):
        tensor = tensors.get(f"L_level.layers.0.{name}", torch.empty(0))
        if tensor.dim() == 2:
            widths[tensor.shape[1]] = tensor.shape[0] // 2
    configured = [float(arch_keys["expansion"])] if arch_keys.get("expansion") else []
    candidates = [*configured, EXPANSION, *(1.5 * inner / width for width, inner in widths.items())]
    for expansion in candidates:
        config = TRMConfig(expansion=expansion, inner_multiple=MULTIPLE)
        if all(config.network.inner_size(width) == inner for width, inner in widths.items()):
            return expansion
    return EXPANSION  # from_published reports what does not fit
