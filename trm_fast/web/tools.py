"""Tool calling for clients: what a model does next in a conversation, and which words of it the call contains."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from trm_fast.errors import UserError
from trm_fast.inference import Solver
from trm_fast.interchange import Located
from trm_fast.tasks.tool_calling import (
    Conversation,
    Prediction,
    Refused,
    ToolTask,
    Turn,
    checked,
    load_nonempty,
    read_tools,
)
from trm_fast.web.solving import Request

MIN_COPIED = 2
"""Shorter values are not searched for in the conversation, because they occur everywhere."""


class ToolRequest(Request):
    """A conversation for a tool-calling model: ``conversation``, a record in any format that is read, or a ``query``
    of the user with ``tools`` as JSON. Without tools, the model's own ones are offered."""

    model: str = Field(max_length=200)
    conversation: str = Field("", max_length=500_000)
    query: str = Field("", max_length=100_000)
    tools: str = Field("", max_length=500_000)


def describes(located: Located) -> list[dict[str, Any]] | None:
    """The tools that a model knows by itself; an empty list if requests bring them; None for other models."""
    if not isinstance(located.task, ToolTask):
        return None
    try:
        return [tool.to_json() for tool in located.task.known_tools()]
    except UserError:
        return []


def predict(located: Located, request: ToolRequest) -> dict[str, Any]:
    """The next turn that the model predicts.

    Returns:
        The prediction (``decision``, ``calls``, ``slots``, ``reply``, ``problems``), ``confidence``, ``steps``, the
        ``turns`` of the conversation, and ``copied``: spans of the turns that an argument's value occurs in.

    Raises:
        UserError: it is no tool-calling model, or the conversation is malformed.
    """
    task = located.task
    if not isinstance(task, ToolTask):
        raise UserError(f"{located.label} is a model for the task {task.name}, which calls no tools")
    conversation = _conversation(task, request)
    try:
        prediction, answer = task.predict(Solver(located.model, task), checked(conversation))
    except Refused as error:
        raise UserError(str(error)) from None
    return prediction.to_json() | {
        "confidence": answer.confidence,
        "steps": answer.steps,
        "turns": [{"role": turn.role, "text": turn.text} for turn in conversation.turns],
        "tools": [tool.to_json() for tool in conversation.tools],
        "copied": copied(conversation, prediction),
    }


def _conversation(task: ToolTask, request: ToolRequest) -> Conversation:
    if bool(request.conversation.strip()) == bool(request.query.strip()):
        raise UserError("give a conversation, or a message of the user")
    if request.conversation.strip():
        return _read(request.conversation)
    if not request.tools.strip():
        return Conversation(task.known_tools(), (Turn("user", request.query),), "query")
    try:
        tools = read_tools(request.tools, "tools")
    except Refused as error:
        raise UserError(str(error)) from None
    return Conversation(tools, (Turn("user", request.query),), "query")


def _read(text: str) -> Conversation:
    """The first conversation of a text, in any format that is read."""
    text = text.strip()
    try:
        text = json.dumps(json.loads(text))  # a record over several lines becomes one line
        suffix = ".json" if text.startswith("[") else ".jsonl"
    except (ValueError, RecursionError):
        suffix = ".jsonl"
    with tempfile.TemporaryDirectory(prefix="trm-fast-") as folder:
        path = Path(folder) / f"conversation{suffix}"
        path.write_text(text + "\n", encoding="utf-8")
        try:
            loaded = load_nonempty(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), "conversation")) from None
    if not loaded.conversations:
        raise UserError(str(loaded.refused[0]).replace(str(path), "conversation"))
    return loaded.conversations[0]


def copied(conversation: Conversation, prediction: Prediction) -> list[dict[str, Any]]:
    """Where the values of the calls and slots occur in the turns: ``argument``, ``turn``, ``start`` and ``end``."""
    values = [(name, value) for call in prediction.calls for name, value in call.arguments.items()]
    values += list(prediction.slots.items())
    spans = []
    for name, value in values:
        for part in value if isinstance(value, list) else [value]:
            text = part if isinstance(part, str) else json.dumps(part)
            if part is None or (len(text) < MIN_COPIED and not text.isdigit()):
                continue
            for number, turn in enumerate(conversation.turns):
                start = turn.text.casefold().find(text.casefold())
                if start >= 0:
                    spans.append({"argument": name, "turn": number, "start": start, "end": start + len(text)})
                    break
    return spans
