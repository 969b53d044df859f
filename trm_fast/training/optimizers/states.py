"""Checks of parameter groups and of states that an optimizer is to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def check_group(group: Mapping[str, Any]) -> None:
    """Checks the parameters and the settings of a group.

    Raises:
        TypeError: a parameter is not floating-point.
        ValueError: a setting is out of its range.
    """
    for i, p in enumerate(group["params"]):
        if not p.is_floating_point():
            raise TypeError(f"parameter {i} of the group must be floating-point, but is {p.dtype}")
    lr, betas, decay = group["lr"], group["betas"], group["weight_decay"]
    if not isinstance(lr, Tensor) and not lr >= 0:
        raise ValueError(f"lr must be 0 or more, not {lr}")
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr must be a number or a tensor (), not {tuple(lr.shape)}")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers from 0 to below 1, not {betas}")
    if not decay >= 0:
        raise ValueError(f"weight_decay must be 0 or more, not {decay}")


def check_state_dict(
    state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Tensor]]
) -> None:
    """Checks that a state fits an optimizer.

    Args:
        state_dict: in the form of torch's optimizers.
        groups: the optimizer's groups.
        states: the state tensors of its parameters, in order.

    Raises:
        ValueError: it does not.
    """
    if not {"state", "param_groups"} <= state_dict.keys():
        raise ValueError(f"a state_dict has state and param_groups, this one has {', '.join(map(str, state_dict))}")
    saved = [group["params"] for group in state_dict["param_groups"]]
    if [len(ids) for ids in saved] != [len(group["params"]) for group in groups]:
        sizes = [len(group["params"]) for group in groups]
        raise ValueError(f"its groups have {[len(ids) for ids in saved]} parameters, those of the optimizer {sizes}")
    for number, (key, kept) in enumerate(zip((i for ids in saved for i in ids), states, strict=True)):
        state = {name: value for name, value in state_dict["state"].get(key, {}).items() if name != "step"}
        if not state:
            continue
        if ("ema" in state) != ("ema" in kept):
            raise ValueError("one of the optimizers averages weights and the other does not")
        if state.keys() != kept.keys():
            raise ValueError(f"parameter {number} has the state {', '.join(state)}, but needs {', '.join(kept)}")
        for name, value in state.items():
            if value.shape != kept[name].shape:
                raise ValueError(
                    f"{name} of parameter {number} is {tuple(value.shape)}, but must be {tuple(kept[name].shape)}"
                )
