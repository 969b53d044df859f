"""What a published checkpoint is: its shapes tell most of it, a configuration or the user the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.interchange.published import from_published, unwrapped
from trm_fast.models.config import TRMConfig
from trm_fast.tasks.base import Task

ASKED = {
    "num_heads": "--heads",
    "H_cycles": "--cycles",
    "L_cycles": "--latent-steps",
    "pos_encodings": "--positions",
    "puzzle_emb_len": "--prefix-tokens",
}
"""What shapes can't tell, and the option that says it."""

EXPANSION, MULTIPLE = 4.0, 256


def read_arch(path: Path) -> dict[str, Any]:
    """The keys of a published ``arch`` YAML, or of the ``arch`` section of an ``all_config.yaml``."""
    try:
        found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise UserError(f"{path} can't be read: {' '.join(str(error).split())}", wrong_use=True) from None
    arch = found.get("arch", found) if isinstance(found, dict) else None
    if not isinstance(arch, dict) or "H_cycles" not in arch:
        raise UserError(f"{path} is no published configuration: it has no arch section with H_cycles", wrong_use=True)
    # ${...} refers to another key of theirs; what it stands for is seen in the weights' shapes.
    return {key: value for key, value in arch.items() if not (isinstance(value, str) and "${" in value)}


def model_of(state: Mapping[str, Tensor], arch: Mapping[str, Any], task: Task, puzzles: int | None = None) -> TRM:
    """The model of a published state dict for a task. ``arch`` holds what is known besides the shapes.

    ``puzzles``: rows of the puzzle embedding, each the mean of the old ones (as the published code does for another
    data set); 0 leaves the embedding and its places out, which attention alone can do. None keeps it.
    """
    tensors = unwrapped(state)
    known = {**arch, **shapes(tensors), "seq_len": task.seq_len}
    _resolve_prefix(tensors, known)
    _check_task(known, task)
    for key, option in ASKED.items():
        needed = {"puzzle_emb_len": bool(known["puzzle_emb_ndim"]), "num_heads": not known["mlp_t"]}
        if known.get(key) is None and needed.get(key, True):
            raise UserError(f"the weights don't tell {key}: give --config or {option}", wrong_use=True)
    known.setdefault("halt_max_steps", 16)
    if known["mlp_t"]:
        known["num_heads"] = known.get("num_heads") or 1  # a mixer has none
    if puzzles is not None and known["puzzle_emb_ndim"]:
        tensors = _resized(tensors, known, puzzles)
    known["expansion"] = _expansion(tensors, known)
    return from_published(tensors, known)


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``arch`` keys that the shapes of unwrapped tensors decide."""
    embedding = tensors.get("embed_tokens.embedding_weight")
    if embedding is None or embedding.dim() != 2:
        some = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise UserError(f"no published checkpoint: it has no embed_tokens.embedding_weight, but {some}")
    layers = {int(m[1]) for name in tensors if (m := re.match(r"L_level\.layers\.(\d+)\.", name))}
    found: dict[str, Any] = {
        "vocab_size": embedding.shape[0],
        "hidden_size": embedding.shape[1],
        "L_layers": len(layers),
        "mlp_t": any(".mlp_t." in name for name in tensors),
        "puzzle_emb_ndim": 0,
    }
    rows = tensors.get("puzzle_emb.weights")
    if rows is not None and rows.dim() == 2:
        found |= {"num_puzzle_identifiers": rows.shape[0], "puzzle_emb_ndim": rows.shape[1]}
    if "embed_pos.embedding_weight" in tensors:
        found["pos_encodings"] = "learned"
    elif found["mlp_t"]:
        found["pos_encodings"] = "none"  # rotary positions live in attention alone
    return found


def _places(tensors: Mapping[str, Tensor]) -> int | None:
    """Tokens with the prefix, where a tensor has a dimension of them."""
    for name in ("embed_pos.embedding_weight", "L_level.layers.0.mlp_t.gate_up_proj.weight"):
        if name in tensors and tensors[name].dim() == 2:
            return tensors[name].shape[0 if name.startswith("embed") else 1]
    return None


def _resolve_prefix(tensors: Mapping[str, Tensor], known: dict[str, Any]) -> None:
    places = _places(tensors)
    if not known["puzzle_emb_ndim"]:
        known["puzzle_emb_len"] = 0
    elif places is not None:
        known["puzzle_emb_len"] = places - known["seq_len"]
    prefix = known.get("puzzle_emb_len")
    if places is not None and prefix is not None and (prefix < 0 or places != known["seq_len"] + prefix):
        raise UserError(f"the model reads {places} tokens, the task has {known['seq_len']}: is it another --task?")


def _check_task(known: Mapping[str, Any], task: Task) -> None:
    if known["vocab_size"] != task.vocab_size:
        raise UserError(
            f"embed_tokens.embedding_weight has {known['vocab_size']} tokens, the task {task.name} has "
            f"{task.vocab_size}: is it another --task?"
        )


def _resized(tensors: Mapping[str, Tensor], known: dict[str, Any], puzzles: int) -> dict[str, Tensor]:
    result = dict(tensors)
    rows = result.pop("puzzle_emb.weights")
    if puzzles:
        known["num_puzzle_identifiers"] = puzzles
        return result | {"puzzle_emb.weights": rows.float().mean(0, keepdim=True).expand(puzzles, -1).contiguous()}
    if _places(tensors) is not None:
        raise UserError(
            "the puzzle embedding can't be dropped: the token mixer or the learned positions have places for it",
            wrong_use=True,
        )
    known.update(puzzle_emb_ndim=0, puzzle_emb_len=0, num_puzzle_identifiers=1)
    return result


def _expansion(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> float:
    """An expansion that gives the SwiGLUs their widths: the configured one, or the published 4, wherever it does."""
    widths = {}  # width -> inner
    for name in ("mlp.gate_up_proj.weight", "mlp_t.gate_up_proj.weight"):
        tensor = tensors.get(f"L_level.layers.0.{name}", torch.empty(0))
        if tensor.dim() == 2:
            widths[tensor.shape[1]] = tensor.shape[0] // 2
    told = [float(known["expansion"])] if known.get("expansion") else []
    candidates = [*told, EXPANSION, *(1.5 * inner / width for width, inner in widths.items())]
    for expansion in candidates:
        config = TRMConfig(expansion=expansion, inner_multiple=MULTIPLE)
        if all(config.network.inner_size(width) == inner for width, inner in widths.items()):
            return expansion
    return EXPANSION  # from_published says what does not fit
