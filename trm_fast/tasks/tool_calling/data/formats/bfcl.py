"""The format ``bfcl``: questions of the Berkeley Function-Calling Leaderboard. Their answers are in a second file. The
leaderboard is a benchmark: no model trains on it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from trm_fast.tasks.tool_calling.data.conversation import Conversation, Refused, read_tools
from trm_fast.tasks.tool_calling.data.formats.registry import Command, Format, Reader, register
from trm_fast.tasks.tool_calling.data.formats.rows import as_object, list_in, parse_turn
from trm_fast.tasks.tool_calling.data.io import records

ANSWERS = "_possible_answer"
"""What an answer file's name has after the name of its question file."""
NO_CALL = "irrelevance"
"""Part of the names of files whose questions need no call; these files have no answers."""


def read_bfcl(row: Any, where: str = "", accepted: Any = None) -> Conversation:
    """Reads a question. ``accepted`` is the ``ground_truth`` of its answer, [] if no call is right."""
    row = as_object(row)
    question = list_in(row, "question")
    messages = question[0] if isinstance(question[0], list) else question
    if isinstance(question[0], list) and len(question) > 1:
        raise Refused("question", f"has {len(question)} rounds; only questions of one round are read")
    turns = tuple(parse_turn(m, f"question[0][{i}]") for i, m in enumerate(messages))
    if accepted is not None and not (isinstance(accepted, list) and all(isinstance(a, Mapping) for a in accepted)):
        raise Refused("ground_truth", f"must be a list of objects, not {accepted!r:.60}")
    tools = read_tools(row.get("function"), "function")
    return Conversation(tools, turns, where, str(row.get("id", "")), accepted=accepted)


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
    answers_path = path.with_name(f"{name}{ANSWERS}{dot}{ending}")
    if NO_CALL in name:
        return {None: []}
    if not answers_path.is_file():
        return {}
    rows = (row for _, row in records(answers_path) if isinstance(row, dict))
    return {row.get("id"): row.get("ground_truth") for row in rows}


about = Command(
    "Reads questions of the Berkeley Function-Calling Leaderboard, and the answer file next to them. Nothing is"
    " written: the leaderboard is a benchmark.",
    "trm-fast data bfcl bfcl_simple.jsonl.gz --preview 2",
)
register(Format("bfcl", ("question",), read_bfcl, commands={"bfcl": about}, make_reader=reader_with_answers))
