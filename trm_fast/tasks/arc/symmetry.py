"""The augmentations of tasks: random, but always the same for a task's name and a seed, so none is ever stored."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.arc.grids import BLACK, COLORS, Grid, Symmetries, encode, images

ELEMENTS = 8
TRIES = 5
"""Times the augmentations wanted that are drawn at most to find so many different ones, as published."""


@dataclass(frozen=True)
class Look:
    """What tells a task's augmentations apart. ``shapes``: for each dihedral element, the first one under which the
    task's grids look the same but for their colours. ``colors``: for each element, the colours other than black in the
    order in which the turned grids show them. So two augmentations are equal where their elements' shapes are, and the
    colours in that order become the same."""

    shapes: list[int]
    colors: list[list[int]]

    @classmethod
    def of(cls, grids: Sequence[Grid]) -> Look:
        side = max(max(grid.shape) for grid in grids)
        tokens = encode(grids, side)
        plain = np.arange(COLORS, dtype=np.uint8)
        known: dict[bytes, int] = {}
        shapes, colors = [], []
        for element in range(ELEMENTS):
            turned = np.full(len(grids), element, dtype=np.uint8), np.tile(plain, (len(grids), 1))
            cells = images(tokens, side, Symmetries(*turned)).ravel()
            found, first = np.unique(cells, return_index=True)
            shown = [t for _, t in sorted(zip(first.tolist(), found.tolist(), strict=True)) if t > BLACK]
            order = np.arange(COLORS + BLACK, dtype=np.uint8)
            order[shown] = BLACK + 1 + np.arange(len(shown))
            shapes.append(known.setdefault(order[cells].tobytes(), element))
            colors.append([t - BLACK for t in shown])
        return cls(shapes, colors)

    def distinct(self, drawn: Symmetries, by_color: bool) -> npt.NDArray[np.intp]:
        """The first of each kind among the augmentations drawn, in order; ``by_color``: whether colours tell them
        apart."""
        keys = np.array(self.shapes, dtype=np.uint8)[drawn.dihedral][:, None]
        if by_color:
            table = np.zeros((ELEMENTS, COLORS), dtype=np.uint8)  # black, which stays, behind the last colour
            for element, colors in enumerate(self.colors):
                table[element, : len(colors)] = colors
            keys = np.hstack([keys, np.take_along_axis(drawn.colors, table[drawn.dihedral], axis=1)])
        rows = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1])))
        first: npt.NDArray[np.intp] = np.sort(np.unique(rows, return_index=True)[1])
        return first


def random_colors(count: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Permutations of the colours (count, 10) that leave black as it is."""
    colors = np.zeros((count, COLORS), dtype=np.uint8)
    colors[:, 1:] = 1 + rng.random((count, COLORS - 1)).argsort(axis=1)
    return colors


def augmentations(
    names: Sequence[str],
    looks: Sequence[Look],
    count: int,
    seed: int,
    *,
    colors: bool,
    dihedral: bool,
    by_color: bool = True,
) -> tuple[Symmetries, npt.NDArray[np.int32]]:
    """``count`` augmentations a task after the identity, for all tasks in a row: len(names) * (count + 1) symmetries,
    and how many of them count, int32 (len(names),): those of a task are different, and where there are fewer, the
    identity fills its rows.

    Black stays black, the other colours are permuted, as published. Without colours the dihedral elements are dealt
    without repetition. ``by_color``: whether augmentations that differ in colours alone are different.
    """
    rows = count + 1
    identities = Symmetries(np.zeros(rows, dtype=np.uint8), np.tile(np.arange(COLORS, dtype=np.uint8), (rows, 1)))
    symmetries = []
    kept = np.ones(len(names), dtype=np.int32)
    for index, (name, look) in enumerate(zip(names, looks, strict=True)):
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        found = identities.take(slice(1))
        for drawn in _draws(count, rng, colors, dihedral):
            both = Symmetries.joined(found, drawn)
            found = both.take(look.distinct(both, by_color)[:rows])
            if len(found.dihedral) == rows:
                break
        kept[index] = len(found.dihedral)
        symmetries += [found, identities.take(slice(kept[index], None))]
    return Symmetries.joined(*symmetries), kept


def _draws(count: int, rng: np.random.Generator, colors: bool, dihedral: bool) -> Iterator[Symmetries]:
    if colors:
        for _ in range(TRIES):
            elements = rng.integers(ELEMENTS, size=count) if dihedral else np.zeros(count)
            yield Symmetries(elements.astype(np.uint8), random_colors(count, rng))
    elif dihedral:
        elements = 1 + rng.permutation(ELEMENTS - 1)
        yield Symmetries(elements.astype(np.uint8), np.tile(np.arange(COLORS, dtype=np.uint8), (len(elements), 1)))
