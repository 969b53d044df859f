"""Classes for conversations with tools: every reader of a file returns them, and every model takes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from trm_fast.tasks.tool_calling.data.literals import parse_literal, parse_sequence
from trm_fast.tasks.tool_calling.data.references import Inliner
from trm_fast.tasks.tool_calling.data.refused import Refused, account_for, short
from trm_fast.tasks.tool_calling.data.schema import normalized_parameters

TOOL_LISTS = ("tools", "functions", "functionDeclarations", "function_declarations")
"""The only key of an object that wraps a list of tools, as MCP's and Gemini's lists do."""
ROLES = ("user", "system", "assistant", "tool_call", "tool_response")
"""The roles of a turn. The index of a role is its id: user 0, system 1 and so on."""

DONTCARE = "dontcare"
"""The value of a slot for which the user accepts any value."""


SCHEMA_KEYS = ("parameters", "input_schema", "inputSchema")
"""The keys that tools use for their schema: OpenAI's, Anthropic's and MCP's."""
TOOL_NOTES = (
    "type", "strict", "title", "annotations", "outputSchema", "output_schema", "returns", "return", "response",
    "responses", "results", "examples", "cache_control", "_meta", "icons", "id", "version", "category", "tags",
)  # fmt: skip
"""The fields of a tool that do not change how it is called."""
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "kwargs")
"""The keys that calls use for their arguments."""
CALL_NOTES = ("id", "type", "index", "call_id", "tool_call_id", "cache_control")
"""The fields of a call besides its name and its arguments."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    ``parameters`` is a JSON schema of type object with ``properties`` and ``required``, whatever dialect the source
    had.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]

    @classmethod
    def of(cls, value: Any, field: str = "tools") -> Tool:
        """Reads a tool from ``{"type": "function", "function": {...}}``, from the inner object, from Anthropic's
        ``{"name": ..., "input_schema": {...}}``, from MCP's ``{"name": ..., "inputSchema": {...}}``, or from JSON text.

        Args:
            value: the parsed JSON.
            field: what error messages call it.

        Raises:
            Refused: ``value`` is none of these, or has a field that is not known.
        """
        if isinstance(value, str):
            value = parse_literal(value, field)
        if not isinstance(value, Mapping):
            raise Refused(field, f"a tool is an object, not {short(value)}")
        try:
            return _tool_of(json.dumps(value))
        except (Refused, ValueError, TypeError, RecursionError):
            return cls._of(value, field)  # for a message with the right field

    @classmethod
    def _of(cls, value: Mapping[str, Any], field: str) -> Tool:
        if value.get("type") not in (None, "function", "custom"):
            raise Refused(f"{field}.type", f"is {short(value['type'])}; only functions with a JSON schema are read")
        if isinstance(value.get("function"), Mapping):
            account_for(value, ("function", *TOOL_NOTES), field)
            return cls._of(value["function"], field)
        account_for(value, ("name", "description", "required", *SCHEMA_KEYS, *TOOL_NOTES), field)
        name = value.get("name")
        if not isinstance(name, str) or not name.strip():
            raise Refused(f"{field}.name", f"a tool needs a name, not {short(name)}")
        description = value.get("description") or ""
        if not isinstance(description, str):
            raise Refused(f"{field}.description", f"must be text, not {short(description)}")
        key, schema = _only_one(value, SCHEMA_KEYS, field)
        try:
            parameters = normalized_parameters(_with_required(schema, value.get("required")))
        except ValueError as error:
            raise Refused(f"{field}.{key}", f"of {name}: {error}") from None
        return cls(name, description, parameters)

    @cached_property
    def arguments(self) -> dict[str, dict[str, Any]]:
        """The schema of each parameter, without references, and with the type that alternatives have."""
        inlined = Inliner(self.parameters)
        return {name: inlined(schema) for name, schema in self.parameters["properties"].items()}

    @cached_property
    def text(self) -> str:
        """The tool as JSON text; characters outside ASCII are not escaped."""
        return json.dumps(self.to_json(), ensure_ascii=False)

    def to_json(self) -> dict[str, Any]:
        """The tool as ``{"type": "function", "function": {...}}``."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@lru_cache(maxsize=4096)
def _tool_of(text: str) -> Tool:
    """The tool in a JSON text. The rows of a data set offer the same tools again and again."""
    return Tool._of(json.loads(text), "tools")


@dataclass(frozen=True)
class Call:
    """A call of a tool: its name and its arguments."""

    name: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, value: Any, field: str) -> Call:
        """Reads a call from ``{"name": ..., "arguments": ...}``, also inside ``{"function": {...}}``.

        The arguments may be an object or its JSON text; "" means none. They may also be called ``parameters``,
        ``args``, ``input`` or ``kwargs``.

        Args:
            value: the parsed JSON.
            field: what error messages call it.

        Raises:
            Refused: ``value`` is not a call, or has a field that is not known.
        """
        if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
            account_for(value, ("function", *CALL_NOTES), field)
            return cls.of(value["function"], f"{field}.function")
        if isinstance(value, Mapping) and value.get("type") == "custom":
            raise Refused(f"{field}.type", "is 'custom'; only calls with named arguments are read")
        name = value.get("name") if isinstance(value, Mapping) else None
        if not isinstance(name, str) or not name.strip():
            raise Refused(field, f"a call is an object with a name, not {short(value)}")
        account_for(value, ("name", *ARGUMENT_KEYS, *CALL_NOTES), field)
        key, arguments = _only_one(value, ARGUMENT_KEYS, field)
        if isinstance(arguments, str):
            arguments = parse_literal(arguments, f"{field}.{key}") if arguments.strip() else None
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, Mapping):
            raise Refused(f"{field}.{key}", f"must be an object, not {short(arguments)}")
        return cls(name, dict(arguments))

    def to_json(self) -> dict[str, Any]:
        """The call as ``{"name": ..., "arguments": ...}``."""
        return {"name": self.name, "arguments": dict(self.arguments)}

    def text(self) -> str:
        """The call as JSON text; characters outside ASCII are not escaped."""
        return json.dumps(self.to_json(), ensure_ascii=False)


@dataclass(frozen=True)
class Turn:
    """One message of a conversation. A turn of role ``tool_call`` has a ``call``; its text is the call's JSON."""

    role: str
    text: str
    call: Call | None = None

    @classmethod
    def of_call(cls, call: Call) -> Turn:
        """The turn that makes a call."""
        return cls("tool_call", call.text(), call)


@dataclass(frozen=True)
class Conversation:
    """The offered tools, the turns, and the next turn if it is known.

    ``where`` is the file, line and row that the conversation comes from. ``decision`` is ``tool_call`` or
    ``direct_answer`` for the next turn, which is the ``call`` or the ``reply``; ``slots`` are the slots filled by then,
    with an empty string for one without a value. ``accepted`` holds a benchmark's answers, a list of
    ``{tool: {argument: [accepted values]}}``; it is empty if no call is right.
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
        """The calls of the turns, in order."""
        return [turn.call for turn in self.turns if turn.call is not None]

    @property
    def query(self) -> str:
        """The text of the last user turn, or "" without one."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user"), "")

    @property
    def has_answer(self) -> bool:
        """Whether the answer to the last user turn is known, a direct answer included."""
        last = max((i for i, turn in enumerate(self.turns) if turn.role == "user"), default=-1)
        answered = any(turn.role in ("assistant", "tool_call") for turn in self.turns[last + 1 :])
        return answered or self.decision is not None or self.accepted is not None

    @property
    def all_calls(self) -> list[Call]:
        """The calls of the turns, and the next call if it is known."""
        return [*self.calls, *([self.call] if self.call else [])]

    @property
    def all_turns(self) -> list[Turn]:
        """The turns, and the next one if it is known."""
        if self.call is not None:
            return [*self.turns, Turn.of_call(self.call)]
        answered = self.reply or self.decision == "direct_answer"  # an answer may have no words
        return [*self.turns, *([Turn("assistant", self.reply)] if answered else [])]

    def rewritten(self, text: Callable[[str], str], call: Callable[[Call], Call]) -> Conversation:
        """A copy in which ``text`` and ``call`` replace the texts and calls of all turns, and the next call."""
        turns = (
            Turn(turn.role, text(turn.text)) if turn.call is None else Turn.of_call(call(turn.call))
            for turn in self.turns
        )
        return replace(self, turns=tuple(turns), call=self.call and call(self.call))


def checked(conversation: Conversation) -> Conversation:
    """The same conversation, after a check that it can be written as JSON in UTF-8.

    Raises:
        Refused: a text has half of a surrogate pair, such as JSON's ``"\\ud800"``; or an argument or a tool has a
            number that is not finite, which Python reads but JSON does not have.
    """
    texts = [("tools", tool.text) for tool in conversation.tools]
    texts += [(f"turn {i + 1}", turn.text) for i, turn in enumerate(conversation.turns)]
    texts += [("slots", text) for pair in (conversation.slots or {}).items() for text in pair]
    texts += [("content", conversation.reply), ("id", conversation.id)]
    texts += [("call", conversation.call.text())] if conversation.call else []
    for field, text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Refused(
                field, f"has {error.object[error.start]!a}, half of a surrogate pair: not valid UTF-8"
            ) from None
        if "NaN" in text or "Infinity" in text:
            _check_numbers(conversation, field)
    return conversation


def _check_numbers(conversation: Conversation, field: str) -> None:
    """Raises ``Refused`` if a tool or a call has a number that is not finite."""
    parts: tuple[Tool | Call, ...] = (*conversation.tools, *conversation.all_calls)
    for part in parts:
        try:
            json.dumps(part.to_json(), allow_nan=False)
        except ValueError:
            problem = f"{part.name} has a number that is not finite (NaN or Infinity), which JSON does not have"
            raise Refused(field, problem) from None


def read_tools(value: Any, field: str = "tools") -> tuple[Tool, ...]:
    """Reads the tools of a row.

    Args:
        value: a list of tools in any dialect that ``Tool.of`` reads, one tool, ``{"tools": [...]}``, or their JSON
            text. None and "" mean that there are no tools.
        field: what error messages call it.

    Raises:
        Refused: a part of ``value`` is not a tool.

    Examples:
        >>> from trm_fast.tasks.tool_calling import read_tools
        >>> (tool,) = read_tools('[{"name": "get_weather", "parameters": {"city": {"type": "string"}}}]')
        >>> tool.parameters
        {'type': 'object', 'properties': {'city': {'type': 'string'}}, 'required': ['city']}
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    if isinstance(value, str):
        value = parse_sequence(value, field)
        value = value[0] if len(value) == 1 else value
    value = _unwrapped(value)
    if not isinstance(value, list):
        raise Refused(field, f"must be a list of tools, not {short(value)}")
    values = [tool for wrapped in value for tool in _unwrapped(wrapped)]
    tools = tuple(Tool.of(tool, f"{field}[{i}]") for i, tool in enumerate(values))
    by_name: dict[str, Tool] = {}
    for tool in tools:  # xLAM offers some tools twice with different descriptions; the first one stays
        first = by_name.setdefault(tool.name, tool)
        if first.parameters["properties"].keys() != tool.parameters["properties"].keys():
            raise Refused(field, f"two tools with different parameters are called {tool.name!r}")
    return tuple(by_name.values())


def _unwrapped(value: Any) -> Any:
    """The list of an object that only wraps a list of tools; a list with anything else; a list itself."""
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(inner := value.get(next(iter(value))), list):
        return inner if next(iter(value)) in TOOL_LISTS else [value]
    return value if isinstance(value, list) else [value]


def _only_one(value: Mapping[str, Any], keys: Collection[str], field: str) -> tuple[str, Any]:
    """The one of ``keys`` that an object has, and its value; the first key and None if it has none."""
    present = [key for key in keys if value.get(key) is not None]
    if len(present) > 1:
        raise Refused(field, f"has both {' and '.join(present)}; one is accepted")
    return (present[0], value[present[0]]) if present else (next(iter(keys)), None)


def _with_required(schema: Any, required: Any) -> Any:
    """A tool's schema with the names that the tool lists as required next to it, as ToolACE does."""
    if not required:
        return schema
    if isinstance(schema, Mapping) and "properties" not in schema and not isinstance(schema.get("type"), str):
        return {"type": "object", "properties": schema, "required": required}
    if not isinstance(schema, Mapping) or schema.get("required") not in (None, [], required):
        raise ValueError(f"required is {short(required)} in the tool, but not in its schema")
    return {**schema, "required": required}
