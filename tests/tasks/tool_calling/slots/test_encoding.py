"""Conversations as tokens: roles, spans of values, and cuts that keep the last turns."""

from __future__ import annotations

import pytest

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Turn
from trm_fast.tasks.tool_calling.slots.encoding import encode, find_spans, plain_number, turn_text, value_pattern
from trm_fast.tasks.tool_calling.text.tokenizer import BEGIN, END, Characters

TEXT = "abcdefghijklmnopqrstuvwxyzRS ,.$0123456789:😀é"

CHARACTERS = Characters(TEXT)


def talk(*turns: tuple[str, str]) -> Conversation:
    return Conversation((), tuple(Turn(role, text) for role, text in turns))


def test_a_row_by_hand() -> None:
    row = encode(talk(("user", "hi"), ("assistant", "yes"), ("user", "a")), CHARACTERS, 20, 5)
    user, assistant = CHARACTERS.special("<user>"), CHARACTERS.special("<assistant>")
    texts = [CHARACTERS.ids(text) for text in ("hi", "yes", "a")]
    assert row.ids == [BEGIN, user, *texts[0], assistant, *texts[1], user, *texts[2], END]
    # Role ids: 1 + 5 * age + role, user 0 and assistant 2; begin and end have none.
    assert row.roles == [0, *[1 + 10] * 3, *[1 + 5 + 2] * 4, *[1] * 2, 0]
    assert not row.cut


def test_the_oldest_turns_are_cut_first() -> None:
    turns = [("user", "first " * 10), ("assistant", "second"), ("user", "third")]
    row = encode(talk(*turns), CHARACTERS, 24, 5)
    assert len(row.ids) == len(row.roles) == 24
    assert row.cut
    assert CHARACTERS.decode(row.ids) == "t first secondthird"
    long = encode(talk(("user", "x" * 10_000)), CHARACTERS, 24, 5)
    assert long.cut
    assert len(long.ids) == 24


def test_results_are_cut_at_their_end() -> None:
    row = encode(talk(("user", "a"), ("tool_response", '{"k": "abcdefgh"}')), CHARACTERS, 30, 6)
    assert CHARACTERS.decode(row.ids) == "ak: abc"
    assert not row.cut


def test_calls_and_results_are_read_without_brackets() -> None:
    assert turn_text(Turn.of_call(Call("find", {"city": "Rome", "n": 2}))) == "find city: Rome, n: 2"
    assert turn_text(Turn("tool_response", '[{"a": 1}, {"b": [2, 3]}]')) == "a: 1; b: 2; 3"
    assert turn_text(Turn("tool_response", "plain {text")) == "plain {text"


@pytest.mark.parametrize("value", ["😀 é", "Rome", "$1,720"])
def test_spans_of_a_value_come_latest_first(value: str) -> None:
    characters = Characters("".join(sorted(set(f"ina {value}to or"))))
    row = encode(talk(("user", f"in {value} or"), ("assistant", f"{value} to")), characters, 60, 5)
    spans = list(find_spans(row, value, ("user", "assistant")))
    assert [characters.decode(row.ids[a : b + 1]) for a, b in spans] == [value, value]
    assert spans[0] > spans[1]
    assert len(list(find_spans(row, value, ("user",)))) == 1


def test_spans_need_word_boundaries_and_only_exact_patterns_the_case() -> None:
    row = encode(talk(("user", "saRome Rome rome")), CHARACTERS, 40, 5)
    assert value_pattern("Rome", exact=True).findall(row.segments[0].text) == ["Rome"]
    assert len(list(find_spans(row, "Rome", ("user",)))) == 2


def test_plain_numbers_are_found_as_people_write_them() -> None:
    row = encode(talk(("user", "send $1,720 or 1720")), CHARACTERS, 40, 5)
    spans = [CHARACTERS.decode(row.ids[a : b + 1]) for a, b in find_spans(row, "1720", ("user",))]
    assert spans == ["1720", "$1,720"]
    assert [plain_number(t) for t in ("$1,720", "1,720", "$5", "12,34", "a,b")] == ["1720", "1720", "5", "12,34", "a,b"]
