"""Calls as symbols within a grammar, the search, transcripts with a weight for each role, and their variants."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.api import TRM
from trm_fast.tasks.base import IGNORE, DataConfig
from trm_fast.tasks.tool_calling import files, problems
from trm_fast.tasks.tool_calling.conversation import Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.decoding import Search, generate
from trm_fast.tasks.tool_calling.generate_task import ToolGenerate, ToolGenerateConfig
from trm_fast.tasks.tool_calling.grammar import Grammar
from trm_fast.tasks.tool_calling.lexical import Lexicon
from trm_fast.tasks.tool_calling.spoken import MARKS, default_of
from trm_fast.tasks.tool_calling.tokenizer import BEGIN, END, Characters
from trm_fast.tasks.tool_calling.transcript import ARRAYS, CALL, Room, Transcript
from trm_fast.tasks.tool_calling.turns import arranged, asked
from trm_fast.tasks.tool_calling.values import bracketed
from trm_fast.tasks.tool_calling.variants import Variants
from trm_fast.training import apply_settings, make_config, read_preset

from .rows import DATA, needs_data

TOOL = Tool("send", "Sends a mail", {"type": "object", "required": ["to"], "properties": {
    "to": {"type": "string"}, "copies": {"type": "integer"}, "urgent": {"type": "boolean"},
    "size": {"enum": ["small", 7]}, "tags": {"type": "array", "items": {"type": "string"}},
    "more": {"type": "object"}, "factor": {"type": "number"},
}})  # fmt: skip
BARE = Tool("list", "Lists mails", {"type": "object", "properties": {}, "required": []})
MORE = Tool("more", "Sends more mails", {"type": "object", "required": [], "properties": {
    "on": {"type": "string", "default": "today"}, "kind": {"type": "string"}, "sizes": {"type": "array"},
}})  # fmt: skip
TOOLS = (TOOL, BARE, MORE)
TEXT = 'Send a mail to A "b" {c} with 3 copies, $1,200.50, about x and 北京; on August 10, 2022 send pine trees.'
TOKENS = Characters.train([json.dumps(TOOL.to_json()) + TEXT + '0123456789-. ABCxyz"{}[]'], 200)
LEXICON = Lexicon.of(TOOLS)
ROOM = Room(160, 4, 16, 8, TOKENS.size)
CALLS = [
    Call("list", {}),
    Call("more", {"on": "2022-08-10", "kind": "pine tree"}),
    Call("more", {"on": "today", "sizes": []}),
    Call("send", {"to": 'A "b" {c}', "copies": -12, "urgent": True, "size": 7, "tags": ["x", "zzz", "北京"], "more": {},
                  "factor": 1200.5}),
    Call("send", {"to": "x", "copies": 3}),
]  # fmt: skip


def conversation(*turns: Turn, tools: tuple[Tool, ...] = TOOLS) -> Conversation:
    return Conversation(tools, turns)


def transcript(given: Conversation, most: int | None = None) -> Transcript:
    return Transcript(arranged(given, LEXICON), TOKENS, LEXICON, ROOM, most)


def said_of(row: Transcript) -> list[int]:
    """The symbols that count."""
    return [int(row.symbols[i]) for i in np.flatnonzero(row.weights)]


def test_calls_go_to_symbols_and_back_and_each_symbol_is_allowed() -> None:
    whole = transcript(conversation(Turn("user", TEXT), *map(Turn.calling, CALLS)))
    row = transcript(conversation(Turn("user", TEXT)))
    grammar, said = Grammar(row), said_of(whole)
    for i, symbol in enumerate(said):
        assert symbol in grammar.allowed(said[:i]), (i, grammar.transcript.word_of(symbol))
    assert sorted(map(repr, grammar.calls(said))) == sorted(map(repr, CALLS))
    assert grammar.allowed(said) == []


def test_what_stands_in_the_request_is_copied_word_by_word() -> None:
    row = transcript(conversation(Turn("user", TEXT), Turn.calling(CALLS[-2])))
    own = [row.word_of(symbol) for symbol in said_of(row) if symbol >= ROOM.first_own]
    words = [word for word in own if isinstance(word, str)]
    assert words == ["a", '"', "b", '"', "{", "c", "}", "x", "北", "京", "1,200.50"]
    marks = {row.spoken.marks[name]: name for name in MARKS}
    other = transcript(conversation(Turn("user", TEXT), *map(Turn.calling, CALLS[1:3])))
    assert [marks[symbol] for symbol in said_of(other) if symbol in marks] == ["date", "singular", "default"]


@pytest.mark.parametrize(
    "call",
    [
        Call("steal", {}), Call("send", {}), Call("send", {"to": "x", "copies": 1.5}),
        Call("send", {"to": "x", "urgent": "maybe"}), Call("send", {"to": "x", "size": "large"}),
    ],
)  # fmt: skip
def test_a_wrong_call_is_nowhere_allowed(call: Call) -> None:
    row = transcript(conversation(Turn("user", TEXT), Turn.calling(call)))
    grammar, said = Grammar(row), said_of(row)
    assert [i for i, symbol in enumerate(said) if symbol not in grammar.allowed(said[:i])]


def test_values_stand_one_word_behind_another() -> None:
    row = transcript(conversation(Turn("user", "Mail Ann Lee and Ann Ray")))
    grammar, own = Grammar(row), ROOM.first_own
    begun = [CALL, own + row.tool_places["send"], own + row.argument_places["send", "to"]]

    def words(said: list[str]) -> set[object]:
        symbols = grammar.allowed([*begun, *(own + row.first[word] for word in said)])
        return {word for symbol in symbols if isinstance(word := row.word_of(symbol), str)}

    assert words([]) == {"mail", "ann", "lee", "and", "ray"}
    assert words(["ann"]) == {"lee", "ray"}
    assert words(["ann", "ray"]) == set()


def test_a_list_written_out_is_one_run_of_words_if_it_fits() -> None:
    sort = Tool("sort", "Sorts", {"type": "object", "required": ["values"], "properties": {
        "values": {"type": "array", "items": {"type": "number"}}}})  # fmt: skip
    given = conversation(Turn("user", "Sort [1, 2.5, -3], not ['a', 'b']"), tools=(sort,))
    row = transcript(given)
    grammar, own = Grammar(row), ROOM.first_own
    said = [CALL, own + row.tool_places["sort"], own + row.argument_places["sort", "values"]]
    for word in ("[", "1", ",", "2.5", ",", "-", "3", "]"):
        assert own + row.first[word] in grammar.allowed(said)
        said.append(own + row.first[word])
    assert END in grammar.allowed(said)
    assert grammar.calls([*said, END]) == [Call("sort", {"values": [1, 2.5, -3]})]
    assert own + row.first["'"] not in grammar.allowed(said[:4])
    whole = transcript(conversation(*given.turns, Turn.calling(Call("sort", {"values": [1, 2.5, -3]})), tools=(sort,)))
    assert said_of(whole) == [*said, END]


@pytest.mark.parametrize(
    ("schema", "default"),
    [
        ({"type": "integer", "default": "7"}, 7), ({"type": "integer", "default": ""}, None),
        ({"type": "boolean", "default": False}, False), ({"type": "array", "default": []}, []),
        ({"enum": ["a"], "default": "a"}, "a"), ({"type": "string"}, None), ({"type": "number", "default": None}, None),
    ],
)  # fmt: skip
def test_a_default_is_said_only_where_it_is_a_value(schema: dict[str, Any], default: Any) -> None:
    assert default_of(schema) == default
    tool = Tool("get", "Gets", {"type": "object", "required": [], "properties": {"it": schema}})
    row = transcript(conversation(Turn("user", "get"), tools=(tool,)))
    grammar, own = Grammar(row), ROOM.first_own
    said = [CALL, own + row.tool_places["get"], own + row.argument_places["get", "it"]]
    mark = row.spoken.marks["default"]
    assert (mark in grammar.allowed(said)) == (default is not None)
    if default is not None:
        assert grammar.calls([*said, mark, END]) == [Call("get", {"it": default})]


@pytest.mark.parametrize(
    "schema", [{"enum": ["a", "b"], "default": "a"}, {"type": "array", "items": {"enum": ["a", "b"], "default": "a"}}]
)
def test_nothing_is_allowed_twice_and_an_item_has_no_default(schema: dict[str, Any]) -> None:
    tool = Tool("get", "Gets", {"type": "object", "required": [], "properties": {"it": schema}})
    row = transcript(conversation(Turn("user", "get"), tools=(tool,)))
    grammar, own = Grammar(row), ROOM.first_own
    allowed = grammar.allowed([CALL, own + row.tool_places["get"], own + row.argument_places["get", "it"]])
    assert len(allowed) == len(set(allowed))
    assert (row.spoken.marks["default"] in allowed) == ("enum" in schema)


def test_an_empty_choice_is_said_with_nothing() -> None:
    tool = Tool("get", "Gets", {"type": "object", "required": ["it"], "properties": {"it": {"enum": [""]}}})
    row = transcript(conversation(Turn("user", "get"), tools=(tool,)))
    said = [CALL, ROOM.first_own + row.tool_places["get"], ROOM.first_own + row.argument_places["get", "it"]]
    assert END in Grammar(row).allowed(said)
    assert Grammar(row).calls([*said, END]) == [Call("get", {"it": ""})]


def test_brackets_are_matched_once_each() -> None:
    row = transcript(conversation(Turn("user", "[ 1 ] " * 2_000 + "sort [[1], [2]]")))
    assert len(list(bracketed(["[", "[", "a", "]", "]", "]", "["]))) == 2
    assert row.length == ROOM.places


def test_a_call_whose_words_were_cut_is_spelt_and_the_row_stays_whole() -> None:
    turns = [Turn("user", "Send to Guadalajara soon"), Turn.calling(Call("send", {"to": "Guadalajara", "copies": 3}))]
    for words in range(60, 130):
        row = transcript(conversation(*turns, Turn("user", "and " * words)))
        assert row.length <= ROOM.places
        assert row.cut == (row.length == ROOM.places) or "Guadalajara".casefold() in row.first


def test_a_call_that_is_said_twice_is_one_call() -> None:
    row = transcript(conversation(Turn("user", "list, list")))
    tool = ROOM.first_own + row.tool_places["list"]
    assert Grammar(row).calls([CALL, tool, tool, END]) == [Call("list", {})]


def test_the_penalty_is_for_texts_that_nobody_said() -> None:
    row = transcript(conversation(Turn("user", "Mail Ann Lee")))
    grammar, own = Grammar(row), ROOM.first_own
    said = [CALL, own + row.tool_places["send"], own + row.argument_places["send", "to"]]
    choices = grammar.allowed(said)
    strays = {choice for choice, stray in zip(choices, grammar.strays(said, choices), strict=True) if stray}
    assert own + row.first["ann"] not in strays
    assert TOKENS.ids["x"] in strays
    assert not grammar.strays(said[:1], grammar.allowed(said[:1])).any()


class Drawn:
    """A model that says anything: random logits, another at every length."""

    def __init__(self, seed: int, said: tuple[int, ...] = ()) -> None:
        self.seed, self.said, self.room = seed, said, 500

    def extend(self, tokens: Sequence[int]) -> Any:
        self.said += tuple(tokens)
        rng = np.random.default_rng((self.seed, *self.said[-3:], len(self.said)))
        return rng.normal(size=ROOM.first_own + ROOM.places).astype(np.float32) * 3

    def fork(self) -> Drawn:
        return Drawn(self.seed, self.said)


@pytest.mark.parametrize("search", [Search(400), Search(400, temperature=1.0, top_p=0.9), Search(400, beams=2)])
def test_whatever_a_model_says_its_calls_are_valid(search: Search) -> None:
    grammar = Grammar(transcript(conversation(Turn("user", TEXT))))
    finished = 0
    for seed in range(6):
        said = generate(Drawn(seed), [BEGIN], grammar.allowed, search)
        calls = grammar.calls(said.tokens)
        assert json.loads(json.dumps([call.to_json() for call in calls])) is not None
        assert all(call.name in ("send", "list", "more") for call in calls)
        if said.tokens[-1] == END:
            finished += 1
            assert calls
            assert [p for call in calls for p in problems(call, TOOLS)] == []
    assert finished


class Fixed:
    """A model of two tokens, 0 and 1, whose first choice is the worse one in the long run."""

    room = 2

    def __init__(self, said: tuple[int, ...] = ()) -> None:
        self.said = said

    def extend(self, tokens: Sequence[int]) -> Any:
        self.said += tuple(tokens)
        shares = {(9,): [0.6, 0.4], (9, 0): [0.5, 0.5], (9, 1): [0.99, 0.01]}.get(self.said, [0.5, 0.5])
        return np.log(np.array(shares, dtype=np.float32))

    def fork(self) -> Fixed:
        return Fixed(self.said)


def test_beams_find_what_the_greedy_search_misses() -> None:
    def both(said: Sequence[int]) -> list[int]:
        return [0, 1]

    assert generate(Fixed(), [9], both, Search()).tokens == [0, 0]
    found = generate(Fixed(), [9], both, Search(beams=2))
    assert found.tokens == [1, 0]
    assert found.score == pytest.approx(np.log(0.4 * 0.99), rel=1e-4)


def test_sampling_follows_the_shares_and_top_p_cuts_the_rest() -> None:
    def both(said: Sequence[int]) -> list[int]:
        return [0, 1]

    drawn = [generate(Fixed(), [9], both, Search(most_tokens=1, temperature=1.0, seed=s)).tokens[0] for s in range(400)]
    assert 0.3 < np.mean(drawn) < 0.5
    cut = [generate(Fixed(), [9], both, Search(1, temperature=1.0, top_p=0.5, seed=s)).tokens[0] for s in range(50)]
    assert set(cut) == {0}


def test_only_what_the_assistant_says_is_learnt_and_calls_count_double() -> None:
    turns = (Turn("system", "s"), Turn("user", "u"), Turn("assistant", "x"), Turn.calling(CALLS[0]),
             Turn("tool_response", "r"), Turn("assistant", "y"))  # fmt: skip
    row = transcript(conversation(*turns, tools=(BARE,)))
    labels, weights = row.labels()
    learnt = [(int(label), float(weight)) for label, weight in zip(labels, weights, strict=True) if weight]
    said, tool = TOKENS.special("<assistant>"), ROOM.first_own + row.tool_places["list"]
    expected = [(said, 1.0), (TOKENS.ids["x"], 1.0), (END, 1.0), (CALL, 2.0), (tool, 2.0), (END, 2.0),
                (said, 1.0), (TOKENS.ids["y"], 1.0), (END, 1.0)]  # fmt: skip
    assert learnt == expected
    assert (labels == IGNORE).sum() == len(labels) - len(learnt)


def test_a_long_conversation_keeps_its_tools_and_its_end() -> None:
    given = conversation(Turn("user", "first " * 10_000), Turn("user", "x " * 10_000 + "to y"), Turn.calling(CALLS[-1]))
    row = transcript(given)
    assert row.cut
    assert row.length == ROOM.places
    assert set(row.tool_places) == {"send", "list", "more"}
    assert "first" not in row.first
    assert "y" in row.first
    assert Grammar(row).calls(said_of(row)) == [Call("send", {"to": "x", "copies": 3})]
    empty = transcript(conversation(Turn("user", ""), tools=()))
    assert empty.length == 2
    assert Grammar(empty).allowed([]) == [END]


def test_a_row_that_grows_by_what_is_said_is_the_row_as_a_whole() -> None:
    whole = transcript(conversation(Turn("user", TEXT), *map(Turn.calling, CALLS)))
    row = transcript(conversation(Turn("user", TEXT)))
    begun, other = row.length, row.fork()
    for symbol in said_of(whole):
        row.say(symbol)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(row, name), getattr(whole, name), err_msg=name)
    assert other.length == begun
    assert not other.inputs[begun:].any()


def test_a_variant_exchanges_values_in_the_request_and_its_calls_alike() -> None:
    rows = [
        conversation(Turn("user", f"Mail to {name} now"), Turn.calling(Call("send", {"to": name})))
        for name in ("Ann Lee", "Bob Ray", "Cleo Fox", "Dan Moe", "Eve Poe")
    ]
    variants, rng, seen = Variants(rows, 1.0, 1.0), np.random.default_rng(0), set()
    for _ in range(20):
        made = variants.of(rows[0], rng)
        value = made.calls[0].arguments["to"]
        seen.add(value)
        assert made.query == f"Mail to {value} now"
        assert made.tools[0].name == "send"
    assert len(seen) > 3
    assert Variants(rows, 0.0, 0.0).of(rows[0], rng) == rows[0]


def test_rows_are_read_anew_each_time_and_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    swift = [
        {"tools": json.dumps([TOOL.to_json(), BARE.to_json()]), "messages": [
            {"role": "user", "content": f"Mail to {name} now"},
            {"role": "tool_call", "content": json.dumps({"name": "send", "arguments": {"to": name}})},
        ]} for name in ("Ann Lee", "Bob Ray", "Cleo Fox", "Dan Moe", "Eve Poe", "Flo Zee")
    ]  # fmt: skip
    files.write(tmp_path / "mails.json", swift)
    keys = {"tokenizer_kind": "char", "seq_len": 128, "tools": 4, "arguments": 16, "exchanged": 1.0}
    task = ToolGenerate(ToolGenerateConfig.model_validate(keys))
    rows = task.dataset(DataConfig(source=str(tmp_path / "mails.json")), 0).train
    one, other, again = (task.augment(rows, np.random.default_rng(seed)) for seed in (0, 1, 0))
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name], err_msg=name)
    assert (one.inputs != other.inputs).any()
    assert (one.labels != rows.labels).any()
    np.testing.assert_array_equal(one.extra["row"], rows.extra["row"])


@needs_data
@pytest.mark.parametrize("name", ["xlam", "sealtools"])
def test_an_untrained_model_makes_valid_calls_of_offered_tools(name: str) -> None:
    settings = [
        f"data.source={DATA}/{name}_swift_val.json.gz", "task.vocab_size=600", "task.most_tokens=60",
        "model.hidden_size=16", "model.num_heads=2", "model.inner_multiple=8", "model.max_supervision_steps=1",
        "model.num_layers=1",
    ]  # fmt: skip
    config = make_config(apply_settings(read_preset("tool-generate"), settings), "test")
    task = config.make_task()
    assert isinstance(task, ToolGenerate)
    task.dataset(DataConfig(source=config.data.source), 0)
    torch.manual_seed(0)
    model = TRM(config.model).eval()
    rows = files.load_sound(f"{DATA}/{name}_swift_val.json.gz").conversations
    for row in rows[::8]:
        prediction, said = task.say(model, asked(row))
        assert all(row.tool(call.name) is not None for call in prediction.calls)
        json.dumps(prediction.to_json())
        if said.tokens[-1] == END:
            assert prediction.calls
