"""The format ``slots``: a history, the decision that follows it, its call, and the slots filled by then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Turn, read_tools
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, register
from trm_fast.tasks.tool_calling.data.formats.rows import as_object, check_columns, id_column, list_in, row_id
from trm_fast.tasks.tool_calling.data.messages import check_offered, read_messages
from trm_fast.tasks.tool_calling.data.refused import Refused

DECISIONS = ("direct_answer", "tool_call")


def read_slots(row: Any, where: str = "") -> Conversation:
    """Reads ``{"tools", "history", "decision", "tool", "slots", "content"}``; ``tool`` is empty for a direct answer."""
    row = as_object(row)
    check_columns(row, ("tools", "history", "decision", "tool", "slots", "content"))
    tools, turns = read_messages(list_in(row, "history"), read_tools(row.get("tools")), "history")
    decision = row.get("decision")
    if decision not in DECISIONS:
        raise Refused("decision", f"must be {' or '.join(DECISIONS)}, not {decision!r}")
    call = None
    if decision == "tool_call":
        call = Call.of(row.get("tool"), "tool")
        check_offered([(call, "tool.name")], tools)
    elif row.get("tool"):
        raise Refused("tool", f"must be empty for the decision {decision}, not {row['tool']!r:.60}")
    slots = row.get("slots") or {}
    if not isinstance(slots, Mapping):
        raise Refused("slots", f"must be an object, not {slots!r:.60}")
    values = {str(name): _slot(name, value) for name, value in slots.items()}
    reply = row.get("content") or ""
    if not isinstance(reply, str) or (call and reply.strip()):
        raise Refused("content", f"must be {'empty for a call' if call else 'text'}, not {reply!r:.60}")
    return Conversation(tools, tuple(turns), where, row_id(row), decision, call, values, reply)


def write_slots(conversation: Conversation) -> dict[str, Any]:
    """Writes a conversation. Without a decision, its last turn by the model becomes the decision."""
    head = conversation if conversation.decision else next_step(conversation)
    history = [{"role": turn.role, "content": _content(turn)} for turn in head.turns]
    return id_column(head) | {
        "tools": [tool.to_json() for tool in head.tools],
        "history": history,
        "decision": head.decision,
        "tool": head.call.to_json() if head.call else {},
        "slots": dict(head.slots or {}),
        "content": head.reply,
    }


def next_step(conversation: Conversation) -> Conversation:
    """A copy that ends before its last turn by the model, which becomes the decision, the call and the reply.

    Raises:
        Refused: the model has no turn.
    """
    turns = conversation.turns
    index = next((i for i in reversed(range(len(turns))) if turns[i].role in ("assistant", "tool_call")), None)
    if index is None:
        raise Refused("messages", "the assistant never answers: there is no decision")
    while index and turns[index].role == "tool_call" and turns[index - 1].role == "tool_call":
        index -= 1  # the first of several consecutive calls is the decision
    last, call = turns[index], turns[index].call
    decision = "tool_call" if call else "direct_answer"
    return Conversation(
        conversation.tools, turns[:index], conversation.where, conversation.id, decision, call,
        {k: str(v) for k, v in call.arguments.items()} if call else {}, "" if call else last.text,
    )  # fmt: skip


def _slot(name: Any, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping | list):
        raise Refused(f"slots.{name}", f"must be text, not {value!r:.60}")
    return str(value)


def _content(turn: Turn) -> Any:
    """The value of a call or a result; the text of any other turn."""
    if turn.call is not None:
        return turn.call.to_json()
    if turn.role != "tool_response":
        return turn.text
    try:
        value = json.loads(turn.text)
    except ValueError:
        return turn.text
    return turn.text if isinstance(value, str) or json.dumps(value, ensure_ascii=False) != turn.text else value


about = Command(
    "Reads rows of history, decision, tool and slots, as the preset tool-slots learns from.",
    "trm-fast data sgd rows.jsonl --val-split 0.1 --out rows.jsonl",
    writes="slots",
)
register(Format("slots", ("history",), read_slots, write_slots, {"sgd": about}))
