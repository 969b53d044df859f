"""The format ``bfcl``: questions of the Berkeley Function-Calling Leaderboard. Their answers are in a second file. The
leaderboard is a benchmark: no model trains on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from trm_fast.errors import UserError
from trm_fast.tasks.tool_calling.data.brackets import read_bracket_calls
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Tool, read_tools
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, Reader, register
from trm_fast.tasks.tool_calling.data.formats.rows import as_object, check_columns, list_in, row_id
from trm_fast.tasks.tool_calling.data.io import records
from trm_fast.tasks.tool_calling.data.messages import read_messages
from trm_fast.tasks.tool_calling.data.refused import Refused, short

ANSWERS = "possible_answer"
"""The folder of the answer files, which have the names of their question files; or what an answer file's name has after
the name of its question file and a ``_``."""
NO_CALL = "irrelevance"
"""Part of the names of files whose questions need no call; these files have no answers."""


def read_bfcl(row: Any, where: str = "", accepted: Any = None) -> Conversation:
    """Reads a question. ``accepted`` is the ``ground_truth`` of its answer, [] if no call is right."""
    row = as_object(row)
    question = list_in(row, "question")
    messages = question[0] if isinstance(question[0], list) else question
    if isinstance(question[0], list) and len(question) > 1:
        raise Refused("question", f"has {len(question)} rounds; only questions of one round are read")
    check_columns(row, ("question", "function", "ground_truth", "execution_result_type"))
    tools, turns = read_messages(messages, read_tools(row.get("function"), "function"), "question[0]")
    if accepted is None:
        accepted = row.get("ground_truth")
    if accepted is not None:
        accepted = [_accepted(answer, tools) for answer in _listed(accepted)]
    return Conversation(tools, tuple(turns), where, row_id(row), accepted=accepted)


def reader_with_answers(source: str) -> Reader:
    """A reader for the questions of a file, which adds the answer with the same id."""

    def read(row: Any, where: str) -> Conversation:
        answers = _answers(Path(source))
        key = row.get("id") if isinstance(row, dict) else None
        return read_bfcl(row, where, answers.get(key, answers.get(None)))

    return read


@lru_cache(maxsize=8)
def _answers(path: Path) -> dict[Any, Any]:
    """The answers to a file's questions, by id. The key None holds the answer to all questions without an entry."""
    name, dot, ending = path.name.partition(".")
    if NO_CALL in name:
        return {None: []}
    paths = (path.with_name(f"{name}_{ANSWERS}{dot}{ending}"), path.parent / ANSWERS / path.name)
    answers_path = next((path for path in paths if path.is_file()), None)
    if answers_path is None:
        return {}
    answers: dict[Any, Any] = {}
    for where, row in records(answers_path):
        if not isinstance(row, dict):
            continue
        key, answer = row.get("id"), row.get("ground_truth")
        if answers.setdefault(key, answer) != answer:
            raise UserError(f"{where}: there are two different answers with the id {key!r}")
    return answers


def _accepted(answer: Any, tools: Sequence[Tool]) -> Mapping[str, Any]:
    """An answer: an object ``{tool: {argument: [accepted values]}}``, or a call in Python's notation.

    Raises:
        Refused: it is neither, or names a tool that is not offered.
    """
    names = [tool.name for tool in tools]
    if isinstance(answer, str):
        calls, end = read_bracket_calls(answer.strip(), 0, names, "ground_truth")
        if len(calls) != 1 or end != len(answer.strip()):
            raise Refused("ground_truth", f"must be a call such as f(a=1), not {answer!r:.60}")
        answer = {calls[0]["name"]: {name: [value] for name, value in calls[0]["arguments"].items()}}
    if not isinstance(answer, Mapping):
        raise Refused("ground_truth", f"must be a list of objects or of calls such as f(a=1), not {short(answer)}")
    for name, arguments in answer.items():
        if name not in names:
            raise Refused("ground_truth", f"names {name!r}, which is not among the row's tools: {', '.join(names)}")
        if not isinstance(arguments, Mapping) or not all(isinstance(values, list) for values in arguments.values()):
            raise Refused(f"ground_truth.{name}", f"each argument has a list of values, not {short(arguments)}")
    return answer


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


about = Command(
    "Reads questions of the Berkeley Function-Calling Leaderboard, and the answer file next to them. Nothing is"
    " written: the leaderboard is a benchmark.",
    "trm-fast data bfcl bfcl_simple.jsonl.gz --preview 2",
)
register(Format("bfcl", ("question",), read_bfcl, commands={"bfcl": about}, make_reader=reader_with_answers))
