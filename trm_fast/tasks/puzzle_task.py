"""A task of puzzles that are generated, or come from files or the hub."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Generic

from trm_fast.tasks import hub, sets
from trm_fast.tasks.base import DataConfig, Dataset, Examples, Split, Task
from trm_fast.tasks.sets import Sets, T
from trm_fast.tasks.tables import Table, read_table


class PuzzleTask(Task, Generic[T]):
    """A task of puzzles that are generated, or come from files or the hub. Its configuration has ``train_count`` and
    ``test_count``: how many of a file or hub data set are drawn, None for all.

    ``stand_in``: what is said of generated puzzles that stand in for the hub's.
    """

    config: Any
    stand_in: ClassVar[str]

    @abstractmethod
    def generated(self, seed: int) -> Sets[T]:
        """Sets for a seed."""

    @abstractmethod
    def decode(self, table: Table) -> T:
        """A table as checked puzzles."""

    @abstractmethod
    def encode(self, puzzles: T) -> Examples:
        """Puzzles as rows."""

    def without_equivalents(self, test: T, train: T, source: str) -> tuple[T, list[str]]:
        """The test puzzles that are not equivalent to a training one, and a note that counts the others."""
        known = set(train.classes())
        return sets.without(test, [row for row, form in enumerate(test.classes()) if form in known], source)

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Training and test examples, no test puzzle equivalent to a training one.

        Without ``data.source`` they are generated. Where ``data.test`` is not given, a file keeps ``data.holdout``
        of its equivalence classes for testing, and ``hf:NAME`` has a test split of its own. Where the hub cannot be
        reached or the ``datasets`` package is missing, the generator stands in, and a note says so."""
        try:
            found = self._sets(data, seed)
        except hub.Unavailable as problem:
            test = None if data.test is None or data.test.startswith(hub.PREFIX) else data.test
            made = self._sets(data.model_copy(update={"source": None, "test": test}), seed)
            found = replace(made, notes=[f"{problem}; {self.stand_in}", *made.notes])
        return Dataset(self.encode(found.train), self.encode(found.test), found.source, found.notes)

    def read(self, source: str) -> Examples:
        """Every example of a CSV file, or of the test split of ``hf:NAME``, in order."""
        return self.encode(self._load(source, "test"))

    def _load(self, source: str, split: Split) -> T:
        return self.decode(hub.load(source, split) if source.startswith(hub.PREFIX) else read_table(source))

    def _sets(self, data: DataConfig, seed: int) -> Sets[T]:
        source, test_source = data.source, data.test
        if source is None:
            made = self.generated(seed)
            if test_source is None:
                return made
            train, source = made.train, made.source
        else:
            train = self._load(source, "train")
            if test_source is None and source.startswith(hub.PREFIX):
                test_source = source
        if test_source is None:
            train, test = sets.hold_out(train, train.classes(), data.holdout, seed, source)
        else:
            test = self._load(test_source, "test")
        train, notes = sets.sample(train, self.config.train_count, seed, "training")
        test, test_notes = sets.sample(test, self.config.test_count, seed, "test")
        notes += test_notes
        if test_source is not None:
            test, leak_notes = self.without_equivalents(test, train, test_source)
            notes += leak_notes
        return Sets(train, test, source, notes)
