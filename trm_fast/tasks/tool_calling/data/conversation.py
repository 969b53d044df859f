"""A conversation with tools, as every reader makes it and every model takes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trm_fast.tasks.tool_calling.data.schema import normalised_parameters

ROLES = ("user", "system", "assistant", "tool_call", "tool_response")
"""The roles of a turn; a role's index here is its id (user 0, system 1 and so on)."""

DONTCARE = "dontcare"
"""A slot's value where the user said that any will do."""


class Refused(ValueError):
    """A row that is no conversation: ``field`` says where in the row, ``reason`` what is wrong with it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True)
class Tool:
    """``parameters``: a JSON schema of type object with ``properties`` and ``required``, whatever the source had."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    @classmethod
    def of(cls, value: Any, field: str = "tools") -> Tool:
        """From ``{"type": "function", "function": {...}}`` or the inner object alone; Refused where it is neither."""
        if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
            value = value["function"]
        if not isinstance(value, Mapping):
            raise Refused(field, f"a tool is an object, not {_short(value)}")
        name = value.get("name")
        if not isinstance(name, str) or not name.strip():
            raise Refused(f"{field}.name", f"a tool needs a name, not {_short(name)}")
        description = value.get("description") or ""
        if not isinstance(description, str):
            raise Refused(f"{field}.description", f"must be text, not {_short(description)}")
        try:
            parameters = normalised_parameters(value.get("parameters"))
        except ValueError as error:
            raise Refused(f"{field}.parameters", f"of {name}: {error}") from None
        return cls(name, description, parameters)

    def to_json(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Call:
    name: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, value: Any, field: str) -> Call:
        """From ``{"name", "arguments"}``, arguments as an object or as its JSON; Refused where it is none."""
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise Refused(field, f"a call is an object with a name, not {_short(value)}")
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = parse_json(arguments, f"{field}.arguments")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, Mapping):
            raise Refused(f"{field}.arguments", f"must be an object, not {_short(arguments)}")
        return cls(value["name"], dict(arguments))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": dict(self.arguments)}

    def text(self) -> str:
        """The call as compact JSON; non-English text as it is."""
        return json.dumps(self.to_json(), ensure_ascii=False)


@dataclass(frozen=True)
class Turn:
    """One turn; ``call`` stands in those of role ``tool_call``, whose text is the call as JSON."""

    role: str
    text: str
    call: Call | None = None

    @classmethod
    def calling(cls, call: Call) -> Turn:
        return cls("tool_call", call.text(), call)


@dataclass(frozen=True)
class Conversation:
    """Tools, the turns, and where known what comes next.

    ``decision``: ``tool_call`` or ``direct_answer`` for the turn behind the last one, with its ``call`` and the
    ``slots`` known by then (empty text for one not given). ``accepted``: a benchmark's answers, a list of
    ``{tool: {argument: [accepted values]}}``, empty where no call is right. ``where``: file, line and row.
    """

    tools: tuple[Tool, ...]
    turns: tuple[Turn, ...]
    where: str = ""
    id: str = ""
    decision: str | None = None
    call: Call | None = None
    slots: Mapping[str, str] | None = None
    reply: str = ""
    accepted: Sequence[Mapping[str, Any]] | None = None

    @property
    def calls(self) -> list[Call]:
        """Every call in the turns, in order."""
        return [turn.call for turn in self.turns if turn.call is not None]

    @property
    def query(self) -> str:
        """What the user said last."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user"), "")

    @property
    def all_calls(self) -> list[Call]:
        """Those of the turns, and the one that comes next."""
        return [*self.calls, *([self.call] if self.call else [])]

    @property
    def all_turns(self) -> list[Turn]:
        """The turns, and what is known to come next."""
        if self.call is not None:
            return [*self.turns, Turn.calling(self.call)]
        return [*self.turns, *([Turn("assistant", self.reply)] if self.reply else [])]

    def rewritten(self, text: Callable[[str], str], call: Callable[[Call], Call]) -> Conversation:
        """With the texts and calls of its turns, and the call that comes next, changed."""
        turns = (
            Turn(turn.role, text(turn.text)) if turn.call is None else Turn.calling(call(turn.call))
            for turn in self.turns
        )
        return replace(self, turns=tuple(turns), call=self.call and call(self.call))


def checked(conversation: Conversation) -> Conversation:
    """The conversation; Refused where a text can't be written as UTF-8, as JSON's ``"\\ud800"`` alone can't."""
    parts: dict[str, Any] = {"tools": [tool.to_json() for tool in conversation.tools]}
    parts |= {f"turn {i + 1}": turn.text for i, turn in enumerate(conversation.turns)}
    parts |= {"slots": dict(conversation.slots or {}), "content": conversation.reply, "id": conversation.id}
    parts["call"] = conversation.call.to_json() if conversation.call else None
    for field, value in parts.items():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Refused(field, f"has the half character {error.object[error.start]!a}, which is no text") from None
    return conversation


def read_tools(value: Any, field: str = "tools") -> tuple[Tool, ...]:
    """The tools of a row: a list of tools, or that list as JSON text; none where there is none.

    Args:
        value: tools in any dialect (``Tool.of``), or their JSON text.
        field: what messages call it.

    Raises:
        Refused: what of it is no tool, by field, and why.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = parse_json(value, field)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise Refused(field, f"must be a list of tools, not {_short(value)}")
    tools = tuple(Tool.of(tool, f"{field}[{i}]") for i, tool in enumerate(value))
    by_name: dict[str, Tool] = {}
    for tool in tools:  # xLAM offers some tools twice, described in other words; the first of them stands for both
        first = by_name.setdefault(tool.name, tool)
        if first.parameters["properties"].keys() != tool.parameters["properties"].keys():
            raise Refused(field, f"two tools with different parameters are called {tool.name!r}")
    return tuple(by_name.values())


def parse_json(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(field, f"not valid JSON ({error}): {_short(text)}") from None


def text_of(value: Any, field: str) -> str:
    """A turn's text; an object or a list (a tool's result) as compact JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False)
    raise Refused(field, "is missing" if value is None else f"must be text, not {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
