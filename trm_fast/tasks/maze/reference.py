"""The maze generator and solver in Python. csrc/host/maze.cpp gives the same bytes; tests compare them.

A field, the set of open cells, is one integer with a bit for each cell, row by row. So one step of breadth-first search
advances the whole front at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.maze.cells import FREE, GOAL, MAX_SIDE, MOVES, PATH, START, WALL, Grids

DENSITY_UNIT = 65536
"""Densities are given in units of 1 / 65536, as whole numbers of ``DENSITY_BITS`` bits."""
DENSITY_BITS = 16
CHUNK = 256
"""Draws that are computed at a time."""

Words = npt.NDArray[np.uint64]


def generate(
    height: int,
    width: int,
    count: int,
    min_density: int,
    max_density: int,
    min_distance: int,
    seed: int,
    first: int = 0,
    *,
    attempts: int,
) -> tuple[Grids, Grids, npt.NDArray[np.int32]]:
    """Generates mazes with their answers.

    Maze ``i`` is number ``first + i`` of the sequence that ``seed`` (unsigned, 64 bits) selects, and depends on nothing
    else. A draw takes a wall density uniformly from the bounds (in units of 1 / 65536, at most 65535), makes each cell
    a wall with this probability, and puts start and goal on two random free cells. It is accepted if the goal is at
    least ``min_distance`` steps away. This is plain rejection sampling, which keeps the distribution of the published
    set.

    Returns:
        Mazes and answers, uint8 (count, height * width), and steps from start to goal, int32 (count,).

    Raises:
        RuntimeError: ``attempts`` draws of one maze were rejected.
        ValueError: an argument is out of range.
    """
    _check_shape(height, width)
    if count < 0 or not 0 <= min_density <= max_density < DENSITY_UNIT or min_distance < 1:
        raise ValueError("expected count >= 0, 0 <= min_density <= max_density < 65536, min_distance >= 1")
    mazes = np.empty((count, height * width), dtype=np.uint8)
    for i in range(count):
        draws = _draws(_stream(seed, first + i), height * width, (min_density, max_density), attempts)
        for field, start, goal in draws:
            if _distance(field, height, width, start, goal) >= min_distance:
                break
        else:
            raise RuntimeError(f"no maze with the required distance in {attempts} draws")
        mazes[i] = [FREE if field >> cell & 1 else WALL for cell in range(height * width)]
        mazes[i, start], mazes[i, goal] = START, GOAL
    return mazes, *solve(mazes, height, width)


def solve(mazes: Grids, height: int, width: int) -> tuple[Grids, npt.NDArray[np.int32]]:
    """Solves mazes, uint8 (N, height * width), by the published search.

    It is a breadth-first search from the start that visits neighbors in the order down, left, right, up. Each cell
    remembers the cell from which it was first reached, and the path is traced back from the goal.

    Returns:
        Answers, uint8 (N, height * width): the mazes with the path marked, unchanged if there is no path. Steps from
        start to goal, int32 (N,): -1 if there is no path.

    Raises:
        ValueError: a maze does not have exactly one start and one goal.
    """
    _check(mazes, height, width)
    answers = mazes.copy()
    steps = np.full(len(mazes), -1, dtype=np.int32)
    for i, maze in enumerate(mazes.tolist()):
        start, goal = maze.index(START), maze.index(GOAL)
        parents = {start: start}
        queue = deque([start])
        while queue and goal not in parents:
            cell = queue.popleft()
            row, col = divmod(cell, width)
            for down, right in MOVES:
                r, c = row + down, col + right
                other = r * width + c
                if 0 <= r < height and 0 <= c < width and maze[other] != WALL and other not in parents:
                    parents[other] = cell
                    queue.append(other)
        if goal not in parents:
            continue
        cell, steps[i] = parents[goal], 1
        while cell != start:
            answers[i, cell] = PATH
            cell = parents[cell]
            steps[i] += 1
    return answers, steps


def _distance(field: int, height: int, width: int, start: int, goal: int) -> int:
    """Steps from ``start`` to ``goal`` through the open cells of a field; -1 if there is no path."""
    first_column = sum(1 << row * width for row in range(height))
    not_first = ~first_column
    not_last = ~(first_column << (width - 1))
    front, end = 1 << start, 1 << goal
    steps = 0
    while front:
        if front & end:
            return steps
        field &= ~front
        sideways = (front & not_last) << 1 | (front & not_first) >> 1
        front = (front << width | front >> width | sideways) & field
        steps += 1
    return -1


def _draws(state: int, cells: int, densities: tuple[int, int], attempts: int) -> Iterator[tuple[int, int, int]]:
    """Draws of a field, a start and a goal. Draws with fewer than two free cells are skipped."""
    words = -(-cells // 64)
    per_draw = 1 + DENSITY_BITS * words + 2  # random numbers in a draw: density, walls, start and goal
    for start_draw in range(0, attempts, CHUNK):
        count = min(CHUNK, attempts - start_draw)
        numbers = _random(state, start_draw * per_draw, count * per_draw).reshape(count, per_draw)
        density = np.uint64(densities[0]) + _below(numbers[:, 0], densities[1] - densities[0] + 1)
        walls = np.zeros((count, words), dtype=np.uint64)
        # Compares a random number of 16 bits for each cell with the density, bit by bit and 64 cells at a time.
        for digit in range(DENSITY_BITS):
            random = numbers[:, 1 + digit : -2 : DENSITY_BITS]
            bit_set = (density >> np.uint64(digit) & np.uint64(1)).astype(bool)[:, None]
            walls = np.where(bit_set, walls | random, walls & random)
        bits = np.unpackbits(walls.astype("<u8").view(np.uint8), axis=1, bitorder="little")[:, :cells]
        free = np.uint64(cells) - bits.sum(axis=1, dtype=np.uint64)
        starts = _below(numbers[:, -2], free)
        goals = _below(numbers[:, -1], free - np.uint64(1))  # wraps where no cell is free; such a draw is skipped
        packed = np.packbits(1 - bits, axis=1, bitorder="little")
        for row in np.flatnonzero(free >= 2):
            free_cells = np.flatnonzero(bits[row] == 0)
            start, goal = int(starts[row]), int(goals[row])
            goal += goal >= start
            yield int.from_bytes(packed[row].tobytes(), "little"), int(free_cells[start]), int(free_cells[goal])


def _stream(seed: int, index: int) -> int:
    return int(_mix(_mix(np.array([seed % 2**64], dtype=np.uint64)) + np.uint64(index))[0])


def _random(state: int, first: int, count: int) -> Words:
    """Numbers ``first`` to ``first + count - 1`` of a splitmix64 stream, uint64 (count,)."""
    steps = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    return _mix(np.uint64(state) + steps * np.uint64(0x9E3779B97F4A7C15))


def _mix(z: Words) -> Words:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _below(numbers: Words, n: int | Words) -> Words:
    """Random numbers from 0 to n - 1."""
    return (numbers >> np.uint64(32)) * np.asarray(n, dtype=np.uint64) >> np.uint64(32)


def _check_shape(height: int, width: int) -> None:
    if min(height, width) < 1 or max(height, width) > MAX_SIDE:
        raise ValueError(f"height and width must be 1 to {MAX_SIDE}")


def _check(mazes: Grids, height: int, width: int) -> None:
    _check_shape(height, width)
    if mazes.ndim != 2 or mazes.shape[1] != height * width:
        raise ValueError(f"mazes must have the shape (N, {height * width})")
    for token in (START, GOAL):
        wrong = (mazes == token).sum(axis=1) != 1
        if wrong.any():
            raise ValueError(f"maze {int(wrong.argmax())} must have one start and one goal")
