"""The sections ``task`` and ``data`` of a configuration."""

from __future__ import annotations

from pydantic import Field

from trm_fast.validation import Section


class TaskConfig(Section):
    """The ``task:`` section of a configuration. Each task adds its own keys in a subclass."""

    name: str
    """The name of the task, or ``module:Class`` for one outside the package."""


class DataConfig(Section):
    """The ``data:`` section of a configuration.

    Attributes:
        source: a path, ``hf:NAME`` for a data set of the Hugging Face hub, or None for the task's generator.
        test: a separate test set: a path or ``hf:NAME``. By default the data set's own test split or, for a file, a
            random part of its examples.
        holdout: the size of that part, as a share of the equivalence classes; 0: none, so that there is no test set.
    """

    source: str | None = None
    test: str | None = None
    holdout: float = Field(0.1, ge=0, lt=1)
