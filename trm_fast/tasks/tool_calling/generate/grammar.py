"""The grammar of calls: which symbols may follow, so that every output names offered tools with valid values.

A sequence of calls is ``<tool_call> (TOOL (ARGUMENT VALUE (<sep> ITEM)*)*)+ END``. Tools, arguments and words of the
conversation are symbols themselves, so no quotes or brackets are written, and any text can be a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Tool
from trm_fast.tasks.tool_calling.generate.symbols import DATE, DEFAULT, SINGULAR, Symbol, schema_default
from trm_fast.tasks.tool_calling.generate.transcript import CALL, ITEM, REPLY, THOUGHT_MARKS, Transcript
from trm_fast.tasks.tool_calling.text.tokenizer import END, FIRST_BYTE, Tokenizer
from trm_fast.tasks.tool_calling.text.values import json_type, literal_list

MAX_CALLS = 6
"""The maximum number of calls in a sequence."""
MAX_VALUE_LENGTH = 40
"""The maximum number of symbols in a text, and of items in a list."""
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d{1,17})?")
_NUMBER_SO_FAR = re.compile(r"-?(?:(?:0|[1-9]\d{0,17})(?:\.\d{0,17})?)?")
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_INTEGER_SO_FAR = re.compile(r"-?(?:0|[1-9]\d{0,17})?")
_CLOSED = {"boolean": ["true", "false"], "null": ["null"], "object": ["{}"], "array": ["[]"]}


class Grammar:
    """The grammar of calls to the tools of a transcript, and of replies in words if ``replies`` are allowed.

    It keeps no state of the sequence, so that any search can use it.
    """

    def __init__(self, transcript: Transcript, *, replies: bool = False) -> None:
        self.transcript, self.replies, self.codec = transcript, replies, transcript.codec
        self.tokenizer: Tokenizer = transcript.codec.tokenizer
        first = transcript.limits.first_position
        self.tools: dict[int, Tool] = {first + transcript.tool_positions[t.name]: t for t in transcript.tools}
        self.keys = {first + position: name for (_, name), position in transcript.argument_positions.items()}
        self.text = list(range(FIRST_BYTE, self.tokenizer.size))
        self.marks = list(THOUGHT_MARKS.values()) if transcript.limits.thoughts else []
        self.numeric = [i for i in self.text if re.fullmatch(r"[▁ ]?[-.\d]*", piece_text(self.tokenizer, i))]
        self._cache: dict[str, list[tuple[int, ...]]] = {}

    def allowed(self, symbols: Sequence[int]) -> list[int]:
        """The symbols that may follow ``symbols``; an empty list after the end."""
        if not symbols:
            return ([CALL] if self.tools else []) + ([REPLY] if self.replies else []) or [END]
        if symbols[0] == REPLY and CALL in symbols:
            symbols = symbols[symbols.index(CALL) :]
        if symbols[-1] == END:
            # A thought alone is no answer: the call that it prepared follows.
            is_thought = bool(self.marks) and symbols[0] == REPLY and symbols[-2] == self.marks[-1]
            return [CALL] if is_thought and self.tools else []
        if symbols[0] == REPLY:
            return [*self.text, *self.marks, END]
        calls, every = self._parsed(symbols), list(self.tools)
        if not calls:
            return every
        tool, fields = calls[-1]
        # Calls are in the order of the tools.
        further = every[self.transcript.tools.index(tool) :] if len(calls) < MAX_CALLS else []
        ends = [*further, END]
        if not fields:
            return self._after_argument(tool, None, ends)
        return self._in_value(tool, *fields[-1], ends)

    def _parsed(self, symbols: Sequence[int]) -> list[tuple[Tool, list[tuple[str, list[int]]]]]:
        """The tool of each call, with its arguments and the symbols of their values."""
        calls: list[tuple[Tool, list[tuple[str, list[int]]]]] = []
        for symbol in symbols:
            if symbol in self.tools:
                calls.append((self.tools[symbol], []))
            elif calls and symbol in self.keys:
                calls[-1][1].append((self.keys[symbol], []))
            elif calls and symbol != END:
                calls[-1][1][-1][1].append(symbol)
        return calls

    def _in_value(self, tool: Tool, key: str, symbols: list[int], ends: list[int]) -> list[int]:
        schema = tool.arguments[key]
        after = self._after_argument(tool, key, ends)
        default = self.codec.marks[DEFAULT]
        if symbols[:1] == [default]:
            return after
        items, is_list = _split(symbols, ITEM), json_type(schema) == "array"
        inner = {**(schema.get("items") or {"type": "string"}), "default": None} if is_list else schema
        following, complete = self._value(items[-1], inner)
        if is_list and len(items) == 1:
            more, whole = self._choice(symbols, self._literals(tool, key, schema))
            following, complete = list(dict.fromkeys(following + more)), complete or whole
            if whole:
                return following + after
        if not symbols:
            following = list(dict.fromkeys(following + ([default] if schema_default(schema) is not None else [])))
            return following + (after if is_list or complete else [])
        more = [ITEM] if is_list and len(items) < MAX_VALUE_LENGTH else []
        return following + (after + more if complete else [])

    def _value(self, symbols: list[int], schema: Mapping[str, Any]) -> tuple[list[int], bool]:
        """The symbols that may continue a value, and whether it may end here."""
        kind, choices = json_type(schema), schema.get("enum")
        if isinstance(choices, list) and choices:
            return self._choice(symbols, [self._symbols(self.codec.encode(c, schema)[0]) for c in choices])
        if kind in _CLOSED:
            return self._choice(symbols, [self.tokenizer.ids(text) for text in _CLOSED[kind]])
        if kind in ("integer", "number"):
            return self._number(symbols, schema)
        marks = {self.codec.marks[name]: name for name in (DATE, SINGULAR)}
        if not symbols:
            begun = [mark for mark, name in marks.items() if self._readable(name)]
            return begun + self._following([]) + self.text, False
        if symbols[0] in marks:
            return self._choice(symbols[1:], self._readable(marks[symbols[0]]))
        if symbols[0] >= self.transcript.limits.first_position:
            return self._following(symbols), True
        return (self.text if len(symbols) < MAX_VALUE_LENGTH else []), True

    def _number(self, symbols: list[int], schema: Mapping[str, Any]) -> tuple[list[int], bool]:
        numbers = self._cached(json_type(schema), lambda: self.codec.numbers({"type": json_type(schema)}))
        following, complete = self._choice(symbols, numbers)
        if symbols and symbols[0] >= self.transcript.limits.first_position:
            return following, complete
        whole, so_far = (_INTEGER, _INTEGER_SO_FAR) if json_type(schema) == "integer" else (_NUMBER, _NUMBER_SO_FAR)
        written = self._decoded(symbols)
        pieces = [i for i in self.numeric if so_far.fullmatch(longer := self._decoded([*symbols, i])) and
                  (len(longer) > len(written) or not symbols)]  # fmt: skip
        return following + pieces, bool(whole.fullmatch(written))

    def _readable(self, mark: str) -> list[tuple[int, ...]]:
        return self._cached(mark, lambda: self.codec.readable(mark))

    def _literals(self, tool: Tool, key: str, schema: Mapping[str, Any]) -> list[tuple[int, ...]]:
        return self._cached(f"{tool.name} {key}", lambda: self.codec.literals(schema))

    def _cached(self, name: str, find: Callable[[], list[tuple[str, ...]]]) -> list[tuple[int, ...]]:
        if name not in self._cache:
            self._cache[name] = [tuple(self._symbols(words)) for words in find()]
        return self._cache[name]

    def _following(self, symbols: Sequence[int]) -> list[int]:
        """The words of the conversation that continue those of ``symbols``."""
        words = [word for i in symbols if isinstance(word := self.transcript.symbol_word(i), str)]
        return self._symbols(self.codec.following(words))

    def _symbols(self, symbols: Iterable[Symbol]) -> list[int]:
        first = self.transcript.limits.first_position
        return [first + self.transcript.first[part] if isinstance(part, str) else part for part in symbols]

    def _choice(self, symbols: Sequence[int], choices: Sequence[Sequence[int]]) -> tuple[list[int], bool]:
        n, start = len(symbols), tuple(symbols)
        begun = [tuple(c) for c in choices if tuple(c[:n]) == start]
        return list(dict.fromkeys(c[n] for c in begun if len(c) > n)), start in begun

    def _decoded(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens).strip()

    def _after_argument(self, tool: Tool, key: str | None, ends: list[int]) -> list[int]:
        """The arguments that may follow ``key``: those up to the first required one. If none is required, also
        ``ends``."""
        positions = self.transcript.argument_positions
        names = [name for name in tool.parameters["properties"] if (tool.name, name) in positions]
        rest = names if key is None else names[names.index(key) + 1 :]
        required = next((i for i, name in enumerate(rest) if name in tool.parameters["required"]), None)
        following = rest if required is None else rest[: required + 1]
        symbols = [self.transcript.limits.first_position + positions[tool.name, name] for name in following]
        return symbols + (ends if required is None else [])

    def reply(self, symbols: Sequence[int]) -> str:
        """The text of a reply; "" if the symbols are calls."""
        if not symbols or symbols[0] != REPLY:
            return ""
        text, pieces, names = "", list[int](), {number: name for name, number in THOUGHT_MARKS.items()}
        for symbol in [*symbols[1 : symbols.index(CALL) if CALL in symbols else None], END]:
            if symbol == END or symbol in names:
                text += self.tokenizer.decode(pieces) + names.get(symbol, "")
                pieces = []
            else:
                pieces.append(symbol)
        return text.strip()

    def calls(self, symbols: Sequence[int]) -> list[Call]:
        """The distinct calls that symbols write. A call that is cut short loses its last, unfinished argument."""
        calls: list[Call] = []
        parsed = self._parsed(symbols)
        for i, (tool, fields) in enumerate(parsed):
            finished = i + 1 < len(parsed) or symbols[-1] == END
            whole = fields if finished else fields[:-1]
            call = Call(tool.name, {key: self._read(tool, key, value) for key, value in whole})
            if call not in calls:
                calls.append(call)
        return calls

    def _read(self, tool: Tool, key: str, symbols: list[int]) -> Any:
        schema = tool.arguments[key]
        default = [self.codec.marks[DEFAULT]]
        if json_type(schema) != "array" or symbols == default:
            return self.codec.decode([self.transcript.symbol_word(i) for i in symbols], schema)
        items = _split(symbols, ITEM) if symbols else []
        if len(items) == 1 and tuple(symbols) in self._literals(tool, key, schema):
            return literal_list(self.codec.text([self.transcript.symbol_word(i) for i in symbols]))
        inner = schema.get("items") or {"type": "string"}
        return [self.codec.decode([self.transcript.symbol_word(i) for i in item], inner) for item in items]


def piece_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token. A SentencePiece token shows its leading space as ``▁``."""
    pieces = getattr(tokenizer, "pieces", None)
    return pieces[token] if pieces is not None else tokenizer.decode([token])


def _split(symbols: Sequence[int], mark: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for symbol in symbols:
        if symbol == mark:
            parts.append([])
        else:
            parts[-1].append(symbol)
    return parts
