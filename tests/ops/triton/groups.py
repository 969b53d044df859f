"""Groups and weights for the tests of group mixers."""

from __future__ import annotations

import torch

# Groups of unequal sizes, and a number that no position has.
UNEVEN = torch.tensor([[0, 0, 0, 0, 3, 1, 1], [6, 5, 4, 3, 2, 1, 0]])


def grouped_weights(random, D, inner, groups):
    read = (1 + len(groups)) * D
    return random(2 * inner, read) * read**-0.5, random(D, inner) * inner**-0.5
