"""Reads files and folders of ARC tasks, in every common layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from trm_fast.errors import UserError
from trm_fast.tasks.arc.parsing import ARCTask, is_pair, is_pair_list, is_task, pair_from_json, task_from_json
from trm_fast.tasks.files import parse_json, read_text

JSON_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
SUFFIXES = (".json", ".json.gz", *JSON_LINES)
NO_TASKS = ("metadata.json", "sample_submission.json")
"""Files that a folder of tasks may have besides: re-arc writes the first, Kaggle the second."""


def read(source: str) -> list[ARCTask]:
    """The tasks of a file, of a folder and the folders in it, or of several of them, separated by commas.

    A file contains one task ``{"train": [{"input", "output"}], "test": [...]}``; tasks by name, in a list or as JSON
    Lines; subsets of these by name; or a list of pairs, as re-arc writes it. The solutions of a Kaggle file
    ``..._challenges.json`` come from ``..._solutions.json`` in the same folder. A list of pairs that has the name of a
    task is a part of this task: its generated pairs.

    Raises:
        UserError: a file cannot be read or is malformed (the message names file and position), or two tasks have the
            same name.
    """
    tasks: dict[str, ARCTask] = {}
    for part in source.split(","):
        path = Path(part.strip())
        for task in _folder(path) if path.is_dir() else _file(path):
            same_name = tasks.get(task.name)
            if same_name is not None and bool(same_name.test) == bool(task.test):
                raise UserError(f"{task.where}: the data already has a task {task.name} ({same_name.subset})")
            tasks[task.name] = task if same_name is None else _joined(same_name, task)
    return list(tasks.values())


def _joined(one: ARCTask, other: ARCTask) -> ARCTask:
    """A task and a list of pairs of the same name, in any order, as one task."""
    task, pairs = (one, other) if one.test else (other, one)
    return replace(task, generated=[*task.generated, *pairs.train])


def _folder(folder: Path) -> Iterator[ARCTask]:
    files = list(_files(folder, ()))
    if not files:
        raise UserError(f"{folder} has no task files ({', '.join(SUFFIXES[::2])})")
    for file in files:
        yield from _file(file)


def _files(folder: Path, parents: tuple[Path, ...]) -> Iterator[Path]:
    """The task files of a folder and the folders in it, sorted. Hidden files are left out."""
    if folder.resolve() in parents:  # a link to a folder around it
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__MACOSX")) or path.name in NO_TASKS:
            continue
        if path.is_dir():
            yield from _files(path, (*parents, folder.resolve()))
        elif path.name.lower().endswith(SUFFIXES) and not _has_challenges(path):
            yield path


def _has_challenges(path: Path) -> bool:
    """Whether a file is a Kaggle file of solutions, which is read with its challenges."""
    return "solutions" in path.name and path.with_name(path.name.replace("solutions", "challenges")).is_file()


def _file(path: Path) -> Iterator[ARCTask]:
    documents = _documents(path)
    if not documents:
        raise UserError(f"{path} is empty")
    if all(is_pair(value) for value, _ in documents):  # JSON Lines, a pair on each line
        documents = [([value for value, _ in documents], str(path))]
    for number, (value, where) in enumerate(documents, 1):
        name = _stem(path) if len(documents) == 1 else f"{_stem(path)}-{number}"
        if len(documents) == 1 and (is_task(value) or is_pair_list(value)):
            yield task_from_json(value, name, path.resolve().parent.name, where)
        else:
            yield from _tasks(value, name, where, path)


def _documents(path: Path) -> list[tuple[Any, str]]:
    """The JSON values of a file, with their file and line: one, or one on each line."""
    text = read_text(path)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip("\ufeff \t\r")]
    if path.name.lower().endswith(JSON_LINES) or (len(lines) > 1 and _is_json(lines[0][1])):
        # Files that were joined may have further byte order marks.
        return [(parse_json(line.lstrip("\ufeff"), f"{path}:{n}: "), f"{path}:{n}") for n, line in lines]
    return [(parse_json(text, f"{path}: "), str(path))]


def _is_json(line: str) -> bool:
    try:
        parse_json(line, "")
    except UserError:
        return False
    return True


def _tasks(value: Any, name: str, where: str, path: Path) -> Iterator[ARCTask]:
    """The tasks in a JSON value. ``name`` is that of a task without a name."""
    subset = _stem(path).removesuffix("_challenges").split("_")[-1]
    if is_task(value) or is_pair_list(value):
        yield task_from_json(value, name, subset, where)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from _members(value, name, subset, where)
    elif not isinstance(value, dict) or not value:
        raise UserError(
            f"{where}: expected a task, a list of tasks or of pairs, or an object of tasks or of subsets of tasks"
        )
    elif all(_is_subset(content) for content in value.values()):
        for key, content in value.items():
            yield from _members(content, f"{name}-{key}", key, f"{where}: {key}")
    elif all(isinstance(content, list) and not is_pair_list(content) for content in value.values()):
        raise UserError(
            f"{where} contains only solutions: give the challenges file, and its solutions are read from the same "
            "folder"
        )
    else:
        answers = _solutions(path)
        for key, task in value.items():
            location = f"{where}: {key}"
            if is_task(task) and key in answers:
                task = task | {"test": _with_solutions(task.get("test"), answers[key], location)}
            yield replace(task_from_json(task, key, subset, location), name=key)


def _is_subset(value: Any) -> bool:
    """Whether a JSON value looks like a collection of tasks by name, or a list of them."""
    if isinstance(value, list):
        return bool(value) and is_task(value[0])
    return isinstance(value, dict) and bool(value) and not is_task(value) and not {"train", "test"} <= value.keys()


def _members(tasks: dict[str, Any] | list[Any], name: str, subset: str, where: str) -> Iterator[ARCTask]:
    """The tasks of a collection: an object of tasks by name, or a list."""
    if isinstance(tasks, dict):
        for key, task in tasks.items():
            yield replace(task_from_json(task, key, subset, f"{where}: {key}"), name=key)
        return
    for number, task in enumerate(tasks, 1):
        yield task_from_json(task, f"{name}-{number}", subset, f"{where}: task {number}")


def _solutions(path: Path) -> dict[str, Any]:
    solutions_path = path.with_name(path.name.replace("challenges", "solutions"))
    if solutions_path == path or not solutions_path.is_file():
        return {}
    content = parse_json(read_text(solutions_path), f"{solutions_path}: ")
    if not isinstance(content, dict):
        raise UserError(f"{solutions_path}: expected an object with a list of grids for each task")
    return content


def _with_solutions(questions: Any, answers: Any, where: str) -> list[Any]:
    if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
        raise UserError(f"{where}: its solutions must have one grid for each test input")
    return [{**pair_from_json(q, where), "output": a} for q, a in zip(questions, answers, strict=True)]


def _stem(path: Path) -> str:
    name = path.name
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]
