"""Generator, solver, canonical forms and symmetries, in C++ and in Python."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.sudoku import engine as engines
from trm_fast.tasks.sudoku import generate, reference
from trm_fast.tasks.sudoku.engine import Engine
from trm_fast.tasks.sudoku.rules import BOXES, Grids, line_orders, obeys
from trm_fast.tasks.sudoku.symmetry import random_images

DATA = Path(os.environ.get("TRM_FAST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "sudoku"
PUBLISHED = ["extreme_train_1k", "hard_test"]
GIVENS = {4: (4, 9), 6: (10, 20), 9: (24, 34)}


@pytest.fixture(params=["cpp", "python"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return native() if request.param == "cpp" else reference


def native() -> Engine:
    if engines.reason:
        pytest.skip(f"trm_fast._host is not built: {engines.reason}")
    return engines.engine


def published(name: str, rows: int) -> tuple[Grids, Grids, np.ndarray]:
    path = DATA / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there (set TRM_FAST_DATA)")
    with gzip.open(path, "rt") as stream:
        table = list(itertools.islice(csv.DictReader(stream), rows))

    def grids(column: str) -> Grids:
        return np.array([[int(c.replace(".", "0")) for c in row[column]] for row in table], dtype=np.uint8)

    return grids("question"), grids("answer"), np.array([int(row["rating"]) for row in table])


def brute_force(question: list[int], size: int) -> Iterator[list[int]]:
    """Every solution, by trying all digits that no cell in sight has, in the cell where these are fewest."""
    rows, cols = BOXES[size]
    best: tuple[int, list[int]] | None = None
    for cell in (c for c, digit in enumerate(question) if not digit):
        r, c = divmod(cell, size)
        seen = set(question[r * size : (r + 1) * size]) | set(question[c::size])
        r, c = r // rows * rows, c // cols * cols
        seen |= {question[(r + i) * size + c + j] for i in range(rows) for j in range(cols)}
        free = [d for d in range(1, size + 1) if d not in seen]
        if best is None or len(free) < len(best[1]):
            best = cell, free
    if best is None:
        yield question
        return
    for digit in best[1]:
        yield from brute_force([*question[: best[0]], digit, *question[best[0] + 1 :]], size)


def smallest_image(question: Grids, answer: Grids, size: int) -> Grids:
    """The canonical form by its definition: the least (answer, question) over the whole group."""
    rows, cols = BOXES[size]
    pairs = [(question.reshape(size, size), answer.reshape(size, size))]
    if rows == cols:
        pairs.append((question.reshape(size, size).T, answer.reshape(size, size).T))
    images = []
    for q, a in pairs:
        for row_order in line_orders(size, rows):
            for col_order in line_orders(size, cols):
                cells = np.ix_(row_order, col_order)
                label = np.zeros(size + 1, dtype=np.uint8)
                label[a[cells][0]] = np.arange(1, size + 1)  # no other labels can give the least image
                images.append((label[a[cells]].ravel().tolist(), label[q[cells]].ravel().tolist()))
    least = min(images)
    return np.array(least[1] + least[0], dtype=np.uint8)


@pytest.mark.parametrize("size", [4, 6, 9])
def test_cpp_and_python_give_the_same_bytes(size: int) -> None:
    cpp, count = native(), {4: 60, 6: 30, 9: 8}[size]
    seed = 2**64 - size
    made = cpp.generate(size, count, *GIVENS[size], seed)
    for ours, theirs in zip(made, reference.generate(size, count, *GIVENS[size], seed), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    questions, answers, _ = made
    spoiled = questions.copy()  # several solutions in some rows, none in others
    spoiled[::2, size:] = 0
    spoiled[1::2, 0] = spoiled[1::2, 0] % size + 1
    for grids in (questions, spoiled):
        for ours, theirs in zip(cpp.solve(grids, size), reference.solve(grids, size), strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
    forms = cpp.canonical(questions, answers, size)
    np.testing.assert_array_equal(forms, reference.canonical(questions, answers, size))


@pytest.mark.parametrize("size", [4, 6, 9])
def test_generated_puzzles_have_one_solution_and_the_givens_asked_for(engine: Engine, size: int) -> None:
    few, many = GIVENS[size]
    count = 12 if engine is reference and size == 9 else 60
    questions, answers, _ = engine.generate(size, count, few, many, seed=3)
    for question, answer in zip(questions.tolist(), answers.tolist(), strict=True):
        assert list(brute_force(question, size)) == [answer]
    givens = (questions > 0).sum(axis=1)
    assert few <= givens.min()
    assert givens.max() <= many
    assert len(set(givens)) > (many - few) // 2
    assert len(np.unique(answers, axis=0)) > count // 2


def test_puzzle_depends_on_seed_and_index_alone(engine: Engine) -> None:
    whole, _, _ = engine.generate(6, 12, 10, 14, seed=5)
    part, _, _ = engine.generate(6, 4, 10, 14, seed=5, first=7)
    other, _, _ = engine.generate(6, 12, 10, 14, seed=6)
    np.testing.assert_array_equal(whole[7:11], part)
    assert not (whole == other).all(axis=1).any()


def test_ratings_keep_their_bounds(engine: Engine) -> None:
    count = 3 if engine is reference else 50
    questions, _, ratings = engine.generate(9, count, 24, 27, seed=1, min_rating=2, max_rating=9)
    assert ratings.min() >= 2
    assert ratings.max() <= 9
    np.testing.assert_array_equal(engine.solve(questions, 9)[2], ratings)


def test_limits_that_cannot_be_met_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "ATTEMPTS", 5)
    for each in [reference, *([] if engines.reason else [engines.engine])]:
        with pytest.raises(RuntimeError, match="no puzzle within the limits"):
            each.generate(4, 1, 16, 16, seed=0, min_rating=1)
    with pytest.raises(UserError, match="no puzzle within the limits"):
        generate(4, 1, (16, 16), 0, min_rating=1)
    for wrong in (
        {"givens": (3, 9)},
        {"givens": (9, 8)},
        {"givens": (4, 17)},
        {"count": 0},
        {"size": 5},
        {"min_rating": -1},
    ):
        with pytest.raises(UserError) as caught:
            generate(**{"size": 4, "count": 1, "givens": (4, 9), "seed": 0, **wrong})
        assert caught.value.wrong_use


def test_generate_reports_progress_and_continues_a_sequence() -> None:
    seen: list[int] = []
    whole = generate(4, 150, (4, 9), -1, progress=seen.append)
    assert seen[-1] == 150
    assert seen == sorted(set(seen))
    rest = generate(4, 50, (4, 9), -1, first=100)
    np.testing.assert_array_equal(rest.questions, whole.questions[100:])


def test_solver_tells_none_from_one_from_several(engine: Engine) -> None:
    question = np.zeros((4, 16), dtype=np.uint8)
    question[1, [0, 1]] = 1  # clashing givens
    question[2, [0, 1, 6]] = [1, 2, 3]  # sound givens, yet no place for 3 in the top left box
    question[2, [8, 12]] = [3, 4]
    question[3] = [1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 0]
    solutions, counts, ratings = engine.solve(question, 4)
    assert counts.tolist() == [2, 0, 0, 1]
    assert obeys(solutions, 4).tolist() == [True, False, False, True]
    assert not solutions[1:3].any()
    assert ratings[0] > 0
    assert ratings[3] == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_solutions_and_ratings_of_published_puzzles(name: str) -> None:
    cpp = native()
    questions, answers, ratings = published(name, 300)
    grids = questions.reshape(-1, 9, 9)
    total = np.zeros(len(grids))
    for turned in (np.rot90(grid, k, axes=(1, 2)) for grid in (grids, grids.swapaxes(1, 2)) for k in range(4)):
        _, counts, searched = cpp.solve(np.ascontiguousarray(turned).reshape(-1, 81), 9)
        assert (counts == 1).all()
        total += searched
    np.testing.assert_array_equal(cpp.solve(questions, 9)[0], answers)
    # The file has the mean over the eight orientations, rounded.
    assert np.abs(total / 8 - ratings).max() <= 0.5


def test_reference_solves_published_puzzles() -> None:
    questions, answers, _ = published("hard_test", 3)
    np.testing.assert_array_equal(reference.solve(questions, 9)[0], answers)


@pytest.mark.parametrize("size", [4, 6])
def test_canonical_form_is_the_smallest_image_over_the_group(engine: Engine, size: int) -> None:
    few, many = GIVENS[size]
    questions, answers, _ = reference.generate(size, {4: 30, 6: 3}[size], few, many, seed=9)
    expected = [smallest_image(q, a, size) for q, a in zip(questions, answers, strict=True)]
    np.testing.assert_array_equal(engine.canonical(questions, answers, size), expected)


@pytest.mark.parametrize("size", [4, 6, 9])
def test_canonical_form_is_invariant_and_separates(engine: Engine, size: int) -> None:
    count = 5 if engine is reference else 200
    puzzles = generate(size, count, GIVENS[size], seed=4)
    forms = engine.canonical(puzzles.questions, puzzles.answers, size)
    images = random_images(puzzles.questions, puzzles.answers, size, np.random.default_rng(0))
    assert not (images[0] == puzzles.questions).all(axis=1).any()
    np.testing.assert_array_equal(engine.canonical(*images, size), forms)
    if size > 4:
        assert len(np.unique(forms, axis=0)) == count
    # One given less is another class.
    fewer = puzzles.questions.copy()
    fewer[np.arange(count), (fewer > 0).argmax(axis=1)] = 0
    assert (engine.canonical(fewer, puzzles.answers, size) != forms).any(axis=1).all()


def test_most_symmetric_grid_has_one_form(engine: Engine) -> None:
    """648 symmetries keep this grid: as many ties to break by the question."""
    cell = np.arange(81)
    answer = ((3 * (cell // 9) + cell // 27 + cell % 9) % 9 + 1).astype(np.uint8)[None]
    question = np.where(np.isin(cell, [0, 13, 26, 40]), answer, 0).astype(np.uint8)
    form = engine.canonical(question, answer, 9)
    for seed in range(5):
        np.testing.assert_array_equal(
            engine.canonical(*random_images(question, answer, 9, np.random.default_rng(seed)), 9), form
        )


@pytest.mark.parametrize("fault", ["blank", "repeat"])
def test_canonical_refuses_broken_answers(engine: Engine, fault: str) -> None:
    questions, answers, _ = reference.generate(4, 2, 6, 6, seed=0)
    answers[1, 0] = 0 if fault == "blank" else answers[1, 1]
    with pytest.raises(ValueError, match="answer 1 breaks the rules"):
        engine.canonical(questions, answers, 4)


@pytest.mark.parametrize(
    "grids",
    [np.zeros((1, 15), np.uint8), np.zeros(16, np.uint8), np.full((1, 16), 5, np.uint8)],
    ids=["length", "1d", "digit"],
)
def test_cpp_refuses_arrays_it_would_misread(grids: Grids) -> None:
    with pytest.raises(ValueError, match="questions must"):
        native().solve(grids, 4)
    with pytest.raises(ValueError, match="size must be"):
        native().solve(np.zeros((1, 25), np.uint8), 5)


@pytest.mark.parametrize(("size", "group", "orders"), [(4, 2, 8), (6, 2, 48), (6, 3, 72), (9, 3, 1296)])
def test_every_order_of_lines_is_listed_once(size: int, group: int, orders: int) -> None:
    listed = line_orders(size, group)
    assert len(np.unique(listed, axis=0)) == len(listed) == orders
    np.testing.assert_array_equal(np.sort(listed, axis=1), np.broadcast_to(np.arange(size), listed.shape))


@pytest.mark.parametrize("size", [4, 6, 9])
def test_random_images_are_valid_puzzles_of_their_own(size: int) -> None:
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
    group = 8 * 8 * 2 * math.factorial(4)
    question = np.zeros((1, 16), dtype=np.uint8)
    answer = reference.generate(4, 1, 16, 16, seed=0)[1]
    # Givens without a symmetry of their own: the orbit has as many elements as the group.
    question[0, [0, 1, 2, 5, 10, 13]] = answer[0, [0, 1, 2, 5, 10, 13]]
    images, _ = random_images(
        np.repeat(question, 20 * group, axis=0), np.repeat(answer, 20 * group, axis=0), 4, np.random.default_rng(2)
    )
    _, hits = np.unique(images, axis=0, return_counts=True)
    assert len(hits) == group
    chi_square = ((hits - 20) ** 2 / 20).sum()
    assert abs(chi_square - (group - 1)) < 5 * math.sqrt(2 * (group - 1))
