"""Saves and restores the random generator of a run's device, which dropout uses."""

from __future__ import annotations

import torch
from torch import Tensor


def random_state(device: torch.device) -> Tensor:
    """The generator's state, uint8 (N,) on the host. Replays of a captured step also advance a GPU's generator."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Restores a state that ``random_state`` returned. A state from another kind of device is ignored."""
    if len(state) != len(random_state(device)):
        return
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
