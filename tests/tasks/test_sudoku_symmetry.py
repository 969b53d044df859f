"""The symmetry group, and augmentation, voting and canonical forms, which use it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from trm_fast.tasks.sudoku import engine as engines
from trm_fast.tasks.sudoku import generate, reference
from trm_fast.tasks.sudoku.canonical import canonical
from trm_fast.tasks.sudoku.data import invariants
from trm_fast.tasks.sudoku.puzzles import Puzzles
from trm_fast.tasks.sudoku.rules import Grids, obeys
from trm_fast.tasks.sudoku.symmetry import Group, Symmetries, group, random_images, random_symmetries

GIVENS = {4: (4, 9), 6: (10, 20), 9: (24, 34)}
SIZES = pytest.mark.parametrize("size", [4, 6, 9])


def factors(symmetries: Group) -> Iterator[Symmetries]:
    """Symmetries with a single factor: they generate the group."""
    size = symmetries.size
    plain = np.arange(size + 1, dtype=np.uint8)

    def one(rows: Grids, columns: Grids, transposed: bool, digits: Grids) -> Symmetries:
        return Symmetries(symmetries, rows[None], columns[None], np.array([transposed]), digits[None])

    lines = plain[:size]
    yield from (one(rows, lines, False, plain) for rows in symmetries.rows)
    yield from (one(lines, columns, False, plain) for columns in symmetries.columns)
    yield from (one(lines, lines, turn, plain) for turn in turns(symmetries))
    for digit in range(1, size):
        swapped = plain.copy()
        swapped[[digit, digit + 1]] = swapped[[digit + 1, digit]]
        yield one(lines, lines, False, swapped)


def turns(symmetries: Group) -> list[bool]:
    return [False, True] if symmetries.transposes else [False]


def image(symmetry: Symmetries, grids: Grids) -> Grids:
    return symmetry.digits[0][symmetry.moved(grids)]


def smallest_image(question: Grids, answer: Grids, size: int) -> Grids:
    """The canonical form by definition: the smallest (answer, question) over the whole group."""
    symmetries = group(size)
    images = []
    for rows, columns in itertools.product(symmetries.rows, symmetries.columns):
        cells = np.ix_(rows, columns)
        for turn in turns(symmetries):
            q, a = (grid.reshape(size, size)[cells] for grid in (question, answer))
            if turn:
                q, a = q.T, a.T
            label = np.zeros(size + 1, dtype=np.uint8)
            label[a[0]] = np.arange(1, size + 1)  # no other labels can give the least image
            images.append((label[a].ravel().tolist(), label[q].ravel().tolist()))
    least = min(images)
    return np.array(least[1] + least[0], dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "order"),
    [(4, 128 * math.factorial(4)), (6, 3456 * math.factorial(6)), (9, 3359232 * math.factorial(9))],
)
def test_the_group_has_the_known_order(size: int, order: int) -> None:
    symmetries = group(size)
    assert len(symmetries) == order
    cells = np.arange(size * size).reshape(size, size)
    some = itertools.product(symmetries.rows[:50], symmetries.columns[:50], turns(symmetries))
    moved = [(cells.T if turn else cells)[np.ix_(rows, columns)].tobytes() for rows, columns, turn in some]
    assert len(set(moved)) == len(moved)


@SIZES
def test_orders_of_lines_and_turns_are_groups(size: int) -> None:
    symmetries = group(size)
    for orders in (symmetries.rows, symmetries.columns):
        assert (orders[0] == np.arange(size)).all()
        listed = {order.tobytes() for order in orders}
        assert len(listed) == len(orders)
        some = orders[np.random.default_rng(0).permutation(len(orders))[:40]]
        assert {one[other].tobytes() for one in some for other in orders} == listed
    cells = np.arange(size * size).reshape(size, size)
    # A transposition after orders is some orders after a transposition.
    rows, columns = symmetries.rows[-1], symmetries.columns[-1]
    for turn in turns(symmetries):
        moved = cells[np.ix_(rows, columns)]
        pair = (cells.T, moved.T) if turn else (cells, moved)
        assert _is_reordered(*pair, symmetries)


def _is_reordered(grid: Grids, image: Grids, symmetries: Group) -> bool:
    """Whether some order of rows and one of columns makes the image."""
    rows = [np.flatnonzero((grid == row[0]).any(axis=1))[0] for row in image]
    columns = [np.flatnonzero((grid == column[0]).any(axis=0))[0] for column in image.T]
    is_order = (symmetries.rows == rows).all(axis=1).any() and (symmetries.columns == columns).all(axis=1).any()
    return bool(is_order) and np.array_equal(grid[np.ix_(rows, columns)], image)


@SIZES
def test_every_symmetry_keeps_the_rules(size: int) -> None:
    answer = reference.generate(size, 1, size * size, size * size, seed=0)[1]
    assert obeys(np.concatenate([image(symmetry, answer) for symmetry in factors(group(size))]), size).all()


@SIZES
def test_no_symmetry_changes_the_canonical_form(size: int) -> None:
    """Checks the factors of the elements, which generate the group."""
    questions, answers, _ = reference.generate(size, 1, *GIVENS[size], seed=9)
    symmetries = list(factors(group(size)))
    images = [np.concatenate([image(symmetry, grids) for symmetry in symmetries]) for grids in (questions, answers)]
    forms = canonical(images[0], images[1], size)
    np.testing.assert_array_equal(forms, np.broadcast_to(canonical(questions, answers, size), forms.shape))
    # The number that the search for leaked test puzzles compares first.
    assert set(invariants(Puzzles(size, *images))) == set(invariants(Puzzles(size, questions, answers)))


def test_4x4_grids_form_two_classes() -> None:
    """There are 288 grids, which form two classes."""
    rows = np.array(list(itertools.permutations(range(1, 5))), dtype=np.uint8)
    grids = rows[np.indices((24,) * 4).reshape(4, -1).T].reshape(-1, 16)
    grids = grids[obeys(grids, 4)]
    classes = Counter(form.tobytes() for form in canonical(grids, grids, 4))
    assert sorted(classes.values()) == [96, 192]


def test_6x6_grids_form_49_classes() -> None:
    """The published number of classes. 20,000 random grids miss at most a few rare ones."""
    if engines.engine is reference:
        pytest.skip("trm_fast._host is not built")
    _, grids, _ = engines.engine.generate(6, 20_000, 36, 36, seed=0)
    assert 45 <= len(np.unique(canonical(grids, grids, 6), axis=0)) <= 49


@pytest.mark.parametrize("size", [4, 6])
def test_canonical_form_is_the_smallest_image_over_the_group(size: int) -> None:
    few, many = GIVENS[size]
    questions, answers, _ = reference.generate(size, {4: 30, 6: 3}[size], few, many, seed=9)
    expected = [smallest_image(q, a, size) for q, a in zip(questions, answers, strict=True)]
    np.testing.assert_array_equal(canonical(questions, answers, size), expected)


@SIZES
def test_augmented_and_voted_images_stay_in_their_class(size: int) -> None:
    count = 200
    puzzles = generate(size, count, GIVENS[size], seed=4)
    forms = canonical(puzzles.questions, puzzles.answers, size)
    images = random_images(puzzles.questions, puzzles.answers, size, np.random.default_rng(0))
    assert not (images[0] == puzzles.questions).all(axis=1).any()
    np.testing.assert_array_equal(canonical(*images, size), forms)
    positions, digits = random_symmetries(count, size, np.random.default_rng(0))
    tables = [
        np.take_along_axis(digits, np.take_along_axis(grids, positions, axis=1).astype(np.intp), axis=1)
        for grids in (puzzles.questions, puzzles.answers)
    ]
    np.testing.assert_array_equal(tables, images)  # the same draws


@SIZES
def test_canonical_form_separates_classes(size: int) -> None:
    count = 200
    puzzles = generate(size, count, GIVENS[size], seed=4)
    forms = canonical(puzzles.questions, puzzles.answers, size)
    if size > 4:
        assert len(np.unique(forms, axis=0)) == count
    # Removing a given changes the class.
    fewer = puzzles.questions.copy()
    fewer[np.arange(count), (fewer > 0).argmax(axis=1)] = 0
    assert (canonical(fewer, puzzles.answers, size) != forms).any(axis=1).all()


def test_most_symmetric_grid_has_one_form() -> None:
    """648 symmetries map this grid to itself, so the question must break as many ties."""
    cell = np.arange(81)
    answer = ((3 * (cell // 9) + cell // 27 + cell % 9) % 9 + 1).astype(np.uint8)[None]
    question = np.where(np.isin(cell, [0, 13, 26, 40]), answer, 0).astype(np.uint8)
    form = canonical(question, answer, 9)
    for seed in range(5):
        np.testing.assert_array_equal(
            canonical(*random_images(question, answer, 9, np.random.default_rng(seed)), 9), form
        )


@SIZES
def test_random_images_are_valid_and_different_puzzles(size: int) -> None:
    puzzles = generate(size, 40, GIVENS[size], seed=8)
    copies = puzzles.take(np.zeros(500, dtype=np.intp))
    questions, answers = random_images(copies.questions, copies.answers, size, np.random.default_rng(1))
    assert questions.dtype == answers.dtype == np.uint8
    assert obeys(answers, size).all()
    assert ((questions == 0) | (questions == answers)).all()
    assert ((questions > 0).sum(axis=1) == (copies.questions[0] > 0).sum()).all()
    _, counts, _ = engines.engine.solve(questions[:40], size)
    assert (counts == 1).all()
    assert len(np.unique(answers, axis=0)) > (80 if size == 4 else 490)  # the larger class of 4x4 grids has 192


def test_random_images_cover_the_orbit_evenly() -> None:
    order = len(group(4))
    question = np.zeros((1, 16), dtype=np.uint8)
    answer = reference.generate(4, 1, 16, 16, seed=0)[1]
    # No symmetry maps these givens to themselves, so the orbit is as large as the group.
    question[0, [0, 1, 2, 5, 10, 13]] = answer[0, [0, 1, 2, 5, 10, 13]]
    images, _ = random_images(
        np.repeat(question, 20 * order, axis=0), np.repeat(answer, 20 * order, axis=0), 4, np.random.default_rng(2)
    )
    _, hits = np.unique(images, axis=0, return_counts=True)
    assert len(hits) == order
    chi_square = ((hits - 20) ** 2 / 20).sum()
    assert abs(chi_square - (order - 1)) < 5 * math.sqrt(2 * (order - 1))


@pytest.mark.parametrize("fault", ["blank", "repeat"])
def test_canonical_refuses_broken_answers(fault: str) -> None:
    questions, answers, _ = reference.generate(4, 2, 6, 6, seed=0)
    answers[1, 0] = 0 if fault == "blank" else answers[1, 1]
    with pytest.raises(ValueError, match="answer 1 breaks the rules"):
        canonical(questions, answers, 4)
