"""Which turns of a conversation a model that generates reads, in what order, and what comes next."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from trm_fast.tasks.tool_calling.data.conversation import Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.text.finding import TurnWords
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon
from trm_fast.tasks.tool_calling.text.relevance import nearest_first

RESPONSE_WORDS = 48
"""Of a tool's result that are read."""


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
