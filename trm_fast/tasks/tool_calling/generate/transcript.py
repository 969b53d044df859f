"""Encodes a conversation for a causal model: its tools, its turns word by word, and the symbols that are written.

A symbol is a piece of the vocabulary, a mark, or a word, a tool or an argument of this conversation. The symbol of one
of these is ``first_position`` plus the first position that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from trm_fast.tasks.base import IGNORE, Array
from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.generate.symbols import MARKS, Symbol, ValueCodec, joined
from trm_fast.tasks.tool_calling.select import encoding
from trm_fast.tasks.tool_calling.select.request import Request, RequestLimits
from trm_fast.tasks.tool_calling.text.finding import TurnWords
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon
from trm_fast.tasks.tool_calling.text.relevance import nearest_first
from trm_fast.tasks.tool_calling.text.tokenizer import END, ROLE_TOKENS, Tokenizer

LEARNED = ("assistant", "tool_call")
"""Roles of the turns that the model learns to write."""
CALL, ITEM, REPLY = (Tokenizer.special(name) for name in ("<tool_call>", "<sep>", "<assistant>"))
THOUGHT_MARKS = {name: Tokenizer.special(name) for name in ("<think>", "</think>")}
"""The symbols around a thought, by their text."""
_THINK_TAGS = re.compile("(</?think>)")
EARLIER, MARK, WRITTEN_TOOL, WRITTEN_ARGUMENT, WRITTEN_WORD, PIECE = range(encoding.NUM_ROLES, encoding.NUM_ROLES + 6)
"""Further roles of a position: a word of a turn other than the request; and, written by the model, a mark, a tool, an
argument, a word and a piece of the vocabulary."""
NUM_ROLES = encoding.NUM_ROLES + 6
RESPONSE_WORDS = 48
"""The number of words of a tool's result that are read."""
ARRAYS = ("inputs", "roles", "features", "stems", "links", "symbols", "sources", "calls")


@dataclass(frozen=True)
class RowLimits:
    """The maximum numbers of positions, tools and arguments per row, and of tokens per position (``bag``).
    ``vocab_size`` is the number of the vocabulary's symbols; ``thoughts`` is that of the task."""

    positions: int
    tools: int
    arguments: int
    bag: int
    vocab_size: int
    thoughts: bool = False

    @property
    def first_position(self) -> int:
        """The symbol of what position 0 holds."""
        return self.vocab_size + len(MARKS)

    @property
    def request(self) -> RequestLimits:
        """The limits of the request alone: it may have as many words as a row has positions."""
        words = self.positions
        return RequestLimits(1 + words + 2 * self.tools + self.arguments, words, self.tools, self.arguments, self.bag)


class Transcript:
    """The arrays of a conversation, L = ``limits.positions`` positions, of which ``length`` are used.

    ``inputs`` int32 (L, bag): the tokens of a position; ``roles`` int32 (L,); ``features`` float32 (L, F); ``stems``
    int32 (L, S): the stems of a word or an argument, and in a call those of the current argument; ``links`` float32 (L,
    T): each tool's share of a word's clause, or 1 for the tool that a position belongs to; ``symbols`` int32 (L,): the
    symbol of a position, 0 for none; ``sources`` bool (L,): which positions can be copied; ``calls`` int32 (L,): the
    number of a position's call, 0 outside calls; ``learned`` int32 (L,): the number in ``LEARNED``, from 1, of the role
    of the turn that a position's symbol belongs to, 0 for none.

    Args:
        conversation: what to encode.
        tokenizer: spells words and texts.
        lexicon: measures how tools fit the request.
        limits: the sizes of the arrays.
        max_positions: the maximum number of positions to use; by default all.
    """

    def __init__(
        self, conversation: Conversation, tokenizer: Tokenizer, lexicon: Lexicon, limits: RowLimits,
        max_positions: int | None = None,
    ) -> None:  # fmt: skip
        L = limits.positions
        self.limits, self.length, self.cut = limits, 0, False
        self.inputs, self.roles = np.zeros((L, limits.bag), dtype=np.int32), np.zeros(L, dtype=np.int32)
        self.features = np.zeros((L, encoding.NUM_FEATURES), dtype=np.float32)
        self.stems, self.links = np.zeros((L, encoding.NUM_STEMS), np.int32), np.zeros((L, limits.tools), np.float32)
        self.symbols, self.sources = np.zeros(L, dtype=np.int32), np.zeros(L, dtype=np.bool_)
        self.calls, self.learned = np.zeros(L, dtype=np.int32), np.zeros(L, dtype=np.int32)
        self.codec = ValueCodec([], tokenizer, limits.vocab_size)
        self.tool_positions: dict[str, int] = {}
        self.argument_positions: dict[tuple[str, str], int] = {}
        self.first: dict[str, int] = {}  # the first position of each word
        self._words: dict[int, str] = {}
        self._tool, self._argument, self._call = -1, -1, 0  # positions, and the number of the call
        self._calls = 0
        request = Request.of(conversation.query, conversation.tools, limits.request, lexicon)
        self._encoded = encoding.EncodedRequest(request, limits.request, lexicon, tokenizer.ids)
        self.cut = request.cut
        self._add_encoded(0)
        self.tools = nearest_first(conversation.query, request.tools, lexicon)
        self._add_tools(request)
        self._add_turns(conversation.all_turns, request, L if max_positions is None else max_positions)
        del self._encoded  # as large as the transcript, and no longer needed

    def _add(self, role: int, bag: Sequence[int] | Array) -> int:
        """Appends a position with the tokens of ``bag``; returns its index."""
        index, kept = self.length, bag[: self.limits.bag]
        self.inputs[index, : len(kept)], self.roles[index] = kept, role
        self.length += 1
        return index

    def _add_encoded(self, position: int) -> int:
        """Appends a copy of a position of the encoded request; returns its index."""
        index = self._add(int(self._encoded.roles[position]), self._encoded.bags[position])
        self.features[index], self.stems[index] = self._encoded.features[position], self._encoded.stems[position]
        return index

    def _add_tools(self, request: Request) -> None:
        encoded, number = self._encoded, {tool.name: t for t, tool in enumerate(request.tools)}
        for tool in self.tools:
            t = number[tool.name]
            position = int(encoded.tool_places[t])
            self.tool_positions[tool.name] = self._add_encoded(position)
            sources = [self.tool_positions[tool.name]]
            if tool.description:
                self.links[self._add_encoded(position + 1), t] = 1.0
            for i, (owner, name) in enumerate(request.arguments):
                if owner == t:
                    sources.append(self._add_encoded(int(encoded.field_places[i])))
                    self.argument_positions[tool.name, name] = sources[-1]
            self.links[sources, t], self.sources[sources] = 1.0, True
            self.symbols[sources] = [self.limits.first_position + index for index in sources]

    def _add_turns(self, turns: Sequence[Turn], request: Request, max_positions: int) -> None:
        """Appends the turns. If they are too long, the oldest ones and the first words of the oldest remaining one are
        left out."""
        read = [turn_words(turn) for turn in turns]
        last_user = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
        self.codec.turns = [words for words in read if words is not None]
        written = [self._turn_symbols(turns, i) for i in range(len(turns))]
        lengths = [len(s) if w is None else 1 + len(w) for s, w in zip(written, read, strict=True)]
        remaining, first = max_positions - self.length, len(turns)
        while first > 0 and lengths[first - 1] <= remaining:
            first -= 1
            remaining -= lengths[first]
        if first > 0:
            self.cut = True
            words = read[first - 1]
            if words is not None and remaining >= 2:
                first -= 1
                read[first] = replace(words, spans=words.spans[1 - remaining :])
        self.codec.turns = [words for words in read[first:] if words is not None]
        for i in range(first, len(turns)):
            words = read[i]
            if words is None:
                # A word whose turn was cut is spelled in pieces.
                symbols = self._turn_symbols(turns, i) if self.cut else written[i]
                for symbol in symbols[: max_positions - self.length]:
                    self.write(symbol, turns[i].role)
                continue
            if self.length >= self.limits.positions:  # the words spelled in pieces took more positions
                self.cut = True
                return
            self._add(MARK, [Tokenizer.special(ROLE_TOKENS[turns[i].role])])
            self._add_words(words, len(request.words) if i == last_user else 0)

    def _add_words(self, words: TurnWords, encoded: int) -> None:
        """Appends the words of a turn. The last ``encoded`` of them are copied from the encoded request."""
        skipped = encoded - len(words)
        for i, word in enumerate(words.folded):
            if self.length >= self.limits.positions:
                self.cut = True
                return
            if skipped + i >= 0:
                index = self._add_encoded(1 + skipped + i)
                self.links[index] = self._encoded.shares[:, skipped + i]
            else:
                index = self._add(EARLIER, self.codec.tokenizer.ids(words.span_text(i, i)))
            self.sources[index] = True
            self.symbols[index] = self.limits.first_position + self.first.setdefault(word, index)
            self._words.setdefault(int(self.symbols[index]), word)

    def _turn_symbols(self, turns: Sequence[Turn], i: int) -> list[Symbol]:
        """The symbols that write turn ``i``, none unless the model wrote it. Consecutive calls share one end."""
        turn = turns[i]
        if turn.call is not None:
            first = i == 0 or turns[i - 1].call is None
            more = i + 1 < len(turns) and turns[i + 1].call is not None
            return [*([CALL] if first else []), *self._call_symbols(turn.call), *([] if more else [END])]
        return [REPLY, *self._reply_symbols(turn.text), END] if turn.role == "assistant" else []

    def _reply_symbols(self, text: str) -> list[Symbol]:
        """The symbols that write a text of the assistant."""
        if not self.limits.thoughts:
            return list(self.codec.tokenizer.ids(text))
        symbols: list[Symbol] = []
        for part in _THINK_TAGS.split(text.strip()):
            symbols += [THOUGHT_MARKS[part]] if part in THOUGHT_MARKS else self.codec.tokenizer.ids(part)
        return symbols

    def _call_symbols(self, call: Call) -> list[Symbol]:
        """``TOOL (ARGUMENT ITEM...)*``, with the arguments in the schema's order. A tool that is not offered is spelled
        in pieces, which the grammar never allows."""
        first = self.limits.first_position
        if call.name not in self.tool_positions:
            return list(self.codec.tokenizer.ids(call.name))
        symbols: list[Symbol] = [first + self.tool_positions[call.name]]
        tool = next(tool for tool in self.tools if tool.name == call.name)
        for name, schema in tool.arguments.items():
            if name in call.arguments and (position := self.argument_positions.get((call.name, name))) is not None:
                symbols += [first + position, *joined(self.codec.encode(call.arguments[name], schema), ITEM)]
        return symbols

    def write(self, symbol: Symbol, turn: str = "") -> None:
        """Appends a symbol of a turn with the role ``turn``."""
        if isinstance(symbol, str) and symbol not in self.first:  # its turn was cut
            pieces = self.codec.tokenizer.ids(symbol)
            for piece in pieces[:-1]:
                self.write(piece, turn)
            symbol = pieces[-1]
        first = self.limits.first_position
        number = first + self.first[symbol] if isinstance(symbol, str) else symbol
        if self.length >= self.limits.positions:
            self.cut = True
            return
        copied = number - first
        if number in (CALL, END):
            self._tool, self._argument, self._call = -1, -1, 0
        if copied < 0:
            is_mark = number in (CALL, END, ITEM, REPLY, *THOUGHT_MARKS.values()) or number >= self.limits.vocab_size
            index = self._add(MARK if is_mark else PIECE, [number])
        else:
            written = {encoding.TOOL: WRITTEN_TOOL, encoding.ARGUMENT: WRITTEN_ARGUMENT}
            role = written.get(int(self.roles[copied]), WRITTEN_WORD)
            index = self._add(role, self.inputs[copied])
            self.features[index] = self.features[copied]
            if role == WRITTEN_TOOL:
                self._tool, self._argument = copied, -1
                self._calls += 1
                self._call = self._calls
            elif role == WRITTEN_ARGUMENT:
                self._argument = copied
        self.symbols[index] = number
        self.learned[index] = LEARNED.index(turn) + 1 if turn in LEARNED else 0
        if self._argument >= 0:
            self.stems[index] = self.stems[self._argument]
        if self._tool >= 0:
            self.links[index] = self.links[self._tool]
        self.calls[index] = self._call

    def arrays(self, first: int = 0) -> dict[str, Array]:
        """The arrays' used positions, from ``first`` on."""
        return {name: getattr(self, name)[first : self.length] for name in ARRAYS}

    def labels(self, role_weights: Mapping[str, float]) -> tuple[Array, Array]:
        """The labels int32 (L,), and their weights in the loss float32 (L,), by the roles in ``LEARNED``. A label is
        the next position's symbol; ``IGNORE`` if its weight is 0."""
        by_role = np.array([0.0, *(role_weights[role] for role in LEARNED)], dtype=np.float32)
        weights = np.append(by_role[self.learned[1:]], np.float32(0))
        return np.where(weights > 0, np.append(self.symbols[1:], np.int32(0)), np.int32(IGNORE)), weights

    def symbol_word(self, symbol: int) -> Symbol:
        """The word of a symbol; the symbol itself if it is not a word."""
        return self._words.get(symbol, symbol)

    def fork(self) -> Transcript:
        """A copy that can continue with other symbols."""
        other = copy(self)
        for name in (*ARRAYS, "learned"):
            setattr(other, name, getattr(self, name).copy())
        return other


def turn_words(turn: Turn) -> TurnWords | None:
    """The words of a turn; None for a turn that the model writes."""
    if turn.call is not None or turn.role == "assistant":
        return None
    words = TurnWords.of(turn.text)
    return replace(words, spans=words.spans[:RESPONSE_WORDS]) if turn.role == "tool_response" else words


def in_canonical_order(conversation: Conversation, lexicon: Lexicon) -> Conversation:
    """A copy with the tools ordered by ``nearest_first``, and consecutive calls in the order of their tools."""
    tools: list[Tool] = nearest_first(conversation.query, conversation.tools, lexicon)
    order = {tool.name: i for i, tool in enumerate(tools)}
    turns: list[Turn] = []
    for _, group in groupby(conversation.turns, key=lambda turn: turn.call is not None):
        turns += sorted(group, key=lambda turn: order.get(turn.call.name, 0) if turn.call else 0)
    return replace(conversation, tools=tuple(tools), turns=tuple(turns))


def without_next_turn(conversation: Conversation) -> Conversation:
    """A copy without the next turn: it ends with the last user turn, or with the history of a decision."""
    turns = conversation.turns
    if conversation.decision is not None:
        return replace(conversation, decision=None, call=None, reply="")
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=len(turns) - 1)
    return replace(conversation, turns=turns[: last + 1])
