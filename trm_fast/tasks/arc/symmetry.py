"""The augmentations of tasks: random, but always the same for a task's name and a seed, so none is ever stored."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.arc.grids import COLORS, Symmetries

ELEMENTS = 8


def random_colors(count: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Permutations of the colours (count, 10) that leave black as it is."""
    colors = np.zeros((count, COLORS), dtype=np.uint8)
    colors[:, 1:] = 1 + rng.random((count, COLORS - 1)).argsort(axis=1)
    return colors


def augmentations(names: Sequence[str], count: int, seed: int, *, colors: bool, dihedral: bool) -> Symmetries:
    """``count`` augmentations a task after the identity, for all tasks in a row: len(names) * (count + 1) symmetries.

    Black stays black, the other colours are permuted, as published. Without colours the dihedral elements are dealt
    without repetition: there are but seven besides the identity. Two augmentations that differ only in colours a task
    does not have are the same to it; each still has its own row of the embedding.
    """
    rows = count + 1
    elements = np.zeros((len(names), rows), dtype=np.uint8)
    mapping = np.tile(np.arange(COLORS, dtype=np.uint8), (len(names), rows, 1))
    for index, name in enumerate(names):
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        if dihedral and colors:
            elements[index, 1:] = rng.integers(ELEMENTS, size=count)
        elif dihedral:
            elements[index, 1:] = 1 + rng.permutation(ELEMENTS - 1)[:count]
        if colors:
            mapping[index, 1:] = random_colors(count, rng)
    return Symmetries(elements.ravel(), mapping.reshape(-1, COLORS))
