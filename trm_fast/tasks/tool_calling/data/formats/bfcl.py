"""The format ``bfcl``: questions of the Berkeley Function-Calling Leaderboard. Their answers are in a second file. The
leaderboard is a benchmark: no model trains on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from trm_fast.tasks.tool_calling.data.brackets import read_bracket_calls
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Tool, read_tools
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, Reader, register
from trm_fast.tasks.tool_calling.data.formats.rows import as_object, check_columns, list_in, row_id
from trm_fast.tasks.tool_calling.data.io import records
from trm_fast.tasks.tool_calling.data.messages import read_messages
from trm_fast.tasks.tool_calling.data.refused import Refused

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
    if accepted is None and row.get("ground_truth") is not None:
        accepted = [_accepted(answer, tools) for answer in _listed(row["ground_truth"])]
    if accepted is not None and not (isinstance(accepted, list) and all(isinstance(a, Mapping) for a in accepted)):
        raise Refused("ground_truth", f"must be a list of objects, not {accepted!r:.60}")
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
    rows = (row for _, row in records(answers_path) if isinstance(row, dict))
    return {row.get("id"): row.get("ground_truth") for row in rows}


def _accepted(answer: Any, tools: Sequence[Tool]) -> Any:
    """A row's own answer: an object as in answer files, or a call in Python's notation."""
    if not isinstance(answer, str):
        return answer
    calls, end = read_bracket_calls(answer.strip(), 0, [tool.name for tool in tools], "ground_truth")
    if len(calls) != 1 or end != len(answer.strip()):
        raise Refused("ground_truth", f"must be a call such as f(a=1), not {answer!r:.60}")
    return {calls[0]["name"]: {name: [value] for name, value in calls[0]["arguments"].items()}}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


about = Command(
    "Reads questions of the Berkeley Function-Calling Leaderboard, and the answer file next to them. Nothing is"
    " written: the leaderboard is a benchmark.",
    "trm-fast data bfcl bfcl_simple.jsonl.gz --preview 2",
)
register(Format("bfcl", ("question",), read_bfcl, commands={"bfcl": about}, make_reader=reader_with_answers))
