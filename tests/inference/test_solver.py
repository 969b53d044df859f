"""The solver: equal answers for any batch size, in order, with the configured halting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.errors import UserError
from trm_fast.inference import Answer, Solver
from trm_fast.inference.solver import CHUNK
from trm_fast.interchange import locate
from trm_fast.tasks.base import Examples, Question

from .echo import Echo, L, make_model, questions

MODEL = make_model()


def solver(rules: bool = True, **options: Any) -> Solver:
    return Solver(MODEL, Echo(rules), **options)


def answers(instance: Solver, count: int = 40, **options: Any) -> list[Answer]:
    pairs = list(instance.answers(questions(count), **options))
    assert [q.where for q, _ in pairs] == [f"line {i}" for i in range(count)]
    return [a for _, a in pairs]


def test_the_batch_size_changes_no_answer() -> None:
    want = answers(solver(batch_size=1))
    assert len({a.steps for a in want}) > 3
    for batch_size in (3, 64):
        got = answers(solver(batch_size=batch_size))
        for a, b in zip(got, want, strict=True):
            assert (a.solution, a.steps, a.converged, a.valid) == (b.solution, b.steps, b.converged, b.valid)
            assert a.confidence == pytest.approx(b.confidence, rel=1e-4)
            assert a.raw.tolist() == b.raw.tolist()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_answers_come_as_questions_are_read(batch_size: int) -> None:
    read = 0

    def stream() -> Iterator[Question]:
        nonlocal read
        for question in questions(40):
            read += 1
            yield question

    ahead = CHUNK * batch_size
    for done, _ in enumerate(solver(batch_size=batch_size).answers(stream()), 1):
        assert read == min(40, -(-done // ahead) * ahead)
    assert list(solver().answers([])) == []


def test_an_answer_is_the_models_answer() -> None:
    instance = solver(rules=False, halt=False, max_steps=3)
    inputs = torch.from_numpy(np.stack([q.inputs for q in questions(40)]))
    state = MODEL.initial_state(40)
    with torch.no_grad():
        for _ in range(3):
            state, logits, q = MODEL(inputs, state)
    for i, (answer, question) in enumerate(zip(answers(instance), questions(40), strict=True)):
        assert answer.raw.tolist() == logits[i].argmax(-1).tolist()
        assert answer.solution == question.text + ">" + "".join(map(str, answer.raw))
        assert answer.confidence == pytest.approx(q[i].sigmoid().item(), rel=1e-4)


@pytest.mark.parametrize("rules", [True, False])
def test_rows_end_by_rules_or_else_by_logit(rules: bool) -> None:
    for answer in answers(solver(rules), return_trajectory=True):
        assert answer.trajectory is not None
        stops = [s.raw.sum() % 2 == 0 if rules else s.confidence > 0.5 for s in answer.trajectory]
        assert stops[:-1] == [False] * (answer.steps - 1), "no earlier step meets the condition"
        assert answer.converged == stops[-1]
        assert answer.converged or answer.steps == 16
        assert answer.valid == (bool(answer.raw.sum() % 2 == 0) if rules else None)


def test_a_valid_answer_ends_the_search_whatever_the_logit() -> None:
    """With a halting logit that never fires, the rules stop the same rows at the same steps."""
    want = [(a.steps, a.raw.tolist()) for a in answers(solver())]
    never = make_model()
    with torch.no_grad():
        never.q_head.weight.zero_()
        never.q_head.bias.fill_(-9.0)
    got = answers(Solver(never, Echo()))
    assert [(a.steps, a.raw.tolist()) for a in got] == want
    assert all(a.converged == a.valid for a in got)
    assert all(a.steps == 16 for a in answers(Solver(never, Echo(rules=False))))


@pytest.mark.parametrize("min_steps", [1, 3, 16])
def test_no_row_halts_before_min_steps(min_steps: int) -> None:
    free = answers(solver())
    for answer, other in zip(answers(solver(min_steps=min_steps)), free, strict=True):
        assert answer.steps >= min_steps
        assert other.steps < min_steps or answer.steps == other.steps


@pytest.mark.parametrize(
    ("max_steps", "trained", "want"), [(1, 4, 1), (3, 4, 3), (21, 4, 21), (None, 4, 16), (None, 20, 20)]
)
def test_without_halting_all_steps_are_run(max_steps: int | None, trained: int, want: int) -> None:
    instance = Solver(make_model(trained), Echo(), max_steps=max_steps, halt=False)
    for answer in answers(instance, 5):
        assert (answer.steps, answer.converged) == (want, False)


def test_trajectories_hold_every_step() -> None:
    for answer in answers(solver(batch_size=7), return_trajectory=True):
        assert answer.trajectory is not None
        assert [s.step for s in answer.trajectory] == list(range(1, answer.steps + 1))
        last = answer.trajectory[-1]
        assert (last.solution, last.confidence) == (answer.solution, answer.confidence)
        assert last.raw.tolist() == answer.raw.tolist()
        assert all(len(s.raw) == L for s in answer.trajectory)
    assert all(a.trajectory is None for a in answers(solver()))


@pytest.mark.parametrize("rules", [True, False])
def test_an_answer_as_json_has_one_schema(rules: bool) -> None:
    """Every interface has this schema of plain JSON types."""
    instance = solver(rules)
    plain = json.loads(json.dumps(instance.solve("01234").to_json()))
    types = {k: type(v) for k, v in plain.items()}
    assert types == {
        "solution": str,
        "confidence": float,
        "steps": int,
        "converged": bool,
        "valid": bool if rules else type(None),
    }
    full = json.loads(json.dumps(instance.solve("01234", return_trajectory=True).to_json()))
    trajectory = full.pop("trajectory")
    assert full == plain
    assert [s["step"] for s in trajectory] == list(range(1, plain["steps"] + 1))
    assert all(
        {k: type(v) for k, v in s.items()} == {"step": int, "solution": str, "confidence": float} for s in trajectory
    )


def test_text_and_questions_give_the_same_answer() -> None:
    instance = solver()
    assert instance.solve("01234").to_json() == instance.solve(Echo().parse("01234")).to_json()


def test_puzzle_ids_reach_the_model() -> None:
    model = make_model(prefix_tokens=1, puzzle_embedding_size=8, num_puzzles=3)
    assert model.puzzle_embedding is not None
    model.puzzle_embedding.normal_()
    instance = Solver(model, Echo(rules=False), max_steps=2, halt=False)
    inputs = np.tile(questions(1)[0].inputs, (3, 1))
    first, other, again = instance.run(
        Examples.of_questions(inputs, np.array([0, 2, 0], dtype=np.int32))
    ).confidence.tolist()
    assert first == pytest.approx(again)
    assert first != pytest.approx(other)
    assert instance.run(Examples.of_questions(inputs)).confidence.tolist() == pytest.approx([first] * 3)


@pytest.mark.parametrize("changes", [{"seq_len": 4}, {"vocab_size": 7}])
def test_a_model_of_another_size_is_rejected(changes: dict[str, int]) -> None:
    task = Echo()
    for name, value in changes.items():
        setattr(task, name, value)
    with pytest.raises(UserError, match="the model reads 5 tokens of 6 kinds, the task echo has"):
        Solver(MODEL, task)


def test_a_question_may_be_a_list_or_an_array() -> None:
    located = locate("sudoku-4x4")
    solver = Solver(located.model, located.task)
    rows = np.array([[3, 0, 0, 0], [0, 0, 0, 0], [4, 0, 3, 0], [0, 0, 4, 2]])
    solved = "[[3, 1, 2, 4], [2, 4, 1, 3], [4, 2, 3, 1], [1, 3, 4, 2]]"
    for question in (rows, rows.tolist(), [list(row) for row in rows], {"puzzle": rows}):
        assert solver.solve(question).solution == solved
    assert list(solver.stream(rows))[-1].solution == solved
