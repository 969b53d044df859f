"""The ARC task: which pairs are learned, which are asked, and how the votes over augmentations become two guesses.

Every augmentation of every task has its own row of the puzzle embedding: row = task x (augmentations + 1) +
augmentation, the first of each task being the task as it is. The rows are all that a model knows of a task, so it
answers only for tasks whose demonstration pairs it was trained on. A task with fewer different augmentations leaves its
last rows unused.
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
from trm_fast.tasks.arc.data import ARCConfig, choose
from trm_fast.tasks.arc.files import ARCTask, Pair
from trm_fast.tasks.arc.grids import (
    VOCABULARY,
    Symmetries,
    decode,
    encode,
    images,
    labels_of,
    sizes_of,
    tokens_of,
)
from trm_fast.tasks.arc.index import TaskIndex
from trm_fast.tasks.arc.symmetry import ELEMENTS, augmentations, random_colors
from trm_fast.tasks.base import Array, Candidates, DataConfig, Dataset, Examples, IntArray, Question, Task

PASS_AT = (1, 2, 100)
GUESSES = 2
UNMOVED = 0.3
"""Share of the training examples that stay in the corner, where questions are; as published, one pair a task."""


class ARC(Task):
    name: ClassVar[str] = "arc"
    Config: ClassVar[type[ARCConfig]] = ARCConfig
    noun: ClassVar[str] = "pairs"
    majority: ClassVar[bool] = True

    def __init__(self, config: ARCConfig | None = None) -> None:
        self.config = config or ARCConfig()
        self.canvas = self.config.canvas
        self.vocab_size = VOCABULARY
        self.seq_len = self.canvas * self.canvas
        self.grid_shape = (self.canvas, self.canvas)
        self.rows_each = self.config.augmentations + 1
        self.index: TaskIndex | None = None
        self._symmetries: Symmetries | None = None
        self._kept = np.zeros(0, dtype=np.int32)

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        """A row of the embedding for each augmentation of each task in the data; data that is gone says nothing."""
        keys = super().model_keys(data)
        sources = [s for s in (data.source, data.test) if s is not None]
        if sources and all(Path(p.strip()).exists() for s in sources for p in s.split(",")):
            keys["num_puzzles"] = len(choose(self.config, data)[0]) * self.rows_each
        return keys

    def save_assets(self, folder: Path) -> None:
        self._known.save(folder)

    def load_assets(self, folder: Path) -> None:
        self.learn(TaskIndex.load(folder))

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Demonstration pairs of all tasks and the test pairs of subsets that are not held out, and the others.

        With ``data.test`` the tasks of that source are added, and only their test pairs are held out.
        """
        tasks, held, notes = choose(self.config, data)
        if self.index is None:
            self.learn(TaskIndex.of(tasks))
        shown = [(t, p) for t in tasks for p in [*t.train, *(() if t.name in held else t.test)]]
        learned = [pair for pair in shown if pair[1].output is not None]
        asked = [(t, p) for t in tasks if t.name in held for p in t.test]
        source = f"{data.source}{f', {data.test}' if data.test else ''}: {len(tasks)} tasks"
        known = [pair for pair in asked if pair[1].output is not None]
        if len(known) < len(asked):
            notes = [*notes, f"{len(asked) - len(known)} of {len(asked)} test inputs have no answer and are not scored"]
        return Dataset(self._encoded(learned), self._encoded(known), source, notes)

    def learn(self, index: TaskIndex) -> None:
        """Takes up a list of tasks: draws their augmentations, in the order of the rows of the embedding."""
        self.index, config = index, self.config
        self._symmetries, self._kept = augmentations(
            index.names,
            index.looks,
            config.augmentations,
            config.augmentation_seed,
            colors=config.colors is True,
            dihedral=config.dihedral,
            by_color=config.colors != "shared",
        )

    def _different(self, puzzle_ids: IntArray) -> IntArray:
        """How many different augmentations, itself included, the task of each row of the embedding has."""
        return self._kept[puzzle_ids // self.rows_each]

    @property
    def _known(self) -> TaskIndex:
        if self.index is None:
            raise UserError("this model has lost its list of ARC tasks (tasks.json): it can't be used")
        return self.index

    def _encoded(self, pairs: Sequence[tuple[ARCTask, Pair]]) -> Examples:
        inputs = encode([pair.input for _, pair in pairs], self.canvas)
        labels = encode([pair.output for _, pair in pairs], self.canvas)
        ids = np.array([self._known.row(task) * self.rows_each for task, _ in pairs], dtype=np.int32)
        return Examples(inputs.astype(np.int32), labels_of(labels), ids)

    def read(self, source: str) -> Examples:
        """The test pairs of the tasks of a file that were learned; UserError where none was, or one has no answers."""
        tasks = files.read(source)
        learned = [task for task in tasks if self._known.knows(task)] or tasks
        pairs = [(task, pair) for task in learned for pair in task.test]
        for task, pair in pairs:
            self._check(task, pair, f"{source}: {task.name}")
            if pair.output is None:
                raise UserError(f"{source}: {task.name} has no test outputs to compare with; solve takes it")
        return self._encoded(pairs)

    def _check(self, task: ARCTask, pair: Pair, where: str) -> None:
        self._known.row(task, where)
        if pair.largest > self.canvas:
            raise UserError(f"{where}: a grid is over {self.canvas} x {self.canvas}, which is all this model reads")

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Each pair under one of its task's augmentations, with that one's row, and somewhere on the canvas."""
        assert self._symmetries is not None
        N, S = len(examples), self.canvas
        rows = examples.puzzle_ids + rng.integers(self._different(examples.puzzle_ids), dtype=np.int32)
        chosen = self._symmetries.take(rows)
        if self.config.colors == "shared":
            chosen = Symmetries(chosen.dihedral, random_colors(N, rng))
        questions, answers = tokens_of(examples.inputs), tokens_of(examples.labels)
        sizes = np.stack([sizes_of(questions, S), sizes_of(answers, S)])
        offsets = None
        if self.config.translation:
            turned = (chosen.dihedral >= ELEMENTS // 2)[:, None]
            room = S - np.where(turned, sizes[..., ::-1], sizes).max(axis=0)
            moves = rng.random((N, 1)) >= UNMOVED
            offsets = (rng.random((N, 2)) * (room + 1) * moves).astype(np.intp)
        questions, answers = (
            images(tokens, S, chosen, size, offsets) for tokens, size in zip((questions, answers), sizes, strict=True)
        )
        return Examples(questions.astype(np.int32), labels_of(answers), rows)

    def images(
        self, examples: Examples, count: int, rng: np.random.Generator
    ) -> tuple[Examples, Callable[[Array], Array]]:
        """The first ``count`` augmentations of each question's task, over again where it has fewer: rows of the
        embedding that were trained."""
        if count > self.rows_each:
            raise UserError(
                f"{count} symmetries: this model knows {self.rows_each} augmentations of each task", wrong_use=True
            )
        assert self._symmetries is not None
        N, S = len(examples), self.canvas
        ids = examples.puzzle_ids[:, None]
        rows = (ids + np.arange(count) % self._different(ids)).ravel().astype(np.int32)
        chosen = self._symmetries.take(rows)
        asked = images(examples.repeat(count).inputs, S, chosen)
        back = chosen.inverse()

        def undo(answers: Array) -> Array:
            return images(answers.reshape(N * count, -1), S, back).astype(answers.dtype).reshape(answers.shape)

        return Examples.of_questions(asked.astype(np.int32), rows), undo

    def normalized(self, answers: Array) -> Array:
        """What lies outside of the border means nothing."""
        return images(answers, self.canvas).astype(answers.dtype)

    def ranked_metrics(self, examples: Examples, ranked: Iterable[Candidates]) -> dict[str, float]:
        """pass@k as published: a test input is solved when one of the k best candidates is its answer, a task to the
        share of its test inputs that are; the mean over tasks."""
        right = images(tokens_of(examples.labels), self.canvas)
        tasks, inverse = np.unique(examples.puzzle_ids // self.rows_each, return_inverse=True)
        place = np.array([_place(c.answers, answer) for c, answer in zip(ranked, right, strict=True)])
        asked = np.bincount(inverse, minlength=len(tasks))
        measures = {
            f"pass@{k}": float((np.bincount(inverse, weights=place < k, minlength=len(tasks)) / asked).mean())
            for k in PASS_AT
        }
        return measures | {"tasks": float(len(tasks))}

    def submission(self, questions: Examples, ranked: Iterable[Candidates]) -> dict[str, list[dict[str, Any]]]:
        """Two guesses for each test input of each task, as Kaggle takes them; a lone candidate is both."""
        result: dict[str, list[dict[str, Any]]] = {}
        for row, candidates in zip(questions.puzzle_ids, ranked, strict=True):
            grids = [decode(answer, self.canvas).tolist() for answer in candidates.answers]
            grids = [grid for grid in grids if grid] or [[[0]]]
            guesses = (grids + grids[:1] * GUESSES)[:GUESSES]
            name = self._known.names[row // self.rows_each]
            result.setdefault(name, []).append({f"attempt_{i}": grid for i, grid in enumerate(guesses, 1)})
        return result

    def parse(self, text: str, where: str = "") -> Question:
        questions = list(self._asked(files.parse_task(text, where or "the task"), where))
        if len(questions) > 1:
            raise UserError(f"the task has {len(questions)} test inputs: put it into a file to have all answered")
        return questions[0]

    def questions(self, source: str | Path) -> Iterator[Question]:
        """The test inputs of all tasks of a file, a folder or several, as for training."""
        for task in files.read(str(source)):
            yield from self._asked(task, task.name)

    def _asked(self, task: ARCTask, where: str) -> Iterator[Question]:
        row = self._known.row(task, where) * self.rows_each
        for number, pair in enumerate(task.test, 1):
            self._check(task, pair, where)
            text = json.dumps(drawing.jsonable(pair))
            inputs = encode([pair.input], self.canvas)[0].astype(np.int32)
            yield Question(text, inputs, f"{where} test {number}".strip(), row)

    def format(self, question: Question, answer: Array) -> str:
        """The grid as JSON rows."""
        return json.dumps(decode(answer, self.canvas).tolist())

    def draw(self, question: Question, answer: Array | None = None) -> RenderableType:
        return drawing.drawing(drawing.panels(question.text, self._grid(answer)))

    def picture(self, question: Question, answer: Array | None = None) -> npt.NDArray[np.uint8]:
        return drawing.picture(drawing.panels(question.text, self._grid(answer)))

    def _grid(self, answer: Array | None) -> Array | None:
        return None if answer is None else decode(answer, self.canvas)


def _place(candidates: Array, answer: Array) -> float:
    """Where in the candidates (K, L) the answer (L,) stands; infinite where it does not."""
    same = np.flatnonzero((candidates == answer).all(axis=1))
    return float(same[0]) if len(same) else np.inf
