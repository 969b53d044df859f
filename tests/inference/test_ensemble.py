"""Several models: each tries what those before it have not solved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Ensemble, Solved, Solver
from trm_fast.inference.evaluate import score
from trm_fast.inference.sweep import flop_per_question
from trm_fast.tasks.base import Examples

from .echo import Echo, make_model, questions

N = 40
EXAMPLES = Examples.of_questions(np.stack([q.inputs for q in questions(N)]))
FIRST, WIDE, THIRD = make_model(), make_model(hidden_size=16), make_model(num_layers=2)
OPTIONS: dict[str, Any] = {"max_steps": 1}


def ensemble(*others: TRM, rules: bool = True, **options: Any) -> Ensemble:
    return Ensemble(FIRST, Echo(rules), **OPTIONS | options, others=others)


def alone(model: TRM, rows: Any = slice(None), **options: Any) -> Solved:
    return Solver(model, Echo(), **OPTIONS | options).run(Examples.of_questions(EXAMPLES.inputs[rows]))


def test_each_model_tries_what_is_left() -> None:
    """Compares with the solvers alone, one question at a time in plain Python."""
    first = alone(FIRST)
    assert first.valid is not None
    left = np.flatnonzero(~first.valid)
    second = alone(WIDE, left)
    assert second.valid is not None
    last = left[~second.valid]
    third = alone(THIRD, last)
    assert third.valid is not None
    assert N > len(left) > len(last) > 0
    seen: list[tuple[int, int]] = []
    got = ensemble(WIDE, THIRD).run(EXAMPLES, progress=lambda *counts: seen.append(counts))
    assert got.valid is not None
    assert got.tries.shape[1] == 3
    for row in range(N):
        results = [(first, row)]
        if row in left:
            results.append((second, list(left).index(row)))
        if row in last:
            results.append((third, list(last).index(row)))
        right = [(solved, at) for solved, at in results if solved.valid is not None and solved.valid[at]]
        solved, at = right[0] if right else max(results, key=lambda pair: pair[0].confidence[pair[1]])
        np.testing.assert_array_equal(got.solution[row], solved.solution[at])
        assert got.valid[row] == bool(right)
        assert got.confidence[row] == solved.confidence[at]
        assert got.steps[row] == sum(s.steps[i] for s, i in results)
        was_run = got.try_confidence[row] >= 0
        assert was_run.tolist() == [True, row in left, row in last]
    assert seen[-1] == (N, N)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_budget_and_conditions_hold_for_all_models() -> None:
    some = ensemble(WIDE, budget=0.0).run(EXAMPLES)
    assert (some.try_confidence[:, 1:] == -1).all(), "the second model has no time left"
    valid = ensemble(WIDE, answer_only_if="valid").run(EXAMPLES)
    np.testing.assert_array_equal(valid.answered, valid.valid)
    assert valid.answered.sum() > alone(FIRST, answer_only_if="valid").answered.sum()
    answers = list(ensemble(WIDE).answers(questions(N)))
    assert [answer.valid for _, answer in answers] == valid.valid.tolist()


def test_the_flop_is_known_if_all_models_cost_the_same() -> None:
    labeled = Examples(EXAMPLES.inputs, EXAMPLES.inputs, EXAMPLES.puzzle_ids)
    for others, same_cost in ([FIRST], True), ([WIDE], False):
        solver = ensemble(*others)
        evaluation = score(solver, labeled, solver.run(labeled), 1.0)
        want = evaluation.mean_steps * FIRST.config.gemm_flop(training=False) if same_cost else None
        assert flop_per_question(solver, evaluation) == want


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match=r"several models need rules, .* the task echo has none"):
        ensemble(WIDE, rules=False)
    with pytest.raises(UserError, match="several models need select rules, not confidence"):
        ensemble(WIDE, select="confidence")
    with pytest.raises(UserError, match="the model reads 9 tokens"):
        ensemble(TRM(FIRST.config.model_copy(update={"seq_len": 9})))
    with pytest.raises(UserError, match="leave out the further models"):
        ensemble(WIDE).solve("01234", return_trajectory=True)


def test_some_questions_get_the_tries_that_they_get_among_all() -> None:
    instance = ensemble(WIDE, THIRD)
    whole, part = instance.run(EXAMPLES), instance.run(EXAMPLES, only=np.arange(9, 31))
    for name in ("solution", "confidence", "steps", "valid", "tries"):
        np.testing.assert_allclose(getattr(part, name), getattr(whole, name)[9:31], atol=1e-6, err_msg=name)
