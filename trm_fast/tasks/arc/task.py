"""The task arc: training and test pairs, and two guesses per test input, chosen by votes over augmentations.

Each augmentation of each ARC task has its own row of the puzzle embedding: row = task x (augmentations + 1) +
augmentation. Augmentation 0 is the task itself. A model knows a task only through these rows, so it solves only tasks
whose demonstration pairs it was trained on. A task with fewer distinct augmentations does not use its last rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from rich.console import RenderableType

from trm_fast.errors import UserError
from trm_fast.tasks.arc import drawing, files
from trm_fast.tasks.arc.data import ARCConfig, choose, same_tasks, split
from trm_fast.tasks.arc.grids import (
    BLACK,
    VOCABULARY,
    Symmetries,
    decode,
    encode,
    grid_sizes,
    images,
    labels_to_tokens,
    tokens_to_labels,
)
from trm_fast.tasks.arc.index import TaskIndex
from trm_fast.tasks.arc.parsing import ARCTask, Pair, parse_task
from trm_fast.tasks.arc.symmetry import ELEMENTS, augmentations, random_colors
from trm_fast.tasks.base import Array, Candidates, DataConfig, Dataset, Examples, IntArray, Question, Task

PASS_AT = (1, 2, 100)
GUESSES = 2
UNMOVED_SHARE = 0.3
"""The share of training examples that stay in the upper left corner, where the questions to solve are. The published
code keeps one pair of each task there."""


class ARC(Task):
    """Inputs and labels are the tokens of a canvas, int32 (N, canvas * canvas)."""

    name: ClassVar[str] = "arc"
    Config: ClassVar[type[ARCConfig]] = ARCConfig
    noun: ClassVar[str] = "pairs"
    majority: ClassVar[bool] = True
    partitions = ("rows", "columns", "all")
    special_tokens = BLACK + 1

    def __init__(self, config: ARCConfig | None = None) -> None:
        self.config = config or ARCConfig()
        self.canvas = self.config.canvas
        self.vocab_size = VOCABULARY
        self.seq_len = self.canvas * self.canvas
        self.grid_shape = (self.canvas, self.canvas)
        self.rows_per_task = self.config.augmentations + 1
        self.index: TaskIndex | None = None
        self._symmetries: Symmetries | None = None
        self._kept = np.zeros(0, dtype=np.int32)

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        """Adds ``num_puzzles``, a row for each augmentation of each task, unless the data no longer exists."""
        keys = super().model_keys(data)
        sources = [s for s in (data.source, data.test) if s is not None]
        if sources and all(Path(p.strip()).exists() for s in sources for p in s.split(",")):
            keys["num_puzzles"] = len(choose(self.config, data)[0]) * self.rows_per_task
        return keys

    def save_assets(self, folder: Path) -> None:
        self._tasks.save(folder)

    def load_assets(self, folder: Path) -> None:
        self.learn(TaskIndex.load(folder))

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Trains on the demonstration pairs of all tasks and on test pairs that are not held out; tests on the others.

        With ``data.test`` the tasks of that source are added, and only their test pairs are held out. A task that
        occurs under several names is used once. No training pair equals a test pair.
        """
        tasks, held_out, notes = choose(self.config, data)
        left_out, twin_notes = same_tasks(tasks, held_out)
        if self.index is None:
            self.learn(TaskIndex.of(tasks, left_out))
        parts = split(tasks, held_out, left_out, self.canvas, data.holdout, seed)
        source = f"{data.source}{f', {data.test}' if data.test else ''}: {len(tasks) - len(left_out)} tasks"
        notes = [*notes, *twin_notes, *parts.notes]
        return Dataset(self._encoded(parts.train), self._encoded(parts.test), source, notes)

    def learn(self, index: TaskIndex) -> None:
        """Adopts the tasks of an index and draws their augmentations, in the order of the rows of the embedding."""
        self.index, config = index, self.config
        self._symmetries, self._kept = augmentations(
            index.names,
            index.appearances,
            config.augmentations,
            config.augmentation_seed,
            colors=config.colors is True,
            dihedral=config.dihedral,
            by_color=config.colors != "shared",
        )

    def _distinct_counts(self, puzzle_ids: IntArray) -> IntArray:
        """The number of distinct augmentations, the identity included, of each row's task, int32 (N,)."""
        return self._kept[puzzle_ids // self.rows_per_task]

    @property
    def _tasks(self) -> TaskIndex:
        if self.index is None:
            raise UserError("this model has no list of ARC tasks (tasks.json) and cannot be used")
        return self.index

    def _encoded(self, pairs: Sequence[tuple[ARCTask, Pair]]) -> Examples:
        inputs = encode([pair.input for _, pair in pairs], self.canvas)
        labels = encode([pair.output for _, pair in pairs], self.canvas)
        ids = np.array([self._tasks.row(task) * self.rows_per_task for task, _ in pairs], dtype=np.int32)
        return Examples(inputs.astype(np.int32), tokens_to_labels(labels), ids, names=[task.name for task, _ in pairs])

    def read(self, source: str, limit: int | None = None) -> Examples:
        """The test pairs in a file, of the tasks that the model was trained on.

        Raises:
            UserError: the model was trained on none of the tasks, there are no test pairs, or one has no output.
        """
        tasks = files.read(source)
        learned = [task for task in tasks if self._tasks.knows(task)] or tasks
        pairs = [(task, pair) for task in learned for pair in task.test]
        if not pairs:
            raise UserError(f"{source} has no test pairs, only demonstration pairs")
        for task, pair in pairs:
            self._check(task, pair, f"{source}: {task.name}")
            if pair.output is None:
                raise UserError(f"{source}: {task.name} has no test outputs to compare with: use solve")
        return self._encoded(pairs)

    def _check(self, task: ARCTask, pair: Pair, where: str) -> None:
        self._tasks.row(task, where)
        if pair.largest > self.canvas:
            raise UserError(f"{where}: a grid is larger than {self.canvas} x {self.canvas}, the canvas of this model")

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Each pair under a random augmentation of its task, with this augmentation's row, at a random position."""
        assert self._symmetries is not None
        N, S = len(examples), self.canvas
        rows = examples.puzzle_ids + rng.integers(self._distinct_counts(examples.puzzle_ids), dtype=np.int32)
        chosen = self._symmetries.take(rows)
        if self.config.colors == "shared":
            chosen = Symmetries(chosen.dihedral, random_colors(N, rng))
        questions, answers = labels_to_tokens(examples.inputs), labels_to_tokens(examples.labels)
        sizes = np.stack([grid_sizes(questions, S), grid_sizes(answers, S)])
        offsets = None
        if self.config.translation:
            transposed = (chosen.dihedral >= ELEMENTS // 2)[:, None]
            free = S - np.where(transposed, sizes[..., ::-1], sizes).max(axis=0)
            moves = rng.random((N, 1)) >= UNMOVED_SHARE
            offsets = (rng.random((N, 2)) * (free + 1) * moves).astype(np.intp)
        questions, answers = (
            images(tokens, S, chosen, size, offsets) for tokens, size in zip((questions, answers), sizes, strict=True)
        )
        return Examples(questions.astype(np.int32), tokens_to_labels(answers), rows)

    def images(
        self, examples: Examples, count: int, rng: np.random.Generator
    ) -> tuple[Examples, Callable[[Array], Array]]:
        """The first ``count`` augmentations of each question's task, repeated if it has fewer."""
        if count > self.rows_per_task:
            raise UserError(
                f"{count} symmetries: this model has only {self.rows_per_task} augmentations of each task",
                usage_error=True,
            )
        assert self._symmetries is not None
        N, S = len(examples), self.canvas
        ids = examples.puzzle_ids[:, None]
        rows = (ids + np.arange(count) % self._distinct_counts(ids)).ravel().astype(np.int32)
        chosen = self._symmetries.take(rows)
        inputs = images(examples.repeat(count).inputs, S, chosen)
        back = chosen.inverse()

        def undo(answers: Array) -> Array:
            return images(answers.reshape(N * count, -1), S, back).astype(answers.dtype).reshape(answers.shape)

        return Examples.of_questions(inputs.astype(np.int32), rows), undo

    def normalized(self, answers: Array) -> Array:
        """Answers without the tokens outside the border."""
        return images(answers, self.canvas).astype(answers.dtype)

    def ranked_metrics(self, examples: Examples, ranked: Iterable[Candidates]) -> dict[str, float]:
        """pass@k, as published: the mean over tasks of the share of test inputs with the right answer among the k best
        candidates."""
        right = images(labels_to_tokens(examples.labels), self.canvas)
        tasks, inverse = np.unique(examples.puzzle_ids // self.rows_per_task, return_inverse=True)
        rank = np.array([_rank(c.answers, answer) for c, answer in zip(ranked, right, strict=True)])
        questions = np.bincount(inverse, minlength=len(tasks))
        measures = {
            f"pass@{k}": float((np.bincount(inverse, weights=rank < k, minlength=len(tasks)) / questions).mean())
            for k in PASS_AT
        }
        return measures | {"tasks": float(len(tasks))}

    def submission(self, questions: Examples, ranked: Iterable[Candidates]) -> dict[str, list[dict[str, Any]]]:
        """Two guesses for each test input, in Kaggle's format. A single candidate is used for both.

        A task is named as in the file of the questions, which may differ from the name that the model learned.
        """
        result: dict[str, list[dict[str, Any]]] = {}
        names = questions.names or [""] * len(questions)
        for row, name, candidates in zip(questions.puzzle_ids, names, ranked, strict=True):
            grids = [decode(answer, self.canvas).tolist() for answer in candidates.answers]
            grids = [grid for grid in grids if grid] or [[[0]]]
            guesses = (grids + grids[:1] * GUESSES)[:GUESSES]
            name = name or self._tasks.names[row // self.rows_per_task]
            result.setdefault(name, []).append({f"attempt_{i}": grid for i, grid in enumerate(guesses, 1)})
        return result

    def parse(self, text: str, where: str = "") -> Question:
        questions = list(self._questions(parse_task(text, where or "the task"), where))
        if not questions:
            raise UserError(f"{where or 'the task'}: this is a list of pairs; a task has test inputs to solve")
        if len(questions) > 1:
            raise UserError(f"the task has {len(questions)} test inputs: save it to a file to solve all of them")
        return questions[0]

    def questions(self, source: str | Path) -> Iterator[Question]:
        """The test inputs of all tasks in a file or folder, or in several separated by commas."""
        tasks = [task for task in files.read(str(source)) if task.test]
        if not tasks:
            raise UserError(f"{source} has no test inputs, only demonstration pairs")
        for task in tasks:
            yield from self._questions(task, task.name)

    def _questions(self, task: ARCTask, where: str) -> Iterator[Question]:
        row = self._tasks.row(task, where) * self.rows_per_task
        for number, pair in enumerate(task.test, 1):
            self._check(task, pair, where)
            text = json.dumps(drawing.pair_to_json(pair))
            inputs = encode([pair.input], self.canvas)[0].astype(np.int32)
            yield Question(text, inputs, f"{where} test {number}".strip(), row, name=task.name)

    def format(self, question: Question, answer: Array) -> str:
        """The grid as a JSON list of rows."""
        return json.dumps(decode(answer, self.canvas).tolist())

    def draw(self, question: Question, answer: Array | None = None) -> RenderableType:
        return drawing.drawing(drawing.panels(question.text, self._grid(answer)))

    def picture(self, question: Question, answer: Array | None = None) -> npt.NDArray[np.uint8]:
        return drawing.picture(drawing.panels(question.text, self._grid(answer)))

    def _grid(self, answer: Array | None) -> Array | None:
        return None if answer is None else decode(answer, self.canvas)


def _rank(candidates: Array, answer: Array) -> float:
    """The index of the answer (L,) in the candidates (K, L); infinite if it is missing."""
    same = np.flatnonzero((candidates == answer).all(axis=1))
    return float(same[0]) if len(same) else np.inf
