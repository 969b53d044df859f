"""How several tries at a question depend on each other, what ends the search, and what gets no answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Solver, evaluate
from trm_fast.inference.queue import Plan, Queue
from trm_fast.inference.steps import StepResult, run_steps
from trm_fast.interchange import locate
from trm_fast.models import TRMConfig
from trm_fast.tasks import get_task
from trm_fast.tasks.base import Examples
from trm_fast.tasks.sudoku import generate

from .echo import Echo, make_model, questions

MODEL = make_model()
N = 40
EXAMPLES = Examples.of_questions(np.stack([q.inputs for q in questions(N)]))


def solver(rules: bool = True, **options: Any) -> Solver:
    return Solver(MODEL, Echo(rules), **options)


def entries(instance: Solver) -> list[int]:
    """The rows in the order in which they enter the batch."""
    seen: list[int] = []

    def watch(result: StepResult) -> None:
        seen.extend(result.rows[result.steps == 1].tolist())

    instance.run(EXAMPLES, watch=watch)
    return seen


@pytest.mark.parametrize("options", [{}, {"resample_every": 1}, {"start": "last"}])
@pytest.mark.parametrize("batch_size", [3, 200])
def test_further_tries_wait_for_the_first_one(options: dict[str, Any], batch_size: int) -> None:
    seen = entries(solver(rollouts=5, noise=0.5, max_steps=1, batch_size=batch_size, **options))
    assert seen[:N] == list(range(N)), "the first tries at all questions come first"
    first = solver(max_steps=1).run(EXAMPLES)
    assert first.valid is not None
    unsolved = {row for row in range(N) if not first.valid[row]}
    assert 0 < len(unsolved) < N
    assert {row % N for row in seen[N:]} == unsolved


def test_a_rollout_that_starts_where_the_last_ended_continues_it() -> None:
    """Without noise, three rollouts of two steps are one try of six."""
    parts = solver(False, rollouts=3, start="last", max_steps=2, halt=False).run(EXAMPLES)
    whole = solver(False, max_steps=6, halt=False).run(EXAMPLES)
    np.testing.assert_array_equal(parts.tries[:, -1], whole.solution)
    parts = solver(rollouts=3, start="last", max_steps=2).run(EXAMPLES)
    whole = solver(max_steps=6).run(EXAMPLES)
    assert parts.valid is not None
    assert whole.valid is not None
    np.testing.assert_array_equal(parts.valid, whole.valid)
    np.testing.assert_array_equal(parts.solution[parts.valid], whole.solution[parts.valid])
    np.testing.assert_array_equal(parts.steps, whole.steps)


@pytest.mark.parametrize("options", [{"start": "random"}, {"noise": 0.7}, {"start": "random", "noise": 0.2}])
def test_further_tries_differ_and_do_not_depend_on_the_batch(options: dict[str, Any]) -> None:
    runs = [solver(False, rollouts=4, halt=False, batch_size=b, **options).run(EXAMPLES) for b in (1, 7, 64)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.tries, runs[0].tries)
    plain = solver(False, halt=False).run(EXAMPLES)
    np.testing.assert_array_equal(runs[0].tries[:, 0], plain.solution)
    assert all((runs[0].tries[:, k] != runs[0].tries[:, 0]).any() for k in (1, 2, 3))
    assert (runs[0].tries[:, 1] != runs[0].tries[:, 2]).any()


@pytest.mark.parametrize("batch_size", [1, 7, 200])
def test_select_first_takes_the_try_that_halts_in_the_fewest_steps(batch_size: int) -> None:
    options: dict[str, Any] = {"rollouts": 5, "noise": 0.7}
    steps = np.stack([first_halts(k, options) for k in range(5)], axis=1)
    solved = solver(False, select="first", batch_size=batch_size, **options).run(EXAMPLES)
    every = solver(False, select="confidence", **options).run(EXAMPLES)
    halts = steps.min(axis=1) <= 16
    assert halts.any()
    want = every.tries[np.arange(N), steps.argmin(axis=1)]
    np.testing.assert_array_equal(solved.solution[halts], want[halts])
    assert (solved.converged == halts).all()
    assert solved.steps.sum() < every.steps.sum()


def first_halts(k: int, options: dict[str, Any]) -> np.ndarray:
    """The step at which the k-th try at each question halts; 99 if it does not."""
    steps = np.full(N, 99)

    def watch(result: StepResult) -> None:
        rows = result.rows[result.halted].numpy()
        ours = rows // N == k
        steps[rows[ours] % N] = result.steps[result.halted].numpy()[ours]

    solver(False, select="confidence", **options).run(EXAMPLES, watch=watch)
    return steps


def test_particles_exchange_states_by_their_halting_logits() -> None:
    particles = torch.tensor([0, 0, 0, 1, 1, -1, 0])
    queue = Queue(7, Plan(particles=particles, resample_every=2), torch.device("cpu"))
    rows, steps = torch.arange(7), torch.tensor([2, 2, 2, 2, 2, 2, 3])
    q = torch.tensor([-9.0, 9.0, -9.0, 0.0, 0.0, 30.0, 30.0])
    staying = torch.ones(7, dtype=torch.bool)
    source = queue.resampled(rows, steps, q, staying, seed=0)
    assert source is not None
    assert source.tolist() == [1, 1, 1, 3, 4, 5, 6], "equal ones keep their states; the other steps are not compared"
    assert queue.resampled(rows, steps + 1, q, staying & (rows < 6), seed=0) is None
    staying[1] = False
    source = queue.resampled(rows, steps, q, staying, seed=0)
    assert source is not None
    assert source[:3].tolist() == [0, 1, 2], "a row that leaves gives no state away"


def test_particles_change_later_answers_but_not_the_first_try() -> None:
    options: dict[str, Any] = {"rollouts": 6, "noise": 0.5, "halt": False, "select": "confidence", "batch_size": 240}
    apart, mixed = (solver(False, resample_every=k, **options).run(EXAMPLES) for k in (0, 2))
    np.testing.assert_array_equal(apart.tries[:, 0], mixed.tries[:, 0])
    assert (apart.tries != mixed.tries).any()
    assert (apart.steps == mixed.steps).all()


def test_hints_are_tokens_of_the_first_answer_in_open_cells() -> None:
    plan = Plan(hints_from=torch.tensor([-1, 0, 0]), after=torch.tensor([-1, 0, 0]), hints=2, open_token=1)
    queue = Queue(3, plan, torch.device("cpu"))
    question, answer = torch.tensor([5, 1, 1, 4, 1]), torch.tensor([9, 2, 3, 9, 6])
    inputs, state = question.repeat(3, 1), MODEL.initial_state(1)
    first, ends = torch.tensor([0]), torch.tensor([4])
    assert torch.equal(queue.hinted(first, inputs[:1], seed=0), inputs[:1])
    queue.leave(first, ends, torch.tensor([False]), 4, state, answer[None])
    rows = torch.tensor([1, 2])
    hinted = queue.hinted(rows, inputs[rows], seed=3)
    assert ((hinted == question) | ((question == 1) & (hinted == answer))).all()
    assert (hinted != question).sum(1).tolist() == [2, 2]
    assert torch.equal(queue.hinted(rows[1:], inputs[1:2], seed=3), hinted[1:]), "whatever else is in the batch"
    assert len({tuple(queue.hinted(rows[:1], inputs[:1], seed).flatten().tolist()) for seed in range(9)}) > 1


def test_hints_help_and_their_answers_obey_the_question() -> None:
    located = locate("sudoku-4x4")
    inputs = generate(4, 300, (4, 4), seed=5).questions.astype(np.int32) + 1
    examples = Examples.of_questions(inputs)
    plain = Solver(located.model, located.task, max_steps=2).run(examples)
    hinted = Solver(located.model, located.task, max_steps=2, rollouts=6, hints=2).run(examples)
    assert plain.valid is not None
    assert hinted.valid is not None
    assert hinted.valid.sum() > plain.valid.sum()
    shown = (inputs > 1) & hinted.valid[:, None]
    assert (hinted.solution == inputs)[shown].all()
    np.testing.assert_array_equal(hinted.solution[plain.valid], plain.solution[plain.valid])
    again = Solver(located.model, located.task, max_steps=2, rollouts=6, hints=2, batch_size=7).run(examples)
    np.testing.assert_array_equal(again.solution, hinted.solution)


def test_hints_leave_the_questions_as_they_are() -> None:
    """The rules check answers against them."""
    located = locate("sudoku-4x4")
    inputs = torch.from_numpy(generate(4, 1, (4, 4), seed=5).questions.astype(np.int64) + 1).repeat(2, 1)
    question = inputs.clone()
    first = torch.tensor([-1, 0])
    plan = Plan(after=first, hints_from=first, hints=3, open_token=1)
    rows = [result.rows.tolist() for result in run_steps(located.model, inputs, 1, halt=False, plan=plan)]
    assert rows == [[0], [1]]
    assert torch.equal(inputs, question)


def test_hints_need_questions_that_show_part_of_the_answer() -> None:
    located = locate("maze-small")
    with pytest.raises(UserError, match="the questions of the task maze show no part of the answer"):
        Solver(located.model, located.task, rollouts=2, hints=3)


def test_symmetries_may_have_noise_without_rollouts() -> None:
    kind = get_task("sudoku")
    task = kind(kind.Config(name="sudoku", size=4))
    torch.manual_seed(0)
    model = TRM(TRMConfig(vocab_size=6, seq_len=16, hidden_size=16, inner_multiple=16, T_cycles=1, n_latent_steps=1))
    inputs = Examples.of_questions(generate(4, 6, (4, 7), seed=1).questions.astype(np.int32) + 1)
    plain, noisy = (Solver(model, task, symmetries=3, noise=s, max_steps=2).run(inputs) for s in (0.0, 0.9))
    np.testing.assert_array_equal(plain.tries[:, 0], noisy.tries[:, 0])
    assert (plain.tries[:, 1:] != noisy.tries[:, 1:]).any()


def test_a_budget_ends_the_search_with_the_best_answers_so_far() -> None:
    solved = solver(False, budget=0.0, batch_size=15).run(EXAMPLES)
    assert solved.answered.tolist() == [True] * 15 + [False] * 25
    assert solved.steps.tolist() == [1] * 15 + [0] * 25
    one = solver(False, max_steps=1).run(EXAMPLES)
    np.testing.assert_array_equal(solved.solution[:15], one.solution[:15])
    answers = [answer for _, answer in solver(budget=0.0, batch_size=15).answers(questions(N))]
    assert [a.solution is None for a in answers] == [False] * 15 + [True] * 25
    assert answers[-1].to_json() == {
        "solution": None, "confidence": 0.0, "steps": 0, "converged": False, "valid": False,
    }  # fmt: skip
    assert answers[-1].describe() == "no answer: the time was over before the first step"
    full = solver(budget=60.0).run(EXAMPLES)
    np.testing.assert_array_equal(full.solution, solver().run(EXAMPLES).solution)


def test_an_answer_that_does_not_meet_the_condition_is_none() -> None:
    instance = solver(max_steps=1, answer_only_if="valid")
    answers = [answer for _, answer in instance.answers(questions(N))]
    assert 0 < sum(a.solution is None for a in answers) < N
    assert all((a.solution is not None) == a.valid for a in answers)
    none = next(a for a in answers if a.solution is None)
    assert none.describe().startswith("no answer: confidence ")
    assert none.shown is None
    labels = solver(max_steps=1).run(EXAMPLES).solution.astype(np.int32)
    examples = Examples(EXAMPLES.inputs, labels, EXAMPLES.puzzle_ids)
    result = evaluate(instance, examples)
    assert result.coverage == result.exact_accuracy == np.mean([a.valid for a in answers])
    assert result.answered_accuracy == 1.0
    nothing = evaluate(solver(max_steps=1, answer_only_if="confidence>=1"), examples)
    assert (nothing.coverage, nothing.answered_accuracy, nothing.exact_accuracy) == (0.0, None, 0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"symmetries": 8},
        {"rollouts": 8, "noise": 0.5},
        {"rollouts": 8, "start": "random", "noise": 0.3, "resample_every": 2},
        {"rollouts": 2, "symmetries": 4, "start": "last", "noise": 0.5},
        {"rollouts": 8, "hints": 3},
    ],
)
def test_with_random_weights_no_search_solves_hard_puzzles(options: dict[str, Any]) -> None:
    """The rules check answers. They never help to find one."""
    kind = get_task("sudoku")
    task = kind(kind.Config(name="sudoku", size=9))
    torch.manual_seed(0)
    config = TRMConfig.for_sudoku(hidden_size=32, num_layers=1, inner_multiple=16, T_cycles=1, n_latent_steps=1)
    inputs = generate(9, 100, (24, 27), seed=3).questions.astype(np.int32) + 1
    solved = Solver(TRM(config), task, max_steps=8, batch_size=128, **options).run(Examples.of_questions(inputs))
    assert solved.valid is not None
    assert solved.valid.mean() < 0.01
    assert (solved.steps == 64).all(), "nothing but the budget ends the search"


VARIED: list[dict[str, Any]] = [
    {},
    {"rollouts": 3, "noise": 0.5, "select": "confidence"},
    {"rollouts": 3, "start": "random", "select": "confidence"},
    {"rollouts": 3, "start": "last"},
    {"rollouts": 4, "noise": 0.5, "resample_every": 1, "select": "confidence", "batch_size": 200},
]


@pytest.mark.parametrize("options", VARIED)
def test_some_questions_get_the_tries_that_they_get_among_all(options: dict[str, Any]) -> None:
    """All tries run to their end: where a valid answer ends the others, their steps depend on what is in the batch."""
    instance = solver(**{"max_steps": 3, "batch_size": 5} | options)
    whole = instance.run(EXAMPLES)
    seen: list[tuple[int, int]] = []
    for numbers in (np.arange(0, 13), np.arange(13, N), np.array([2, 30, 31])):
        part = instance.run(EXAMPLES, only=numbers, progress=lambda *counts: seen.append(counts))
        assert seen[-1] == (len(numbers), len(numbers))
        for name in ("solution", "confidence", "steps", "converged", "valid", "try_confidence", "answered"):
            np.testing.assert_allclose(getattr(part, name), getattr(whole, name)[numbers], atol=1e-6, err_msg=name)


def test_symmetric_images_and_hints_of_some_questions_are_those_among_all() -> None:
    located = locate("sudoku-4x4")
    examples = located.task.dataset(located.data, 0).test.take(slice(12))
    for options in ({"symmetries": 4}, {"rollouts": 4, "hints": 2}):
        instance = Solver(located.model, located.task, max_steps=1, select="confidence", **options)
        whole, part = instance.run(examples), instance.run(examples, only=np.arange(5, 12))
        np.testing.assert_array_equal(part.tries, whole.tries[5:])
        np.testing.assert_array_equal(part.solution, whole.solution[5:])
