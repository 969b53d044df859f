"""Generator, shortest paths and statistics of mazes, in C++ and in Python."""

from __future__ import annotations

import csv
import gzip
import os
import random
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.maze import engine as engines
from trm_fast.tasks.maze import generate, reference
from trm_fast.tasks.maze import mazes as maze_sets
from trm_fast.tasks.maze.cells import Grids, as_lines
from trm_fast.tasks.maze.mazes import default_distance
from trm_fast.tasks.maze.reference import DENSITY_UNIT

DATA = Path(os.environ.get("TRM_FAST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "maze"
SHAPES = [(9, 9), (7, 12), (3, 64), (12, 40), (40, 7), (2, 1)]
MANY = 10_000_000


@pytest.fixture(params=["cpp", "python"])
def engine(request: pytest.FixtureRequest) -> ModuleType:
    return native() if request.param == "cpp" else reference


def native() -> ModuleType:
    if engines.engine is reference:
        pytest.skip("trm_fast._host is not built")
    return engines.engine


def limits(shape: tuple[int, int]) -> dict[str, int]:
    distance = default_distance(shape)
    return {
        "min_density": round(0.3 * DENSITY_UNIT),
        "max_density": round(0.45 * DENSITY_UNIT),
        "min_distance": distance,
    }


def published(name: str) -> tuple[list[str], list[str], list[int]]:
    path = DATA / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there (set TRM_FAST_DATA)")
    with gzip.open(path, "rt", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [r["question"] for r in rows], [r["answer"] for r in rows], [int(r["rating"]) for r in rows]


def breadth_first(maze: str, width: int) -> tuple[str, int]:
    """The published search in plain Python: a cell remembers the cell that first reached it; neighbors are visited in
    the order down, left, right, up."""
    cells = {(i // width, i % width): c for i, c in enumerate(maze)}
    start = next(cell for cell, c in cells.items() if c == "S")
    goal = next(cell for cell, c in cells.items() if c == "G")
    discoverer = {start: start}
    layer = [start]
    while layer:
        following = []
        for r, c in layer:
            for other in ((r + 1, c), (r, c - 1), (r, c + 1), (r - 1, c)):
                if cells.get(other, "#") != "#" and other not in discoverer:
                    discoverer[other] = (r, c)
                    following.append(other)
        layer = following
    if goal not in discoverer:
        return maze, -1
    steps, cell = 1, discoverer[goal]
    while cell != start:
        cells[cell], cell, steps = "o", discoverer[cell], steps + 1
    return "".join(cells.values()), steps


def random_mazes(shape: tuple[int, int], count: int, seed: int) -> list[str]:
    """Random mazes, many of them without a path."""
    rng = random.Random(seed)
    result = []
    for _ in range(count):
        cells = rng.choices("# ", weights=[3, 5], k=shape[0] * shape[1])
        for mark, cell in zip("SG", rng.sample(range(len(cells)), 2), strict=True):
            cells[cell] = mark
        result.append("".join(cells))
    return result


def encode(lines: Iterable[str]) -> Grids:
    return np.array([["# SGo".index(c) + 1 for c in line] for line in lines], dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_paths_equal_those_of_plain_breadth_first_search(engine: ModuleType, shape: tuple[int, int]) -> None:
    lines = random_mazes(shape, 60, seed=shape[0])
    expected_pairs = [breadth_first(line, shape[1]) for line in lines]
    mazes = encode(lines)
    answers, steps = engine.solve(mazes, *shape)
    assert as_lines(answers) == [answer for answer, _ in expected_pairs]
    assert steps.tolist() == [distance for _, distance in expected_pairs]
    assert (steps.dtype, answers.dtype) == (np.int32, np.uint8)
    if min(shape) > 2:
        assert -1 in steps


@pytest.mark.parametrize("name", ["train", "test"])
def test_published_answers_follow_the_rule(engine: ModuleType, name: str) -> None:
    questions, answers, ratings = published(name)
    rows = slice(20 if engine is reference else None)
    solved, steps = engine.solve(encode(questions[rows]), 30, 30)
    assert as_lines(solved) == answers[rows]
    assert steps.tolist() == ratings[rows]


@pytest.mark.parametrize("shape", SHAPES)
def test_cpp_and_python_generate_the_same_bytes(shape: tuple[int, int]) -> None:
    count = 8 if shape[0] * shape[1] < 200 else 3
    arguments = {**limits(shape), "seed": 2**64 - shape[0], "first": 5, "attempts": MANY}
    for ours, theirs in zip(
        native().generate(*shape, count, **arguments), reference.generate(*shape, count, **arguments), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype


def test_generated_mazes_meet_their_limits(engine: ModuleType) -> None:
    shape, count = (9, 13), 20
    arguments = {"min_density": DENSITY_UNIT // 4, "max_density": DENSITY_UNIT // 3, "min_distance": 14}
    questions, answers, steps = engine.generate(*shape, count, **arguments, seed=3, attempts=MANY)
    assert [breadth_first(line, 13) for line in as_lines(questions)] == list(
        zip(as_lines(answers), steps.tolist(), strict=True)
    )
    assert steps.min() >= 14
    assert 0.2 < (questions == 1).mean() < 0.36
    assert len(np.unique(questions, axis=0)) == count


def test_a_maze_depends_on_seed_and_index_alone(engine: ModuleType) -> None:
    whole, _, _ = engine.generate(6, 8, 12, **limits((6, 8)), seed=5, attempts=MANY)
    part, _, _ = engine.generate(6, 8, 4, **limits((6, 8)), seed=5, first=7, attempts=MANY)
    other, _, _ = engine.generate(6, 8, 12, **limits((6, 8)), seed=6, attempts=MANY)
    np.testing.assert_array_equal(whole[7:11], part)
    assert not (whole == other).all(axis=1).any()


def test_the_densest_and_the_emptiest_fields(engine: ModuleType) -> None:
    empty, _, _ = engine.generate(5, 5, 3, 0, 0, 1, seed=0, attempts=MANY)
    assert not (empty == 1).any()
    with pytest.raises(RuntimeError, match="no maze with the required distance in 500 draws"):
        engine.generate(5, 5, 1, DENSITY_UNIT - 1, DENSITY_UNIT - 1, 3, seed=0, attempts=500)


def plain_rejection(size: int, distance: int, count: int, seed: int) -> list[str]:
    """The published sampling in plain Python."""
    rng = random.Random(seed)
    kept: list[str] = []
    while len(kept) < count:
        p = rng.uniform(0.3, 0.5)
        cells = ["#" if rng.random() < p else " " for _ in range(size * size)]
        free = [i for i, c in enumerate(cells) if c == " "]
        if len(free) < 2:
            continue
        for mark, cell in zip("SG", rng.sample(free, 2), strict=True):
            cells[cell] = mark
        if breadth_first("".join(cells), size)[1] >= distance:
            kept.append("".join(cells))
    return kept


def homogeneity(ours: np.ndarray, theirs: np.ndarray, bins: int) -> float:
    """Pearson's chi-square of two samples over about equally full bins, in standard deviations from its mean."""
    edges = np.unique(np.quantile(np.concatenate([ours, theirs]), np.linspace(0, 1, bins + 1)[1:-1]))
    bins_of = [np.searchsorted(edges, sample, "left") for sample in (ours, theirs)]
    counts = np.array([np.bincount(cell, minlength=len(edges) + 1) for cell in bins_of])
    counts = counts[:, counts.any(axis=0)]
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    freedom = counts.shape[1] - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


def test_statistics_equal_those_of_plain_rejection() -> None:
    size, distance = 8, 9
    ours = generate((size, size), 20_000, 1, distance=distance)
    slow = encode(plain_rejection(size, distance, 1500, seed=2))
    steps = engines.engine.solve(slow, size, size)[1]
    assert abs(homogeneity(ours.ratings, steps, 8)) < 4
    assert abs(homogeneity((ours.questions == 1).sum(axis=1), (slow == 1).sum(axis=1), 12)) < 4
    for token in (3, 4):  # the rows of start and goal, as distances from the middle
        spots = [np.abs((m == token).argmax(axis=1) // size - 3.5) for m in (ours.questions, slow)]
        assert abs(homogeneity(*spots, 4)) < 4
    shifted = generate((size, size), 2000, 1, densities=(0.32, 0.5), distance=distance)
    assert homogeneity((shifted.questions == 1).sum(axis=1), (slow == 1).sum(axis=1), 12) > 4, (
        "the test cannot detect a shift"
    )


@pytest.mark.slow
def test_statistics_equal_those_of_the_published_mazes() -> None:
    native()
    questions, _, ratings = published("train")
    more, _, more_ratings = published("test")
    walls = np.array([line.count("#") for line in questions + more])
    ours = generate((30, 30), 150, 11)
    assert ours.ratings.min() >= 109
    assert homogeneity(ours.ratings, np.array(ratings + more_ratings), 6) < 4
    assert homogeneity((ours.questions == 1).sum(axis=1), walls, 8) < 4


def test_generator_reports_progress_and_ignores_threads() -> None:
    seen: list[int] = []
    whole = generate((9, 9), 2500, -1, progress=seen.append, threads=2)
    assert seen == [1024, 2048, 2500]
    rest = generate((9, 9), 1000, -1, first=1500, threads=1)
    np.testing.assert_array_equal(rest.questions, whole.questions[1500:])
    np.testing.assert_array_equal(rest.answers, whole.answers[1500:])


def test_limits_that_cannot_be_met_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        {"shape": (65, 3)},
        {"shape": (0, 3)},
        {"shape": (1, 1)},
        {"count": 0},
        {"densities": (0.5, 0.3)},
        {"densities": (0.5, 1.0)},
        {"densities": (-0.1, 0.3)},
        {"distance": 0},
        {"distance": 25},
    ):
        with pytest.raises(UserError) as caught:
            generate(**{"shape": (5, 5), "count": 1, "seed": 0, **wrong})
        assert caught.value.usage_error
    monkeypatch.setattr(maze_sets, "MAX_ATTEMPTS", 300)
    with pytest.raises(UserError, match=r"5x5 cells, at least 20 steps\): ask for a shorter distance"):
        generate((5, 5), 3, 0, distance=20)


@pytest.mark.parametrize("lines", [["SG" * 2], ["S   "], ["   G"], ["    "]])
def test_engines_refuse_mazes_without_one_start_and_goal(engine: ModuleType, lines: list[str]) -> None:
    with pytest.raises(ValueError, match="maze 1 must have one start and one goal"):
        engine.solve(encode(["S  G", *lines]), 2, 2)
    with pytest.raises(ValueError, match="shape"):
        engine.solve(encode(["S  G"]), 2, 3)
    with pytest.raises(ValueError, match="1 to 64"):
        engine.solve(encode(["S  G" * 17]), 1, 68)


def test_classes_are_equal_under_rotation_and_reflection() -> None:
    for shape, images in (((6, 6), 8), ((4, 9), 4)):
        mazes = generate(shape, 50, 2, distance=5)
        grids = mazes.questions.reshape(-1, *shape)
        turns = [np.rot90(grids, k, axes=(1, 2)) for k in (range(4) if images == 8 else (0, 2))]
        turned = [image for turn in turns for image in (turn, turn[:, ::-1])]
        assert len({image.tobytes() for image in turned}) == images
        for image in turned:
            copy = maze_sets.Mazes(shape, np.ascontiguousarray(image).reshape(50, -1), mazes.answers, mazes.ratings)
            assert copy.classes() == mazes.classes()
        assert len(set(mazes.classes())) == 50
