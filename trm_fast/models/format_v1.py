"""Reads configurations of format version 1, whose flat model section held the keys of all heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trm_fast.errors import UserError

HEAD_KEYS = {
    "tokens": {},
    "values": {"output_width": "width", "tolerance": "tolerance"},
    "text": {"row_symbols": "row_symbols", "stems": "stems", "action_dim": "pointer_width"},
    "slots": {"num_tools": "num_tools", "num_fields": "num_fields", "num_values": "num_values"},
    "selection": {
        "num_tools": "num_tools",
        "num_fields": "num_fields",
        "num_words": "num_words",
        "stems": "stems",
        "known_tools": "known_tools",
        "reasoning_dim": "tool_width",
        "action_dim": "value_width",
    },
}
"""Keys in version 1 and their current names, by kind of head."""

REMOVED = {"outputs", "norm", "state_widths", "reasoning_dim", "action_dim"}.union(*HEAD_KEYS.values())


def upgrade_model_section(section: Mapping[str, Any], kind: str | None = None) -> dict[str, Any]:
    """Converts a model section of format version 1 to the keys of ``TRMConfig``. Other sections stay the same.

    Args:
        section: the keys of ``model``.
        kind: the kind of head, if the task decides it and the section does not name it.

    Raises:
        UserError: the section uses a feature that was removed.
    """
    if not REMOVED & section.keys():
        return dict(section)
    if (norm := section.get("norm", "rms")) != "rms":
        raise UserError(f"model.norm: {norm} was removed: all norms are RMSNorm, as published", usage_error=True)
    new = {key: value for key, value in section.items() if key not in REMOVED}
    if not isinstance(new.get("head", {}), Mapping):
        return new  # validation rejects it
    kind = section.get("outputs") or kind or "tokens"
    head = {"kind": kind} if "outputs" in section else {}
    head |= {new_key: section[key] for key, new_key in HEAD_KEYS.get(kind, {}).items() if key in section}
    head |= new.get("head", {})
    if section.get("state_widths", "hidden") == "own":
        new.setdefault("latent_width", section.get("reasoning_dim", 64))
        if section.get("state", "dual") == "dual":
            new.setdefault("answer_width", section.get("action_dim", 32))
    return new | ({"head": head} if head else {})


def upgrade_sections(sections: Mapping[str, Any], kind: str | None = None) -> dict[str, Any]:
    """Converts the sections of a run of format version 1. Some keys move to another section."""
    new = dict(sections)
    if isinstance(model := sections.get("model"), Mapping):
        new["model"] = upgrade_model_section(model, kind)
    training = sections.get("training")
    if isinstance(training, Mapping) and "arguments" in training:
        new["training"] = {key: value for key, value in training.items() if key != "arguments"}
        model = new.get("model") or {}
        if training["arguments"] != "every" and isinstance(model, Mapping):
            new["model"] = {**model, "head": {"arguments": training["arguments"], **(model.get("head") or {})}}
    return new
