"""Starting from a trained model: its weights where they fit, and a schedule that does not wreck them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trm_fast.errors import UserError
from trm_fast.models import TRMModel

RATE, HOLD_STEPS, WARMUP_STEPS = 0.2, 32, 100
"""Fine-tuning: the share of a recipe's learning rate, the steps at rate 0, the steps up to the full rate."""


def transfer(source: TRMModel, target: TRMModel, name: str) -> list[str]:
    """Copies every tensor of ``source`` that ``target`` has in the same shape; the rest keeps its fresh values.

    Returns a line for each tensor of either model that was left. UserError where nothing of the network fits:
    ``name`` is what the source is called then.
    """
    theirs, ours = source.state_dict(), target.state_dict()
    fits = [key for key, tensor in ours.items() if key in theirs and theirs[key].shape == tensor.shape]
    if not any(key.startswith("net.") for key in fits):
        a, b = source.config, target.config
        raise UserError(
            f"no layer of {name} fits: it has hidden_size {a.hidden_size}, {a.total_tokens} tokens and mixing "
            f"{a.mixing}, the run {b.hidden_size}, {b.total_tokens} and {b.mixing}",
            wrong_use=True,
        )
    target.load_state_dict({key: theirs[key].detach().to(ours[key]) for key in fits}, strict=False)
    left = []
    for key in [*ours, *(k for k in theirs if k not in ours)]:
        if key not in ours:
            left.append(f"{key}: the run has no such tensor")
        elif key not in theirs:
            left.append(f"{key}: starts fresh, {name} has none")
        elif key not in fits:
            left.append(f"{key}: starts fresh, its shape is {_shape(ours[key])} and not {_shape(theirs[key])}")
    return left


def fine_tuning(sections: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's sections with the schedule for a model that can do something already.

    The first steps have rate 0: they fill the optimizer's moments and bring the carry to its usual mix of fresh and
    half-solved examples before any weight moves. Then the rate rises slowly to a part of the recipe's.
    """
    training = dict(sections.get("training") or {})
    rate = training.get("learning_rate", 1e-4)
    if isinstance(rate, int | float):  # anything else is refused with the section
        training["learning_rate"] = rate * RATE
    return {**sections, "training": training | {"hold_steps": HOLD_STEPS, "warmup_steps": WARMUP_STEPS}}


def _shape(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
