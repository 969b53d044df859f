"""The sudoku generator and solver in Python. csrc/host/sudoku.cpp gives the same bytes; tests compare them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.sudoku.rules import Grids, units

ANY_RATING = 2**31 - 1
REDRAW_AFTER, MAX_ATTEMPTS = 100, 20000
"""Failed attempts after which the number of givens is drawn again, and after which the generator gives up."""

Board = list[int]
"""The digits that are still possible in each cell, as a bit set: bit d - 1 is digit d."""


class Rng:
    """splitmix64, with an independent stream for each pair of seed and index."""

    def __init__(self, seed: int, stream: int) -> None:
        self.state = self.mix(self.mix(seed) + stream)

    @staticmethod
    def mix(z: int) -> int:
        """The output function of splitmix64."""
        z &= 2**64 - 1
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & 2**64 - 1
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & 2**64 - 1
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """A random number from 0 to n - 1."""
        self.state += 0x9E3779B97F4A7C15
        return (self.mix(self.state) >> 32) * n >> 32

    def shuffle(self, items: list[int]) -> None:
        """Shuffles a list in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


@lru_cache
def _neighbors(size: int) -> tuple[list[list[int]], list[list[int]]]:
    """The cells of each unit, and the peers of each cell."""
    groups = units(size).tolist()
    peers = [sorted({c for unit in groups if cell in unit for c in unit} - {cell}) for cell in range(size * size)]
    return groups, peers


def _bits(m: int) -> list[int]:
    return [1 << i for i in range(m.bit_length()) if m >> i & 1]


def _propagate(board: Board, todo: list[int], size: int) -> bool:
    """Fills in naked and hidden singles until there are none; False on a contradiction.

    ``todo`` are the decided cells whose digits have not been removed from their peers.
    """
    groups, peers = _neighbors(size)
    while todo:
        while todo:
            cell = todo.pop()
            digit = board[cell]
            if not digit:
                return False
            for peer in peers[cell]:
                if board[peer] & digit:
                    remaining = board[peer] = board[peer] ^ digit
                    if not remaining:
                        return False
                    if not remaining & (remaining - 1):
                        todo.append(peer)
        for unit in groups:
            seen_digits = repeated = decided = 0
            for cell in unit:
                m = board[cell]
                repeated |= seen_digits & m
                seen_digits |= m
                if not m & (m - 1):
                    decided |= m
            if seen_digits != (1 << size) - 1:
                return False
            hidden = seen_digits & ~(repeated | decided)
            if hidden:
                for cell in unit:
                    digit = board[cell] & hidden
                    if digit:
                        if digit & (digit - 1):
                            return False
                        board[cell] = digit
                        todo.append(cell)
    return True


def _board(question: list[int], size: int) -> tuple[Board, list[int]]:
    """The board before any deduction, and the cells of the givens, for ``_propagate``."""
    board = [1 << (digit - 1) if digit else (1 << size) - 1 for digit in question]
    return board, [cell for cell, digit in enumerate(question) if digit]


def _branching_cell(board: Board) -> int:
    """The first cell with the fewest possible digits; -1 if all cells are decided."""
    open_cells = [(m.bit_count(), cell) for cell, m in enumerate(board) if m & (m - 1)]
    return min(open_cells)[1] if open_cells else -1


def _search(board: Board, size: int, limit: int) -> tuple[list[Board], int]:
    """Up to ``limit`` solutions of a board without singles, and the number of values tried."""
    cell = _branching_cell(board)
    if cell < 0:
        return [board], 0
    solutions_found: list[Board] = []
    tried = 0
    for digit in _bits(board[cell]):
        if len(solutions_found) == limit:
            break
        tried += 1
        child = board.copy()
        child[cell] = digit
        if _propagate(child, [cell], size):
            solutions, values = _search(child, size, limit - len(solutions_found))
            solutions_found += solutions
            tried += values
    return solutions_found, tried


def _solve(question: list[int], size: int) -> tuple[list[list[int]], int]:
    board, todo = _board(question, size)
    if not _propagate(board, todo, size):
        return [], 0
    solutions, tried = _search(board, size, limit=2)
    return [[m.bit_length() for m in solution] for solution in solutions], tried


def solve(questions: Grids, size: int) -> tuple[Grids, Grids, npt.NDArray[np.int32]]:
    """Solves puzzles, uint8 (N, size * size).

    A rating is a search count: the number of values tried at branching cells by a solver that fills in naked and
    hidden singles and branches on the first cell with the fewest possible digits, until the whole tree is searched. It
    is 0 if singles suffice. Symmetric images of a puzzle can have different ratings.

    Returns:
        Solutions, uint8 (N, size * size): the first of several, all zero if there is none. Counts, uint8 (N,): 0,
        1, or 2 for several; the search ends at the second solution. Ratings, int32 (N,).
    """
    solutions = np.zeros_like(questions)
    counts = np.zeros(len(questions), dtype=np.uint8)
    ratings = np.zeros(len(questions), dtype=np.int32)
    for i, question in enumerate(questions.tolist()):
        solutions_found, ratings[i] = _solve(question, size)
        counts[i] = len(solutions_found)
        if solutions_found:
            solutions[i] = solutions_found[0]
    return solutions, counts, ratings


def _fill(board: Board, todo: list[int], size: int, rng: Rng) -> Board | None:
    """A random solution of a board; None if it has none."""
    if not _propagate(board, todo, size):
        return None
    cell = _branching_cell(board)
    if cell < 0:
        return board
    digits = _bits(board[cell])
    rng.shuffle(digits)
    for digit in digits:
        child = board.copy()
        child[cell] = digit
        filled = _fill(child, [cell], size, rng)
        if filled:
            return filled
    return None


def _dig(answer: list[int], givens: int, size: int, rng: Rng) -> list[int]:
    """Removes digits in random order, keeping the solution unique, until ``givens`` are left."""
    _, peers = _neighbors(size)
    question = answer.copy()
    order = list(range(size * size))
    rng.shuffle(order)
    remaining = size * size
    for cell in order:
        if remaining == givens:
            break
        question[cell] = 0
        seen = {question[peer] for peer in peers[cell]}
        if len(seen - {0}) < size - 1:
            board, todo = _board(question, size)
            board[cell] ^= 1 << (answer[cell] - 1)
            if not board[cell] & (board[cell] - 1):
                todo.append(cell)
            if _propagate(board, todo, size) and _search(board, size, limit=1)[0]:
                question[cell] = answer[cell]
                continue
        remaining -= 1
    return question


def redraw(answers: Grids, size: int, min_givens: int, tries: int, seed: int) -> Grids:
    """A puzzle for each solved grid: of ``tries`` random ones, the first with the highest rating.

    Each is dug like the puzzles of ``generate``: digits are removed in random order, as long as the solution stays
    unique and more than ``min_givens`` are left. Puzzle ``i`` depends only on its grid, ``seed`` (unsigned, 64 bits)
    and ``i``.

    Args:
        answers: solved grids, uint8 (N, size * size).

    Returns:
        The questions, uint8 (N, size * size).
    """
    questions = np.zeros_like(answers)
    for i, answer in enumerate(answers.tolist()):
        rng = Rng(seed, i)
        drawn = [_dig(answer, min_givens, size, rng) for _ in range(tries)]
        questions[i] = max(drawn, key=lambda question: _solve(question, size)[1])
    return questions


def generate(
    size: int,
    count: int,
    min_givens: int,
    max_givens: int,
    seed: int,
    first: int = 0,
    min_rating: int = 0,
    max_rating: int = ANY_RATING,
) -> tuple[Grids, Grids, npt.NDArray[np.int32]]:
    """Generates puzzles with exactly one solution.

    Puzzle ``i`` is number ``first + i`` of the sequence that ``seed`` (unsigned, 64 bits) selects, and depends on
    nothing else. An attempt removes digits from a random grid in random order. It fails when the number of givens
    cannot be reached or the rating is out of bounds. The number of givens is drawn uniformly from the bounds; after 100
    failed attempts it is drawn again for each attempt. So where few givens are rare, the distribution shifts to the
    more common ones. With a minimum rating, each attempt removes as many digits as it can, down to ``min_givens``,
    because puzzles that need a search are then common. Random grids come from a random search and are not uniform over
    all grids.

    Returns:
        Questions and answers, uint8 (count, size * size), and ratings as in ``solve``, int32 (count,).

    Raises:
        RuntimeError: 20,000 attempts failed.
    """
    questions = np.zeros((count, size * size), dtype=np.uint8)
    answers = np.zeros_like(questions)
    ratings = np.zeros(count, dtype=np.int32)
    for i in range(count):
        rng = Rng(seed, first + i)
        givens, most = min_givens, max_givens
        for attempt in range(MAX_ATTEMPTS):
            if min_rating == 0 and (attempt == 0 or attempt >= REDRAW_AFTER):
                givens = most = min_givens + rng.below(max_givens - min_givens + 1)
            grid = _fill([(1 << size) - 1] * (size * size), [], size, rng)
            assert grid is not None
            answer = [m.bit_length() for m in grid]
            question = _dig(answer, givens, size, rng)
            if size * size - question.count(0) > most:
                continue
            _, rating = _solve(question, size)
            if min_rating <= rating <= max_rating:
                questions[i], answers[i], ratings[i] = question, answer, rating
                break
        else:
            raise RuntimeError(f"no puzzle within the limits in {MAX_ATTEMPTS} attempts")
    return questions, answers, ratings
