"""The generator that dropout draws from, in a checkpoint: that of the device a run is on."""

from __future__ import annotations

import torch
from torch import Tensor


def random_state(device: torch.device) -> Tensor:
    """Bytes (N,) on the host. On a GPU the captured step draws from the same generator, and its replays move it."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Goes on where ``random_state`` was read; a state that another kind of device wrote is left alone."""
    if len(state) != len(random_state(device)):
        return
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
