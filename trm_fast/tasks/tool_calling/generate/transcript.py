"""A conversation as positions of a causal model: its tools, its turns word by word, and the symbols that are written.

A symbol is a piece of the vocabulary, a mark, or what a position of this row holds: a word, a tool or an argument,
whose symbol is the size of the vocabulary plus the first position that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from trm_fast.tasks.base import IGNORE, Array
from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.generate.symbols import MARKS, Symbol, ValueCodec, flattened
from trm_fast.tasks.tool_calling.select import encoding
from trm_fast.tasks.tool_calling.select.request import Request, RequestLimits
from trm_fast.tasks.tool_calling.text.finding import TurnWords
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon
from trm_fast.tasks.tool_calling.text.relevance import nearest_first
from trm_fast.tasks.tool_calling.text.tokenizer import END, ROLE_TOKENS, Tokenizer

WEIGHTS: Mapping[str, float] = {
    "system": 0.0, "user": 0.0, "tool_response": 0.0, "assistant": 1.0, "tool_call": 2.0,
}  # fmt: skip
"""How much of a turn's loss counts."""
CALL, ITEM, REPLY = (Tokenizer.special(name) for name in ("<tool_call>", "<sep>", "<assistant>"))
EARLIER, MARK, WRITTEN_TOOL, WRITTEN_ARGUMENT, WRITTEN_WORD, PIECE = range(encoding.NUM_ROLES, encoding.NUM_ROLES + 6)
"""What further positions are: a word before the request; in what is written a mark, a tool, an argument, a word and a
piece of the vocabulary."""
NUM_ROLES = encoding.NUM_ROLES + 6
RESPONSE_WORDS = 48
"""Of a tool's result that are read."""
ARRAYS = ("inputs", "roles", "features", "stems", "links", "symbols", "sources", "calls")


@dataclass(frozen=True)
class RowLimits:
    """Most of a row: positions, tools, their arguments, tokens of a position; ``vocab_size``: the tokenizer's part."""

    positions: int
    tools: int
    arguments: int
    bag: int
    vocab_size: int

    @property
    def first_own(self) -> int:
        """The symbol of position 0."""
        return self.vocab_size + len(MARKS)

    @property
    def request(self) -> RequestLimits:
        """Of the request's own arrays: as many words as a row has positions."""
        words = self.positions
        return RequestLimits(1 + words + 2 * self.tools + self.arguments, words, self.tools, self.arguments, self.bag)


class Transcript:
    """Arrays of ``limits.positions`` positions, ``length`` of them used. ``write`` appends symbols.

    ``inputs`` int32 (L, bag); ``roles`` (L,); ``features`` float32 (L, F); ``stems`` (L, S): of a word or an argument
    its own, of a position in a call those of the argument that is written; ``links`` float32 (L, T): how much of a
    word's clause is a tool's, or which tool is called; ``symbols`` (L,): the symbol of a position, 0 for none;
    ``sources`` bool (L,): what can be copied; ``calls`` (L,): the number of the call that a position is in, 0 for none;
    ``weights`` (L,): how much writing this position counts.
    """

    def __init__(
        self, conversation: Conversation, tokenizer: Tokenizer, lexicon: Lexicon, limits: RowLimits,
        most: int | None = None,
    ) -> None:  # fmt: skip
        L = limits.positions
        self.limits, self.length, self.cut = limits, 0, False
        self.inputs, self.roles = np.zeros((L, limits.bag), dtype=np.int32), np.zeros(L, dtype=np.int32)
        self.features = np.zeros((L, encoding.NUM_FEATURES), dtype=np.float32)
        self.stems, self.links = np.zeros((L, encoding.NUM_STEMS), np.int32), np.zeros((L, limits.tools), np.float32)
        self.symbols, self.sources = np.zeros(L, dtype=np.int32), np.zeros(L, dtype=np.bool_)
        self.calls, self.weights = np.zeros(L, dtype=np.int32), np.zeros(L, dtype=np.float32)
        self.codec = ValueCodec([], tokenizer, limits.vocab_size)
        self.tool_positions: dict[str, int] = {}
        self.argument_positions: dict[tuple[str, str], int] = {}
        self.first: dict[str, int] = {}  # position of each word
        self._words: dict[int, str] = {}
        self._tool, self._argument, self._call = -1, -1, 0  # positions and number of those that are being written
        self._calls = 0
        request = Request.of(conversation.query, conversation.tools, limits.request, lexicon)
        self._encoded = encoding.EncodedRequest(request, limits.request, lexicon, tokenizer.ids)
        self.cut = request.cut
        self._add_encoded(0)
        self.tools = nearest_first(conversation.query, request.tools, lexicon)
        self._add_tools(request)
        self._add_turns(conversation.all_turns, request, L if most is None else most)
        del self._encoded  # as large as the row itself, and needed no more

    def _add(self, role: int, bag: Sequence[int] | Array) -> int:
        """One position more, with some tokens."""
        at, kept = self.length, bag[: self.limits.bag]
        self.inputs[at, : len(kept)], self.roles[at] = kept, role
        self.length += 1
        return at

    def _add_encoded(self, position: int) -> int:
        """One position more, which is one of the request's arrays."""
        at = self._add(int(self._encoded.roles[position]), self._encoded.bags[position])
        self.features[at], self.stems[at] = self._encoded.features[position], self._encoded.stems[position]
        return at

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
            self.symbols[sources] = [self.limits.first_own + at for at in sources]

    def _add_turns(self, turns: Sequence[Turn], request: Request, most: int) -> None:
        """Of what is too long the oldest turns go first, of the oldest one that stays its first words."""
        read = [words_of(turn) for turn in turns]
        last_user = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
        every = ValueCodec([words for words in read if words is not None], self.codec.tokenizer, self.limits.vocab_size)
        written = [self._symbols_of(turns, i, every) for i in range(len(turns))]
        lengths = [len(s) if w is None else 1 + len(w) for s, w in zip(written, read, strict=True)]
        left, first = most - self.length, len(turns)
        while first > 0 and lengths[first - 1] <= left:
            first -= 1
            left -= lengths[first]
        if first > 0:
            self.cut = True
            words = read[first - 1]
            if words is not None and left >= 2:
                first -= 1
                read[first] = replace(words, spans=words.spans[1 - left :])
        self.codec.turns = [words for words in read[first:] if words is not None]
        for i in range(first, len(turns)):
            words = read[i]
            if words is None:
                symbols = self._symbols_of(turns, i, self.codec) if self.cut else written[i]  # what was cut is spelt
                for symbol in symbols[: most - self.length]:
                    self.write(symbol, WEIGHTS[turns[i].role])
                continue
            if self.length >= self.limits.positions:  # what was to be copied from turns that are cut takes more pieces
                self.cut = True
                return
            self._add(MARK, [Tokenizer.special(ROLE_TOKENS[turns[i].role])])
            self._add_words(words, len(request.words) if i == last_user else 0)

    def _add_words(self, words: TurnWords, encoded: int) -> None:
        """The words of a turn, of which the last ``encoded`` are those of the request's arrays."""
        skipped = encoded - len(words)
        for i, word in enumerate(words.folded):
            if self.length >= self.limits.positions:
                self.cut = True
                return
            if skipped + i >= 0:
                at = self._add_encoded(1 + skipped + i)
                self.links[at] = self._encoded.shares[:, skipped + i]
            else:
                at = self._add(EARLIER, self.codec.tokenizer.ids(words.cut(i, i)))
            self.sources[at] = True
            self.symbols[at] = self.limits.first_own + self.first.setdefault(word, at)
            self._words.setdefault(int(self.symbols[at]), word)

    def _symbols_of(self, turns: Sequence[Turn], i: int, codec: ValueCodec) -> list[Symbol]:
        """The symbols of a turn of the assistant's; calls in a row end with one end together."""
        turn = turns[i]
        if turn.call is not None:
            first = i == 0 or turns[i - 1].call is None
            more = i + 1 < len(turns) and turns[i + 1].call is not None
            return [*([CALL] if first else []), *self._symbols_of_call(turn.call, codec), *([] if more else [END])]
        return [REPLY, *codec.tokenizer.ids(turn.text), END] if turn.role == "assistant" else []

    def _symbols_of_call(self, call: Call, codec: ValueCodec) -> list[Symbol]:
        """``TOOL (ARGUMENT ITEM...)*``; arguments in the schema's order. A tool that is not offered is spelt in pieces,
        which no grammar allows."""
        own = self.limits.first_own
        if call.name not in self.tool_positions:
            return list(codec.tokenizer.ids(call.name))
        symbols: list[Symbol] = [own + self.tool_positions[call.name]]
        tool = next(tool for tool in self.tools if tool.name == call.name)
        for name, schema in tool.parameters["properties"].items():
            if name in call.arguments and (position := self.argument_positions.get((call.name, name))) is not None:
                symbols += [own + position, *flattened(codec.encode(call.arguments[name], schema), ITEM)]
        return symbols

    def write(self, symbol: Symbol, weight: float = 0.0) -> None:
        """Appends one symbol."""
        if isinstance(symbol, str) and symbol not in self.first:  # cut off, with its turn
            pieces = self.codec.tokenizer.ids(symbol)
            for piece in pieces[:-1]:
                self.write(piece, weight)
            symbol = pieces[-1]
        own = self.limits.first_own
        number = own + self.first[symbol] if isinstance(symbol, str) else symbol
        if self.length >= self.limits.positions:
            self.cut = True
            return
        copied = number - own
        if number in (CALL, END):
            self._tool, self._argument, self._call = -1, -1, 0
        if copied < 0:
            is_mark = number in (CALL, END, ITEM, REPLY) or number >= self.limits.vocab_size
            at = self._add(MARK if is_mark else PIECE, [number])
        else:
            written = {encoding.TOOL: WRITTEN_TOOL, encoding.ARGUMENT: WRITTEN_ARGUMENT}
            role = written.get(int(self.roles[copied]), WRITTEN_WORD)
            at = self._add(role, self.inputs[copied])
            self.features[at] = self.features[copied]
            if role == WRITTEN_TOOL:
                self._tool, self._argument = copied, -1
                self._calls += 1
                self._call = self._calls
            elif role == WRITTEN_ARGUMENT:
                self._argument = copied
        self.symbols[at], self.weights[at] = number, weight
        if self._argument >= 0:
            self.stems[at] = self.stems[self._argument]
        if self._tool >= 0:
            self.links[at] = self.links[self._tool]
        self.calls[at] = self._call

    def arrays(self, first: int = 0) -> dict[str, Array]:
        """The used positions from one on."""
        return {name: getattr(self, name)[first : self.length] for name in ARRAYS}

    def labels(self) -> tuple[Array, Array]:
        """(L,) each: the symbol that is written behind each position, where that counts, and how much it does."""
        weights = np.append(self.weights[1:], np.float32(0))
        return np.where(weights > 0, np.append(self.symbols[1:], np.int32(0)), np.int32(IGNORE)), weights

    def word_of(self, symbol: int) -> Symbol:
        """The word that a symbol's position holds, or the symbol itself."""
        return self._words.get(symbol, symbol)

    def fork(self) -> Transcript:
        """A copy that can go on otherwise."""
        other = copy(self)
        for name in (*ARRAYS, "weights"):
            setattr(other, name, getattr(self, name).copy())
        return other


def words_of(turn: Turn) -> TurnWords | None:
    """The words of a turn that are read one by one, None for one of the assistant's."""
    if turn.call is not None or turn.role == "assistant":
        return None
    words = TurnWords.of(turn.text)
    return replace(words, spans=words.spans[:RESPONSE_WORDS]) if turn.role == "tool_response" else words


def arranged(conversation: Conversation, lexicon: Lexicon) -> Conversation:
    """Tools as they are near to the last request, which says more than the order in which they are offered; calls made
    together in the order of their tools."""
    tools: list[Tool] = nearest_first(conversation.query, conversation.tools, lexicon)
    order = {tool.name: i for i, tool in enumerate(tools)}
    turns: list[Turn] = []
    for _, group in groupby(conversation.turns, key=lambda turn: turn.call is not None):
        turns += sorted(group, key=lambda turn: order.get(turn.call.name, 0) if turn.call else 0)
    return replace(conversation, tools=tuple(tools), turns=tuple(turns))


def prompt_of(conversation: Conversation) -> Conversation:
    """The conversation up to its last user turn or result, without what comes next."""
    turns = conversation.turns
    if conversation.decision is not None:
        return replace(conversation, decision=None, call=None, reply="")
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=len(turns) - 1)
    return replace(conversation, turns=turns[: last + 1])
