"""Reads ARC tasks from files of every layout. Errors name the file and the position."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.arc import read

from .arc_data import mirrored, raised, real, write


def described(tasks: Any) -> list[tuple[str, str, int, int]]:
    return [(t.name, t.subset, len(t.train), len(t.test)) for t in tasks]


def without_answers(task: dict[str, Any]) -> dict[str, Any]:
    return task | {"test": [{"input": pair["input"]} for pair in task["test"]]}


def test_layouts(tmp_path: Path) -> None:
    one, two = mirrored(1), raised(2)
    subsets = write(tmp_path / "all.json", {"training": {"one": one}, "evaluation": {"two": two}})
    assert described(read(str(subsets))) == [("one", "training", 3, 1), ("two", "evaluation", 2, 1)]
    folder = tmp_path / "evaluation"
    folder.mkdir()
    write(folder / "two.json", two)
    (folder / "one.json.gz").write_bytes(gzip.compress(json.dumps(one).encode()))
    assert described(read(str(folder))) == [("one", "evaluation", 3, 1), ("two", "evaluation", 2, 1)]
    assert described(read(str(folder / "two.json"))) == [("two", "evaluation", 2, 1)]
    (task,) = read(str(folder / "two.json"))
    assert task.train[0].input.tolist() == two["train"][0]["input"]
    assert task.test[0].output is not None
    assert task.test[0].output.tolist() == two["test"][0]["output"]


def test_kaggle_pair(tmp_path: Path) -> None:
    tasks = {"one": mirrored(1, tests=2), "two": raised(2)}
    challenges = write(
        tmp_path / "arc-agi_evaluation_challenges.json", {n: without_answers(t) for n, t in tasks.items()}
    )
    assert all(pair.output is None for task in read(str(challenges)) for pair in task.test)
    solutions = tmp_path / "arc-agi_evaluation_solutions.json"
    write(solutions, {name: [pair["output"] for pair in task["test"]] for name, task in tasks.items()})
    tasks_read = read(str(challenges))
    assert described(tasks_read) == [("one", "evaluation", 3, 2), ("two", "evaluation", 2, 1)]
    for task in tasks_read:
        answers = [pair.output.tolist() for pair in task.test if pair.output is not None]
        assert answers == [pair["output"] for pair in tasks[task.name]["test"]]
    with pytest.raises(UserError, match="give the challenges file"):
        read(str(solutions))
    write(solutions, {"one": [[[1]]]})
    with pytest.raises(UserError, match=r"challenges\.json: one: its solutions must have one grid for each"):
        read(str(challenges))


def test_several_sources(tmp_path: Path) -> None:
    first = write(tmp_path / "one.json", mirrored(1))
    second = write(tmp_path / "more.json", {"extra": {"two": raised(2)}})
    assert [task.name for task in read(f"{first}, {second}")] == ["one", "two"]
    with pytest.raises(UserError, match=r"one\.json: the data already has a task one"):
        read(f"{first},{first}")


def changed(*path: Any, to: Any) -> dict[str, Any]:
    task = json.loads(json.dumps(mirrored(1)))
    at = task
    for key in path[:-1]:
        at = at[key]
    if to is None:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return task


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (changed("train", 1, "input", to=[[1, 2], [3]]), r"t\.json: train\[1\]\.input: row 1 has 1 cells, row 0 has 2"),
        (changed("test", 0, "output", to=[[1, 10]]), r"test\[0\]\.output: row 0: 10 is not a color from 0 to 9"),
        (changed("test", 0, "output", to=[[1, -1]]), r"-1 is not a color"),
        (changed("test", 0, "input", to=[[1, "2"]]), r"'2' is not a color"),
        (changed("test", 0, "input", to=[[True]]), r"True is not a color"),
        (changed("test", 0, "input", to=[[1.0]]), r"1\.0 is not a color"),
        (changed("test", 0, "input", to=[[[1]]]), r"\[1\] is not a color"),
        (changed("train", 0, "input", to=[[0] * 31]), r"train\[0\]\.input: 1 x 31 cells; a grid has at most 30 x 30"),
        (changed("train", 0, "input", to=[]), "a grid is a list of rows"),
        (changed("train", 0, "input", to=[[]]), "a grid is a list of rows"),
        (changed("train", 0, "input", to="3"), "a grid is a list of rows"),
        (changed("train", 0, "output", to=None), r'train\[0\]: a demonstration pair needs an "output"'),
        (changed("train", 0, "input", to=None), r'a pair is an object with an "input"'),
        (changed("train", to=[]), '"train" must be a list of one or more pairs'),
        (changed("test", to={"input": 1}), '"test" must be a list of one or more pairs'),
        ({"a": 1}, 'a task is an object with "train" and "test"'),
        ({"train": mirrored(1)["train"]}, 'json: a task is an object with "train" and "test"'),
        ({"training": {"x": {"train": []}}}, 'training: x: a task is an object with "train" and "test"'),
        ([1], "expected an object of tasks"),
        ({}, "expected an object of tasks"),
    ],
)
def test_malformed_task_is_refused(tmp_path: Path, task: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(str(write(tmp_path / "t.json", task)))


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"train":\n [}')
    with pytest.raises(UserError, match=r"broken\.json: not valid JSON: .* line 2"):
        read(str(broken))
    (tmp_path / "broken.json.gz").write_bytes(b"no gzip")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    for name, message in (("broken.json.gz", "is not a gzip file"), ("bytes.json", "is not UTF-8 text")):
        with pytest.raises(UserError, match=message):
            read(str(tmp_path / name))
    with pytest.raises(UserError, match="cannot read"):
        read(str(tmp_path / "missing.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no task files"):
        read(str(tmp_path / "empty"))


def test_subsets_can_be_called_train_and_test(tmp_path: Path) -> None:
    content = {"train": {"a": mirrored(1)}, "test": {"b": raised(2)}}
    tasks_read = read(str(write(tmp_path / "t.json", content)))
    assert [(task.name, task.subset) for task in tasks_read] == [("a", "train"), ("b", "test")]


def test_fingerprint_identifies_the_demonstrations(tmp_path: Path) -> None:
    task = mirrored(1)
    turned = task | {"train": task["train"][::-1], "test": raised(1)["test"]}
    one, other, third = (read(str(write(tmp_path / "t.json", t)))[0] for t in (task, turned, mirrored(2)))
    assert one.fingerprint() == other.fingerprint() != third.fingerprint()


def test_real_data() -> None:
    """The number of tasks and test pairs is the published one."""
    counts: dict[str, list[int]] = {}
    for task in read(f"{real('arc1.json.gz')},{real('concept.json.gz')}"):
        count = counts.setdefault(task.subset, [0, 0])
        count[0] += 1
        count[1] += len(task.test)
    assert counts == {"training": [400, 416], "evaluation": [400, 419], "concept": [160, 480]}
    assert len({task.fingerprint() for task in read(real("arc2.json.gz"))}) == 1120
    with pytest.raises(UserError, match="the data already has a task"):
        read(f"{real('arc1.json.gz')},{real('arc2.json.gz')}")
