"""Files: rows refused with their line, sources that cannot be read, splits that share no dialogue."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.tool_calling import load, load_nonempty, refusal_note, split_rows, write
from trm_fast.tasks.tool_calling.data.formats.slots import read_slots
from trm_fast.tasks.tool_calling.data.loading import find_files

from ..rows import SLOTS, XLAM


def test_a_bad_line_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(SLOTS), "{oops", "", json.dumps({"x": 1}), json.dumps(SLOTS)]))
    loaded = load(path)
    assert [c.where for c in loaded.conversations] == [f"{path}:1", f"{path}:5"]
    assert [(r.where, r.field) for r in loaded.refused] == [(f"{path}:2", "row"), (f"{path}:4", "row")]
    assert "2 of 4 rows" in refusal_note(loaded, path)[0]


def test_rows_of_a_list_are_named_by_line_and_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[\n" + json.dumps(XLAM) + ",\n" + json.dumps({"messages": "no"}) + "\n]")
    loaded = load(path)
    assert [c.where for c in loaded.conversations] == [f"{path}:2 (row 1)"]
    assert loaded.refused[0].where == f"{path}:3 (row 2)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"[]", "has no rows"),
        (b"[1, ", "ends without a \\]"),
        (b"[{}]\n[{}]", "after the JSON list there is more"),
        (b"[{]", "not valid JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(path)


def test_missing_file_damaged_gzip_and_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path / "none.json")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"{}")[:12])
    with pytest.raises(UserError, match="gzip"):
        load(tmp_path / "x.jsonl.gz")
    (tmp_path / "y.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"y\.jsonl:1: row: has none of"):
        load_nonempty(tmp_path / "y.jsonl")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.jsonl.gz"])
def test_what_is_written_can_be_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [SLOTS, SLOTS])
    first = (tmp_path / name).read_bytes()
    assert [c.slots for c in load(tmp_path / name).conversations] == [SLOTS["slots"]] * 2
    write(tmp_path / name, [SLOTS, SLOTS])
    assert (tmp_path / name).read_bytes() == first


def test_a_dialogue_is_on_one_side_of_the_split() -> None:
    rows = [read_slots(SLOTS | {"id": f"{d}:{turn}:call"}) for d in range(10) for turn in range(3)]
    train, held = split_rows(rows, 0.2, 0)
    assert (len(train), len(held)) == (24, 6)
    assert not {c.id.split(":")[0] for c in train} & {c.id.split(":")[0] for c in held}
    assert split_rows(rows, 0.2, 0) == (train, held)
    with pytest.raises(UserError, match="one dialogue"):
        split_rows(rows[:3], 0.5, 0)


def test_find_takes_the_named_set_of_a_folder(tmp_path: Path) -> None:
    for name in ("sgd_train.jsonl", "sgd_val.jsonl", "xlam_train.json"):
        (tmp_path / name).write_text("")
    train, held = find_files(str(tmp_path), "sgd")
    assert (Path(train).name, Path(held or "").name) == ("sgd_train.jsonl", "sgd_val.jsonl")
    assert find_files(str(tmp_path / "xlam_train.json"), "sgd") == (str(tmp_path / "xlam_train.json"), None)
    with pytest.raises(UserError, match="glaive_train"):
        find_files(str(tmp_path), "glaive")
