"""The label values that tasks write and model heads read."""

from __future__ import annotations

from enum import IntEnum

IGNORE = -100
"""Label of a position that counts for neither loss nor accuracy. Real-valued labels use NaN instead."""

SCORE_SCALE = 1000
"""Factor by which logits in answers are multiplied before rounding, because answers are integers."""


class SlotKind(IntEnum):
    """What an argument or a slot of a fixed set of tools contains. Numbers from ``len(SlotKind)`` on stand for the
    values of a fixed list, which need not occur in the text."""

    NONE = 0
    """No value."""
    SPAN = 1
    """A span of the text."""
    DONTCARE = 2
    """Any value is acceptable."""
    OTHER = 3
    """A value that is neither in the text nor in the fixed list."""


class ArgumentKind(IntEnum):
    """How an argument of a tool that a request offers gets its value."""

    ABSENT = 0
    """No value."""
    SPAN = 1
    """A span of words, copied unchanged."""
    DATE = 2
    """A span of words, converted to an ISO date."""
    SINGULAR = 3
    """A span of words, in the singular."""
    SPANS = 4
    """Several spans, each of which is a value. The kinds from SPAN to SINGULAR have one span."""
    DEFAULT = 5
    """The default value in the argument's schema."""
    TRUE = 6
    FALSE = 7
    OTHER = 8
    """A value that the request does not determine."""


class Tag(IntEnum):
    """Whether a word lies outside the values of an argument, begins one, or continues one."""

    OUTSIDE = 0
    BEGINS = 1
    INSIDE = 2
