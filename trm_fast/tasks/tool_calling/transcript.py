"""A conversation as one row of tokens for a causal model, each with the weight of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from trm_fast.tasks.tool_calling.conversation import Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.grammar import call_tokens
from trm_fast.tasks.tool_calling.lexical import Lexicon
from trm_fast.tasks.tool_calling.relevance import nearest_first
from trm_fast.tasks.tool_calling.tokenizer import BEGIN, END, ROLE_TOKENS, Tokenizer
from trm_fast.tasks.tool_calling.values import kind_of

WEIGHTS: Mapping[str, float] = {
    "system": 0.0, "user": 0.0, "tool_response": 0.0, "assistant": 1.0, "tool_call": 2.0,
}  # fmt: skip
"""How much of a turn's loss counts."""


@dataclass(frozen=True)
class Transcript:
    """``ids`` and for each the weight of its loss as a target; ``cut``: turns or descriptions left out."""

    ids: list[int]
    weights: list[float]
    cut: bool


def transcribe(
    conversation: Conversation, tokenizer: Tokenizer, most_tokens: int, description_tokens: int
) -> Transcript:
    """Begin, the tools, the turns. Of what is too long descriptions go first, then the oldest turns; names and
    arguments of tools always stay."""
    turns = _turns(conversation.turns, tokenizer)
    if conversation.call is not None:
        turns += _turns((Turn.calling(conversation.call),), tokenizer)
    elif conversation.reply:
        turns += _turns((Turn("assistant", conversation.reply),), tokenizer)
    length = sum(len(ids) for ids, _ in turns)
    tools, cut = [BEGIN], False
    for described in (description_tokens, 4, 0):
        tools = [BEGIN, *_tools(conversation.tools, tokenizer, described)]
        if len(tools) + length <= most_tokens:
            break
        cut = True
    room = max(0, most_tokens - len(tools))
    while length > room and turns:
        first, weight = turns.pop(0)
        length -= len(first)
        if length + 2 <= room:  # its role and its last words stay
            turns.insert(0, ([first[0], *first[length + 1 - room :]], weight))
            break
    ids = [*tools[:most_tokens], *(i for part, _ in turns for i in part)]
    weights = [0.0] * len(tools[:most_tokens]) + [weight for part, weight in turns for _ in part]
    return Transcript(ids, weights, cut)


def arranged(conversation: Conversation, lexicon: Lexicon) -> Conversation:
    """Tools as they are near to the last request, which says more than the order in which they are offered; calls made
    together in the order of their tools."""
    tools = nearest_first(conversation.query, conversation.tools, lexicon)
    place = {tool.name: i for i, tool in enumerate(tools)}
    turns: list[Turn] = []
    for _, group in groupby(conversation.turns, key=lambda turn: turn.call is not None):
        turns += sorted(group, key=lambda turn: place.get(turn.call.name, 0) if turn.call else 0)
    return replace(conversation, tools=tuple(tools), turns=tuple(turns))


def _turns(turns: tuple[Turn, ...], tokenizer: Tokenizer) -> list[tuple[list[int], float]]:
    """Tokens and weight of each turn; what the model says ends with an end, calls in a row with one together."""
    made = []
    for i, turn in enumerate(turns):
        weight = WEIGHTS[turn.role]
        if turn.call is not None:
            ids = call_tokens([turn.call], tokenizer)
            more = i + 1 < len(turns) and turns[i + 1].call is not None
        else:
            ids = [tokenizer.special(ROLE_TOKENS[turn.role]), *tokenizer.encode(turn.text).ids]
            more = False
        made.append(([*ids, END] if weight and not more else ids, weight))
    return made


def _tools(tools: tuple[Tool, ...], tokenizer: Tokenizer, description_tokens: int) -> list[int]:
    """Names, the beginning of descriptions, and arguments with their types; optional ones with a question mark."""
    if not tools:
        return []
    made = [tokenizer.special("<tools>")]
    for tool in tools:
        made += tokenizer.encode(tool.name).ids
        made += tokenizer.encode(f": {tool.description}").ids[:description_tokens]
        properties, required = tool.parameters["properties"], tool.parameters["required"]
        written = [f"{n}{'' if n in required else '?'} {kind_of(s)}" for n, s in properties.items()]
        made += [*tokenizer.encode(f"({', '.join(written)})").ids, tokenizer.special("<sep>")]
    return [*made, tokenizer.special("</tools>")]
