"""Generator and solver, in C++ and in Python."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.sudoku import engine as engines
from trm_fast.tasks.sudoku import generate, reference
from trm_fast.tasks.sudoku.rules import BOXES, Grids, obeys

DATA = Path(os.environ.get("TRM_FAST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "sudoku"
PUBLISHED = ["extreme_train_1k", "hard_test"]
GIVENS = {4: (4, 9), 6: (10, 20), 9: (24, 34)}


@pytest.fixture(params=["cpp", "python"])
def engine(request: pytest.FixtureRequest) -> ModuleType:
    return native() if request.param == "cpp" else reference


def native() -> ModuleType:
    if engines.engine is reference:
        pytest.skip("trm_fast._host is not built")
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
    """All solutions. Tries the digits that no peer has, in the cell with the fewest of them."""
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


@pytest.mark.parametrize("size", [4, 6, 9])
def test_cpp_and_python_give_the_same_bytes(size: int) -> None:
    cpp, count = native(), {4: 60, 6: 30, 9: 8}[size]
    seed = 2**64 - size
    arrays = cpp.generate(size, count, *GIVENS[size], seed)
    for ours, theirs in zip(arrays, reference.generate(size, count, *GIVENS[size], seed), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
    questions = arrays[0]
    spoiled = questions.copy()  # several solutions in some rows, none in others
    spoiled[::2, size:] = 0
    spoiled[1::2, 0] = spoiled[1::2, 0] % size + 1
    for grids in (questions, spoiled):
        for ours, theirs in zip(cpp.solve(grids, size), reference.solve(grids, size), strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert np.asarray(ours).dtype == np.asarray(theirs).dtype


@pytest.mark.parametrize("size", [4, 6, 9])
def test_redrawn_puzzles_keep_their_answer_and_lose_all_other_givens_that_they_can(size: int) -> None:
    cpp, seed = native(), 2**64 - 5
    questions, answers, _ = reference.generate(size, 3, *GIVENS[size], seed=4)
    redrawn = cpp.redraw(answers, size, 0, 5, seed)
    np.testing.assert_array_equal(redrawn, reference.redraw(answers, size, 0, 5, seed))
    assert (redrawn != questions).any(axis=1).all()
    for question, answer in zip(redrawn.tolist(), answers.tolist(), strict=True):
        assert list(brute_force(question, size)) == [answer]
        for cell in np.flatnonzero(question):
            fewer = [0 if i == cell else digit for i, digit in enumerate(question)]
            assert len(list(itertools.islice(brute_force(fewer, size), 2))) == 2
    # More tries only add harder puzzles.
    ratings = [cpp.solve(cpp.redraw(answers, size, 0, tries, seed), size)[2] for tries in (1, 5, 50)]
    assert (ratings[0] <= ratings[1]).all()
    assert (ratings[1] <= ratings[2]).all()
    assert size == 4 or ratings[0].sum() < ratings[2].sum()
    for wrong in ({"answers": answers * 0}, {"answers": answers[:, 1:]}, {"tries": 0}):
        with pytest.raises(ValueError, match=r"answers must h|expected tries"):
            cpp.redraw(**{"answers": answers, "size": size, "min_givens": 0, "tries": 1, "seed": 0, **wrong})


@pytest.mark.parametrize("size", [4, 6, 9])
def test_generated_puzzles_have_one_solution_and_the_required_givens(engine: ModuleType, size: int) -> None:
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


def test_puzzle_depends_on_seed_and_index_alone(engine: ModuleType) -> None:
    whole, _, _ = engine.generate(6, 12, 10, 14, seed=5)
    part, _, _ = engine.generate(6, 4, 10, 14, seed=5, first=7)
    other, _, _ = engine.generate(6, 12, 10, 14, seed=6)
    np.testing.assert_array_equal(whole[7:11], part)
    assert not (whole == other).all(axis=1).any()


def test_ratings_keep_their_bounds(engine: ModuleType) -> None:
    count = 3 if engine is reference else 50
    questions, _, ratings = engine.generate(9, count, 24, 27, seed=1, min_rating=2, max_rating=9)
    assert ratings.min() >= 2
    assert ratings.max() <= 9
    givens = (questions > 0).sum(axis=1)
    assert givens.min() >= 24
    assert givens.max() <= 27
    np.testing.assert_array_equal(engine.solve(questions, 9)[2], ratings)


def test_limits_that_cannot_be_met_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MAX_ATTEMPTS", 5)
    for each in [reference, *([] if engines.engine is reference else [engines.engine])]:
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
        assert caught.value.usage_error


def test_generate_reports_progress_and_continues_a_sequence() -> None:
    seen: list[int] = []
    whole = generate(4, 150, (4, 9), -1, progress=seen.append)
    assert seen[-1] == 150
    assert seen == sorted(set(seen))
    rest = generate(4, 50, (4, 9), -1, first=100)
    np.testing.assert_array_equal(rest.questions, whole.questions[100:])


def test_solver_distinguishes_no_one_and_several_solutions(engine: ModuleType) -> None:
    question = np.zeros((4, 16), dtype=np.uint8)
    question[1, [0, 1]] = 1  # clashing givens
    question[2, [0, 1, 6]] = [1, 2, 3]  # the givens agree, but 3 fits nowhere in the top left box
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
