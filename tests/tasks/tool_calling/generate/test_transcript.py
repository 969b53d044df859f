"""Conversations as transcripts: weights of roles, cuts, and symbols that are appended."""

from __future__ import annotations

import numpy as np

from trm_fast.tasks.base import IGNORE
from trm_fast.tasks.tool_calling.data.conversation import Call, Turn
from trm_fast.tasks.tool_calling.generate.grammar import Grammar
from trm_fast.tasks.tool_calling.generate.transcript import ARRAYS, CALL
from trm_fast.tasks.tool_calling.text.tokenizer import END
from trm_fast.tasks.tool_calling.text.values import bracketed

from .mails import BARE, CALLS, LIMITS, TEXT, TOKENS, conversation, transcript, written_symbols


def test_brackets_are_matched_once_each() -> None:
    row = transcript(conversation(Turn("user", "[ 1 ] " * 2_000 + "sort [[1], [2]]")))
    assert len(list(bracketed(["[", "[", "a", "]", "]", "]", "["]))) == 2
    assert row.length == LIMITS.positions


def test_a_call_whose_words_were_cut_is_spelled() -> None:
    turns = [Turn("user", "Send to Guadalajara soon"), Turn.of_call(Call("send", {"to": "Guadalajara", "copies": 3}))]
    for words in range(60, 130):
        row = transcript(conversation(*turns, Turn("user", "and " * words)))
        assert row.length <= LIMITS.positions
        assert row.cut == (row.length == LIMITS.positions) or "Guadalajara".casefold() in row.first


def test_only_turns_of_the_assistant_are_learned_and_calls_count_double() -> None:
    turns = (Turn("system", "s"), Turn("user", "u"), Turn("assistant", "x"), Turn.of_call(CALLS[0]),
             Turn("tool_response", "r"), Turn("assistant", "y"))  # fmt: skip
    row = transcript(conversation(*turns, tools=(BARE,)))
    labels, weights = row.labels({"assistant": 1.0, "tool_call": 2.0})
    learnt = [(int(label), float(weight)) for label, weight in zip(labels, weights, strict=True) if weight]
    reply, tool = TOKENS.special("<assistant>"), LIMITS.first_position + row.tool_positions["list"]
    expected = [(reply, 1.0), (TOKENS.numbers["x"], 1.0), (END, 1.0), (CALL, 2.0), (tool, 2.0), (END, 2.0),
                (reply, 1.0), (TOKENS.numbers["y"], 1.0), (END, 1.0)]  # fmt: skip
    assert learnt == expected
    assert (labels == IGNORE).sum() == len(labels) - len(learnt)


def test_a_long_conversation_keeps_its_tools_and_its_end() -> None:
    source = conversation(
        Turn("user", "first " * 10_000), Turn("user", "x " * 10_000 + "to y"), Turn.of_call(CALLS[-1])
    )
    row = transcript(source)
    assert row.cut
    assert row.length == LIMITS.positions
    assert set(row.tool_positions) == {"send", "list", "more"}
    assert "first" not in row.first
    assert "y" in row.first
    assert Grammar(row).calls(written_symbols(row)) == [Call("send", {"to": "x", "copies": 3})]
    empty = transcript(conversation(Turn("user", ""), tools=()))
    assert empty.length == 2
    assert Grammar(empty).allowed([]) == [END]


def test_appending_symbols_gives_the_same_arrays_as_the_whole_conversation() -> None:
    whole = transcript(conversation(Turn("user", TEXT), *map(Turn.of_call, CALLS)))
    row = transcript(conversation(Turn("user", TEXT)))
    begun, other = row.length, row.fork()
    for symbol in written_symbols(whole):
        row.write(symbol)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(row, name), getattr(whole, name), err_msg=name)
    assert other.length == begun
    assert not other.inputs[begun:].any()
