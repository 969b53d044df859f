"""Several token tasks in one model: a row of the puzzle embedding tells it which one an example belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from trm_fast.errors import UserError
from trm_fast.tasks.base import IGNORE, Array, DataConfig, Dataset, Examples, Question, Task, TaskConfig
from trm_fast.validation import validated

PADDING = 0


class MultiConfig(TaskConfig):
    """``tasks``: one section a task, as it would stand in its own YAML file, and in it optionally ``label`` (its name
    here, by default the task's) and ``data``. ``mask``: whether the model leaves the padding out of its mixing; it
    learns faster where it does not."""

    name: str = "multi"
    tasks: tuple[dict[str, Any], ...] = Field(
        ({"name": "sudoku", "size": 4}, {"name": "symbols"}), min_length=1, strict=False
    )
    mask: bool = False

    @model_validator(mode="after")
    def _known(self) -> MultiConfig:
        self.parts  # noqa: B018 (an unusable section is found here)
        return self

    @cached_property
    def parts(self) -> dict[str, tuple[Task, DataConfig]]:
        """Each task and where its data comes from, by label."""
        from trm_fast.tasks import get_task

        parts: dict[str, tuple[Task, DataConfig]] = {}
        for section in self.tasks:
            own = {key: value for key, value in section.items() if key not in ("label", "data")}
            if not isinstance(own.get("name"), str) or own["name"] == "multi":
                raise ValueError(f"a section of tasks names no task to join: {section}")
            label = section.get("label", own["name"].rpartition(":")[2])
            if not isinstance(label, str) or not label.isidentifier():
                raise ValueError(f"label {label!r} must be a word: letters, digits and _")
            if label in parts:
                raise ValueError(f"two tasks are called {label}: give one a label of its own")
            kind = get_task(own["name"])
            data = validated(DataConfig, section.get("data") or {}, "data", label)
            task = kind(validated(kind.Config, own, "", label))
            keys = task.model_keys(data)
            if keys.get("inputs", "tokens") != "tokens" or "head" in keys:
                raise ValueError(f"{label}: only tasks of tokens can be joined")
            parts[label] = task, data
        return parts


class Multi(Task):
    """Tokens (N, L) of the longest task, padded with 0; labels of padding are ignored. ``puzzle_ids``: the task's own,
    behind those of the tasks before it. ``extra["mask"]`` (N, L), where the configuration asks for it."""

    name: ClassVar[str] = "multi"
    Config: ClassVar[type[MultiConfig]] = MultiConfig
    noun: ClassVar[str] = "examples"

    def __init__(self, config: MultiConfig) -> None:
        self.config = config
        self.labels = list(config.parts)
        self.tasks = [task for task, _ in config.parts.values()]
        keys = [task.model_keys(data) for task, data in config.parts.values()]
        self.first_ids = np.cumsum([0, *(k.get("num_puzzles", 1) for k in keys)])
        self.masked = config.mask
        self.seq_len = max(task.seq_len for task in self.tasks)
        self.vocab_size = max(task.vocab_size for task in self.tasks)
        self.has_rules = all(task.has_rules for task in self.tasks)  # type: ignore[misc]

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size, "seq_len": self.seq_len, "num_puzzles": int(self.first_ids[-1])}

    def save_assets(self, folder: Path) -> None:
        for label, task in zip(self.labels, self.tasks, strict=True):
            if type(task).save_assets is not Task.save_assets:
                (folder / label).mkdir(parents=True, exist_ok=True)
                task.save_assets(folder / label)

    def load_assets(self, folder: Path) -> None:
        for label, task in zip(self.labels, self.tasks, strict=True):
            task.load_assets(folder / label)

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """The tasks' own data, one after the other for training and mixed for testing, so that a few test examples are
        some of each."""
        if data.source is not None or data.test is not None:
            raise UserError("multi takes its data from its parts: give a section of task.tasks a data: {source: ...}")
        sets = [task.dataset(own, seed) for task, own in self.config.parts.values()]
        train = Examples.joined([self._widened(i, s.train) for i, s in enumerate(sets)])
        test = Examples.joined([self._widened(i, s.test) for i, s in enumerate(sets)])
        named = list(zip(self.labels, sets, strict=True))
        return Dataset(
            train,
            test.take(np.random.default_rng(seed % 2**64).permutation(len(test))),
            "; ".join(f"{label}: {len(s.train):,} from {s.source}" for label, s in named),
            [f"{label}: {note}" for label, s in named for note in s.notes],
        )

    def read(self, source: str) -> Examples:
        """A file of one of the tasks, named as ``LABEL:FILE``."""
        label, colon, file = source.partition(":")
        if not colon or label not in self.labels:
            raise UserError(f"write {' or '.join(f'{name}:FILE' for name in self.labels)}, not {source}")
        index = self.labels.index(label)
        return self._widened(index, self.tasks[index].read(file))

    def _widened(self, index: int, examples: Examples) -> Examples:
        """A task's examples as rows of all tasks' shape."""
        N, L = examples.inputs.shape
        if other := examples.extra.keys() - {"mask"}:
            raise UserError(f"{self.labels[index]} can't be joined: its model reads {', '.join(sorted(other))}")
        beyond = ((0, 0), (0, self.seq_len - L))
        labels = examples.labels
        if labels.shape[1]:
            labels = np.pad(labels, beyond, constant_values=IGNORE)
        own_mask = examples.extra.get("mask", np.ones((N, L), dtype=np.bool_))
        return Examples(
            np.pad(examples.inputs, beyond, constant_values=PADDING),
            labels,
            (examples.puzzle_ids + self.first_ids[index]).astype(np.int32),
            {"mask": np.pad(own_mask, beyond)} if self.config.mask else {},
        )

    def _narrowed(self, index: int, examples: Examples) -> Examples:
        """The inverse of ``_widened``."""
        L = self.tasks[index].seq_len
        ids = (examples.puzzle_ids - self.first_ids[index]).astype(np.int32)
        return Examples(examples.inputs[:, :L], examples.labels[:, :L], ids)

    def _by_task(self, examples: Examples) -> Iterator[tuple[int, npt.NDArray[np.intp], Examples]]:
        """(task, its rows, its examples as it knows them), for each task that has any."""
        owner = np.searchsorted(self.first_ids, examples.puzzle_ids, side="right") - 1
        for index in range(len(self.tasks)):
            if len(rows := np.flatnonzero(owner == index)):
                yield index, rows, self._narrowed(index, examples.take(rows))

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        arrays = {name: array.copy() for name, array in examples.arrays().items()}
        for index, rows, own in self._by_task(examples):
            for name, array in self._widened(index, self.tasks[index].augment(own, rng)).arrays().items():
                arrays[name][rows] = array
        return Examples.of_arrays(arrays)

    def images(
        self, examples: Examples, count: int, rng: np.random.Generator
    ) -> tuple[Examples, Callable[[Array], Array]]:
        arrays = {name: array.copy() for name, array in examples.repeat(count).arrays().items()}
        undoing: list[tuple[npt.NDArray[np.intp], int, Callable[[Array], Array]]] = []
        for index, rows, own in self._by_task(examples):
            images, undo = self.tasks[index].images(own, count, rng)
            places = (rows[:, None] * count + np.arange(count)).ravel()
            for name, array in self._widened(index, images).arrays().items():
                if name != "labels":
                    arrays[name][places] = array
            undoing.append((rows, self.tasks[index].seq_len, undo))

        def undo_all(answers: Array) -> Array:
            result = answers.copy()
            for rows, L, undo in undoing:
                result[rows, :, :L] = undo(answers[rows, :, :L])
            return result

        return Examples.of_arrays(arrays), undo_all

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        """``exact_accuracy_LABEL`` of each task, and its own measures behind its label."""
        measured: dict[str, float] = {}
        for index, rows, own in self._by_task(examples):
            label, given = self.labels[index], answers[rows, : own.inputs.shape[1]]
            exact = (self.tasks[index].right(own.labels, given) | (own.labels == IGNORE)).all(axis=-1)
            measured[f"exact_accuracy_{label}"] = float(exact.mean())
            measured |= {f"{label}_{k}": v for k, v in self.tasks[index].metrics(own, given).items()}
        return measured

    def verify(self, examples: Examples, answers: Array) -> npt.NDArray[np.bool_]:
        result = np.zeros(len(examples), dtype=np.bool_)
        for index, rows, own in self._by_task(examples):
            result[rows] = self.tasks[index].verify(own, answers[rows, : own.inputs.shape[1]])
        return result

    def parse(self, text: str, where: str = "") -> Question:
        """``LABEL: question``, or a question that only one of the tasks can read."""
        label, colon, rest = text.lstrip().partition(":")
        if colon and label in self.labels:
            index = self.labels.index(label)
            return self._asked(index, self.tasks[index].parse(rest.lstrip(" "), where))
        return self._sole(text, where)

    def _sole(self, text: str, where: str) -> Question:
        """The question that one task alone can read."""
        found, reasons = {}, []
        for index, task in enumerate(self.tasks):
            try:
                found[index] = task.parse(text, where)
            except UserError as error:
                reasons.append(f"{self.labels[index]}: {str(error).removeprefix(where + ': ')}")
        at = f"{where}: " if where else ""
        if not found:
            raise UserError(f"{at}no task of this model can read it ({'; '.join(reasons)})")
        if len(found) > 1:
            names = " or ".join(f"{self.labels[i]!r}" for i in found)
            raise UserError(f"{at}it could be for {names}: put the name and a colon in front")
        ((index, question),) = found.items()
        return self._asked(index, question)

    def _asked(self, index: int, question: Question) -> Question:
        row = self._widened(index, Question.rows([question]))
        extra = {name: array[0] for name, array in row.extra.items()}
        return replace(question, inputs=row.inputs[0], puzzle_id=int(row.puzzle_ids[0]), extra=extra)

    def _owned(self, question: Question, answer: Array | None = None) -> tuple[Task, Question, Any]:
        """The task of a question, and the question and an answer as that task knows them."""
        index = int(np.searchsorted(self.first_ids, question.puzzle_id, side="right")) - 1
        task, puzzle_id = self.tasks[index], question.puzzle_id - int(self.first_ids[index])
        narrowed = replace(question, inputs=question.inputs[: task.seq_len], puzzle_id=puzzle_id, extra={})
        return task, narrowed, None if answer is None else answer[: task.seq_len]

    def questions(self, source: str | Path) -> Iterator[Question]:
        """A file of one of the tasks, or a text file with a question a line."""
        whole: list[tuple[int, list[Question]]] = []
        for index, task in enumerate(self.tasks):
            try:
                whole.append((index, list(task.questions(source))))
            except UserError:
                continue
        if len(whole) == 1:
            ((index, questions),) = whole
            yield from (self._asked(index, question) for question in questions)
            return
        yield from super().questions(source)

    def format(self, question: Question, answer: Array) -> str:
        task, *pair = self._owned(question, answer)
        return task.format(*pair)

    def draw(self, question: Question, answer: Array | None = None) -> Any:
        task, *pair = self._owned(question, answer)
        return task.draw(*pair)

    def picture(self, question: Question, answer: Array | None = None) -> npt.NDArray[np.uint8]:
        task, *pair = self._owned(question, answer)
        return task.picture(*pair)
