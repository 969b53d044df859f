"""The grammar of calls: symbols that are allowed, and the calls that they write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trm_fast.tasks.tool_calling import problems
from trm_fast.tasks.tool_calling.data.conversation import Call, Tool, Turn
from trm_fast.tasks.tool_calling.generate.decoding import Search, generate
from trm_fast.tasks.tool_calling.generate.grammar import Grammar
from trm_fast.tasks.tool_calling.generate.symbols import MARKS, schema_default
from trm_fast.tasks.tool_calling.generate.transcript import CALL, REPLY, Transcript
from trm_fast.tasks.tool_calling.text.tokenizer import BEGIN, END, Tokenizer

from .mails import CALLS, LEXICON, LIMITS, TEXT, TOKENS, TOOLS, conversation, transcript, written_symbols


class Drawn:
    """A model with random logits, different ones at every length."""

    def __init__(self, seed: int, written: tuple[int, ...] = ()) -> None:
        self.seed, self.written, self.free = seed, written, 500

    def extend(self, tokens: Sequence[int]) -> Any:
        self.written += tuple(tokens)
        rng = np.random.default_rng((self.seed, *self.written[-3:], len(self.written)))
        return rng.normal(size=LIMITS.first_position + LIMITS.positions).astype(np.float32) * 3

    def fork(self) -> Drawn:
        return Drawn(self.seed, self.written)


def test_calls_become_symbols_and_back_and_each_symbol_is_allowed() -> None:
    whole = transcript(conversation(Turn("user", TEXT), *map(Turn.of_call, CALLS)))
    row = transcript(conversation(Turn("user", TEXT)))
    grammar, written = Grammar(row), written_symbols(whole)
    for i, symbol in enumerate(written):
        assert symbol in grammar.allowed(written[:i]), (i, grammar.transcript.symbol_word(symbol))
    assert sorted(map(repr, grammar.calls(written))) == sorted(map(repr, CALLS))
    assert grammar.allowed(written) == []


def test_values_in_the_request_are_copied_word_by_word() -> None:
    row = transcript(conversation(Turn("user", TEXT), Turn.of_call(CALLS[-2])))
    copied = [row.symbol_word(symbol) for symbol in written_symbols(row) if symbol >= LIMITS.first_position]
    words = [word for word in copied if isinstance(word, str)]
    assert words == ["a", '"', "b", '"', "{", "c", "}", "x", "北", "京", "1,200.50"]
    marks = {row.codec.marks[name]: name for name in MARKS}
    other = transcript(conversation(Turn("user", TEXT), *map(Turn.of_call, CALLS[1:3])))
    assert [marks[symbol] for symbol in written_symbols(other) if symbol in marks] == ["date", "singular", "default"]


@pytest.mark.parametrize(
    "call",
    [
        Call("steal", {}), Call("send", {}), Call("send", {"to": "x", "copies": 1.5}),
        Call("send", {"to": "x", "urgent": "maybe"}), Call("send", {"to": "x", "size": "large"}),
    ],
)  # fmt: skip
def test_a_wrong_call_is_not_allowed(call: Call) -> None:
    row = transcript(conversation(Turn("user", TEXT), Turn.of_call(call)))
    grammar, written = Grammar(row), written_symbols(row)
    assert [i for i, symbol in enumerate(written) if symbol not in grammar.allowed(written[:i])]


def test_a_value_continues_with_the_next_word() -> None:
    row = transcript(conversation(Turn("user", "Mail Ann Lee and Ann Ray")))
    grammar, first = Grammar(row), LIMITS.first_position
    begun = [CALL, first + row.tool_positions["send"], first + row.argument_positions["send", "to"]]

    def words(written: list[str]) -> set[object]:
        symbols = grammar.allowed([*begun, *(first + row.first[word] for word in written)])
        return {word for symbol in symbols if isinstance(word := row.symbol_word(symbol), str)}

    assert words([]) == {"mail", "ann", "lee", "and", "ray"}
    assert words(["ann"]) == {"lee", "ray"}
    assert words(["ann", "ray"]) == set()


def test_a_list_in_the_request_is_one_span_if_it_fits() -> None:
    sort = Tool("sort", "Sorts", {"type": "object", "required": ["values"], "properties": {
        "values": {"type": "array", "items": {"type": "number"}}}})  # fmt: skip
    source = conversation(Turn("user", "Sort [1, 2.5, -3], not ['a', 'b']"), tools=(sort,))
    row = transcript(source)
    grammar, first = Grammar(row), LIMITS.first_position
    written = [CALL, first + row.tool_positions["sort"], first + row.argument_positions["sort", "values"]]
    for word in ("[", "1", ",", "2.5", ",", "-", "3", "]"):
        assert first + row.first[word] in grammar.allowed(written)
        written.append(first + row.first[word])
    assert END in grammar.allowed(written)
    assert grammar.calls([*written, END]) == [Call("sort", {"values": [1, 2.5, -3]})]
    assert first + row.first["'"] not in grammar.allowed(written[:4])
    whole = transcript(conversation(*source.turns, Turn.of_call(Call("sort", {"values": [1, 2.5, -3]})), tools=(sort,)))
    assert written_symbols(whole) == [*written, END]


@pytest.mark.parametrize(
    ("schema", "default"),
    [
        ({"type": "integer", "default": "7"}, 7), ({"type": "integer", "default": ""}, None),
        ({"type": "boolean", "default": False}, False), ({"type": "array", "default": []}, []),
        ({"enum": ["a"], "default": "a"}, "a"), ({"type": "string"}, None), ({"type": "number", "default": None}, None),
    ],
)  # fmt: skip
def test_a_default_is_allowed_only_if_it_is_valid(schema: dict[str, Any], default: Any) -> None:
    assert schema_default(schema) == default
    tool = Tool("get", "Gets", {"type": "object", "required": [], "properties": {"it": schema}})
    row = transcript(conversation(Turn("user", "get"), tools=(tool,)))
    grammar, first = Grammar(row), LIMITS.first_position
    written = [CALL, first + row.tool_positions["get"], first + row.argument_positions["get", "it"]]
    mark = row.codec.marks["default"]
    assert (mark in grammar.allowed(written)) == (default is not None)
    if default is not None:
        assert grammar.calls([*written, mark, END]) == [Call("get", {"it": default})]


@pytest.mark.parametrize(
    "schema", [{"enum": ["a", "b"], "default": "a"}, {"type": "array", "items": {"enum": ["a", "b"], "default": "a"}}]
)
def test_nothing_is_allowed_twice_and_an_item_has_no_default(schema: dict[str, Any]) -> None:
    tool = Tool("get", "Gets", {"type": "object", "required": [], "properties": {"it": schema}})
    row = transcript(conversation(Turn("user", "get"), tools=(tool,)))
    grammar, first = Grammar(row), LIMITS.first_position
    allowed = grammar.allowed([CALL, first + row.tool_positions["get"], first + row.argument_positions["get", "it"]])
    assert len(allowed) == len(set(allowed))
    assert (row.codec.marks["default"] in allowed) == ("enum" in schema)


def test_an_empty_choice_has_no_symbols() -> None:
    tool = Tool("get", "Gets", {"type": "object", "required": ["it"], "properties": {"it": {"enum": [""]}}})
    row = transcript(conversation(Turn("user", "get"), tools=(tool,)))
    written = [
        CALL,
        LIMITS.first_position + row.tool_positions["get"],
        LIMITS.first_position + row.argument_positions["get", "it"],
    ]
    assert END in Grammar(row).allowed(written)
    assert Grammar(row).calls([*written, END]) == [Call("get", {"it": ""})]


def test_a_repeated_call_is_one_call() -> None:
    row = transcript(conversation(Turn("user", "list, list")))
    tool = LIMITS.first_position + row.tool_positions["list"]
    assert Grammar(row).calls([CALL, tool, tool, END]) == [Call("list", {})]


@pytest.mark.parametrize("search", [Search(400), Search(400, temperature=1.0, top_p=0.9), Search(400, beams=2)])
def test_calls_of_any_model_are_valid(search: Search) -> None:
    grammar = Grammar(transcript(conversation(Turn("user", TEXT))))
    finished = 0
    for seed in range(6):
        written = generate(Drawn(seed), [BEGIN], grammar.allowed, search)
        calls = grammar.calls(written.symbols)
        assert json.loads(json.dumps([call.to_json() for call in calls])) is not None
        assert all(call.name in ("send", "list", "more") for call in calls)
        if written.symbols[-1] == END:
            finished += 1
            assert calls
            assert [p for call in calls for p in problems(call, TOOLS)] == []
    assert finished


def test_a_thought_has_one_symbol_at_each_end_and_a_call_may_follow() -> None:
    text = "<think>xyz</think>"
    call = Turn.of_call(Call("list", {}))
    turns = (Turn("user", TEXT), Turn("assistant", text), call)
    begin, end = (Tokenizer.special(name) for name in ("<think>", "</think>"))
    plain, marked = (
        Transcript(conversation(*turns), TOKENS, LEXICON, replace(LIMITS, thoughts=thoughts))
        for thoughts in (False, True)
    )
    assert not {begin, end} & set(plain.symbols.tolist())
    symbols = [s for s, role in zip(marked.symbols.tolist(), marked.learned.tolist(), strict=True) if role]
    assert (symbols.count(begin), symbols.count(end)) == (1, 1)
    written = symbols[symbols.index(REPLY) :]
    grammar = Grammar(marked, replies=True)
    for length in range(len(written)):
        assert written[length] in grammar.allowed(written[:length]), length
    assert grammar.allowed(written) == []
    assert grammar.reply(written) == text
    assert grammar.calls(written) == [Call("list", {})]
    assert grammar.allowed(written[: written.index(END) + 1]) == [CALL]
    assert grammar.allowed([REPLY, *written[2:5], END]) == []  # words are an answer
    assert not {begin, end} & set(Grammar(plain, replies=True).allowed([REPLY]))


def test_a_reply_is_written_in_pieces_if_replies_are_allowed() -> None:
    row = transcript(conversation(Turn("user", TEXT)))
    calling, replying = Grammar(row), Grammar(row, replies=True)
    assert (calling.allowed([]), replying.allowed([])) == ([CALL], [CALL, REPLY])
    pieces = [TOKENS.numbers[c] for c in "xyz"]
    assert set(pieces) < set(replying.allowed([REPLY]))
    assert replying.reply([REPLY, *pieces, END]) == "xyz"
    assert replying.calls([REPLY, *pieces, END]) == []
