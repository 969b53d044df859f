"""Rollouts, symmetries and the queue: how tries differ, and which answer is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Solver, Step
from trm_fast.inference.options import SolverConfig
from trm_fast.inference.steps import StepResult, run_steps
from trm_fast.inference.tries import Tries
from trm_fast.models import TRMConfig
from trm_fast.tasks import get_task
from trm_fast.tasks.base import Examples
from trm_fast.tasks.sudoku import generate

from .echo import Echo, L, make_model, questions

MODEL = make_model()
INPUTS = np.stack([q.inputs for q in questions(40)])


def solver(rules: bool = True, **options: Any) -> Solver:
    return Solver(MODEL, Echo(rules), **options)


def test_the_batch_stays_full() -> None:
    """As long as rows wait, every step runs a full batch. Each row enters once."""
    seen: dict[int, list[int]] = {}
    waiting = 40
    for result in run_steps(MODEL, torch.from_numpy(INPUTS), 9, batch_size=7):
        waiting -= int((result.steps == 1).sum())
        assert len(result.rows) == 7 or waiting == 0
        for row, step in zip(result.rows.tolist(), result.steps.tolist(), strict=True):
            seen.setdefault(row, []).append(step)
    assert sorted(seen) == list(range(40))
    assert all(steps == list(range(1, len(steps) + 1)) for steps in seen.values())
    assert len({len(steps) for steps in seen.values()}) > 1


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_no_answer_depends_on_the_other_rows(noise: float) -> None:
    options: dict[str, Any] = {"rollouts": 5, "noise": noise} if noise else {}
    alone = solver(rules=False, batch_size=1, **options).run(Examples.of_questions(INPUTS))
    for batch_size in (6, 64):
        batched = solver(rules=False, batch_size=batch_size, **options).run(Examples.of_questions(INPUTS))
        np.testing.assert_array_equal(batched.solution, alone.solution)
        np.testing.assert_array_equal(batched.steps, alone.steps)


def test_noise_depends_on_the_seed_and_the_first_try_has_none() -> None:
    plain = solver(rules=False, select="confidence").run(Examples.of_questions(INPUTS))
    tries = {seed: solver(rules=False, rollouts=4, noise=0.7, seed=seed, halt=False) for seed in (1, 2)}
    states: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    for seed, instance in tries.items():
        instance.run(
            Examples.of_questions(INPUTS), watch=lambda result, seed=seed: states[seed].append(result.confidence)
        )
    assert not torch.equal(states[1][-1], states[2][-1])
    one = solver(rules=False, rollouts=1).run(Examples.of_questions(INPUTS))
    np.testing.assert_array_equal(one.solution, plain.solution)


def result(rows: list[int], answers: list[list[int]], confidence: list[float], halted: bool = True) -> StepResult:
    steps, flags = torch.ones(len(rows), dtype=torch.int64), torch.full((len(rows),), halted)
    return StepResult(torch.tensor(rows), steps, torch.tensor(answers), torch.tensor(confidence), flags)


EVEN, ODD, OTHER = [2, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 3, 0, 0, 0]


@pytest.mark.parametrize(
    ("select", "want"),
    [("rules", EVEN), ("confidence", OTHER), ("majority", ODD)],
    ids=["rules", "confidence", "majority"],
)
def test_the_selection_chooses_a_try(select: Any, want: list[int]) -> None:
    tries = Tries(
        Echo(), Examples.of_questions(INPUTS[:1]), SolverConfig(rollouts=5, noise=0.1), np.random.default_rng(0)
    )
    tries.record(result([0, 1, 2, 3], [ODD, OTHER, EVEN, ODD], [0.4, 0.9, 0.1, 0.3]))  # the fifth try did not run
    best = tries.best(select)
    assert best.solution.tolist() == [want]
    assert best.steps.tolist() == [4]
    assert best.valid is not None
    assert best.valid.tolist() == [want == EVEN]


def test_candidates_are_ranked_by_votes_and_then_by_mean_confidence() -> None:
    tries = Tries(
        Echo(), Examples.of_questions(INPUTS[:1]), SolverConfig(rollouts=6, noise=0.1), np.random.default_rng(0)
    )
    tries.record(result([0, 1, 2, 3, 4], [ODD, OTHER, EVEN, ODD, OTHER], [0.4, 0.9, 0.99, 0.3, 0.1]))
    solved = tries.best("majority")
    (ranked,) = solved.ranked
    assert ranked.answers.tolist() == [OTHER, ODD, EVEN]  # 0.5 on average beats 0.35
    assert ranked.votes.tolist() == [2, 2, 1]
    np.testing.assert_allclose(ranked.confidence, [0.5, 0.35, 0.99], rtol=1e-6)
    assert solved.solution.tolist() == [OTHER]
    assert solved.confidence.tolist() == pytest.approx([0.9])
    assert solved.candidates(0).votes.tolist() == [2, 2, 1]


def test_a_question_with_a_valid_answer_is_not_tried_again() -> None:
    """This takes fewer steps than all tries, and gives at least as many valid answers as the first try."""
    first = solver(max_steps=1).run(Examples.of_questions(INPUTS))
    many = solver(max_steps=1, rollouts=8, noise=0.5).run(Examples.of_questions(INPUTS))
    assert first.valid is not None
    assert many.valid is not None
    assert many.valid.sum() > first.valid.sum()
    assert (many.valid >= first.valid).all()
    solved = first.valid
    assert solved.any()
    np.testing.assert_array_equal(many.solution[solved], first.solution[solved])
    every = solver(max_steps=1, rollouts=8, noise=0.5, select="confidence").run(Examples.of_questions(INPUTS))
    assert many.steps.sum() < every.steps.sum()


def test_symmetries_try_the_same_sudoku() -> None:
    """A model copies every image of the question. Without the symmetry, each copy is the question."""
    kind = get_task("sudoku")
    task = kind(kind.Config(name="sudoku", size=4))
    puzzles = generate(4, 6, (4, 7), seed=1)
    inputs = puzzles.questions.astype(np.int32) + 1
    options = SolverConfig(rollouts=2, noise=0.1, symmetries=3)
    tries = Tries(task, Examples.of_questions(inputs), options, np.random.default_rng(0))
    assert tries.rows.inputs.shape == (36, 16)
    np.testing.assert_array_equal(tries.rows.inputs[:6], inputs)
    tries.record(
        StepResult(
            torch.arange(36),
            torch.ones(36, dtype=torch.int64),
            torch.from_numpy(tries.rows.inputs.astype(np.int64)),
            torch.linspace(0, 1, 36),  # the last image has the highest confidence
            torch.ones(36, dtype=torch.bool),
        )
    )
    np.testing.assert_array_equal(tries.best("confidence").solution, inputs)
    np.testing.assert_array_equal(tries.best("majority").solution, inputs)


def test_sudoku_answers_keep_their_format_with_every_kind_of_try() -> None:
    kind = get_task("sudoku")
    task = kind(kind.Config(name="sudoku", size=4))
    torch.manual_seed(0)
    model = TRM(TRMConfig(vocab_size=6, seq_len=16, hidden_size=16, inner_multiple=16, T_cycles=1, n_latent_steps=1))
    instance = Solver(model, task, max_steps=2, rollouts=2, noise=0.3, symmetries=2)
    answer = instance.solve("1...........2.43")
    assert len(answer.solution) == 16
    assert answer.steps == 8


def test_a_stream_yields_every_step() -> None:
    instance = solver()
    reported: list[Step] = []
    streamed = list(instance.stream(questions(1)[0], reported.append))
    whole = instance.solve(questions(1)[0], return_trajectory=True)
    assert whole.trajectory is not None
    assert streamed == reported == whole.trajectory
    assert [s.raw.tolist() for s in streamed] == [s.raw.tolist() for s in whole.trajectory]
    early = instance.stream(questions(1)[0])
    assert next(early).step == 1, "the first answer comes before the last step"


@pytest.mark.parametrize("count", [0, 1])
def test_the_solver_takes_few_rows(count: int) -> None:
    solved = solver(rollouts=2, noise=0.1).run(Examples.of_questions(INPUTS[:count]))
    assert solved.solution.shape == (count, L)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rollouts": 3}, "noise"),
        ({"noise": 0.3}, "rollouts"),
        ({"rules": False, "select": "rules"}, "has no rules"),
    ],
)
def test_contradicting_options_are_rejected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        solver(**options)


def test_symmetries_need_a_task_that_has_some() -> None:
    with pytest.raises(UserError, match="no symmetries"):
        solver(symmetries=2).run(Examples.of_questions(INPUTS))


def test_a_trajectory_of_several_tries_is_rejected() -> None:
    with pytest.raises(UserError, match="one try"):
        list(solver(rollouts=2, noise=0.3).answers(questions(2), return_trajectory=True))
