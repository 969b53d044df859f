"""Draws conversations in the terminal."""

from __future__ import annotations

import json

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from trm_fast.tasks.tool_calling.data.conversation import Conversation

STYLES = {"system": "dim", "user": "bold", "assistant": "green", "tool_call": "yellow", "tool_response": "cyan"}
MAX_SHOWN = 600
"""The maximum number of characters of a turn to show."""


def draw_conversation(conversation: Conversation) -> RenderableType:
    """The names of the tools, the turns, each cut to ``MAX_SHOWN`` characters, and the next turn if it is known."""
    lines = [Text("tools: " + (", ".join(tool.name for tool in conversation.tools) or "none"), "magenta")]
    for turn in conversation.turns:
        lines.append(Text.assemble((f"{turn.role}: ", STYLES[turn.role]), _cut(turn.text)))
    if conversation.decision:
        following = conversation.call.text() if conversation.call else conversation.reply
        lines.append(Text.assemble((f"-> {conversation.decision}: ", "bold yellow"), _cut(following)))
        filled = {name: value for name, value in (conversation.slots or {}).items() if value}
        lines.append(Text(f"slots: {json.dumps(filled, ensure_ascii=False)}", "yellow"))
    if conversation.accepted is not None:
        answers = json.dumps(list(conversation.accepted), ensure_ascii=False)
        lines.append(Text(f"accepted: {_cut(answers)}", "bold yellow"))
    return Panel(Group(*lines), title=Text(conversation.where), title_align="left")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text):,} characters)"
