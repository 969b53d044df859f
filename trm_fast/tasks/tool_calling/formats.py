"""Conversations from and to the formats in use: one row of JSON in, a ``Conversation`` out, and back.

- ``hermes``: ShareGPT turns with tools, calls and results between tags in the text (``human``/``gpt`` or
  ``user``/``assistant``).
- ``swift``: the SWIFT agent format, tools as JSON text and a message for each call; xLAM and Seal-Tools come in it.
- ``slots``: a history, the decision behind it, the call and the slots known by then.
- ``bfcl``: questions of the Berkeley Function-Calling Leaderboard, which measure and never train.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from trm_fast.tasks.tool_calling.conversation import Call, Conversation, Refused, Turn, parse_json, read_tools, text_of

_FROM = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "model": "assistant", "chatgpt": "assistant", "tool": "tool_response", "tool_response": "tool_response",
    "observation": "tool_response", "function_response": "tool_response", "function_call": "tool_call",
    "tool_call": "tool_call",
}  # fmt: skip
_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>(.*?)(?:</tool_response>|$)", re.DOTALL)
DECISIONS = ("direct_answer", "tool_call")


def read_hermes(row: Any, where: str = "") -> Conversation:
    """ShareGPT turns ``{"conversations": [{"from", "value"}]}``; tools may also stand in a column ``tools``."""
    row = _object(row)
    tools = read_tools(row.get("tools"))
    turns: list[Turn] = []
    for i, item in enumerate(_list(row, "conversations")):
        field = f"conversations[{i}]"
        role, text = _role(item, "from", field), text_of(item.get("value"), f"{field}.value")
        if role == "system" and not tools and (found := _blocks(_TOOLS, text)):
            tools = read_tools(_loads(found[-1], f"{field}.value <tools>"), f"{field}.value <tools>")
            text = _TOOLS.sub("", text).strip()
            if not text:
                continue
        if role == "assistant":
            turns += _assistant(text, field)
        elif role == "tool_response":
            turns += [Turn(role, part) for part in _blocks(_RESPONSE, text) or [text]]
        elif role == "tool_call":
            turns.append(Turn.calling(Call.of(_loads(text, field), field)))
        else:
            turns.append(Turn(role, text))
    return Conversation(tools, tuple(turns), where, str(row.get("id", row.get("source", ""))))


def write_hermes(conversation: Conversation) -> dict[str, Any]:
    """Tools go into the system turn; text and the calls behind it become one assistant turn, results in a row one."""
    turns: list[dict[str, str]] = []
    system = "\n".join(t.text for t in conversation.turns if t.role == "system")
    if conversation.tools:
        offered = json.dumps([tool.to_json() for tool in conversation.tools], ensure_ascii=False)
        system = f"{system}\n<tools>\n{offered}\n</tools>".lstrip("\n")
    if system:
        turns.append({"from": "system", "value": system})
    before = ""
    for turn in conversation.turns:
        if turn.role == "system":
            continue
        role = {"tool_call": "assistant", "tool_response": "tool"}.get(turn.role, turn.role)
        tag = {"tool_call": "tool_call", "tool_response": "tool_response"}.get(turn.role)
        text = f"<{tag}>\n{turn.text}\n</{tag}>" if tag else turn.text
        joins = tag is not None and (turn.role == before or (tag == "tool_call" and before == "assistant"))
        if joins:
            turns[-1]["value"] += f"\n{text}"
        else:
            turns.append({"from": role, "value": text})
        before = turn.role
    return _named(conversation) | {"conversations": turns}


def read_swift(row: Any, where: str = "") -> Conversation:
    """``{"tools": JSON text, "messages": [{"role", "content"}]}``."""
    row = _object(row)
    turns = [_message(m, f"messages[{i}]") for i, m in enumerate(_list(row, "messages"))]
    return Conversation(read_tools(row.get("tools")), tuple(turns), where, str(row.get("id", "")))


def write_swift(conversation: Conversation) -> dict[str, Any]:
    tools = json.dumps([tool.to_json() for tool in conversation.tools], ensure_ascii=False)
    messages = [{"role": turn.role, "content": turn.text} for turn in conversation.turns]
    if conversation.call is not None:  # what comes next is the last message where it is known
        messages.append({"role": "tool_call", "content": conversation.call.text()})
    elif conversation.reply:
        messages.append({"role": "assistant", "content": conversation.reply})
    return _named(conversation) | {"tools": tools, "messages": messages}


def read_slots(row: Any, where: str = "") -> Conversation:
    """``{"tools", "history", "decision", "tool", "slots", "content"}``; ``tool`` is empty for a direct answer."""
    row = _object(row)
    tools = read_tools(row.get("tools"))
    turns = tuple(_message(m, f"history[{i}]") for i, m in enumerate(_list(row, "history")))
    decision = row.get("decision")
    if decision not in DECISIONS:
        raise Refused("decision", f"must be {' or '.join(DECISIONS)}, not {decision!r}")
    call = None
    if decision == "tool_call":
        call = Call.of(row.get("tool"), "tool")
        if not any(tool.name == call.name for tool in tools):
            raise Refused("tool.name", f"{call.name!r} is not among the row's tools")
    slots = row.get("slots") or {}
    if not isinstance(slots, Mapping):
        raise Refused("slots", f"must be an object, not {slots!r:.60}")
    values = {str(name): _slot(name, value) for name, value in slots.items()}
    reply = text_of(row.get("content") or "", "content")
    return Conversation(tools, turns, where, str(row.get("id", "")), decision, call, values, reply)


def write_slots(conversation: Conversation) -> dict[str, Any]:
    """A conversation whose decision is not given is split behind its last user turn or result."""
    head = conversation if conversation.decision else next_step(conversation)
    history = [{"role": turn.role, "content": _content(turn)} for turn in head.turns]
    return _named(head) | {
        "tools": [tool.to_json() for tool in head.tools],
        "history": history,
        "decision": head.decision,
        "tool": head.call.to_json() if head.call else {},
        "slots": dict(head.slots or {}),
        "content": head.reply,
    }


def next_step(conversation: Conversation) -> Conversation:
    """The same conversation up to its last turn by the model, which becomes the decision, call and reply."""
    turns = conversation.turns
    at = next((i for i in reversed(range(len(turns))) if turns[i].role in ("assistant", "tool_call")), None)
    if at is None:
        raise Refused("messages", "the assistant never answers: there is no decision")
    while at and turns[at].role == "tool_call" and turns[at - 1].role == "tool_call":
        at -= 1  # several calls at once: the first is the decision
    last, call = turns[at], turns[at].call
    decision = "tool_call" if call else "direct_answer"
    return Conversation(
        conversation.tools, turns[:at], conversation.where, conversation.id, decision, call,
        {k: str(v) for k, v in call.arguments.items()} if call else {}, "" if call else last.text,
    )  # fmt: skip


def read_bfcl(row: Any, where: str = "", accepted: Any = None) -> Conversation:
    """A question line; ``accepted``: ``ground_truth`` of the answer line of its id, [] where no call is right."""
    row = _object(row)
    question = _list(row, "question")
    messages = question[0] if isinstance(question[0], list) else question
    if isinstance(question[0], list) and len(question) > 1:
        raise Refused("question", f"has {len(question)} rounds; only questions of one round are read")
    turns = tuple(_message(m, f"question[0][{i}]") for i, m in enumerate(messages))
    if accepted is not None and not (isinstance(accepted, list) and all(isinstance(a, Mapping) for a in accepted)):
        raise Refused("ground_truth", f"must be a list of objects, not {accepted!r:.60}")
    tools = read_tools(row.get("function"), "function")
    return Conversation(tools, turns, where, str(row.get("id", "")), accepted=accepted)


READERS: dict[str, Callable[..., Conversation]] = {
    "hermes": read_hermes, "swift": read_swift, "slots": read_slots, "bfcl": read_bfcl,
}  # fmt: skip
WRITERS: dict[str, Callable[[Conversation], dict[str, Any]]] = {
    "hermes": write_hermes, "swift": write_swift, "slots": write_slots,
}  # fmt: skip


def format_of(row: Any) -> str:
    """The format that a row's fields tell; Refused where they tell none."""
    row = _object(row)
    for name, field in (("hermes", "conversations"), ("swift", "messages"), ("slots", "history"), ("bfcl", "question")):
        if field in row:
            return name
    known = "conversations, messages, history or question"
    raise Refused("row", f"has none of {known}, but {', '.join(map(str, row)) or 'nothing'}")


def _assistant(text: str, field: str) -> list[Turn]:
    """An assistant turn with calls between tags: its text, if there is any, then each call."""
    calls = [Call.of(_loads(part, f"{field}.value <tool_call>"), field) for part in _blocks(_CALL, text)]
    said = _CALL.sub("", text).strip() if calls else text
    return [*([Turn("assistant", said)] if said else []), *(Turn.calling(call) for call in calls)]


def _message(message: Any, field: str) -> Turn:
    role, content = _role(message, "role", field), message.get("content")
    if role == "tool_call":
        value = parse_json(content, f"{field}.content") if isinstance(content, str) else content
        return Turn.calling(Call.of(value, f"{field}.content"))
    return Turn(role, text_of(content, f"{field}.content"))


def _role(item: Any, key: str, field: str) -> str:
    if not isinstance(item, Mapping):
        raise Refused(field, f"a turn is an object, not {item!r:.60}")
    role = item.get(key)
    if role not in _FROM:
        raise Refused(f"{field}.{key}", f"is {role!r}; known are {', '.join(_FROM)}")
    return _FROM[role]


def _slot(name: Any, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping | list):
        raise Refused(f"slots.{name}", f"must be text, not {value!r:.60}")
    return str(value)


def _object(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise Refused("row", f"must be an object, not {row!r:.60}")
    return row


def _list(row: Mapping[str, Any], field: str) -> list[Any]:
    value = row.get(field)
    if isinstance(value, str):
        value = parse_json(value, field)
    if not isinstance(value, list):
        raise Refused(field, "is missing" if value is None else f"must be a list, not {value!r:.60}")
    if not value:
        raise Refused(field, "is empty: there is no turn")
    return value


def _blocks(pattern: re.Pattern[str], text: str) -> list[str]:
    return [match.group(1).strip() for match in pattern.finditer(text)]


def _loads(text: str, field: str) -> Any:
    """JSON, or the Python literals that some Hermes rows hold instead."""
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return parse_json(text, field)


def _content(turn: Turn) -> Any:
    """Calls and results as JSON values, everything else as text."""
    if turn.call is not None:
        return turn.call.to_json()
    if turn.role != "tool_response":
        return turn.text
    try:
        return json.loads(turn.text)
    except ValueError:
        return turn.text


def _named(conversation: Conversation) -> dict[str, str]:
    return {"id": conversation.id} if conversation.id else {}
