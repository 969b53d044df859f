"""Reads messages of chats: roles, texts, parts, calls in fields or between marks, and results by the id of the call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Call, Tool, Turn, read_tools
from trm_fast.tasks.tool_calling.data.literals import parse_literal
from trm_fast.tasks.tool_calling.data.marks import (
    TOOL_SIGNS,
    UNKNOWN,
    Kind,
    Passage,
    call_id,
    passages,
    plain,
    read_calls,
    without_end,
)
from trm_fast.tasks.tool_calling.data.refused import EMPTY, Refused, account_for, short

ROLES = {
    "system": "system", "developer": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "model": "assistant", "chatgpt": "assistant", "bot": "assistant", "ai": "assistant",
    "tool": "tool_response", "tool_response": "tool_response", "tool_result": "tool_response",
    "tool_results": "tool_response", "observation": "tool_response", "function": "tool_response",
    "function_response": "tool_response", "function_result": "tool_response", "function_call": "tool_call",
    "tool_call": "tool_call", "tool_calls": "tool_call",
}  # fmt: skip
"""The role of a turn for each name that files use, in lower case and with ``_`` for ``-`` and spaces."""
NOTES = ("name", "id", "type", "index", "annotations", "weight", "timestamp", "cache_control")
"""The fields of a message that do not change what it says. A ``weight`` must be 1: every turn is learned."""
REASONING = ("reasoning_content", "reasoning", "thinking")
FIELDS = {
    "system": (),
    "user": (),
    "assistant": ("tool_calls", "function_call", "refusal", *REASONING),
    "tool_response": ("tool_call_id", "is_error"),
    "tool_call": ("tool_call_id",),
}
"""The fields that messages of a role may have besides their role, their text and ``NOTES``."""
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""The parts of a message that are texts: their type, and the field with the text."""
PART_FIELDS = {
    "thinking": ("thinking", "signature"),
    "tool_use": ("name", "input"),
    "tool_result": ("tool_use_id", "content", "is_error"),
}
"""The other parts of a message, and their fields."""
PART_ROLES = {"thinking": "assistant", "tool_use": "assistant", "tool_result": "user"}
"""The role of the messages that have these parts."""
RESULT_PARTS = {*TEXT_PARTS, "image", "image_url", "document"}
"""The types of a result's parts. A list of anything else is the result's own value."""
PART_NOTES = ("type", "id", "citations", "annotations", "cache_control", "caller", "index")


@dataclass(frozen=True)
class Entry:
    """A turn, and what tells which result belongs to which call: an id, or the name of the tool."""

    turn: Turn
    field: str
    id: str | None = None
    name: str | None = None


def read_messages(
    messages: Sequence[Any], tools: tuple[Tool, ...], field: str, system: tuple[str, Any] | None = None
) -> tuple[tuple[Tool, ...], list[Turn]]:
    """The offered tools and the turns of a list of messages.

    Args:
        messages: objects with ``role`` and ``content``, or with ``from`` and ``value``.
        tools: the tools of the row's columns. Tools in the texts of system and user are added if there are none.
        field: what error messages call the list.
        system: the name of the row's column with a system text, and the text.

    Raises:
        Refused: a message has a role, a field or a mark that is not known, or calls a tool that is not offered.
    """
    pieces = [_Pieces("system", system[0], list(_content_parts(system[1], "system", system[0])))] if system else []
    pieces += [_pieces(message, f"{field}[{i}]") for i, message in enumerate(messages)]
    defined = [value for one in pieces if one.role in ("system", "user") for value in one.take_tools(bool(tools))]
    in_texts = read_tools(defined, f"{field} <tools>")
    of_columns = {tool.name: tool.parameters["properties"].keys() for tool in tools}
    for tool in in_texts if tools else ():
        if of_columns.get(tool.name) != tool.parameters["properties"].keys():
            raise Refused(field, f"its texts define {tool.name!r} otherwise than the row's column of tools")
    tools = tools or in_texts
    entries = [entry for one in pieces for entry in one.entries(tools)]
    if not entries:
        raise Refused(field, "has no turn with a text or a call")
    check_offered([(entry.turn.call, entry.field) for entry in entries], tools)
    return tools, list(in_order(entries))


def check_offered(calls: Sequence[tuple[Call | None, str]], tools: Sequence[Tool]) -> None:
    """Checks that calls name offered tools; a model would learn from other calls that no call is right.

    Args:
        calls: the calls, each with the field that messages name.
        tools: the offered tools.

    Raises:
        Refused: a call names another tool.
    """
    names = {tool.name for tool in tools}
    for call, field in calls:
        if call is not None and call.name not in names:
            offered = ", ".join(sorted(names)[:8]) or "none, in no column tools or functions and in no system text"
            raise Refused(field, f"calls {call.name!r}, which is not among the row's tools: {offered}")


@dataclass
class _Pieces:
    """The parts of a message: texts, calls and results, each with the id that links results to calls."""

    role: str
    field: str
    parts: list[str | tuple[Call | str, str | None]]
    name: str | None = None

    def take_tools(self, has_column: bool) -> list[Any]:
        """Removes the definitions of tools from the texts, and returns them.

        Args:
            has_column: whether the row has tools in a column. Then definitions without a mark stay in the text.
        """
        tools: list[Any] = []
        parts, self.parts = self.parts, []
        for part in parts:
            if not isinstance(part, str):
                self.parts.append(part)
                continue
            kinds: tuple[Kind, ...] = ("tools",) if has_column or self.role == "user" else ("tools", "bare tools")
            split = list(passages(kinds, part, (), self.field))
            tools += [value for one in split if isinstance(one, Passage) for value in one.value]
            text = "\n".join(one for one in split if isinstance(one, str))
            if self.role == "system" and not has_column and (match := TOOL_SIGNS.search(text)):
                raise Refused(self.field, f"has {short(match[0])} in its text, but no tool that can be read: give JSON")
            if text or not split or not tools:
                self.parts.append(text)
        return tools

    def entries(self, tools: Sequence[Tool]) -> Iterator[Entry]:
        """The turns of the message."""
        calls = sum(not isinstance(part, str) for part in self.parts)
        for part in self.parts:
            if not isinstance(part, str):
                value, key = part
                turn = Turn.of_call(value) if isinstance(value, Call) else Turn("tool_response", value)
                yield Entry(turn, self.field, key, value.name if isinstance(value, Call) else self.name)
            elif self.role == "assistant":
                if not part.strip() and len(self.parts) == 1:  # an answer without words
                    yield Entry(Turn("assistant", part), self.field)
                for piece in read_calls(part, tools, self.field):
                    if isinstance(piece, str):
                        yield Entry(Turn("assistant", piece), self.field)
                    elif calls:
                        raise Refused(self.field, "has calls both in its text and in a field; one is accepted")
                    else:
                        yield Entry(Turn.of_call(piece[0]), self.field, piece[1], piece[0].name)
            elif self.role == "user":
                if not part.strip():
                    yield Entry(Turn("user", part), self.field)
                for split in passages("results", part, tools, self.field):
                    if isinstance(split, str):
                        yield Entry(Turn("user", plain(without_end(split), self.field)), self.field)
                    else:
                        yield from (Entry(Turn("tool_response", text), self.field) for text in split.value)
            else:
                yield Entry(Turn(self.role, part), self.field)


def _pieces(message: Any, field: str) -> _Pieces:
    if not isinstance(message, Mapping):
        raise Refused(field, f"a turn is an object, not {message!r:.60}")
    role_key, text_key = (_key(message, names, field) for names in (("role", "from"), ("content", "value")))
    name = message.get(role_key)
    role = ROLES.get(str(name).strip().lower().replace("-", "_").replace(" ", "_"))
    if role is None:
        raise Refused(f"{field}.{role_key}", f"is {name!r}; the known roles are {', '.join(ROLES)}")
    account_for(message, (role_key, text_key, *FIELDS[role], *NOTES), field)
    if message.get("weight") not in (None, 1):
        raise Refused(f"{field}.weight", f"is {message['weight']!r}; only 1 is accepted, because every turn is learned")
    if message.get("type") not in (None, "message", "text"):
        raise Refused(f"{field}.type", f"is {message['type']!r}; the known types are message and text")
    content, where = message.get(text_key), f"{field}.{text_key}"
    parts: list[str | tuple[Call | str, str | None]]
    if role == "tool_call":
        parts = [(Call.of(value, where), call_id(value)) for value in _listed(_value(content, where))]
    elif role == "tool_response":
        parts = _results(content, message.get("tool_call_id"), where)
    else:
        parts = list(_content_parts(content, role, where))
        if role == "assistant":
            parts = [*_reasoning(message, parts), *_field_calls(message, field)]
            if not parts:
                raise Refused(where, "is missing, and there is no call")
        elif content is None:
            raise Refused(where, "is missing")
    needs_call = str(name).strip().lower() == "function"
    tool = message.get("name")
    if needs_call and not tool and not message.get("tool_call_id"):
        raise Refused(f"{field}.name", "is missing: a result of role 'function' names its function")
    named = str(tool) if role == "tool_response" and tool else None
    return _Pieces(role, where, parts, named)


def _key(message: Mapping[str, Any], names: tuple[str, str], field: str) -> str:
    present = [name for name in names if name in message]
    if len(present) > 1 and all(message[name] not in EMPTY for name in names):
        raise Refused(field, f"has both {' and '.join(names)}; one is accepted")
    other = names[1] if ("from" in message or "value" in message) else names[0]
    return next((name for name in present if message[name] not in EMPTY), present[0] if present else other)


def _content_parts(content: Any, role: str, field: str) -> Iterator[str | tuple[Call | str, str | None]]:
    """The texts, calls and results in a message's content. Texts that follow each other are joined."""
    if content is None:
        return
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, list):
        raise Refused(field, f"must be text or a list of parts, not {short(content)}")
    text = ""
    for i, part in enumerate(content):
        where = f"{field}[{i}]"
        added = _text_part(part, where)
        if added is not None:
            # Parts are texts of their own, unless one of them brings the space between them.
            apart = text and added and not text[-1].isspace() and not added[0].isspace()
            text += ("\n" if apart else "") + added
            continue
        kind = part["type"]
        if PART_ROLES.get(kind) != role:
            names = ", ".join([*TEXT_PARTS, *PART_FIELDS])
            raise Refused(f"{where}.type", f"is {kind!r} in a turn of role {role}; the known parts are {names}")
        account_for(part, (*PART_FIELDS[kind], *PART_NOTES), where)
        if kind == "thinking":
            thoughts = part.get("thinking", "")
            text += f"<think>\n{thoughts}\n</think>\n"
            continue
        if text.strip():
            yield text
        text = ""
        if kind == "tool_use":
            named = {key: value for key, value in part.items() if key in ("id", "name", "input")}
            yield Call.of(named, where), call_id(part)
        else:
            yield from _results(part.get("content", ""), part.get("tool_use_id"), f"{where}.content")
    if text.strip() or not content:
        yield text


def _text_part(part: Any, field: str) -> str | None:
    """The text of a part of a message, or None if the part is something else."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise Refused(field, f"a part of a message is text or an object with a type, not {short(part)}")
    key = TEXT_PARTS.get(part["type"])
    if key is None:
        return None
    account_for(part, (key, *PART_NOTES), field)
    if not isinstance(part.get(key), str):
        raise Refused(f"{field}.{key}", f"must be text, not {short(part.get(key))}")
    return str(part[key])


def _results(content: Any, key: Any, field: str) -> list[str | tuple[Call | str, str | None]]:
    """The texts of a result. A value that is not text becomes JSON text; results between marks are separate."""
    if content is None:
        raise Refused(field, "is missing")
    kinds = {part.get("type") for part in content if isinstance(part, Mapping)} if isinstance(content, list) else set()
    if kinds == {"tool_result"}:
        return list(_content_parts(content, "user", field))
    if kinds and kinds <= RESULT_PARTS and all(isinstance(part, Mapping) for part in content):
        content = "".join(part for part in _content_parts(content, "tool_response", field) if isinstance(part, str))
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    split = list(passages("results", text, (), field))
    if not any(isinstance(one, Passage) for one in split):
        text = without_end(text)
        if UNKNOWN.match(text.lstrip()):
            plain(text, field)
        return [(text, None if key is None else str(key))]
    if others := [one for one in split if isinstance(one, str)]:
        raise Refused(field, f"has {short(others[0])} beside the marked results")
    texts = [part for one in split if isinstance(one, Passage) for part in one.value]
    if key is not None and len(texts) > 1:
        raise Refused(field, f"has {len(texts)} results for one id")
    return [(part, None if key is None else str(key)) for part in texts]


def _reasoning(message: Mapping[str, Any], parts: list[Any]) -> list[Any]:
    """The parts with the message's reasoning before them, and its refusal if there is no other text."""
    refusal = message.get("refusal")
    if refusal and not any(isinstance(part, str) and part.strip() for part in parts):
        parts = [refusal, *parts]
    elif refusal:
        raise Refused("refusal", "stands beside a text; one is accepted")
    thoughts = [message[key] for key in REASONING if message.get(key)]
    if thoughts and (len(set(map(str, thoughts))) > 1 or not isinstance(thoughts[0], str)):
        raise Refused(REASONING[0], f"must be one text, not {short(thoughts)}")
    if not thoughts:
        return parts
    first = parts[0] if parts and isinstance(parts[0], str) else ""
    return [f"<think>\n{thoughts[0]}\n</think>\n{first}".strip(), *parts[bool(first) :]]


def _field_calls(message: Mapping[str, Any], field: str) -> Iterator[tuple[Call, str | None]]:
    """The calls in ``tool_calls`` or ``function_call``."""
    calls, old = message.get("tool_calls"), message.get("function_call")
    if calls and old:
        raise Refused(field, "has both tool_calls and function_call; one is accepted")
    if old:
        yield Call.of(_value(old, f"{field}.function_call"), f"{field}.function_call"), None
    where = f"{field}.tool_calls"
    for i, value in enumerate(_listed(_value(calls, where)) if calls else []):
        yield Call.of(value, f"{where}[{i}]"), call_id(value)


def _value(value: Any, field: str) -> Any:
    return parse_literal(without_end(value).strip(), field) if isinstance(value, str) else value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def in_order(entries: Sequence[Entry]) -> Iterator[Turn]:
    """The turns, with results in the order of their calls: the first result belongs to the first call.

    Raises:
        Refused: a result belongs to no call, or a call before it has none.
    """
    open_calls: list[Entry] = []
    i = 0
    while i < len(entries):
        entry = entries[i]
        if entry.turn.role != "tool_response":
            if entry.turn.call is not None:
                open_calls = [*(open_calls if i and entries[i - 1].turn.call else []), entry]
            yield entry.turn
            i += 1
            continue
        run = [entry]
        while i + len(run) < len(entries) and entries[i + len(run)].turn.role == "tool_response":
            run.append(entries[i + len(run)])
        i += len(run)
        if any(one.id or one.name for one in run):
            numbers = _call_numbers(run, open_calls)
            run = [one for _, one in sorted(zip(numbers, run, strict=True), key=lambda pair: pair[0])]
            open_calls = open_calls[len(run) :]
        else:
            open_calls = []
        yield from (replace(one.turn) for one in run)


def _call_numbers(run: Sequence[Entry], open_calls: Sequence[Entry]) -> list[int]:
    """The number of the open call that each result belongs to."""
    numbers: list[int] = []
    for one in run:
        key, value = ("tool_call_id", one.id) if one.id else ("name", one.name)
        free = [n for n in range(len(open_calls)) if n not in numbers]
        number = next((n for n in free if (open_calls[n].id if one.id else open_calls[n].name) == value), None)
        if number is None:
            others = [open_calls[n].id if one.id else open_calls[n].name for n in free]
            raise Refused(one.field, f"is the result of {key} {value!r}; the calls before it have {others or 'ended'}")
        if one.id and one.name and one.name != open_calls[number].name:
            raise Refused(one.field, f"names {one.name!r}, but its call is of {open_calls[number].name!r}")
        numbers.append(number)
    if sorted(numbers) != list(range(len(numbers))):
        missing = min(set(range(len(open_calls))) - set(numbers))
        raise Refused(run[0].field, f"the call of {open_calls[missing].name!r} has no result, but a later call has")
    return numbers
