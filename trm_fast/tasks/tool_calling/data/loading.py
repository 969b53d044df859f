"""Loads conversations from files and folders, reports refused rows, and splits conversations for training and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trm_fast.errors import UserError
from trm_fast.tasks.base import DataConfig
from trm_fast.tasks.hub import PREFIX
from trm_fast.tasks.sets import holdout_note
from trm_fast.tasks.tool_calling.data.conversation import Conversation, checked
from trm_fast.tasks.tool_calling.data.formats import detect_format, get_format
from trm_fast.tasks.tool_calling.data.io import records
from trm_fast.tasks.tool_calling.data.refused import Refused
from trm_fast.texts import DECODER


@dataclass(frozen=True)
class Refusal:
    """A row that could not be read: file and line, the field that is wrong, and the reason."""

    where: str
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: {self.reason}"

    def to_json(self) -> dict[str, str]:
        """``where``, ``field`` and ``reason``."""
        return asdict(self)


@dataclass
class Loaded:
    """The conversations of a source, and the rows that were refused."""

    conversations: list[Conversation] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Counts of conversations, turns, tools and calls, by name."""
        conversations = self.conversations
        calls = [call for c in conversations for call in c.all_calls]
        decisions = Counter(c.decision for c in conversations if c.decision)
        return {
            "rows": len(conversations),
            "refused": len(self.refused),
            "without_answer": sum(not c.has_answer for c in conversations),
            "turns": sum(len(c.turns) for c in conversations),
            "with_tools": sum(bool(c.tools) for c in conversations),
            "tools": len({tool.name for c in conversations for tool in c.tools}),
            "calls": len(calls),
            "tools_called": len({call.name for call in calls}),
            **({"decisions": dict(decisions)} if decisions else {}),
        }


def read_rows(source: str | Path, kind: str | None = None, split: str = "train") -> Iterator[Conversation | Refusal]:
    """Reads each row of a file or a data set, in order. Rows that are not conversations are refused.

    Args:
        source: a file with a JSON list or JSON Lines, gzip if it ends in ``.gz``, or ``hf:NAME`` for a data set of the
            Hugging Face hub.
        kind: the name of a format; by default the format of each row is recognized by its columns.
        split: the split of ``hf:NAME``.

    Raises:
        UserError: the source cannot be read.
    """
    for where, row in records(source, split):
        try:
            if isinstance(row, Refused):
                raise row
            form = get_format(kind) if kind else detect_format(row)
            read = form.read if form.make_reader is None else form.make_reader(str(source))
            yield checked(read(row, where))
        except Refused as error:
            yield Refusal(where, error.field, error.reason)


def load(source: str | Path, kind: str | None = None, split: str = "train", limit: int | None = None) -> Loaded:
    """Loads the conversations of a file or a data set, and the rows that were refused, as ``read_rows`` reads them.
    With a ``limit``, no row after so many conversations is read.

    Raises:
        UserError: the source cannot be read, or has no rows.
    """
    loaded = Loaded()
    for row in read_rows(source, kind, split):
        if isinstance(row, Refusal):
            loaded.refused.append(row)
            continue
        loaded.conversations.append(row)
        if len(loaded.conversations) == limit:
            break
    if not (loaded.conversations or loaded.refused):
        raise UserError(f"{source} has no rows")
    return loaded


def load_nonempty(
    source: str | Path, kind: str | None = None, split: str = "train", limit: int | None = None
) -> Loaded:
    """Like ``load``, but raises an error if every row is refused.

    Raises:
        UserError: the source cannot be read, or has no row that is a conversation.
    """
    loaded = load(source, kind, split, limit)
    if not loaded.conversations:
        raise UserError(f"{loaded.refused[0]} (none of {len(loaded.refused)} rows can be read)")
    return loaded


def refusal_note(loaded: Loaded, source: str | Path) -> list[str]:
    """A list with one line that says how many rows were left out and why the first one was; empty if there were
    none."""
    if not loaded.refused:
        return []
    rows = len(loaded.refused) + len(loaded.conversations)
    return [
        f"{source}: {len(loaded.refused)} of {rows} rows cannot be read and are left out; "
        f"the first: {loaded.refused[0]}"
    ]


def answered(
    conversations: Sequence[Conversation], has_answer: Callable[[Conversation], bool], name: str, meaning: str
) -> tuple[list[Conversation], list[str]]:
    """The conversations that have an answer, and a note about the others if there are any.

    Args:
        conversations: what to choose from.
        has_answer: whether a conversation has the answer that is needed.
        name: what the note calls the conversations.
        meaning: what an answer is.
    """
    chosen = [conversation for conversation in conversations if has_answer(conversation)]
    if len(chosen) == len(conversations):
        return chosen, []
    first = next(c for c in conversations if not has_answer(c))
    return chosen, [
        f"{name}: {len(conversations) - len(chosen)} of {len(conversations)} rows have no answer and are left out; "
        f"the first: {first.where}{f', id {first.id}' if first.id else ''} ({meaning})"
    ]


def read_one(text: str, where: str) -> Conversation:
    """A conversation from JSON text in any known format.

    Args:
        text: one row.
        where: what error messages call it.

    Raises:
        UserError: the text is not a conversation.
    """
    try:
        row = DECODER.decode(text)
        return checked(detect_format(row).read(row, where))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where or 'the question'}: {error} (give a conversation as JSON, with its tools, or use "
            "trm-fast call --tools)",
            usage_error=True,
        ) from None


def split_rows(
    conversations: Sequence[Conversation], share: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Splits conversations into a training and a validation part.

    Conversations of one dialogue (equal ids up to a colon), or with the same last user turn, stay together.

    Args:
        conversations: the conversations to split.
        share: the share of dialogues that goes to validation, between 0 and 1.
        seed: seeds the random choice.

    Raises:
        UserError: all conversations belong to one dialogue.
    """
    groups = _dialogues(conversations)
    if len(groups) < 2:
        raise UserError("all rows belong to one dialogue, so none can be held out for validation")
    order = np.random.default_rng(seed).permutation(len(groups))
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    names = list(groups)
    chosen = sorted(i for g in order[:count] for i in groups[names[g]])
    taken = set(chosen)
    return [c for i, c in enumerate(conversations) if i not in taken], [conversations[i] for i in chosen]


def split_counts(
    conversations: Sequence[Conversation], train: int | None, validation: int | None, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """A random training and a random validation part of so many conversations each; None: all others.

    Conversations of one dialogue, or with the same last user turn, never belong to both. So the rest of a dialogue may
    belong to neither.

    Raises:
        UserError: there are too few conversations, or dialogues are too long to give these numbers, or a part is empty.
    """
    total = len(conversations)
    if (train or 0) + (validation or 0) > total:
        raise UserError(f"there are {total:,} conversations, too few for {train or 0:,} and {validation or 0:,}")
    target = total - (train or 0) if validation is None else validation
    groups = _dialogues(conversations)
    order = np.random.default_rng(seed).permutation(len(groups))
    names, taken, rest = list(groups), list[int](), list[int]()
    for number in order:
        rows = groups[names[number]]
        if len(taken) < target:
            taken += rows[: target - len(taken)]
        else:
            rest += rows
    kept = rest if train is None else rest[:train]
    if train is not None and len(kept) < train:
        raise UserError(
            f"{total:,} conversations of {len(groups):,} dialogues give only {len(kept):,} for training beside "
            f"{len(taken):,} for validation, because no dialogue belongs to both"
        )
    for part, name in ((kept, "training"), (taken, "validation")):
        if not part:
            raise UserError(f"{total:,} conversations of {len(groups):,} dialogues leave none for {name}")
    return [conversations[i] for i in sorted(kept)], [conversations[i] for i in sorted(taken)]


def _dialogues(conversations: Sequence[Conversation]) -> dict[str, list[int]]:
    """The indices of the conversations of each dialogue: with equal ids up to a colon, or the same last user turn."""
    groups: dict[str, list[int]] = {}
    for i, conversation in enumerate(conversations):
        dialogue, colon, _ = conversation.id.partition(":")
        groups.setdefault(dialogue if colon else f"query {conversation.query or i}", []).append(i)
    return groups


def find_files(source: str, name: str) -> tuple[str, str | None]:
    """The training and validation files of a set in a folder: ``name_train.*``, and ``name_val.*`` or None.

    A file, or ``hf:NAME``, is its own training file.

    Raises:
        UserError: the folder has no training file of the set.
    """
    folder = Path(source)
    if source.startswith(PREFIX) or not folder.is_dir():
        return source, None
    train, validation = (
        next((str(p) for p in sorted(folder.glob(f"{name}_{part}.json*"))), None) for part in ("train", "val")
    )
    if train is None:
        raise UserError(f"{source} has no {name}_train.jsonl or {name}_train.json (.gz too)")
    return train, validation


def read_sets(
    name: str, data: DataConfig, sets: Sequence[str], seed: int
) -> tuple[list[Conversation], list[Conversation], list[str]]:
    """The training and test conversations of a file or of the sets of a folder, and notes about refused rows.

    Test conversations come from ``data.test``, from the folder's validation files, or are held out of training files.
    """
    if data.source is None:
        raise UserError(f"{name} learns from files: give --data FOLDER or FILE", usage_error=True)
    train: list[Conversation] = []
    test: list[Conversation] = []
    notes: list[str] = []

    def read_source(source: str) -> list[Conversation]:
        loaded = load_nonempty(source)
        notes.extend(refusal_note(loaded, source))
        return loaded.conversations

    for source, validation in _files(data.source, sets):
        rows = read_source(source)
        if data.test is None and validation is None and data.holdout:
            whole = len(rows)
            rows, held_out = split_rows(rows, data.holdout, seed)
            test += held_out
            notes += holdout_note(len(held_out), whole, data.holdout, f"conversations of {source}")
        elif data.test is None and validation is not None:
            test += read_source(validation)
        train += rows
    if data.test is not None:
        test = [c for source, validation in _files(data.test, sets) for c in read_source(validation or source)]
    return train, test, notes


def load_folder(source: str, sets: Sequence[str], limit: int | None = None) -> tuple[Loaded, list[str]]:
    """The rows of a file, or of the validation files of a folder's sets, up to ``limit`` conversations, and notes about
    refused rows.

    Raises:
        UserError: a file cannot be read, or has no row that is a conversation.
    """
    all_loaded, notes = Loaded(), list[str]()
    for train, validation in _files(source, sets):
        missing = None if limit is None else limit - len(all_loaded.conversations)
        if missing == 0:
            break
        loaded = load_nonempty(validation or train, limit=missing)
        notes += refusal_note(loaded, validation or train)
        all_loaded.conversations += loaded.conversations
        all_loaded.refused += loaded.refused
    return all_loaded, notes


def _files(source: str, sets: Sequence[str]) -> list[tuple[str, str | None]]:
    """The training and validation files of a folder's sets; a file is the training file of a single set."""
    return [find_files(source, name) for name in (sets if Path(source).is_dir() else sets[:1])]
