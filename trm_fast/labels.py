"""The numbers that tasks write as labels and that heads of models read: one definition for both."""

from __future__ import annotations

from enum import IntEnum

IGNORE = -100
"""Label of a position that carries no loss and does not count for accuracy; NaN among real-valued labels."""


SCORE_SCALE = 1000
"""Answers are whole numbers: where one holds logits they are in thousandths, so that sign and order are kept."""


class SlotKind(IntEnum):
    """What an argument or a slot of a fixed set of tools holds. The numbers from ``len(SlotKind)`` on are the values
    that are known beside those in the text."""

    NONE = 0
    """Not given."""
    SPAN = 1
    """A span of the text."""
    DONTCARE = 2
    """Any value will do."""
    OTHER = 3
    """Given, but neither in the text nor known."""


class ArgumentKind(IntEnum):
    """How an argument of one of the row's own tools gets its value."""

    ABSENT = 0
    SPAN = 1
    """A run of words, as it stands."""
    DATE = 2
    """A run of words read as an ISO date."""
    SINGULAR = 3
    """A run of words without its plural."""
    SPANS = 4
    """Several runs of words, a value each. The kinds before this one have a single run."""
    DEFAULT = 5
    """The default of its schema."""
    TRUE = 6
    FALSE = 7
    OTHER = 8
    """A value that cannot be told from the request."""


class Tag(IntEnum):
    """Where a word stands towards the values of an argument."""

    OUTSIDE = 0
    BEGINS = 1
    INSIDE = 2
