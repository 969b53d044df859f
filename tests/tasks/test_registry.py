"""The registry of tasks: every name gives its task, and an unknown name is explained."""

from __future__ import annotations

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks import get_task, task_names
from trm_fast.tasks.base import Task


@pytest.mark.parametrize("name", task_names())
def test_every_registered_task_is_importable_under_its_name(name: str) -> None:
    task = get_task(name)
    assert issubclass(task, Task)
    assert task.name == name
    assert task.Config(name=name).name == name


@pytest.mark.parametrize(
    ("name", "hint"), [("Sudoku", "did you mean 'sudoku'"), ("sodoku", "'sudoku'"), ("xyz", "known: ")]
)
def test_unknown_name_is_explained(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint) as caught:
        get_task(name)
    assert caught.value.usage_error
