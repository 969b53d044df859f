"""Compares the encoding, augmentations and their inverses with plain Python on lists."""

from __future__ import annotations

import numpy as np
import pytest

from trm_fast.tasks.arc.grids import (
    FLIP_COLUMNS,
    FLIP_ROWS,
    TRANSPOSE,
    Symmetries,
    decode,
    encode,
    grid_sizes,
    images,
    labels_to_tokens,
    tokens_to_labels,
)
from trm_fast.tasks.arc.symmetry import MAX_DRAWS, Appearance, augmentations
from trm_fast.tasks.base import IGNORE

Rows = list[list[int]]


def canvas_of(grid: Rows, side: int, down: int = 0, right: int = 0) -> Rows:
    """The published layout, cell by cell."""
    canvas = [[0] * side for _ in range(side)]
    height, width = len(grid), len(grid[0])
    for i in range(height):
        for j in range(width):
            canvas[down + i][right + j] = grid[i][j] + 2
    for i in range(height):
        if right + width < side:
            canvas[down + i][right + width] = 1
    for j in range(width):
        if down + height < side:
            canvas[down + height][right + j] = 1
    return canvas


def image_of(grid: Rows, element: int, colors: list[int]) -> Rows:
    if element & FLIP_ROWS:
        grid = grid[::-1]
    if element & FLIP_COLUMNS:
        grid = [row[::-1] for row in grid]
    if element & TRANSPOSE:
        grid = [list(column) for column in zip(*grid, strict=True)]
    return [[colors[c] for c in row] for row in grid]


UNLIKE = Appearance(list(range(8)), [list(range(1, 10))] * 8)
"""The appearance of a task whose augmentations are all different."""


def random_grids(count: int, side: int, rng: np.random.Generator) -> list[np.ndarray]:
    shapes = rng.integers(1, side + 1, (count, 2))
    return [rng.integers(0, 10, shape).astype(np.uint8) for shape in shapes]


@pytest.mark.parametrize("side", [1, 4, 30])
def test_encoding_equals_the_published_one(side: int) -> None:
    grids = random_grids(40, side, np.random.default_rng(side))
    tokens = encode(grids, side)
    for grid, row in zip(grids, tokens, strict=True):
        assert row.reshape(side, side).tolist() == canvas_of(grid.tolist(), side)
        np.testing.assert_array_equal(decode(row, side), grid)
    assert grid_sizes(tokens, side).tolist() == [list(grid.shape) for grid in grids]


@pytest.mark.parametrize("side", [1, 5, 30])
def test_images_equal_those_of_plain_python(side: int) -> None:
    rng = np.random.default_rng(side)
    grids = random_grids(64, side, rng)
    elements = (np.arange(64) % 8).astype(np.uint8)
    colors = np.stack([rng.permutation(10) for _ in grids]).astype(np.uint8)
    expected = [image_of(g.tolist(), int(e), c.tolist()) for g, e, c in zip(grids, elements, colors, strict=True)]
    free = [(side - len(w), side - len(w[0])) for w in expected]
    offsets = np.array([[rng.integers(r + 1), rng.integers(c + 1)] for r, c in free])
    moved = images(encode(grids, side), side, Symmetries(elements, colors), offsets=offsets)
    for cells, rows, (down, right) in zip(moved, expected, offsets.tolist(), strict=True):
        assert cells.reshape(side, side).tolist() == canvas_of(rows, side, down, right)


def test_an_inverse_undoes_its_symmetry() -> None:
    rng = np.random.default_rng(0)
    tokens = encode(random_grids(160, 9, rng), 9)
    symmetries = augmentations(list("abcde"), [UNLIKE] * 5, 31, 0, colors=True, dihedral=True)[0]
    assert set(symmetries.dihedral.tolist()) == set(range(8))
    moved = images(tokens, 9, symmetries)
    assert (moved != tokens).any(axis=1).mean() > 0.9
    np.testing.assert_array_equal(images(moved, 9, symmetries.inverse()), tokens)


def test_many_images_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    tokens, offsets = encode(random_grids(50, 4, rng), 5), rng.integers(0, 2, (50, 2))
    symmetries = augmentations(["x"], [UNLIKE], 49, 0, colors=True, dihedral=True)[0]
    cases = [(None, None, None), (symmetries, None, None), (symmetries, grid_sizes(tokens, 5), offsets)]
    whole = [images(tokens, 5, *case) for case in cases]
    monkeypatch.setattr("trm_fast.tasks.arc.grids.CHUNK", 7)
    for case, expected in zip(cases, whole, strict=True):
        np.testing.assert_array_equal(images(tokens, 5, *case), expected)


def test_augmentations_follow_from_name_and_seed() -> None:
    def drawn(names: list[str], count: int = 20, seed: int = 3, **options: bool) -> Symmetries:
        appearances = [UNLIKE] * len(names)
        flags = {"colors": True, "dihedral": True} | options
        symmetries, kept = augmentations(names, appearances, count, seed, **flags)
        assert options or kept.tolist() == [count + 1] * len(names)
        return symmetries

    both, alone = drawn(["one", "two"]), drawn(["two"])
    np.testing.assert_array_equal(both.colors[21:], alone.colors)
    np.testing.assert_array_equal(both.dihedral[21:], alone.dihedral)
    assert (drawn(["two"], seed=4).colors != alone.colors).any()
    assert alone.dihedral[0] == 0
    assert alone.colors[0].tolist() == list(range(10))
    assert (alone.colors[:, 0] == 0).all()  # black does not change
    assert (np.sort(alone.colors, axis=1) == np.arange(10)).all()
    assert sorted(drawn(["x"], 7, colors=False).dihedral.tolist()) == list(range(8))
    assert not drawn(["x"], 7, dihedral=False).dihedral.any()


ROUND = [[1, 2, 1], [2, 0, 2], [1, 2, 1]]  # the same under all elements
STRIPES = [[1, 2, 1], [3, 3, 3]]  # the same with reversed columns
ROWS = [[1, 1], [2, 2]]  # reversing the rows equals exchanging two colors
PLAIN = [[1, 2, 3], [0, 4, 0]]


@pytest.mark.parametrize("by_color", [True, False])
@pytest.mark.parametrize("grids", [[ROUND], [STRIPES, ROUND], [ROWS], [ROWS, PLAIN], [PLAIN], [[[0]]]])
def test_equal_augmentations_are_dropped(grids: list[Rows], by_color: bool) -> None:
    def image(element: int, colors: list[int]) -> str:
        turned = [image_of(grid, element, colors) for grid in grids]
        names = dict.fromkeys((c for grid in turned for row in grid for c in row if c), 0)
        names = {c: c if by_color else number for number, c in enumerate(names, 1)} | {0: 0}
        return str([[[names[c] for c in row] for row in grid] for grid in turned])

    appearance = Appearance.of([np.array(grid, dtype=np.uint8) for grid in grids])
    for count, options in ((60, {"colors": by_color}), (7, {"colors": False})):
        symmetries, (kept,) = augmentations(["x"], [appearance], count, 5, dihedral=True, by_color=by_color, **options)
        images_drawn = [
            image(e, c) for e, c in zip(symmetries.dihedral.tolist(), symmetries.colors.tolist(), strict=True)
        ]
        assert len(images_drawn) == count + 1
        assert len(set(images_drawn[:kept])) == kept
        assert set(images_drawn[kept:]) <= {images_drawn[0]}
        if options["colors"]:  # all different ones that were drawn, or as many as requested
            drawn, _ = augmentations(["x"], [UNLIKE], MAX_DRAWS * count, 5, colors=True, dihedral=True)
            assert kept <= count + 1
            assert kept == count + 1 or kept >= 0.9 * len(
                {image(e, c) for e, c in zip(drawn.dihedral.tolist(), drawn.colors.tolist(), strict=True)}
            )
        else:
            assert kept == len({image(e, list(range(10))) for e in range(8)})


def test_a_predicted_grid_ends_where_colors_end() -> None:
    """A grid is the largest rectangle from the corner. Tokens beyond the border are ignored."""
    noise = np.random.default_rng(0).integers(0, 12, (50, 6, 6))
    for rows in noise.reshape(50, 36):
        cells = rows.reshape(6, 6)
        areas = {(h, w): h * w for h in range(1, 7) for w in range(1, 7) if (cells[:h, :w] >= 2).all()}
        height, width = grid_sizes(rows[None], 6)[0].tolist()
        assert height * width == max(areas.values(), default=0)
        np.testing.assert_array_equal(decode(rows, 6), cells[:height, :width] - 2)
    grid = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    scribbled = encode([grid], 6).reshape(6, 6)
    scribbled[3:, :], scribbled[:, 3:] = 7, 9
    np.testing.assert_array_equal(decode(scribbled.reshape(-1), 6), grid)
    np.testing.assert_array_equal(images(scribbled.reshape(1, -1), 6), encode([grid], 6))


def test_canvas_without_a_grid() -> None:
    nothing = np.zeros((2, 16), dtype=np.uint8)
    nothing[1] = 1
    assert grid_sizes(nothing, 4).tolist() == [[0, 0], [0, 0]]
    assert decode(nothing[1], 4).size == 0
    assert not images(nothing, 4).any()
    assert not encode([None], 4).any()


def test_padding_has_no_label() -> None:
    tokens = encode([np.array([[5]], dtype=np.uint8), None], 3)
    labels = tokens_to_labels(tokens)
    assert labels.tolist()[0] == [7, 1, IGNORE, 1, *[IGNORE] * 5]
    assert (labels[1] == IGNORE).all()
    np.testing.assert_array_equal(labels_to_tokens(labels), tokens)
