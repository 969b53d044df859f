"""A conversation as places of a causal model: its tools, its turns word by word, and what is said, symbol by symbol.

A symbol is a piece of the vocabulary, a mark, or what a place of this row holds: a word, a tool or an argument, whose
symbol is the size of the vocabulary plus the first place that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trm_fast.tasks.base import IGNORE, Array
from trm_fast.tasks.tool_calling import selection
from trm_fast.tasks.tool_calling.conversation import Call, Conversation, Turn
from trm_fast.tasks.tool_calling.lexical import Lexicon
from trm_fast.tasks.tool_calling.relevance import nearest_first
from trm_fast.tasks.tool_calling.selection import ARGUMENT, NUM_FEATURES, NUM_STEMS, START, TOOL, Places, Request, Sizes
from trm_fast.tasks.tool_calling.spoken import MARKS, Heard, Said, Spoken, flattened
from trm_fast.tasks.tool_calling.tokenizer import END, ROLE_TOKENS, Tokenizer
from trm_fast.tasks.tool_calling.turns import heard_of, with_next

WEIGHTS: Mapping[str, float] = {
    "system": 0.0, "user": 0.0, "tool_response": 0.0, "assistant": 1.0, "tool_call": 2.0,
}  # fmt: skip
"""How much of a turn's loss counts."""
CALL, ITEM, REPLY = (Tokenizer.special(name) for name in ("<tool_call>", "<sep>", "<assistant>"))
EARLIER, SAID_MARK, SAID_TOOL, SAID_ARGUMENT, SAID_WORD, SAID_PIECE = range(
    selection.NUM_ROLES, selection.NUM_ROLES + 6
)
NUM_ROLES = selection.NUM_ROLES + 6
ARRAYS = ("inputs", "roles", "features", "stems", "links", "symbols", "sources", "calls")


@dataclass(frozen=True)
class Room:
    """Most of a row: places, tools, their arguments, tokens of a place; ``vocab_size`` of the tokenizer's part."""

    places: int
    tools: int
    arguments: int
    bag: int
    vocab_size: int

    @property
    def first_own(self) -> int:
        """The symbol of place 0."""
        return self.vocab_size + len(MARKS)

    @property
    def sizes(self) -> Sizes:
        words = self.places
        return Sizes(1 + words + 2 * self.tools + self.arguments, words, self.tools, self.arguments, self.bag)


class Transcript:
    """Arrays of ``room.places`` places, ``length`` of them used. What is said goes on with ``say``.

    ``inputs`` int32 (L, bag); ``roles`` (L,); ``features`` float32 (L, F); ``stems`` (L, S): of a word or an argument
    its own, of a place in a call those of the argument that is spoken of; ``links`` float32 (L, T): how much of a
    word's clause is a tool's, or which tool is spoken of; ``symbols`` (L,): what a place says, 0 for nothing;
    ``sources`` bool (L,): what can be copied; ``calls`` (L,): the number of the call that a place is in, 0 for none;
    ``weights`` (L,): how much saying this place counts.
    """

    def __init__(
        self, conversation: Conversation, tokenizer: Tokenizer, lexicon: Lexicon, room: Room, most: int | None = None
    ) -> None:
        L = room.places
        self.room, self.length, self.cut = room, 0, False
        self.inputs, self.roles = np.zeros((L, room.bag), dtype=np.int32), np.zeros(L, dtype=np.int32)
        self.features = np.zeros((L, NUM_FEATURES), dtype=np.float32)
        self.stems, self.links = np.zeros((L, NUM_STEMS), np.int32), np.zeros((L, room.tools), np.float32)
        self.symbols, self.sources = np.zeros(L, dtype=np.int32), np.zeros(L, dtype=np.bool_)
        self.calls, self.weights = np.zeros(L, dtype=np.int32), np.zeros(L, dtype=np.float32)
        self.spoken = Spoken([], tokenizer, room.vocab_size)
        self.tool_places: dict[str, int] = {}
        self.argument_places: dict[tuple[str, str], int] = {}
        self.first: dict[str, int] = {}  # place of each word
        self._words: dict[int, str] = {}
        self._numbers: dict[int, int] = {}  # of the tool at a place
        self._tool, self._argument, self._call = -1, -1, 0  # spoken of
        self._calls = 0
        request = Request.of(conversation.query, conversation.tools, room.sizes, lexicon)
        self._known = Places.of(request, room.sizes, lexicon, self.spoken.encode)
        self.cut = request.cut
        self._add_known(START, 0)
        self.tools = nearest_first(conversation.query, request.tools, lexicon)
        self._add_tools(request)
        self._add_turns(with_next(conversation), request, L if most is None else most)

    def _add(self, role: int, bag: Sequence[int] | Array) -> int:
        """One place more, with some tokens."""
        at, kept = self.length, bag[: self.room.bag]
        self.inputs[at, : len(kept)], self.roles[at] = kept, role
        self.length += 1
        return at

    def _add_known(self, role: int, place: int) -> int:
        """One place more, which is one of the request's arrays."""
        at = self._add(role, self._known.bags[place])
        self.features[at], self.stems[at] = self._known.features[place], self._known.stems[place]
        return at

    def _add_tools(self, request: Request) -> None:
        known, number = self._known, {tool.name: t for t, tool in enumerate(request.tools)}
        for tool in self.tools:
            t = number[tool.name]
            place = int(known.tool_places[t])
            named = self.tool_places[tool.name] = self._add_known(TOOL, place)
            mine = [named]
            if tool.description:
                self.links[self._add_known(selection.DESCRIPTION, place + 1), t] = 1.0
            for i, (owner, name) in enumerate(request.fields):
                if owner == t:
                    mine.append(self._add_known(ARGUMENT, int(known.field_places[i])))
                    self.argument_places[tool.name, name] = mine[-1]
            self.links[mine, t], self.sources[mine] = 1.0, True
            self.symbols[mine] = [self.room.first_own + at for at in mine]
            self._numbers[named] = t

    def _add_turns(self, turns: Sequence[Turn], request: Request, most: int) -> None:
        """Of what is too long the oldest turns go first, of the oldest one that stays its first words."""
        heard = [heard_of(turn) for turn in turns]
        asked = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
        every = Spoken([h for h in heard if h is not None], self.spoken.tokenizer, self.room.vocab_size)
        said = [self._said(turns, i, every) for i in range(len(turns))]
        lengths = [len(s) if h is None else 1 + len(h.spans) for s, h in zip(said, heard, strict=True)]
        left, first = most - self.length, len(turns)
        while first > 0 and lengths[first - 1] <= left:
            first -= 1
            left -= lengths[first]
        if first > 0:
            self.cut = True
            part = heard[first - 1]
            if part is not None and left >= 2:
                first -= 1
                heard[first] = replace(part, spans=part.spans[1 - left :])
        self.spoken.heard = [h for h in heard[first:] if h is not None]
        for i in range(first, len(turns)):
            part = heard[i]
            if part is None:
                symbols = self._said(turns, i, self.spoken) if self.cut else said[i]  # what was cut is spelt
                for symbol in symbols[: most - self.length]:
                    self.say(symbol, WEIGHTS[turns[i].role])
                continue
            if self.length >= self.room.places:  # what was to be copied from turns that are cut takes more pieces
                self.cut = True
                return
            self._add(SAID_MARK, [Tokenizer.special(ROLE_TOKENS[turns[i].role])])
            self._add_words(part, len(request.words) if i == asked else 0)

    def _add_words(self, part: Heard, known: int) -> None:
        """The words of a turn, of which the last ``known`` are those of the request's arrays."""
        skipped = known - len(part.spans)
        for i, word in enumerate(part.words):
            if self.length >= self.room.places:
                self.cut = True
                return
            if skipped + i >= 0:
                at = self._add_known(selection.WORD, 1 + skipped + i)
                self.links[at] = self._known.shares[:, skipped + i]
            else:
                begin, end = part.spans[i]
                at = self._add(EARLIER, self.spoken.encode(part.text[begin:end]))
            self.sources[at] = True
            self.symbols[at] = self.room.first_own + self.first.setdefault(word, at)
            self._words.setdefault(int(self.symbols[at]), word)

    def _said(self, turns: Sequence[Turn], i: int, spoken: Spoken) -> list[Said]:
        """What is said of a turn of the assistant's; calls in a row end with one end together."""
        turn = turns[i]
        if turn.call is not None:
            first = i == 0 or turns[i - 1].call is None
            more = i + 1 < len(turns) and turns[i + 1].call is not None
            return [*([CALL] if first else []), *self.of_call(turn.call, spoken), *([] if more else [END])]
        return [REPLY, *spoken.encode(turn.text), END] if turn.role == "assistant" else []

    def of_call(self, call: Call, spoken: Spoken | None = None) -> list[Said]:
        """``TOOL (ARGUMENT ITEM...)*``; arguments in the schema's order. A tool that is not offered is said in pieces,
        which no grammar allows."""
        spoken, own = spoken or self.spoken, self.room.first_own
        if call.name not in self.tool_places:
            return list(spoken.encode(call.name))
        made: list[Said] = [own + self.tool_places[call.name]]
        tool = next(tool for tool in self.tools if tool.name == call.name)
        for name, schema in tool.parameters["properties"].items():
            if name in call.arguments and (place := self.argument_places.get((call.name, name))) is not None:
                made += [own + place, *flattened(spoken.of_value(call.arguments[name], schema), ITEM)]
        return made

    def say(self, said: Said, weight: float = 0.0) -> int:
        """One symbol more, behind all others; the symbol."""
        if isinstance(said, str) and said not in self.first:  # cut off, with its turn
            ids = self.spoken.encode(said)
            for i in ids[:-1]:
                self.say(i, weight)
            said = ids[-1]
        own = self.room.first_own
        symbol = own + self.first[said] if isinstance(said, str) else said
        if self.length >= self.room.places:
            self.cut = True
            return symbol
        place = symbol - own
        if symbol in (CALL, END):
            self._tool, self._argument, self._call = -1, -1, 0
        if place < 0:
            mark = symbol in (CALL, END, ITEM, REPLY) or symbol >= self.room.vocab_size
            at = self._add(SAID_MARK if mark else SAID_PIECE, [symbol])
        else:
            role = {TOOL: SAID_TOOL, ARGUMENT: SAID_ARGUMENT}.get(int(self.roles[place]), SAID_WORD)
            at = self._add(role, self.inputs[place])
            self.features[at] = self.features[place]
            if role == SAID_TOOL:
                self._tool, self._argument = self._numbers[place], -1
                self._calls += 1
                self._call = self._calls
            elif role == SAID_ARGUMENT:
                self._argument = place
        self.symbols[at], self.weights[at] = symbol, weight
        if self._argument >= 0:
            self.stems[at] = self.stems[self._argument]
        if self._tool >= 0:
            self.links[at, self._tool] = 1.0
        self.calls[at] = self._call
        return symbol

    def arrays(self, first: int = 0) -> dict[str, Array]:
        """The used places from one on."""
        return {name: getattr(self, name)[first : self.length] for name in ARRAYS}

    def labels(self) -> tuple[Array, Array]:
        """(L,) each: the symbol that is said behind each place, where that counts, and how much it does."""
        weights = np.append(self.weights[1:], np.float32(0))
        return np.where(weights > 0, np.append(self.symbols[1:], np.int32(0)), np.int32(IGNORE)), weights

    def word_of(self, symbol: int) -> Said:
        """A symbol as what was said: the word that its place holds, or itself."""
        return self._words.get(symbol, symbol)

    def fork(self) -> Transcript:
        """A copy that can say something else."""
        other = object.__new__(Transcript)
        other.__dict__ = dict(self.__dict__)
        for name in (*ARRAYS, "weights"):
            setattr(other, name, getattr(self, name).copy())
        return other
