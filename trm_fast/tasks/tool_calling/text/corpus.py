"""The text of conversations that a tokenizer learns from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from trm_fast.tasks.tool_calling.data.conversation import Conversation


def texts(conversations: Iterable[Conversation]) -> Iterator[str]:
    """Every turn, the reply, the call, and each tool that was not met before, as JSON."""
    met: set[str] = set()
    for conversation in conversations:
        yield from (turn.text for turn in conversation.turns)
        yield conversation.reply
        if conversation.call is not None:
            yield conversation.call.text()
        for tool in conversation.tools:
            text = json.dumps(tool.to_json()["function"], ensure_ascii=False)
            if text not in met:
                met.add(text)
                yield text
