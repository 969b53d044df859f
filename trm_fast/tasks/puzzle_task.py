"""The base class of tasks whose puzzles are generated, or come from a file or the Hugging Face hub."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic

from trm_fast.tasks import hub, sets
from trm_fast.tasks.base import DataConfig, Dataset, Examples, Split, Task
from trm_fast.tasks.sets import Ratings, Sets, T
from trm_fast.tasks.tables import Table, read_table


class PuzzleTask(Task, Generic[T]):
    """A task of puzzles that are generated, or come from a file or the hub.

    Its configuration has ``train_count`` and ``test_count``: how many puzzles are drawn from a file or hub data set,
    None for all.
    """

    config: Any

    @abstractmethod
    def generated(self, seed: int) -> Sets[T]:
        """Generated training and test sets."""

    @abstractmethod
    def decode(self, table: Table) -> T:
        """The puzzles of a table.

        Raises:
            UserError: a row is malformed, or its answer is wrong.
        """

    @abstractmethod
    def encode(self, puzzles: T) -> Examples:
        """Puzzles as ``Examples``."""

    def difficulty(self, puzzles: T) -> Ratings | None:
        """A number for each puzzle that is larger for harder ones; None if that is unknown."""
        return puzzles.ratings

    def without_equivalents(self, test: T, train: T, source: str) -> tuple[T, list[str]]:
        """The test puzzles that are not equivalent to a training puzzle, and a note that counts the others."""
        train_classes = set(train.classes())
        leaked = [row for row, form in enumerate(test.classes()) if form in train_classes]
        return sets.without(test, leaked, source)

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Training and test examples. No test puzzle is equivalent to a training puzzle.

        Without ``data.source`` the puzzles are generated. Without ``data.test``, the test set is the test split of
        ``hf:NAME``, or ``data.holdout`` of a file's equivalence classes, and a note says so.

        Raises:
            UserError: a source cannot be read, or one of its rows is malformed.
            Unavailable: the hub cannot be reached, or the ``datasets`` package is missing.
        """
        pair = self._sets(data, seed)
        difficulty = self.difficulty(pair.train)
        return Dataset(self.encode(pair.train), self.encode(pair.test), pair.source, pair.notes, difficulty)

    def read(self, source: str, limit: int | None = None) -> Examples:
        """The examples of a CSV file, or of the test split of ``hf:NAME``, in order."""
        return self.encode(self._load(source, "test", limit))

    def _load(self, source: str, split: Split, limit: int | None = None) -> T:
        from_hub = source.startswith(hub.PREFIX)
        return self.decode(hub.load(source, split, limit) if from_hub else read_table(source, limit))

    def _sets(self, data: DataConfig, seed: int) -> Sets[T]:
        source, test_source = data.source, data.test
        notes: list[str] = []
        if source is None:
            pair = self.generated(seed)
            if test_source is None:
                return pair
            train, source = pair.train, pair.source
        else:
            train = self._load(source, "train")
            if test_source is None and source.startswith(hub.PREFIX):
                test_source = source
        if test_source is None:
            train, test = sets.hold_out(train, train.classes(), data.holdout, seed, source)
            notes += sets.holdout_note(len(test), len(test) + len(train), data.holdout, self.noun)
        else:
            test = self._load(test_source, "test")
        train, train_notes = sets.sample(train, self.config.train_count, seed, "training")
        test, test_notes = sets.sample(test, self.config.test_count, seed, "test")
        notes += train_notes + test_notes
        if test_source is not None:
            test, leak_notes = self.without_equivalents(test, train, test_source)
            notes += leak_notes
        return Sets(train, test, source, notes)
