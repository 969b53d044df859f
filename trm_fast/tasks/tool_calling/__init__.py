"""Tool calling: conversations with tools, their formats on disk, tokenizers, and the models that choose a call."""

from trm_fast.tasks.tool_calling.conversation import Call, Conversation, Refused, Tool, Turn
from trm_fast.tasks.tool_calling.schema import problems

__all__ = ["Call", "Conversation", "Refused", "Tool", "Turn", "problems"]
