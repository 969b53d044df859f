"""Fine-tuning: copies a trained model's weights into a new run, and lowers the learning rate to preserve them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trm_fast.errors import UserError
from trm_fast.models import TRMModel

RATE, HOLD_STEPS, WARMUP_STEPS = 0.2, 32, 100
"""The schedule for fine-tuning: factor of the recipe's learning rate, steps at rate 0, warm-up steps."""


def transfer(source: TRMModel, target: TRMModel, name: str) -> list[str]:
    """Copies every tensor of ``source`` that ``target`` has with the same shape. Others keep their initial values.

    Args:
        source: the trained model.
        target: the new model.
        name: the name of the source, for messages.

    Returns:
        A line for each tensor of either model that was not copied.

    Raises:
        UserError: no tensor of the network fits.
    """
    old, new = source.state_dict(), target.state_dict()
    fits = [key for key, tensor in new.items() if key in old and old[key].shape == tensor.shape]
    if not any(key.startswith("net.") for key in fits):
        a, b = source.config, target.config
        raise UserError(
            f"no layer of {name} fits: it has hidden_size {a.hidden_size}, {a.total_tokens} tokens and mixing "
            f"{a.mixing}, the run {b.hidden_size}, {b.total_tokens} and {b.mixing}",
            usage_error=True,
        )
    target.load_state_dict({key: old[key].detach().to(new[key]) for key in fits}, strict=False)
    notes = []
    for key in [*new, *(k for k in old if k not in new)]:
        if key not in new:
            notes.append(f"{key}: the run has no such tensor")
        elif key not in old:
            notes.append(f"{key}: starts fresh, {name} has none")
        elif key not in fits:
            notes.append(f"{key}: starts fresh, its shape is {_shape(new[key])} and not {_shape(old[key])}")
    return notes


def fine_tuning(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces the schedule in a recipe's sections with one for a trained model.

    The first steps have rate 0. They fill the optimizer's moments and bring the carry to its usual mix of new and
    partly solved examples before any weight changes. Then the rate rises slowly to a fraction of the recipe's.
    """
    training = dict(sections.get("training") or {})
    rate = training.get("learning_rate", 1e-4)
    if isinstance(rate, int | float):  # validation rejects anything else
        training["learning_rate"] = rate * RATE
    training.pop("warmup_ratio", None)
    return {**sections, "training": training | {"hold_steps": HOLD_STEPS, "warmup_steps": WARMUP_STEPS}}


def _shape(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
