"""Label values that tasks write and model heads read."""

from __future__ import annotations

from enum import IntEnum

IGNORE = -100
"""Label of a position that has no loss and does not count for accuracy. Real-valued labels use NaN instead."""

SCORE_SCALE = 1000
"""Answers are integers. An answer that holds logits holds them in thousandths, which keeps sign and order."""


class SlotKind(IntEnum):
    """The kind of content of an argument or a slot of a fixed set of tools. Numbers from ``len(SlotKind)``
    on stand for the values of a fixed list, which need not occur in the text."""

    NONE = 0
    """No value."""
    SPAN = 1
    """A span of the text."""
    DONTCARE = 2
    """Any value is acceptable."""
    OTHER = 3
    """A value that is neither in the text nor in the fixed list."""


class ArgumentKind(IntEnum):
    """The way in which an argument of a tool that the request offers gets its value."""

    ABSENT = 0
    SPAN = 1
    """A span of words, copied unchanged."""
    DATE = 2
    """A span of words, converted to an ISO date."""
    SINGULAR = 3
    """A span of words, in the singular."""
    SPANS = 4
    """Several spans, one value per span. The kinds before this one have one span."""
    DEFAULT = 5
    """The default value of its schema."""
    TRUE = 6
    FALSE = 7
    OTHER = 8
    """A value that the request does not determine."""


class Tag(IntEnum):
    """Whether a word lies outside the values of an argument, begins one, or continues one."""

    OUTSIDE = 0
    BEGINS = 1
    INSIDE = 2
