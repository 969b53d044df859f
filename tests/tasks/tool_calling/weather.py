"""Tools and requests about the weather, written by hand."""

from __future__ import annotations

from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon


def tool(name: str, description: str = "", required: tuple[str, ...] = (), **parameters: dict[str, Any]) -> Tool:
    return Tool(name, description, {"type": "object", "properties": parameters, "required": list(required)})


WEATHER = tool(
    "get_weather", "Weather of a city", ("city",), city={"type": "string"}, days={"type": "integer", "default": 3},
    metric={"type": "boolean"},
)  # fmt: skip

SUM = tool("add_numbers", "Adds numbers", ("numbers",), numbers={"type": "array", "items": {"type": "number"}})

PING = tool("ping", "Pings the server")

LEXICON = Lexicon.of([WEATHER, SUM, PING])


def request(query: str, tools: tuple[Tool, ...] = (WEATHER, SUM, PING), *calls: Call) -> Conversation:
    return Conversation(tools, (Turn("user", query), *map(Turn.of_call, calls)), "here")
