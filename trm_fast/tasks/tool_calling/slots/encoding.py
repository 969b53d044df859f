"""Encodes a conversation as token ids with roles, and finds the spans of values in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import ROLES, Conversation, Turn
from trm_fast.tasks.tool_calling.text.tokenizer import BEGIN, END, ROLE_TOKENS, Tokenizer

RECENCY = 4
NUM_ROLES = 1 + RECENCY * len(ROLES)
"""Role 0 is for begin, end and padding. The others combine the role of a turn with its age: 0 for the last turn, 1 and
2 for those before it, and 3 for all older ones."""


@dataclass(frozen=True)
class Segment:
    """One turn within a row: its role, the position of its first token, its text, and the characters of each token."""

    role: str
    first: int
    text: str
    offsets: list[tuple[int, int]]


@dataclass(frozen=True)
class Row:
    """A conversation as token ids and roles; ``cut`` says whether turns are missing or shortened."""

    ids: list[int]
    roles: list[int]
    segments: list[Segment]
    cut: bool


def encode(conversation: Conversation, tokenizer: Tokenizer, seq_len: int, response_tokens: int) -> Row:
    """Encodes a conversation: a begin token, the turns, an end token.

    Args:
        conversation: its tools are not part of the row.
        tokenizer: splits the turns into tokens.
        seq_len: the maximum number of positions. If the turns are too long, the oldest ones are left out.
        response_tokens: of a tool's result only these first tokens are kept.
    """
    free, parts, cut = seq_len - 2, [], False
    for age, turn in enumerate(reversed(conversation.turns)):
        if free < 2:
            cut = True
            break
        text = turn_text(turn)
        ids, offsets = tokenizer.encode(text)
        if turn.role == "tool_response":
            ids, offsets = ids[:response_tokens], offsets[:response_tokens]
        if len(ids) > free - 1:
            ids, offsets, cut = ids[-(free - 1) :], offsets[-(free - 1) :], True
        role = 1 + min(age, RECENCY - 1) * len(ROLES) + ROLES.index(turn.role)
        parts.append((turn.role, role, text, [tokenizer.special(ROLE_TOKENS[turn.role]), *ids], offsets))
        free -= 1 + len(ids)
    row_ids, roles, segments = [BEGIN], [0], []
    for name, role, text, ids, offsets in reversed(parts):
        segments.append(Segment(name, len(row_ids) + 1, text, offsets))
        row_ids += ids
        roles += [role] * len(ids)
    return Row([*row_ids, END], [*roles, 0], segments, cut)


def turn_text(turn: Turn) -> str:
    """The text of a turn as the model reads it: calls and results without the brackets and quotes of JSON."""
    if turn.call is not None:
        return f"{turn.call.name} {_plain(dict(turn.call.arguments))}"
    if turn.role != "tool_response":
        return turn.text
    try:
        return _plain(json.loads(turn.text))
    except ValueError:
        return turn.text


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return str(value)


def find_spans(row: Row, value: str, roles: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """The positions (first, last) of a value in turns with one of the ``roles``, ignoring case, latest first."""
    pattern = value_pattern(value, exact=False)
    for segment in reversed(row.segments):
        if segment.role in roles:
            for match in reversed(list(pattern.finditer(segment.text))):
                if (span := _positions(segment, *match.span())) is not None:
                    yield span


def value_pattern(value: str, *, exact: bool) -> re.Pattern[str]:
    """A pattern for a value between word boundaries. A number also matches with a dollar sign and with commas."""
    inner = re.escape(value)
    if value.isdecimal() and len(value) > 3:
        grouped = f"{int(value):,}"
        inner = rf"\$?(?:{inner}|{grouped})"
    return re.compile(rf"(?<!\w){inner}(?!\w)", 0 if exact else re.IGNORECASE)


def plain_number(text: str) -> str:
    """A number without dollar sign and commas (``$1,720`` as ``1720``); any other text unchanged."""
    return re.sub(r"[$,]", "", text) if re.fullmatch(r"\$?\d{1,3}(,\d{3})*(\.\d+)?|\$\d+(\.\d+)?", text) else text


def _positions(segment: Segment, begin: int, end: int) -> tuple[int, int] | None:
    """The first and last token of the characters from ``begin`` to ``end``, not counting a leading space; None if no
    tokens cover exactly these."""
    first = last = None
    for i, (b, e) in enumerate(segment.offsets):
        start = b + len(segment.text[b:e]) - len(segment.text[b:e].lstrip())
        if start == begin and e > start and first is None:
            first = i
        if e == end and e > b:
            last = i
    if first is None or last is None or last < first:
        return None
    return segment.first + first, segment.first + last
