"""Partitions of a grid's cells into groups, by name. ``mixing: groups`` reads the means of these groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trm_fast.registry import Registry


class Grid(NamedTuple):
    """The shape of a grid of cells, and of the boxes that it is divided into; (0, 0) if it has none."""

    shape: tuple[int, int]
    box: tuple[int, int] = (0, 0)


NO_GRID = Grid((0, 0))
PARTITIONS: Registry[Callable[[Grid], Tensor]] = Registry("partition")
"""Name -> function: grid -> the number of each cell's group, int64 (height, width). The numbers need not be dense."""
register = PARTITIONS.register


@register("rows")
def _rows(grid: Grid) -> Tensor:
    return torch.arange(grid.shape[0])[:, None].expand(grid.shape)


@register("columns")
def _columns(grid: Grid) -> Tensor:
    return torch.arange(grid.shape[1]).expand(grid.shape)


@register("boxes")
def _boxes(grid: Grid) -> Tensor:
    return _tiles(grid, (0, 0))


@register("shifted_boxes")
def _shifted_boxes(grid: Grid) -> Tensor:
    """Boxes moved by half their size, so that neighbors on two sides of a box's border share a group."""
    return _tiles(grid, (_box(grid)[0] // 2, _box(grid)[1] // 2))


@register("all")
def _all(grid: Grid) -> Tensor:
    return torch.zeros(grid.shape, dtype=torch.int64)


def _box(grid: Grid) -> tuple[int, int]:
    if not all(grid.box):
        raise ValueError("groups: boxes need a box_shape, the rows and columns of a box")
    return grid.box


def _tiles(grid: Grid, shift: tuple[int, int]) -> Tensor:
    row, column = ((torch.arange(n) + s) // b for n, s, b in zip(grid.shape, shift, _box(grid), strict=True))
    return row[:, None] * grid.shape[1] + column


def partitions(names: Sequence[str], grid: Grid, prefix: int = 0, symbols: int = 0) -> Tensor:
    """The groups of ``ops.group_mixer`` for a state whose positions are a prefix and the cells of a grid.

    In each partition the prefix is a separate group, except in ``all``, whose one group has the prefix and the cells.
    With an axis of symbols, each cell has one position per symbol. The groups of each partition are then divided by
    symbol, and one more partition has the symbols of each cell as a group.

    Args:
        names: names of partitions.
        grid: the shape of the grid.
        prefix: number of positions before the grid.
        symbols: number of symbols; 0: the state has no axis of symbols.

    Returns:
        int64 (G, (prefix + cells) * max(1, symbols)), numbered from 0 in each partition.

    Raises:
        ValueError: a name is unknown, or the grid has no boxes.

    Examples:
        >>> partitions(["rows", "columns"], Grid((2, 2))).tolist()
        [[0, 0, 1, 1], [0, 1, 0, 1]]
        >>> partitions(["rows"], Grid((2, 2)), symbols=2).tolist()
        [[0, 1, 0, 1, 2, 3, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3]]
    """
    groups = []
    for name in names:
        cells = PARTITIONS[PARTITIONS.require(name)](grid).flatten()
        first = cells.new_full((prefix,), 0 if name == "all" else -1)
        groups.append(_dense(torch.cat((first, cells))))
    if not symbols:
        return torch.stack(groups)
    symbol = torch.arange(symbols)
    groups = [(group[:, None] * symbols + symbol).flatten() for group in groups]
    positions = torch.arange(len(groups[0]) // symbols)
    return torch.stack((*groups, positions[:, None].expand(-1, symbols).flatten()))


def _dense(numbers: Tensor) -> Tensor:
    return torch.unique(numbers, return_inverse=True)[1]
