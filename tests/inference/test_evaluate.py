"""Evaluation: accuracies against a loop over cells."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.inference import Evaluation, evaluate, wilson_interval
from trm_fast.inference.tries import Solved
from trm_fast.tasks.base import IGNORE, Examples

from .echo import Echo, L, V


class Canned:
    """A solver with prepared answers, for a task with its own measure."""

    class task(Echo):
        def metrics(self, examples: Examples, answers: np.ndarray) -> dict[str, float]:
            return {"first": float((examples.labels[:, 0] == answers[:, 0]).mean())}

    def __init__(self, solutions: np.ndarray, rules: bool = True, seed: int = 0) -> None:
        self.task, self.model = self.task(), None
        rng = np.random.default_rng(seed)
        self.solved = Solved(
            solution=solutions,
            confidence=rng.random(len(solutions)).astype(np.float32),
            steps=rng.integers(1, 17, len(solutions)),
            converged=rng.random(len(solutions)) < 0.6,
            valid=solutions.sum(1) % 2 == 0 if rules else None,
            tries=solutions[:, None],
            try_confidence=np.full((len(solutions), 1), 0.5, dtype=np.float32),
            answered=np.ones(len(solutions), dtype=np.bool_),
        )

    def run(self, examples: Examples, *, progress: Any) -> Solved:
        self.ids = examples.puzzle_ids.tolist()
        return self.solved


def make(count: int) -> tuple[Examples, np.ndarray]:
    """Examples with ignored cells, some with no other cells, and answers that are mostly right."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, V, (count, L)).astype(np.int32)
    solutions = np.where(rng.random((count, L)) < 0.9, labels, (labels + 1) % V).astype(np.int64)
    labels[rng.random((count, L)) < 0.3] = IGNORE
    labels[::10] = IGNORE
    return Examples(labels, labels, np.arange(count, dtype=np.int32)), solutions


@pytest.mark.parametrize("rules", [True, False])
def test_an_evaluation_counts_rows_and_cells(rules: bool) -> None:
    examples, solutions = make(50)
    solver: Any = Canned(solutions, rules)
    result = evaluate(solver, examples)

    exact, share = 0, 0.0
    for label, solution in zip(examples.labels.tolist(), solutions.tolist(), strict=True):
        right = [a == b for a, b in zip(label, solution, strict=True) if a != IGNORE]
        exact += all(right)
        share += sum(right) / max(1, len(right))
    assert 5 < exact < 45
    assert result.exact_accuracy == exact / 50
    assert result.cell_accuracy == pytest.approx(share / 50)
    assert result.count == 50
    assert result.mean_steps == pytest.approx(solver.solved.steps.mean())
    assert result.converged == solver.solved.converged.mean()
    assert result.valid == ((solutions.sum(1) % 2 == 0).mean() if rules else None)
    assert result.interval == wilson_interval(exact, 50)
    assert result.puzzles_per_second == pytest.approx(50 / result.seconds)
    assert solver.ids == list(range(50))
    assert result.metrics == {"first": (examples.labels[:, 0] == solutions[:, 0]).mean()}
    flat = json.loads(json.dumps(result.to_json()))
    assert flat.keys() == (Evaluation.__dataclass_fields__.keys() | {"first"}) - {"metrics", "solved"}


def test_no_examples_are_an_error() -> None:
    examples, solutions = make(3)
    solver: Any = Canned(solutions)
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(solver, examples.take(slice(0)))
