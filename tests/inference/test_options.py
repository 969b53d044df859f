"""The options of a search: what a model stores, what a call changes, and the condition for an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trm_fast.errors import UserError
from trm_fast.inference import Solver
from trm_fast.inference.options import SolverConfig, meets, merged_options
from trm_fast.tasks.base import Examples

from .echo import Echo, make_model, questions

INPUTS = np.stack([q.inputs for q in questions(40)])
STORED = {"rollouts": 6, "noise": 0.4, "max_steps": 5, "start": "random", "resample_every": 2}


def test_a_solver_uses_what_the_model_stores_unless_told_otherwise() -> None:
    model = make_model()
    assert Solver(model, Echo()).options == SolverConfig()
    model.solver_defaults = STORED
    assert Solver(model, Echo()).options.changes() == STORED
    assert Solver(model, Echo(), rollouts=4, max_steps=9).options.changes() == STORED | {"rollouts": 4, "max_steps": 9}


@pytest.mark.parametrize("explicit", [{"rollouts": 1, "symmetries": 1, "noise": 0.0}, {"rollouts": 1}])
def test_one_try_turns_the_other_options_off(explicit: dict[str, Any]) -> None:
    """One plain try is the same whatever the model stores, apart from its largest number of steps."""
    model = make_model()
    plain = Solver(model, Echo(), max_steps=5).run(Examples.of_questions(INPUTS))
    model.solver_defaults = STORED
    one = Solver(model, Echo(), **explicit)
    assert one.options.changes() == {"max_steps": 5}
    solved = one.run(Examples.of_questions(INPUTS))
    np.testing.assert_array_equal(solved.solution, plain.solution)
    np.testing.assert_array_equal(solved.steps, plain.steps)


def test_a_trajectory_shows_one_try_of_a_model_that_stores_several() -> None:
    model = make_model()
    model.solver_defaults = STORED
    answer = Solver(model, Echo()).solve("01234", return_trajectory=True)
    assert answer.trajectory is not None
    assert len(answer.trajectory) == answer.steps <= 5


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"rollouts": "3"}, "the model: solver.rollouts = '3'"),
        ({"rollout": 3}, "unknown key solver.rollout"),
        ({"rollouts": 3}, "rollouts differ only by noise, start or hints"),
        ({"noise": -1.0}, "solver.noise"),
        ({"start": "warm"}, "solver.start"),
    ],
)
def test_an_invalid_section_is_rejected(section: dict[str, Any], words: str) -> None:
    model = make_model()
    model.solver_defaults = section
    with pytest.raises(UserError, match=words):
        Solver(model, Echo())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise": 0.3}, "noise needs rollouts or symmetries"),
        ({"start": "random"}, "start needs rollouts or symmetries"),
        ({"resample_every": 2}, "resample-every needs 3 rollouts or more"),
        ({"rollouts": 2, "noise": 0.3, "resample_every": 2}, "resample-every needs 3 rollouts or more"),
        ({"symmetries": 4, "start": "last"}, "start last needs rollouts"),
        ({"symmetries": 4, "hints": 3}, "hints needs rollouts"),
        ({"rollouts": 0}, "rollouts = 0"),
    ],
)
def test_options_that_would_do_nothing_are_rejected(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        merged_options(SolverConfig(), changes)


def test_conditions() -> None:
    confidence, valid = np.array([0.2, 0.9, 0.95], dtype=np.float32), np.array([True, False, True])
    assert meets("valid", confidence, valid).tolist() == [True, False, True]
    assert meets("confidence >= 0.5", confidence, None).tolist() == [False, True, True]
    assert meets("confidence>=1", confidence, None).tolist() == [False, False, False]
    for condition in ("confidence>0.5", "confidence>=1.5", "sure", "confidence>="):
        with pytest.raises(UserError, match=r"answer-only-if takes valid or confidence>=X"):
            meets(condition, confidence, None)
    with pytest.raises(UserError, match="no rules"):
        Solver(make_model(), Echo(rules=False), answer_only_if="valid")
