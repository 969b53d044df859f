"""Draws the augmentations of ARC tasks. A task's name and a seed determine them, so they are not stored."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.arc.grids import BLACK, COLORS, Grid, Symmetries, encode, images

ELEMENTS = 8
MAX_DRAWS = 5
"""Candidates drawn for each augmentation, at most, as published: some candidates turn out equal."""


@dataclass(frozen=True)
class Appearance:
    """How a task's grids appear under each dihedral element, to find augmentations that give the same grids.

    Two augmentations are equal if their elements have the same shape and they map the colors of these elements, in
    order, to the same new colors.

    Attributes:
        shapes: for each element, the first element under which the grids look the same except for colors.
        colors: for each element, the colors other than black, in the order in which the transformed grids show them.
    """

    shapes: list[int]
    colors: list[list[int]]

    @classmethod
    def of(cls, grids: Sequence[Grid]) -> Appearance:
        """The appearance of a task with these grids."""
        side = max(max(grid.shape) for grid in grids)
        tokens = encode(grids, side)
        plain = np.arange(COLORS, dtype=np.uint8)
        first_elements: dict[bytes, int] = {}
        shapes, colors = [], []
        for element in range(ELEMENTS):
            transposed = np.full(len(grids), element, dtype=np.uint8), np.tile(plain, (len(grids), 1))
            cells = images(tokens, side, Symmetries(*transposed)).ravel()
            tokens_shown, first = np.unique(cells, return_index=True)
            shown = [t for _, t in sorted(zip(first.tolist(), tokens_shown.tolist(), strict=True)) if t > BLACK]
            order = np.arange(COLORS + BLACK, dtype=np.uint8)
            order[shown] = BLACK + 1 + np.arange(len(shown))
            shapes.append(first_elements.setdefault(order[cells].tobytes(), element))
            colors.append([t - BLACK for t in shown])
        return cls(shapes, colors)

    def distinct(self, drawn: Symmetries, by_color: bool) -> npt.NDArray[np.intp]:
        """The indices of the distinct augmentations in ``drawn``, in order: the first of each group of equal ones.
        ``by_color`` says whether augmentations that differ only in colors count as distinct."""
        keys = np.array(self.shapes, dtype=np.uint8)[drawn.dihedral][:, None]
        if by_color:
            table = np.zeros((ELEMENTS, COLORS), dtype=np.uint8)  # black, which never changes, fills the end
            for element, colors in enumerate(self.colors):
                table[element, : len(colors)] = colors
            keys = np.hstack([keys, np.take_along_axis(drawn.colors, table[drawn.dihedral], axis=1)])
        rows = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1])))
        first: npt.NDArray[np.intp] = np.sort(np.unique(rows, return_index=True)[1])
        return first


def random_colors(count: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Random permutations of the colors that leave black unchanged, uint8 (count, 10)."""
    colors = np.zeros((count, COLORS), dtype=np.uint8)
    colors[:, 1:] = 1 + rng.random((count, COLORS - 1)).argsort(axis=1)
    return colors


def augmentations(
    names: Sequence[str],
    appearances: Sequence[Appearance],
    count: int,
    seed: int,
    *,
    colors: bool,
    dihedral: bool,
    by_color: bool = True,
) -> tuple[Symmetries, npt.NDArray[np.int32]]:
    """The augmentations of tasks, as published: black stays black, and the other colors are permuted.

    Args:
        names: the tasks' names; each name seeds the task's own generator.
        appearances: the tasks' appearances, by which equal augmentations are recognized.
        count: how many augmentations each task gets besides the identity.
        seed: also seeds each generator.
        colors: whether colors are permuted.
        dihedral: whether grids are rotated and reflected. Without ``colors`` no element is repeated.
        by_color: whether augmentations that differ only in colors count as distinct.

    Returns:
        ``count + 1`` symmetries for each task, task by task, the identity first; and the number of distinct ones of
        each task, int32 (tasks,). The rest of a task's rows are the identity.
    """
    rows = count + 1
    identities = Symmetries(np.zeros(rows, dtype=np.uint8), np.tile(np.arange(COLORS, dtype=np.uint8), (rows, 1)))
    symmetries = []
    kept = np.ones(len(names), dtype=np.int32)
    for index, (name, appearance) in enumerate(zip(names, appearances, strict=True)):
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        distinct = identities.take(slice(1))
        for drawn in _draws(count, rng, colors, dihedral):
            both = Symmetries.joined(distinct, drawn)
            distinct = both.take(appearance.distinct(both, by_color)[:rows])
            if len(distinct.dihedral) == rows:
                break
        kept[index] = len(distinct.dihedral)
        symmetries += [distinct, identities.take(slice(kept[index], None))]
    return Symmetries.joined(*symmetries), kept


def _draws(count: int, rng: np.random.Generator, colors: bool, dihedral: bool) -> Iterator[Symmetries]:
    if colors:
        for _ in range(MAX_DRAWS):
            elements = rng.integers(ELEMENTS, size=count) if dihedral else np.zeros(count)
            yield Symmetries(elements.astype(np.uint8), random_colors(count, rng))
    elif dihedral:
        elements = 1 + rng.permutation(ELEMENTS - 1)
        yield Symmetries(elements.astype(np.uint8), np.tile(np.arange(COLORS, dtype=np.uint8), (len(elements), 1)))
