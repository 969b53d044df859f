"""Random initial states and noise on the latent state, drawn inside the training step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trm_fast.inference.noise import hashed_normal
from trm_fast.nn import State
from trm_fast.training.feed import STATES

_STRIDES = (0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1)


class RandomStates:
    """Normal random numbers that depend only on seed, slot, training step, supervision step within it, and purpose.

    They do not depend on how a batch is divided into processes and parts. A resumed run draws the same numbers, and a
    captured step draws new ones at each replay.

    Args:
        seed: seed of the run.
        slots: numbers of the slots in the whole batch.
        steps_done: the optimizer's step count (), which the training step changes.
    """

    def __init__(self, seed: int, slots: range, steps_done: Tensor) -> None:
        base = int(np.random.SeedSequence((seed, STATES)).generate_state(1, np.uint64)[0])
        keys = [_signed(base + slot * _STRIDES[0]) for slot in slots]
        self.keys = torch.tensor(keys, dtype=torch.int64, device=steps_done.device)
        self.steps_done = steps_done

    def start(self, like: State, part: slice, step: int) -> State:
        """Returns initial states for the slots of a part, in the shapes and dtypes of ``like``: at each position a
        random direction with root mean square 1.

        Args:
            like: the state of these slots.
            part: the slots.
            step: the number of the supervision step among those of one optimizer step.
        """
        y = None if like.y is None else _unit(self._normal(like.y, part, step, 0)).to(like.y.dtype)
        return State(y, _unit(self._normal(like.z, part, step, 1)).to(like.z.dtype))

    def noise(self, z: Tensor, part: slice, step: int) -> Tensor:
        """Returns standard normal numbers in the shape and dtype of z (B, L, D); other arguments as in ``start``."""
        return self._normal(z, part, step, 2).to(z.dtype)

    def _normal(self, like: Tensor, part: slice, step: int, purpose: int) -> Tensor:
        offset = _signed(step * _STRIDES[2] + purpose * _STRIDES[3])
        keys = self.keys[part] + self.steps_done.long() * _signed(_STRIDES[1]) + offset
        return hashed_normal(keys, like[0].numel()).view(like.shape)


def _unit(x: Tensor) -> Tensor:
    return x / x.square().mean(-1, keepdim=True).sqrt()


def _signed(number: int) -> int:
    """The signed 64-bit integer with the same lowest 64 bits."""
    return (number + 2**63) % 2**64 - 2**63
