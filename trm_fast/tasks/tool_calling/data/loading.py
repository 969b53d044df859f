"""Conversations of files and sets of files: what was read, what was refused and why, and which parts are for tests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trm_fast.errors import UserError
from trm_fast.tasks.base import DataConfig
from trm_fast.tasks.hub import PREFIX
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Refused, checked
from trm_fast.tasks.tool_calling.data.formats import format_of, get_format
from trm_fast.tasks.tool_calling.data.io import records


@dataclass(frozen=True)
class Refusal:
    """A row that could not be read: where it stands, which field is wrong and why."""

    where: str
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: {self.reason}"

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass
class Loaded:
    """What a source held, and the rows refused."""

    conversations: list[Conversation] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Figures a person wants to see of a set."""
        all_of = self.conversations
        calls = [call for c in all_of for call in c.all_calls]
        decisions = Counter(c.decision for c in all_of if c.decision)
        return {
            "rows": len(all_of),
            "refused": len(self.refused),
            "turns": sum(len(c.turns) for c in all_of),
            "with_tools": sum(bool(c.tools) for c in all_of),
            "tools": len({tool.name for c in all_of for tool in c.tools}),
            "calls": len(calls),
            "tools_called": len({call.name for call in calls}),
            **({"decisions": dict(decisions)} if decisions else {}),
        }


def load(source: str | Path, kind: str | None = None, split: str = "train") -> Loaded:
    """Every conversation of a file or of a data set, in order. A row that is no conversation is refused, not fatal.

    Args:
        source: a JSON list or JSON Lines, ``.gz`` too, or ``hf:NAME``.
        kind: a format's name; by default each row tells its own.
        split: of ``hf:NAME``.

    Raises:
        UserError: the source can't be read, or holds no row.
    """
    loaded, rows = Loaded(), 0
    for where, row in records(source, split):
        rows += 1
        try:
            if isinstance(row, Refused):
                raise row
            form = get_format(kind) if kind else format_of(row)
            loaded.conversations.append(checked(form.reader(str(source))(row, where)))
        except Refused as error:
            loaded.refused.append(Refusal(where, error.field, error.reason))
    if not rows:
        raise UserError(f"{source} has no rows")
    return loaded


def load_sound(source: str | Path, kind: str | None = None, split: str = "train") -> Loaded:
    """``load`` for a purpose: a UserError with the first refusals where no row can be used."""
    loaded = load(source, kind, split)
    if not loaded.conversations:
        raise UserError(f"{loaded.refused[0]} (none of {len(loaded.refused)} rows can be read)")
    return loaded


def refusal_note(loaded: Loaded, source: str | Path) -> list[str]:
    """A line that says how many rows were left out, and the first reason."""
    if not loaded.refused:
        return []
    rows = len(loaded.refused) + len(loaded.conversations)
    return [
        f"{source}: {len(loaded.refused)} of {rows} rows can't be read and are left out; the first: {loaded.refused[0]}"
    ]


def read_one(text: str, where: str) -> Conversation:
    """A conversation from its JSON in any known format; UserError where it is none."""
    try:
        row = json.loads(text)
        return checked(format_of(row).read(row, where))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where or 'the question'}: {error} (a request needs its tools: give a conversation as JSON, or use "
            "trm-fast call --tools)",
            wrong_use=True,
        ) from None


def split_rows(
    conversations: Sequence[Conversation], share: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Training and validation parts; rows of one dialogue (ids alike up to a colon) or one query stay together."""
    groups: dict[str, list[int]] = {}
    for i, conversation in enumerate(conversations):
        dialogue, colon, _ = conversation.id.partition(":")
        groups.setdefault(dialogue if colon else f"query {conversation.query or i}", []).append(i)
    if len(groups) < 2:
        raise UserError("all rows are of one dialogue, so none can be held out for validation")
    order = np.random.default_rng(seed).permutation(len(groups))
    held = min(max(1, round(share * len(groups))), len(groups) - 1)
    names = list(groups)
    chosen = sorted(i for g in order[:held] for i in groups[names[g]])
    taken = set(chosen)
    return [c for i, c in enumerate(conversations) if i not in taken], [conversations[i] for i in chosen]


def find(source: str, name: str) -> tuple[str, str | None]:
    """Training and validation files of a set in a folder, ``name_train.*`` and ``name_val.*``; a file is itself."""
    folder = Path(source)
    if source.startswith(PREFIX) or not folder.is_dir():
        return source, None
    train, held = (
        next((str(p) for p in sorted(folder.glob(f"{name}_{part}.json*"))), None) for part in ("train", "val")
    )
    if train is None:
        raise UserError(f"{source} has no {name}_train.jsonl, .json or .gz of it")
    return train, held


def read_sets(
    name: str, data: DataConfig, sets: Sequence[str], seed: int
) -> tuple[list[Conversation], list[Conversation], list[str]]:
    """Training and test conversations of a file, or of sets of a folder, and notes of rows that could not be read."""
    if data.source is None:
        raise UserError(f"{name} learns from files: give --data FOLDER or FILE", wrong_use=True)
    train: list[Conversation] = []
    test: list[Conversation] = []
    notes: list[str] = []

    def sound(source: str) -> list[Conversation]:
        loaded = load_sound(source)
        notes.extend(refusal_note(loaded, source))
        return loaded.conversations

    for part in sets if Path(data.source).is_dir() else [""]:
        source, held = find(data.source, part)
        rows = sound(source)
        if data.test is None and held is None:
            rows, held_out = split_rows(rows, data.holdout, seed)
            test += held_out
        elif data.test is None and held is not None:
            test += sound(held)
        train += rows
    if data.test is not None:
        test = [c for source in _test_files(data.test, sets) for c in sound(source)]
    return train, test, notes


def read_folder(source: str, sets: Sequence[str]) -> list[Conversation]:
    """Conversations of a file, or of the validation files of a folder's sets."""
    return [c for path in _test_files(source, sets) for c in load_sound(path).conversations]


def _test_files(source: str, sets: Sequence[str]) -> list[str]:
    if not Path(source).is_dir():
        return [source]
    return [held or train for train, held in (find(source, name) for name in sets)]
