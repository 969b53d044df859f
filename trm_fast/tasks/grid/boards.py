"""Sets of puzzles with their canonical forms, and checks that no question has two answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trm_fast.errors import UserError
from trm_fast.tasks.grid.symmetry import Form, Symmetries
from trm_fast.tasks.sets import PuzzleSet


@dataclass(frozen=True)
class Boards(PuzzleSet[Symmetries]):
    """N puzzles: tokens of the questions (N, question cells) and of the answers (N, answer cells), and ``size``, the
    symmetries of the task."""

    def forms(self) -> list[Form]:
        """The canonical form of each puzzle."""
        return self.size.forms(self.questions, self.answers)

    def classes(self) -> list[bytes]:
        return [form.question for form in self.forms()]


def check_answers(boards: Boards, names: Sequence[str]) -> int:
    """Checks that equivalent questions have equivalent answers.

    Args:
        boards: the puzzles.
        names: file and line of each.

    Returns:
        How many puzzles are equivalent to an earlier one.

    Raises:
        UserError: two answers contradict each other, by themselves or under the symmetries of the task.
    """
    first: dict[bytes, tuple[Form, int]] = {}
    repeated = 0
    for row, form in enumerate(boards.forms()):
        if form.ambiguous:
            raise UserError(
                f"{names[row]}: a symmetry of the task (task.symmetries, task.exchangeable) leaves the question as it "
                "is, but gives it another answer: these puzzles do not have this symmetry, or this one has several "
                "answers"
            )
        earlier, other = first.setdefault(form.question, (form, row))
        repeated += other != row
        if earlier.answer == form.answer:
            continue
        if (boards.questions[row] == boards.questions[other]).all():
            raise UserError(f"{names[row]}: the question of {names[other]} again, with another answer: keep one")
        raise UserError(
            f"{names[row]}: by the symmetries of the task (task.symmetries, task.exchangeable) this is the question of "
            f"{names[other]}, but the answer is another: these puzzles do not have this symmetry"
        )
    return repeated
