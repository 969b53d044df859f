"""Gaussian noise that depends only on (seed, row, step), so that no answer depends on the other rows of the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian(z: Tensor, scale: Tensor, rows: Tensor, steps: Tensor, seed: int) -> Tensor:
    """Gaussian noise in the shape of z (A, P + L, D), with the standard deviations ``scale[rows]``, scale (N,)."""
    numbers = zip(rows.tolist(), steps.tolist(), strict=True)
    keys = [hash((seed, row, step)) % 2**63 for row, step in numbers]
    if z.is_cuda:
        noise = hashed_normal(torch.tensor(keys, device=z.device), z[0].numel()).view(z.shape)
        return (noise * scale[rows].view(-1, 1, 1)).to(z.dtype)
    noise = torch.zeros(z.shape)
    generator = torch.Generator()
    for i, (key, sigma) in enumerate(zip(keys, scale[rows].tolist(), strict=True)):
        if sigma:
            generator.manual_seed(key)
            noise[i].normal_(0.0, sigma, generator=generator)
    return noise.to(z.dtype)


def hashed_normal(keys: Tensor, count: int) -> Tensor:
    """``count`` standard normal numbers for each key int64 (A,), float32 (A, count), on the keys' device.

    It hashes key and position with the finalizer of splitmix64 and applies the Box-Muller transform.
    """
    x = keys.unsqueeze(1) + torch.arange(1, count + 1, device=keys.device) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    radius = (((x >> 40 & 0xFFFFFF) + 1).float() / 2**24).log().mul(-2).sqrt()
    return radius * ((x & 0xFFFFFF).float() * (2 * math.pi / 2**24)).cos()
