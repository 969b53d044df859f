"""Calls as tokens within a grammar, the search, and transcripts with a weight for each role."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.nn import TRM
from trm_fast.tasks.base import DataConfig
from trm_fast.tasks.tool_calling import files, problems
from trm_fast.tasks.tool_calling.conversation import Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.decoding import Search, generate
from trm_fast.tasks.tool_calling.generate_task import ToolGenerate, asked
from trm_fast.tasks.tool_calling.grammar import Grammar, call_tokens
from trm_fast.tasks.tool_calling.tokenizer import BEGIN, END, Characters
from trm_fast.tasks.tool_calling.transcript import transcribe
from trm_fast.training.config import apply_settings, make_config, read_preset

from .rows import DATA, needs_data

TOOL = Tool("send", "Sends a mail", {"type": "object", "required": ["to"], "properties": {
    "to": {"type": "string"}, "copies": {"type": "integer"}, "urgent": {"type": "boolean"},
    "size": {"enum": ["small", 7]}, "tags": {"type": "array", "items": {"type": "string"}},
    "more": {"type": "object"}, "factor": {"type": "number"},
}})  # fmt: skip
BARE = Tool("list", "Lists mails", {"type": "object", "properties": {}, "required": []})
TOKENS = Characters.train([json.dumps(TOOL.to_json()) + '0123456789-. ABCxyz"{}[]'], 200)
CALLS = [
    Call("send", {"to": 'A "b" {c}', "copies": -12, "urgent": True, "size": 7, "tags": ["x", "y"], "more": {},
                  "factor": 2.5}),
    Call("list", {}),
    Call("send", {"to": "x"}),
]  # fmt: skip


def test_calls_go_to_tokens_and_back_and_each_token_is_allowed() -> None:
    grammar = Grammar([TOOL, BARE], TOKENS)
    tokens = [*call_tokens(CALLS, TOKENS), END]
    for i, token in enumerate(tokens):
        assert token in grammar.allowed(tokens[:i]), TOKENS.decode(tokens[:i])
    assert grammar.calls(tokens) == CALLS
    assert grammar.allowed(tokens) == []


@pytest.mark.parametrize(
    "call",
    [
        Call("steal", {}), Call("send", {}), Call("send", {"to": "x", "color": "red"}),
        Call("send", {"to": "x", "copies": 1.5}), Call("send", {"to": "x", "urgent": "maybe"}),
        Call("send", {"to": "x", "size": "large"}), Call("list", {"to": "x"}),
    ],
)  # fmt: skip
def test_a_wrong_call_is_nowhere_allowed(call: Call) -> None:
    grammar, tokens = Grammar([TOOL, BARE], TOKENS), call_tokens([call], TOKENS)
    wrong = [i for i, token in enumerate(tokens) if token not in grammar.allowed(tokens[:i])]
    assert wrong


class Drawn:
    """A model that says anything: random logits, another at every length."""

    def __init__(self, seed: int, said: tuple[int, ...] = ()) -> None:
        self.seed, self.said, self.room = seed, said, 500

    def extend(self, tokens: Sequence[int]) -> Any:
        self.said += tuple(tokens)
        rng = np.random.default_rng((self.seed, *self.said[-3:], len(self.said)))
        return rng.normal(size=TOKENS.size).astype(np.float32) * 3

    def fork(self) -> Drawn:
        return Drawn(self.seed, self.said)


@pytest.mark.parametrize("search", [Search(400), Search(400, temperature=1.0, top_p=0.9), Search(400, beams=2)])
def test_whatever_a_model_says_its_calls_are_valid(search: Search) -> None:
    grammar = Grammar([TOOL, BARE], TOKENS)
    finished = 0
    for seed in range(6):
        said = generate(Drawn(seed), [BEGIN], grammar.allowed, search)
        calls = grammar.calls(said.tokens)
        assert json.loads(json.dumps([call.to_json() for call in calls])) is not None
        assert all(call.name in ("send", "list") for call in calls)
        if said.tokens[-1] == END:
            finished += 1
            assert calls
            assert [p for call in calls for p in problems(call, [TOOL, BARE])] == []
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
    turns = (Turn("system", "s"), Turn("user", "u"), Turn("assistant", "x"), Turn.calling(CALLS[1]),
             Turn("tool_response", "r"), Turn("assistant", "y"))  # fmt: skip
    row = transcribe(Conversation((BARE,), turns), TOKENS, 200, 4)
    assert len(row.ids) == len(row.weights)
    learnt = [(token, weight) for token, weight in zip(row.ids, row.weights, strict=True) if weight]
    call = [*call_tokens(CALLS[1:2], TOKENS), END]
    said = TOKENS.special("<assistant>")
    expected = [(said, 1.0), (TOKENS.ids["x"], 1.0), (END, 1.0), *((t, 2.0) for t in call),
                (said, 1.0), (TOKENS.ids["y"], 1.0), (END, 1.0)]  # fmt: skip
    assert learnt == expected


def test_a_long_conversation_keeps_its_tools_and_its_end() -> None:
    turns = (Turn("user", "x" * 10_000), Turn.calling(CALLS[2]))
    row = transcribe(Conversation((TOOL, BARE), turns), TOKENS, 300, 12)
    assert row.cut
    assert len(row.ids) <= 300
    tail = [*call_tokens(CALLS[2:], TOKENS), END]
    assert row.ids[-len(tail) :] == tail
    assert TOKENS.special("<user>") in row.ids
    assert transcribe(Conversation((), (Turn("user", ""),)), TOKENS, 30, 4).ids == [BEGIN, TOKENS.special("<user>")]


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
