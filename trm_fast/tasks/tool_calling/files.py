"""Files of conversations: JSON lists and JSONL (``.gz`` too), folders, ``hf:NAME``; what was refused and why."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from trm_fast.errors import UserError
from trm_fast.tasks.tool_calling.conversation import Conversation, Refused, checked
from trm_fast.tasks.tool_calling.formats import READERS, format_of

HUB = "hf:"
ANSWERS = "_possible_answer"
NO_CALL = "irrelevance"


@dataclass(frozen=True)
class Refusal:
    """A row that could not be read: where it stands, which field is wrong and why."""

    where: str
    field: str
    reason: str

    def to_json(self) -> dict[str, str]:
        return {"where": self.where, "field": self.field, "reason": self.reason}


@dataclass
class Loaded:
    """What a source held, and the rows refused."""

    conversations: list[Conversation] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Figures a person wants to see of a set."""
        all_of = self.conversations
        calls = [call for c in all_of for call in [*c.calls, *([c.call] if c.call else [])]]
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
    """Every conversation of a file or ``hf:NAME`` in order; ``kind``: a format's name, or None for what each row says.

    A row that is no conversation is refused, not fatal; a source that can't be read, or holds no row, is a UserError.
    """
    loaded, rows = Loaded(), 0
    answers = None
    for where, row in records(source, split):
        rows += 1
        try:
            if isinstance(row, Refused):
                raise row
            name = kind or format_of(row)
            if name == "bfcl":
                answers = _answers(Path(source)) if answers is None else answers
                key = row.get("id") if isinstance(row, dict) else None
                made = READERS[name](row, where, answers.get(key, answers.get(None)))
            else:
                made = READERS[name](row, where)
            loaded.conversations.append(checked(made))
        except Refused as error:
            loaded.refused.append(Refusal(where, error.field, error.reason))
    if not rows:
        raise UserError(f"{source} has no rows")
    return loaded


def load_sound(source: str | Path, kind: str | None = None, split: str = "train") -> Loaded:
    """``load`` for a purpose: a UserError with the first refusals where no row can be used."""
    loaded = load(source, kind, split)
    if not loaded.conversations:
        first = loaded.refused[0]
        raise UserError(
            f"{first.where}: {first.field}: {first.reason} (none of {len(loaded.refused)} rows can be read)"
        )
    return loaded


def refusal_note(loaded: Loaded, source: str | Path) -> list[str]:
    """A line that says how many rows were left out, and the first reason."""
    if not loaded.refused:
        return []
    first = loaded.refused[0]
    rows = len(loaded.refused) + len(loaded.conversations)
    return [
        f"{source}: {len(loaded.refused)} of {rows} rows can't be read and are left out; "
        f"the first: {first.where}: {first.field}: {first.reason}"
    ]


def records(source: str | Path, split: str = "train") -> Iterator[tuple[str, Any]]:
    """Where and what each row is; a line that is no JSON comes as ``Refused``."""
    if str(source).startswith(HUB):
        yield from _hub(str(source), split)
        return
    text = read_text(Path(source))
    if text.lstrip()[:1] == "[":
        yield from _list_of(text, source)
        return
    if (whole := _one_object(text)) is not None:  # one pretty-printed object is a file of one row
        yield f"{source}:1", whole
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"{source}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"{source}:{number}", Refused("row", f"not valid JSON ({error})")


def read_text(path: Path) -> str:
    """A text file, gzip where the name ends in ``.gz``; whatever stops it being read is a UserError with the path."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig") as stream:
                return stream.read()
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a gzip file, or a damaged one: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


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


def write(path: Path, rows: Iterable[Any]) -> None:
    """JSONL where the name says so, a JSON list otherwise; gzip for ``.gz``; whole or not at all."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    jsonl = ".jsonl" in path.suffixes
    text = "".join(f"{line}\n" for line in lines) if jsonl else "[\n" + ",\n".join(lines) + "\n]\n"
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
        new.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        new.unlink(missing_ok=True)


def find(source: str, name: str) -> tuple[str, str | None]:
    """Training and validation files of a set in a folder, ``name_train.*`` and ``name_val.*``; a file is itself."""
    folder = Path(source)
    if source.startswith(HUB) or not folder.is_dir():
        return source, None
    train, held = (
        next((str(p) for p in sorted(folder.glob(f"{name}_{part}.json*"))), None) for part in ("train", "val")
    )
    if train is None:
        raise UserError(f"{source} has no {name}_train.jsonl, .json or .gz of it")
    return train, held


def _list_of(text: str, source: str | Path) -> Iterator[tuple[str, Any]]:
    decoder, at, row, line, counted = json.JSONDecoder(), text.index("[") + 1, 0, 1, 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at >= len(text):
            raise UserError(f"{source}: the JSON list is cut short behind row {row}")
        if text[at] == "]":
            return
        line, counted, row = line + text.count("\n", counted, at), at, row + 1
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{source}:{line}: row {row} is not valid JSON ({error})") from None
        yield f"{source}:{line} (row {row})", value


def _one_object(text: str) -> Any:
    if text.count("\n", 0, text.rfind("}") + 1) == 0:
        return None  # one line is read as a line
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _hub(source: str, split: str) -> Iterator[tuple[str, Any]]:
    try:
        datasets = import_module("datasets")
    except ImportError:
        raise UserError(f'{source} needs the datasets package: pip install "trm-fast[data]"') from None
    try:
        table = datasets.load_dataset(source.removeprefix(HUB), split=split)
    except Exception as error:  # several packages' errors, without a common base
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{source}: no split {split!r} could be loaded: {text}") from None
    for number, row in enumerate(table, 1):
        yield f"{source} ({split}), row {number}", dict(row)


@lru_cache(maxsize=8)
def _answers(path: Path) -> dict[Any, Any]:
    """The answers of a BFCL question file by id; under None what holds for a question without one."""
    name, dot, ending = path.name.partition(".")
    beside = path.with_name(f"{name}{ANSWERS}{dot}{ending}")
    if NO_CALL in name:
        return {None: []}
    if not beside.is_file():
        return {}
    rows = (row for _, row in records(beside) if isinstance(row, dict))
    return {row.get("id"): row.get("ground_truth") for row in rows}
