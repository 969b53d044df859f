"""Tools for mails, conversations about them, and their transcripts."""

from __future__ import annotations

import json

import numpy as np

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.generate.transcript import RowLimits, Transcript, in_canonical_order
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon
from trm_fast.tasks.tool_calling.text.tokenizer import Characters

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

LIMITS = RowLimits(160, 4, 16, 8, TOKENS.size)

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


def transcript(source: Conversation, most: int | None = None) -> Transcript:
    return Transcript(in_canonical_order(source, LEXICON), TOKENS, LEXICON, LIMITS, most)


def written_symbols(row: Transcript) -> list[int]:
    """The symbols that the model learns to write."""
    return [int(row.symbols[i]) for i in np.flatnonzero(row.learned)]
