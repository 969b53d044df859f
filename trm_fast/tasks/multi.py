"""Several token tasks in one model. The puzzle embedding tells the model which task an example belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from trm_fast.errors import UserError, shown
from trm_fast.tasks.base import IGNORE, Array, DataConfig, Dataset, Examples, Question, Task, TaskConfig
from trm_fast.tasks.loading import load_dataset
from trm_fast.validation import validated
from trm_fast.writing import make_folder

PADDING = 0


class MultiConfig(TaskConfig):
    """The ``task:`` section for multi.

    Attributes:
        tasks: the ``task:`` section of each task, with two optional keys: ``label``, the name of the task within the
            model (by default the task's own name), and ``data``, its ``data:`` section.
        mask: whether padding is excluded from mixing. Models learn faster without a mask.
    """

    name: str = "multi"
    tasks: tuple[dict[str, Any], ...] = Field(
        ({"name": "sudoku", "size": 4}, {"name": "symbols"}), min_length=1, strict=False
    )
    mask: bool = False

    @model_validator(mode="after")
    def _valid(self) -> MultiConfig:
        self.parts  # noqa: B018 (raises if a section is wrong)
        return self

    @cached_property
    def parts(self) -> dict[str, tuple[Task, DataConfig]]:
        """Each task and its data section, by label."""
        from trm_fast.tasks import get_task

        parts: dict[str, tuple[Task, DataConfig]] = {}
        for section in self.tasks:
            config = {key: value for key, value in section.items() if key not in ("label", "data")}
            if not isinstance(config.get("name"), str) or config["name"] == "multi":
                raise ValueError(f"this section of tasks does not name a task: {shown(section)}")
            label = section.get("label", config["name"].rpartition(":")[2])
            if not isinstance(label, str) or not label.isidentifier():
                raise ValueError(f"label {shown(label)} must be a word: letters, digits and _")
            if label in parts:
                raise ValueError(f"two tasks are called {label}: give one of them another label")
            kind = get_task(config["name"])
            data = validated(DataConfig, section.get("data") or {}, "data", label)
            task = kind(validated(kind.Config, config, "", label))
            keys = task.model_keys(data)
            if keys.get("inputs", "tokens") != "tokens" or "head" in keys:
                raise ValueError(f"{label}: only tasks with token inputs and outputs can be combined")
            parts[label] = task, data
        return parts


class Multi(Task):
    """Examples of all tasks, padded with token 0 to the longest task's length L.

    Labels of padding are ``IGNORE``. ``puzzle_ids`` are those of the task, plus the number of puzzle ids of all tasks
    before it. ``extra["mask"]`` bool (N, L) exists with ``task.mask``.
    """

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
                make_folder(folder / label)
                task.save_assets(folder / label)

    def load_assets(self, folder: Path) -> None:
        for label, task in zip(self.labels, self.tasks, strict=True):
            task.load_assets(folder / label)

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """The data of all tasks. Test examples are shuffled, so that the first few come from all tasks."""
        if data.source is not None or data.test is not None:
            raise UserError("multi reads no data itself: put data: {source: ...} into a section of task.tasks")
        sets = [load_dataset(task, task_data, seed) for task, task_data in self.config.parts.values()]
        train = Examples.joined([self._padded(i, s.train) for i, s in enumerate(sets)])
        test = Examples.joined([self._padded(i, s.test) for i, s in enumerate(sets)])
        named = list(zip(self.labels, sets, strict=True))
        return Dataset(
            train,
            test.take(np.random.default_rng(seed % 2**64).permutation(len(test))),
            "; ".join(f"{label}: {len(s.train):,} from {s.source}" for label, s in named),
            [f"{label}: {note}" for label, s in named for note in s.notes],
        )

    def read(self, source: str, limit: int | None = None) -> Examples:
        """The examples of one task's file, which is named as ``LABEL:FILE``."""
        label, colon, file = source.partition(":")
        if not colon or label not in self.labels:
            raise UserError(f"write {' or '.join(f'{name}:FILE' for name in self.labels)}, not {source}")
        index = self.labels.index(label)
        return self._padded(index, self.tasks[index].read(file, limit))

    def _padded(self, index: int, examples: Examples) -> Examples:
        """A task's examples, padded to the length of the longest task and with the model's puzzle ids."""
        N, L = examples.inputs.shape
        if other := examples.extra.keys() - {"mask"}:
            raise UserError(f"{self.labels[index]} cannot be combined: its model reads {', '.join(sorted(other))}")
        padding = ((0, 0), (0, self.seq_len - L))
        labels = examples.labels
        if labels.shape[1]:
            labels = np.pad(labels, padding, constant_values=IGNORE)
        task_mask = examples.extra.get("mask", np.ones((N, L), dtype=np.bool_))
        return Examples(
            np.pad(examples.inputs, padding, constant_values=PADDING),
            labels,
            (examples.puzzle_ids + self.first_ids[index]).astype(np.int32),
            {"mask": np.pad(task_mask, padding)} if self.config.mask else {},
        )

    def _unpadded(self, index: int, examples: Examples) -> Examples:
        """The inverse of ``_padded``."""
        L = self.tasks[index].seq_len
        ids = (examples.puzzle_ids - self.first_ids[index]).astype(np.int32)
        return Examples(examples.inputs[:, :L], examples.labels[:, :L], ids)

    def _by_task(self, examples: Examples) -> Iterator[tuple[int, npt.NDArray[np.intp], Examples]]:
        """Yields, for each task that has examples, its index, its rows, and its examples in its own form."""
        owner = np.searchsorted(self.first_ids, examples.puzzle_ids, side="right") - 1
        for index in range(len(self.tasks)):
            if len(rows := np.flatnonzero(owner == index)):
                yield index, rows, self._unpadded(index, examples.take(rows))

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        arrays = {name: array.copy() for name, array in examples.arrays().items()}
        for index, rows, part in self._by_task(examples):
            for name, array in self._padded(index, self.tasks[index].augment(part, rng)).arrays().items():
                arrays[name][rows] = array
        return Examples.of_arrays(arrays)

    def images(
        self, examples: Examples, count: int, rng: np.random.Generator
    ) -> tuple[Examples, Callable[[Array], Array]]:
        arrays = {name: array.copy() for name, array in examples.repeat(count).arrays().items()}
        undo_parts: list[tuple[npt.NDArray[np.intp], int, Callable[[Array], Array]]] = []
        for index, rows, part in self._by_task(examples):
            images, undo = self.tasks[index].images(part, count, rng)
            positions = (rows[:, None] * count + np.arange(count)).ravel()
            for name, array in self._padded(index, images).arrays().items():
                if name != "labels":
                    arrays[name][positions] = array
            undo_parts.append((rows, self.tasks[index].seq_len, undo))

        def undo_all(answers: Array) -> Array:
            result = answers.copy()
            for rows, L, undo in undo_parts:
                result[rows, :, :L] = undo(answers[rows, :, :L])
            return result

        return Examples.of_arrays(arrays), undo_all

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        """``exact_accuracy_LABEL`` for each task, and the task's own metrics as ``LABEL_NAME``."""
        measured: dict[str, float] = {}
        for index, rows, part in self._by_task(examples):
            label, own_answers = self.labels[index], answers[rows, : part.inputs.shape[1]]
            exact = (self.tasks[index].right(part.labels, own_answers) | (part.labels == IGNORE)).all(axis=-1)
            measured[f"exact_accuracy_{label}"] = float(exact.mean())
            measured |= {f"{label}_{k}": v for k, v in self.tasks[index].metrics(part, own_answers).items()}
        return measured

    def verify(self, examples: Examples, answers: Array) -> npt.NDArray[np.bool_]:
        result = np.zeros(len(examples), dtype=np.bool_)
        for index, rows, part in self._by_task(examples):
            result[rows] = self.tasks[index].verify(part, answers[rows, : part.inputs.shape[1]])
        return result

    def parse(self, text: str, where: str = "") -> Question:
        """A question in the form ``LABEL: question``, or one that exactly one of the tasks can parse."""
        label, colon, rest = text.lstrip().partition(":")
        if colon and label in self.labels:
            index = self.labels.index(label)
            return self._question(index, self.tasks[index].parse(rest.lstrip(" "), where))
        return self._parse_with_one_task(text, where)

    def _parse_with_one_task(self, text: str, where: str) -> Question:
        """A question that exactly one task can parse."""
        questions, reasons = {}, []
        for index, task in enumerate(self.tasks):
            try:
                questions[index] = task.parse(text, where)
            except UserError as error:
                reasons.append(f"{self.labels[index]}: {str(error).removeprefix(where + ': ')}")
        location = f"{where}: " if where else ""
        if not questions:
            raise UserError(f"{location}no task of this model can parse this ({'; '.join(reasons)})")
        if len(questions) > 1:
            names = " or ".join(f"{self.labels[i]!r}" for i in questions)
            raise UserError(f"{location}this could be for {names}: start it with the name and a colon")
        ((index, question),) = questions.items()
        return self._question(index, question)

    def _question(self, index: int, question: Question) -> Question:
        row = self._padded(index, Question.rows([question]))
        extra = {name: array[0] for name, array in row.extra.items()}
        return replace(question, inputs=row.inputs[0], puzzle_id=int(row.puzzle_ids[0]), extra=extra)

    def _split(self, question: Question, answer: Array | None = None) -> tuple[Task, Question, Any]:
        """The task of a question, and the question and answer in the task's own form."""
        index = int(np.searchsorted(self.first_ids, question.puzzle_id, side="right")) - 1
        task, puzzle_id = self.tasks[index], question.puzzle_id - int(self.first_ids[index])
        unpadded = replace(question, inputs=question.inputs[: task.seq_len], puzzle_id=puzzle_id, extra={})
        return task, unpadded, None if answer is None else answer[: task.seq_len]

    def questions(self, source: str | Path) -> Iterator[Question]:
        """The questions of a file in the format of exactly one task, or of a text file with one on each line."""
        parsed: list[tuple[int, list[Question]]] = []
        for index, task in enumerate(self.tasks):
            try:
                parsed.append((index, list(task.questions(source))))
            except UserError:
                continue
        if len(parsed) == 1:
            ((index, questions),) = parsed
            yield from (self._question(index, question) for question in questions)
            return
        yield from super().questions(source)

    def format(self, question: Question, answer: Array) -> str:
        task, *pair = self._split(question, answer)
        return task.format(*pair)

    def draw(self, question: Question, answer: Array | None = None) -> Any:
        task, *pair = self._split(question, answer)
        return task.draw(*pair)

    def picture(self, question: Question, answer: Array | None = None) -> npt.NDArray[np.uint8]:
        task, *pair = self._split(question, answer)
        return task.picture(*pair)
