"""What the rows of several formats share: objects, lists, columns, and the reader of a list of messages."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool, Turn, read_tools
from trm_fast.tasks.tool_calling.data.literals import parse_json
from trm_fast.tasks.tool_calling.data.messages import read_messages
from trm_fast.tasks.tool_calling.data.refused import EMPTY, Refused, account_for, short

TOOL_COLUMNS = ("tools", "functions", "tools_json", "function_description")
"""The columns with the offered tools; the last one is that of Glaive in ChatML."""
SYSTEM_COLUMNS = ("system", "system_message", "system_prompt")
"""The columns with the text of a first system turn."""
NOTES = (
    "id", "_id", "uid", "uuid", "idx", "index", "row_id", "source", "dataset", "origin", "split", "category",
    "categories", "subcategory", "task", "subtask", "domain", "type", "language", "lang", "locale", "difficulty",
    "level", "license", "url", "tags", "metadata", "meta", "created", "created_at", "timestamp", "date", "version",
    "hash", "score", "quality", "model", "num_turns", "length", "conversation_id",
)  # fmt: skip
"""The columns that say nothing about turns and tools."""
SETTINGS = (
    "tool_choice", "parallel_tool_calls", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stream", "n",
    "seed",
)  # fmt: skip
"""The settings of a request to a chat model; they say nothing about turns and tools."""


def as_object(row: Any) -> Mapping[str, Any]:
    """Returns the row. Raises ``Refused`` if it is not an object."""
    if not isinstance(row, Mapping):
        raise Refused("row", f"must be an object, not {row!r:.60}")
    return row


def check_columns(row: Mapping[str, Any], columns: Collection[str]) -> None:
    """Raises ``Refused`` if the row has a column that is neither in ``columns`` nor a note."""
    names = ", ".join(columns)
    account_for(row, (*columns, *NOTES), "", f"{names}, and columns without turns, such as {', '.join(NOTES[:8])}")


def list_in(row: Mapping[str, Any], field: str) -> list[Any]:
    """The list in a field, which may be JSON text. Raises ``Refused`` if it is missing, empty or not a list."""
    value = row.get(field)
    if isinstance(value, str):
        value = parse_json(value, field)
    if not isinstance(value, list):
        raise Refused(field, "is missing" if value is None else f"must be a list, not {value!r:.60}")
    if not value:
        raise Refused(field, "is empty: a conversation needs a turn")
    return value


def read_chat(row: Any, where: str, column: str) -> Conversation:
    """Reads a row whose column has a list of messages, with tools and a system text in columns of their own."""
    row = as_object(row)
    messages = list_in(row, column)
    check_columns(row, (column, *TOOL_COLUMNS, *SYSTEM_COLUMNS, *SETTINGS))
    system = _only_column(row, SYSTEM_COLUMNS)
    tools, turns = read_messages(messages, offered_tools(row), column, system if system[0] else None)
    return Conversation(tools, tuple(turns), where, row_id(row))


def offered_tools(row: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The tools in a row's columns."""
    key, tools = _only_column(row, TOOL_COLUMNS)
    return read_tools(tools, key or TOOL_COLUMNS[0])


def row_id(row: Mapping[str, Any]) -> str:
    """The id of a row, or "" if it has none."""
    return "" if row.get("id") is None else str(row["id"])


def id_column(conversation: Conversation) -> dict[str, str]:
    """``{"id": ...}``, or {} for a conversation without an id."""
    return {"id": conversation.id} if conversation.id else {}


def tools_text(conversation: Conversation) -> str:
    """The offered tools as the JSON text of a list."""
    return json.dumps([tool.to_json() for tool in conversation.tools], ensure_ascii=False)


def _only_column(row: Mapping[str, Any], columns: Collection[str]) -> tuple[str, Any]:
    """The one of ``columns`` that has a value, and the value; "" and None if there is none."""
    present = [name for name in columns if row.get(name) not in EMPTY and row[name] != "[]"]
    if len(present) > 1:
        raise Refused(present[1], f"stands beside {present[0]}; one is accepted, not {short(row[present[1]])}")
    return (present[0], row[present[0]]) if present else ("", None)


@dataclass(frozen=True)
class AnsweredCalls:
    """Calls that follow each other, the assistant's text before them, and the results after them, by ids."""

    text: str | None
    calls: dict[str, Call]
    results: dict[str, str]


def answered_calls(turns: Sequence[Turn]) -> Iterator[Turn | AnsweredCalls]:
    """The turns, with calls and results put together for formats that link them by an id.

    Raises:
        Refused: the number of results after calls differs from the number of calls.
    """
    number, i = 0, 0
    while i < len(turns):
        first = i + (turns[i].role == "assistant")
        end = _end_of_run(turns, first, "tool_call")
        after = _end_of_run(turns, end, "tool_response")
        if first == end and after == end:
            yield turns[i]
            i += 1
            continue
        ids = [f"call_{number + n + 1}" for n in range(end - first)]
        calls = [turn.call for turn in turns[first:end] if turn.call is not None]
        results = [turn.text for turn in turns[end:after]]
        if results and len(results) != len(calls):
            raise Refused(f"turn {end + 1}", f"{len(calls)} calls have {len(results)} results: each needs its own")
        text = turns[i].text if first > i else None
        yield AnsweredCalls(text, dict(zip(ids, calls, strict=True)), dict(zip(ids, results, strict=False)))
        number, i = number + len(ids), after


def _end_of_run(turns: Sequence[Turn], first: int, role: str) -> int:
    return next((i for i in range(first, len(turns)) if turns[i].role != role), len(turns))
