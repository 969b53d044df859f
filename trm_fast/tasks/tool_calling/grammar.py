"""Calls as tokens, and which token may come next: what is generated names an offered tool and its own arguments.

A call is ``<tool_call> NAME (<sep> ARGUMENT <mask> VALUE (<mask> FURTHER ITEM)*)* </tool_call>``: marks no text can
hold stand for JSON's brackets and quotes, so that any text can be a value and JSON is written from the parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.tool_calling.conversation import Call, Tool
from trm_fast.tasks.tool_calling.tokenizer import END, FIRST_BYTE, Tokenizer
from trm_fast.tasks.tool_calling.values import kind_of

CALL, STOP, NEXT, IS, REPLY = (
    Tokenizer.special(name) for name in ("<tool_call>", "</tool_call>", "<sep>", "<mask>", "<assistant>")
)
MOST_CALLS = 6
LONGEST_VALUE = 40
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d{1,17})?")
_NUMBER_SO_FAR = re.compile(r"-?(?:(?:0|[1-9]\d{0,17})(?:\.\d{0,17})?)?")
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_INTEGER_SO_FAR = re.compile(r"-?(?:0|[1-9]\d{0,17})?")


def call_tokens(calls: Iterable[Call], tokenizer: Tokenizer) -> list[int]:
    """The tokens of calls, without the end."""
    made: list[int] = []
    for call in calls:
        made += [CALL, *tokenizer.encode(call.name).ids]
        for name, value in call.arguments.items():
            made += [NEXT, *tokenizer.encode(name).ids]
            for item in value if isinstance(value, list) else [value]:
                made += [IS, *tokenizer.encode(_written(item)).ids]
        made.append(STOP)
    return made


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class Grammar:
    """What may follow a beginning of calls to some tools, or of a reply where ``replies`` are allowed; stateless, so
    that any search can use it. ``request``: the text in which most values stand."""

    def __init__(
        self, tools: Sequence[Tool], tokenizer: Tokenizer, *, replies: bool = False, request: str = ""
    ) -> None:
        self.request = " ".join(request.casefold().split())
        self.tokenizer, self.replies = tokenizer, replies
        self.tools = {tool.name: tool for tool in tools}
        self.names = {name: tuple(tokenizer.encode(name).ids) for name in self.tools}
        self.keys = {
            tool.name: {key: tuple(tokenizer.encode(key).ids) for key in tool.parameters["properties"]}
            for tool in tools
        }  # fmt: skip
        self.text = list(range(FIRST_BYTE, tokenizer.size))
        self.pieces = [piece_of(tokenizer, i).replace("▁", " ").casefold() for i in range(tokenizer.size)]
        self.numeric = [i for i in self.text if re.fullmatch(r"[▁ ]?[-.\d]*", piece_of(tokenizer, i))]

    def allowed(self, said: Sequence[int]) -> list[int]:
        """Ids that may follow; [] behind the end."""
        if not said:
            return ([CALL] if self.tools else []) + ([REPLY] if self.replies else []) or [END]
        if said[-1] == END:
            return []
        if said[0] == REPLY:
            return [*self.text, END]
        calls = _split(said, CALL)[1:]
        if said[-1] == STOP:
            return [END, CALL] if len(calls) < MOST_CALLS else [END]
        parts = _split(calls[-1], NEXT)
        if len(parts) == 1:
            name = self._named(parts[0], self.names)
            return _continued(parts[0], self.names.values()) + (self._behind(name, []) if name else [])
        name = self._named(parts[0], self.names)
        assert name is not None
        return self._in_argument(name, parts[1:])

    def strays(self, said: Sequence[int], choices: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Which of the allowed tokens make a free text a value that does not stand in the request."""
        parts = _split(_split(said, CALL)[-1], NEXT)
        name = self._named(parts[0], self.names)
        key_tokens, *items = _split(parts[-1], IS)
        key = self._named(key_tokens, self.keys[name]) if name and len(parts) > 1 and items else None
        if name is None or key is None or STOP in said[-1:] or not self._free(name, key):
            return np.zeros(len(choices), dtype=np.bool_)
        before = " ".join(self._text(items[-1]).casefold().split())
        return np.array([
            i >= FIRST_BYTE and not self.pieces[i].startswith("<0x") and
            (before + self.pieces[i]).strip() not in self.request for i in choices
        ])  # fmt: skip

    def _free(self, name: str, key: str) -> bool:
        schema = self.tools[name].parameters["properties"][key]
        schema = (schema.get("items") or {"type": "string"}) if kind_of(schema) == "array" else schema
        return kind_of(schema) == "string" and not schema.get("enum")

    def _in_argument(self, name: str, parts: list[list[int]]) -> list[int]:
        keys = self.keys[name]
        used = [self._named(_split(part, IS)[0], keys) or "" for part in parts[:-1]]
        key_tokens, *items = _split(parts[-1], IS)
        open_keys = {key: keys[key] for key in self._open(name, used)}
        key = self._named(key_tokens, open_keys)
        schema: Mapping[str, Any] = self.tools[name].parameters["properties"][key] if key else {}
        behind = self._behind(name, [*used, key]) if key else []
        is_list = kind_of(schema) == "array"
        if not items:
            ready = [IS, *(behind if is_list else [])] if key else []
            return _continued(key_tokens, open_keys.values()) + ready
        schema = (schema.get("items") or {"type": "string"}) if is_list else schema
        following, complete = self._value(items[-1], schema)
        return following + ([*behind, *([IS] if is_list and len(items) < LONGEST_VALUE else [])] if complete else [])

    def _value(self, tokens: list[int], schema: Mapping[str, Any]) -> tuple[list[int], bool]:
        """Tokens that go on with a value, and whether it may end here."""
        kind, choices = kind_of(schema), schema.get("enum")
        if isinstance(choices, list) and choices:
            return self._choice(tokens, [_written(choice) for choice in choices])
        if kind in ("boolean", "null", "object", "array"):
            closed = {"boolean": ["true", "false"], "null": ["null"], "object": ["{}"], "array": ["[]"]}
            return self._choice(tokens, closed[kind])
        if kind in ("integer", "number"):
            whole, so_far = (_INTEGER, _INTEGER_SO_FAR) if kind == "integer" else (_NUMBER, _NUMBER_SO_FAR)
            before = self._text(tokens)
            fitting = [i for i in self.numeric if so_far.fullmatch(after := self._text([*tokens, i])) and
                       (len(after) > len(before) or not tokens)]  # fmt: skip
            return fitting, bool(whole.fullmatch(before))
        return (self.text if len(tokens) < LONGEST_VALUE else []), bool(tokens)

    def _choice(self, tokens: list[int], texts: list[str]) -> tuple[list[int], bool]:
        encoded = [tuple(self.tokenizer.encode(text).ids) for text in texts]
        return _continued(tokens, encoded), tuple(tokens) in encoded

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens).strip()

    def _open(self, name: str, used: Sequence[str]) -> list[str]:
        """Arguments that may come next: those behind the last one, up to the first that is required."""
        keys, required = list(self.keys[name]), self.tools[name].parameters["required"]
        rest = keys[keys.index(used[-1]) + 1 :] if used else keys
        first = next((i for i, key in enumerate(rest) if key in required), len(rest))
        return rest[: first + 1]

    def _behind(self, name: str, used: Sequence[str]) -> list[int]:
        rest = self._open(name, used)
        needed = any(key in self.tools[name].parameters["required"] for key in rest)
        return ([NEXT] if rest else []) + ([] if needed else [STOP])

    def reply(self, said: Sequence[int]) -> str:
        """The text of what was said, where it is a reply."""
        return self._text([i for i in said[1:] if i != END]) if said and said[0] == REPLY else ""

    @staticmethod
    def _named(tokens: Sequence[int], names: Mapping[str, tuple[int, ...]]) -> str | None:
        return next((name for name, ids in names.items() if ids == tuple(tokens)), None)

    def calls(self, said: Sequence[int]) -> list[Call]:
        """The calls of what was said; one that was cut short loses its last, unfinished argument."""
        made = []
        for tokens in _split([i for i in said if i != END], CALL)[1:]:
            finished = bool(tokens) and tokens[-1] == STOP
            parts = _split([i for i in tokens if i != STOP], NEXT)
            name = self._named(parts[0], self.names)
            if name is None:
                continue
            fields = parts[1:] if finished else parts[1:-1]
            found = {}
            for part in fields:
                key_tokens, *items = _split(part, IS)
                key = self._named(key_tokens, self.keys[name])
                if key is not None:
                    found[key] = self._read(items, self.tools[name].parameters["properties"][key])
            made.append(Call(name, found))
        return made

    def _read(self, items: list[list[int]], schema: Mapping[str, Any]) -> Any:
        texts = [self._text(item) for item in items]
        if kind_of(schema) == "array":
            return [_value_of(text, schema.get("items") or {"type": "string"}) for text in texts]
        return _value_of(texts[0] if texts else "", schema)


def _value_of(text: str, schema: Mapping[str, Any]) -> Any:
    """The value that was written as ``text``: a choice as it stands, a string as it is, all else from JSON."""
    for choice in schema.get("enum") or []:
        if _written(choice) == text:
            return choice
    if kind_of(schema) == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def piece_of(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token, its leading space shown as ``▁`` where the tokenizer has one."""
    pieces = getattr(tokenizer, "pieces", None)
    return pieces[token] if pieces is not None else tokenizer.decode([token])


def _split(tokens: Sequence[int], mark: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == mark:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _continued(tokens: Sequence[int], choices: Iterable[tuple[int, ...]]) -> list[int]:
    """Next tokens of the choices that begin so."""
    n = len(tokens)
    return list(dict.fromkeys(c[n] for c in choices if len(c) > n and c[:n] == tuple(tokens)))
