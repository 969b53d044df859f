"""Any conversation, written in a format and read again, has the same calls; or it is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Turn, read_tools
from trm_fast.tasks.tool_calling.data.formats import detect_format, get_format
from trm_fast.tasks.tool_calling.data.refused import Refused

FORMATS = ("hermes", "swift", "openai", "anthropic", "slots", "xlam")
TOOLS = read_tools([
    {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
    {"name": "shop.find item", "description": "Finds", "parameters": {"n": {"type": "List[int]"}}},
])  # fmt: skip
MARKS = (
    "<tool_call>", "</tool_call>", "<tools>[", "</tools>", "<tool_response>", "</tool_response>", "[TOOL_CALLS]",
    "<|python_tag|>", "<function=f>", "</function>", "<functioncall>", "[f(a=1)]", '{"name": "f", "arguments": {}}',
    "<|im_end|>", "\n", "'", '"', "\\", "[", "}", "\u2028", "Đà Nẵng ☀️", " ",
)  # fmt: skip
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain_texts = st.from_regex(r"[A-Z][a-z]{0,9}( [a-z0-9,]{1,6}){0,4}[.?!]", fullmatch=True)
wild_texts = st.lists(st.one_of(st.sampled_from(MARKS), words), max_size=6).map("".join)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), wild_texts
)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3), max_leaves=5)
calls = st.builds(Call, st.sampled_from([tool.name for tool in TOOLS]), st.dictionaries(words, values, max_size=3))


def rounds(texts: Any) -> Any:
    """A request, then calls with a text before them, results for all or none of them, and a reply."""

    def turns(request: str, text: str | None, called: list[Call], results: list[str] | None, reply: str) -> list[Turn]:
        first = [Turn("assistant", text)] if text else []
        answers = [Turn("tool_response", result) for result in (results or [])[: len(called)]]
        answers = answers if len(answers) == len(called) else []
        return [Turn("user", request), *first, *map(Turn.of_call, called), *answers, Turn("assistant", reply)]

    called = st.lists(calls, max_size=3)
    results = st.none() | st.lists(texts, min_size=3, max_size=3)
    return st.builds(turns, texts, st.none() | texts, called, results, texts)


def conversations(texts: Any) -> Any:
    def conversation(system: str | None, parts: list[list[Turn]]) -> Conversation:
        first = [Turn("system", system)] if system else []
        return Conversation(TOOLS, (*first, *(turn for part in parts for turn in part)))

    return st.builds(conversation, st.none() | texts, st.lists(rounds(texts), min_size=1, max_size=2))


def again(name: str, conversation: Conversation) -> Conversation:
    """The conversation after it was written and read, as in a file."""
    row = json.loads(json.dumps(get_format(name).to_row(conversation), ensure_ascii=False))
    return detect_format(row).read(row, "")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversation=conversations(wild_texts))
def test_calls_are_the_same_or_the_conversation_is_refused(name: str, conversation: Conversation) -> None:
    try:
        read = again(name, conversation)
    except Refused:
        return
    assert read.all_calls == conversation.all_calls
    assert read.tools == conversation.tools


@pytest.mark.parametrize("name", ["hermes", "swift", "openai", "anthropic"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversation=conversations(plain_texts))
def test_chats_with_plain_texts_are_never_refused(name: str, conversation: Conversation) -> None:
    assert again(name, conversation).turns == conversation.turns


def test_what_a_format_cannot_hold_is_refused() -> None:
    two = [Turn("user", "Hi"), Turn.of_call(Call("f", {})), Turn.of_call(Call("f", {"a": "b"}))]
    for name, turns, reason in (
        ("slots", two, "cannot hold"),
        ("openai", [*two, Turn("tool_response", "x")], "2 calls have 1 results"),
        ("anthropic", [Turn("user", "Hi"), Turn("system", "Be brief.")], "one system text"),
        ("hermes", [*two[:2], Turn("tool_response", "a</tool_response>b")], "beside the marked results"),
        ("xlam", [*two, Turn("assistant", "Done.")], "nothing else"),
    ):
        with pytest.raises(Refused, match=reason):
            get_format(name).to_row(Conversation(TOOLS, tuple(turns)))
