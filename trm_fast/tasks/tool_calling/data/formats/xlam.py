"""The format ``xlam``: the rows of xlam-function-calling-60k, a query with tools and the calls that answer it."""

from __future__ import annotations

import json
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Turn
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, register
from trm_fast.tasks.tool_calling.data.formats.rows import (
    as_object,
    check_columns,
    id_column,
    offered_tools,
    read_chat,
    row_id,
    tools_text,
)
from trm_fast.tasks.tool_calling.data.literals import parse_literal
from trm_fast.tasks.tool_calling.data.messages import check_offered
from trm_fast.tasks.tool_calling.data.refused import Refused, short


def read_xlam(row: Any, where: str = "") -> Conversation:
    """Reads ``{"query", "tools", "answers"}``, with tools and answers as lists or their JSON text.

    Rows with ``messages``, such as xLAM in the SWIFT format, are read too.
    """
    row = as_object(row)
    if "messages" in row and "query" not in row:
        return read_chat(row, where, "messages")
    check_columns(row, ("query", "tools", "answers"))
    query, answers = row.get("query"), row.get("answers")
    if not isinstance(query, str) or not query.strip():
        raise Refused("query", "is missing" if query is None else f"must be text, not {short(query)}")
    if isinstance(answers, str):
        answers = parse_literal(answers, "answers")
    if not isinstance(answers, list):
        raise Refused("answers", "is missing" if answers is None else f"must be a list, not {short(answers)}")
    tools = offered_tools(row)
    calls = [Call.of(answer, f"answers[{i}]") for i, answer in enumerate(answers)]
    check_offered([(call, f"answers[{i}]") for i, call in enumerate(calls)], tools)
    # Without calls, the answer is one without words: no call is right.
    answer_turns = [Turn.of_call(call) for call in calls] or [Turn("assistant", "")]
    return Conversation(tools, (Turn("user", query), *answer_turns), where, row_id(row))


def write_xlam(conversation: Conversation) -> dict[str, Any]:
    """Writes a user's turn and the calls after it, or the answer without words.

    Raises:
        Refused: the conversation has other turns.
    """
    first, *rest = conversation.all_turns
    rest = [] if rest == [Turn("assistant", "")] else rest
    if first.role != "user" or any(turn.call is None for turn in rest):
        raise Refused("messages", "the format xlam holds one user turn and the calls after it, nothing else")
    answers = [turn.call.to_json() for turn in rest if turn.call is not None]
    return id_column(conversation) | {
        "query": first.text,
        "tools": tools_text(conversation),
        "answers": json.dumps(answers, ensure_ascii=False),
    }


about = Command(
    'Reads xLAM rows, original or in SWIFT JSON; parameters without "properties" become JSON schema.',
    "trm-fast data xlam xlam_function_calling_60k.json --preview 1",
    writes="swift",
)
register(Format("xlam", ("query", "answers"), read_xlam, write_xlam, {"xlam": about}))
