"""A conversation as token ids with roles; where a value stands in it."""

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
"""0 for begin, end and padding; else the turn's role and whether it is the last, one of the two before, or older."""


@dataclass(frozen=True)
class Segment:
    """The tokens of one turn within a row: their first position, the turn's text, and each token's characters."""

    role: str
    first: int
    text: str
    offsets: list[tuple[int, int]]


@dataclass(frozen=True)
class Row:
    ids: list[int]
    roles: list[int]
    segments: list[Segment]
    cut: bool


def encode(conversation: Conversation, tokenizer: Tokenizer, seq_len: int, response_tokens: int) -> Row:
    """Begin, the turns, end; the last ``seq_len`` positions of it. Results of tools are cut to their first
    ``response_tokens``; of what is too long the oldest turns go first. ``cut`` says that turns are gone or shortened.

    The tools are not among the positions, so no cut can take them.
    """
    room, parts, cut = seq_len - 2, [], False
    for age, turn in enumerate(reversed(conversation.turns)):
        if room < 2:
            cut = True
            break
        text = turn_text(turn)
        ids, offsets = tokenizer.encode(text)
        if turn.role == "tool_response":
            ids, offsets = ids[:response_tokens], offsets[:response_tokens]
        if len(ids) > room - 1:
            ids, offsets, cut = ids[-(room - 1) :], offsets[-(room - 1) :], True
        role = 1 + min(age, RECENCY - 1) * len(ROLES) + ROLES.index(turn.role)
        parts.append((turn.role, role, text, [tokenizer.special(ROLE_TOKENS[turn.role]), *ids], offsets))
        room -= 1 + len(ids)
    row_ids, roles, segments = [BEGIN], [0], []
    for name, role, text, ids, offsets in reversed(parts):
        segments.append(Segment(name, len(row_ids) + 1, text, offsets))
        row_ids += ids
        roles += [role] * len(ids)
    return Row([*row_ids, END], [*roles, 0], segments, cut)


def turn_text(turn: Turn) -> str:
    """What a model reads of a turn: calls and results without the brackets and quotes of JSON."""
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
    """Positions (first, last) where a value stands between word boundaries, in whatever case, in turns of some roles;
    the latest first."""
    pattern = value_pattern(value, exact=False)
    for segment in reversed(row.segments):
        if segment.role in roles:
            for match in reversed(list(pattern.finditer(segment.text))):
                if (span := _positions(segment, *match.span())) is not None:
                    yield span


def value_pattern(value: str, *, exact: bool) -> re.Pattern[str]:
    """A value between word boundaries; a plain number also with a dollar sign and thousands' commas."""
    inner = re.escape(value)
    if value.isdecimal() and len(value) > 3:
        grouped = f"{int(value):,}"
        inner = rf"\$?(?:{inner}|{grouped})"
    return re.compile(rf"(?<!\w){inner}(?!\w)", 0 if exact else re.IGNORECASE)


def plain_number(text: str) -> str:
    """``$1,720`` as ``1720``; any other text as it is."""
    return re.sub(r"[$,]", "", text) if re.fullmatch(r"\$?\d{1,3}(,\d{3})*(\.\d+)?|\$\d+(\.\d+)?", text) else text


def _positions(segment: Segment, begin: int, end: int) -> tuple[int, int] | None:
    """The tokens that are exactly the characters begin..end, a leading space aside; None where there are none."""
    first = last = None
    for i, (b, e) in enumerate(segment.offsets):
        at = b + len(segment.text[b:e]) - len(segment.text[b:e].lstrip())
        if at == begin and e > at and first is None:
            first = i
        if e == end and e > b:
            last = i
    if first is None or last is None or last < first:
        return None
    return segment.first + first, segment.first + last
