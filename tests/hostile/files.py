"""Hostile files: tables, mazes, tool rows, pictures, configurations, compressed files, and puzzles as text."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any

from .case import EVAL, MODEL, PUZZLE, SMALL, Case, each

ANSWER = "3124241342311342"
ROW = f"{PUZZLE},{ANSWER}"
LONG, DEEP = "9" * 5000, "[" * 50_000
TOOL = {"name": "f", "description": "", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
TOOLS = json.dumps([{"type": "function", "function": TOOL}])
CALL = '<tool_call>{"name": "f", "arguments": {"a": "x"}}</tool_call>'


def chat(*turns: tuple[str, Any], **further: Any) -> dict[str, Any]:
    """A row in the Hermes format."""
    turns = (("system", f"<tools>\n{TOOLS}\n</tools>"), *turns)
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **further}


TABLES: dict[str, tuple[str | bytes, str]] = {
    "empty.csv": ("", "tables/empty.csv"),
    "header.csv": ("question,answer\n", "tables/header.csv"),
    "columns.csv": ("a,b\n1,2\n", "tables/columns.csv"),
    "fields.csv": (f"question,answer\n{ROW}\n{ROW},7\n", "tables/fields.csv:3"),
    "few.csv": (f"question,answer\n{PUZZLE}\n", "tables/few.csv:2"),
    "short.csv": ("question,answer\n3.4,3124\n", "tables/short.csv:2"),
    "letters.csv": (f"question,answer\n3.......4.3...4z,{ANSWER}\n", "tables/letters.csv:2"),
    "contradiction.csv": (f"question,answer\n33......4.3...42,{ANSWER}\n", "tables/contradiction.csv:2"),
    "other.csv": (f"question,answer\n{PUZZLE},1324241342311342\n", "tables/other.csv:2"),
    "blank.csv": (f"question,answer\n{PUZZLE},312424134231134.\n", "tables/blank.csv:2"),
    "quote.csv": (f'question,answer\n"{ROW}\n' + "x" * 200_000, "tables/quote.csv"),
    "nul.csv": (f"question,answer\n{ROW}\n\0\n", "tables/nul.csv"),
    "latin.csv": (f"question,answer\n{ROW}\ncaf\xe9,1\n".encode("latin-1"), "tables/latin.csv"),
    "utf16.csv": (f"question,answer\n{ROW}\n".encode("utf-16"), "tables/utf16.csv"),
    "binary.csv": (bytes(range(256)) * 40, "tables/binary.csv"),
    "line.csv": ("question,answer\n" + "1" * 3_000_000 + "," + "2" * 3_000_000 + "\n", "tables/line.csv"),
    "not.csv.gz": (f"question,answer\n{ROW}\n", "tables/not.csv.gz"),
    "cut.csv.gz": (gzip.compress(f"question,answer\n{ROW}\n".encode())[:-9], "tables/cut.csv.gz"),
    "html.csv": ("<!DOCTYPE html><html><body>404</body></html>\n", "tables/html.csv"),
}
TABLE_CASES = [
    case
    for name, (_, words) in TABLES.items()
    for case in (Case((*EVAL, "--data", f"tables/{name}"), words), Case((*SMALL, "--data", f"tables/{name}"), words))
]

TEXTS = [
    Case(("solve", MODEL, puzzle), words)
    for puzzle, words in [
        ("", "16"),
        (" ", "16"),
        ("3.......4.3...4", "16"),
        (f"{PUZZLE}1", "16"),
        ("3" * 100_000, "16"),
        ("3.......4.3...4x", "x"),
        ("3.......4.3...45", "5"),
        ("33......4.3...42", "contradict"),
        ("3.......4.3...4\0".replace("\0", "\x01"), "character 16"),
        ("[[3,0,0,0],[0,0,0,0],[4,0,3,0]]", "row"),
        ("[[3,0,0,0],[0,0,0,0],[4,0,3,0],[0,0,4]]", "row"),
        ("[[3,0,0,0],[0,0,0,0],[4,0,3,0],[0,0,4,2.5]]", "2.5"),
        ("[[3,0,0,0],[0,0,0,0],[4,0,3,0],[0,0,4,true]]", "row 4"),
        ("[[3,0,0,0],[0,0,0,0],[4,0,3,0],[0,0,4," + LONG + "]]", "character 39"),
        ("[" * 5000, "16"),
        ('{"puzzle": 5}', "puzzle"),
        ("{}", "puzzle"),
        ("missing.csv", "missing.csv does not exist"),
        ("missing/puzzles.csv", "missing/puzzles.csv does not exist"),
        ("rows", "rows"),
        ("/dev/zero", "/dev/zero"),
        ("tables/binary.csv", "tables/binary.csv"),
        ("tables/empty.csv", "tables/empty.csv"),
    ]
] + [
    Case(("solve", MODEL, "-"), "standard input", "tables/binary.csv"),
    Case(("solve", MODEL, "-"), "standard input", "tables/empty.csv"),
    Case(("solve", MODEL, "-"), "standard input", "tables/letters.csv"),
    Case(("solve", "maze-small", "S G\n###\n   "), "3x3"),
    Case(("solve", "maze-small", "pictures/not.png"), "pictures/not.png"),
    Case(("solve", "maze-small", "pictures/bomb.png"), "pictures/bomb.png"),
    Case(("solve", "maze-small", "pictures/cut.png"), "pictures/cut.png"),
    Case(("solve", "maze-small", "pictures/empty.png"), "pictures/empty.png"),
    Case(("agent", MODEL), "standard input", "tables/latin.csv"),
    Case(("mcp", MODEL, "--port", "1"), "--transport http", "tables/binary.csv"),
]

ROWS: dict[str, tuple[Any, str]] = {
    "text.jsonl": ("no JSON\n", "rows/text.jsonl:1"),
    "number.jsonl": ("5\n", "rows/number.jsonl:1"),
    "open.json": ('[{"a": 1}', "rows/open.json"),
    "after.json": ("[] x", "rows/after.json"),
    "deep.json": (DEEP, "rows/deep.json"),
    "deep.jsonl": (DEEP + "\n", "rows/deep.jsonl"),
    "long.jsonl": ('{"conversations": ' + LONG + "}\n", "rows/long.jsonl"),
    "nan.jsonl": ('{"conversations": NaN}\n', "rows/nan.jsonl"),
    "keys.jsonl": ({"nothing": "known"}, "rows/keys.jsonl:1"),
    "role.jsonl": (chat(("wizard", "hello")), "rows/role.jsonl:1"),
    "call.jsonl": (chat(("human", "x"), ("gpt", "<tool_call>{broken</tool_call>")), "rows/call.jsonl:1"),
    "unclosed.jsonl": (chat(("human", "x"), ("gpt", "<tool_call>{}")), "rows/unclosed.jsonl:1"),
    "unknown.jsonl": (chat(("human", "x"), ("gpt", CALL.replace('"f"', '"g"'))), "rows/unknown.jsonl:1"),
    "value.jsonl": (chat(("human", ["a", {"b": []}]), ("gpt", CALL)), "rows/value.jsonl:1"),
    "column.jsonl": (chat(("human", "x"), ("gpt", CALL), ), "rows/column.jsonl:1"),
    "latin.jsonl": ("caf\xe9\n".encode("latin-1"), "rows/latin.jsonl"),
}  # fmt: skip
ROWS["column.jsonl"] = (chat(("human", "x"), ("gpt", CALL), function_call={"x": 1}), "rows/column.jsonl:1")
ROW_CASES = [Case(("data", "hermes", f"rows/{name}"), words) for name, (_, words) in ROWS.items()] + [
    Case(("data", "hermes", "rows/chat.jsonl", "--out", "new/a.json", "--to", "nothing"), "--to nothing"),
    Case(("data", "hermes", "rows/chat.jsonl", "--val-split", "0.5"), "--val-split"),
    Case(("tokenizer", "train", "--data", "rows/keys.jsonl", "--out", "new/tokenizer"), "rows/keys.jsonl"),
    Case(("tokenizer", "train", "--data", "missing.jsonl", "--out", "new/tokenizer"), "missing.jsonl"),
    *each(("data", "{}", "missing.json"), "missing.json", "hermes", "xlam", "swift", "sgd", "bfcl"),
]

CONFIGS: dict[str, tuple[str | bytes, str]] = {
    "empty.yaml": ("", "task"),
    "list.yaml": ("- a\n- b\n", "configs/list.yaml"),
    "text.yaml": ("just text\n", "configs/text.yaml"),
    "tabs.yaml": ("task:\n\tname: sudoku\n", "configs/tabs.yaml"),
    "twice.yaml": ("task: {name: sudoku}\ntask: {name: maze}\n", "configs/twice.yaml"),
    "open.yaml": ("task: {name: sudoku\n", "configs/open.yaml"),
    "deep.yaml": ("task: " + "[" * 20_000, "nested"),
    "dashes.yaml": ("- " * 5000 + "x", "nested"),
    "itself.yaml": ("a: &a [*a]", "configs/itself.yaml"),
    "bomb.yaml": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)),
        "configs/bomb.yaml",
    ),
    "digits.yaml": (f"training: {{steps: {LONG}}}", "too many digits"),
    "date.yaml": ("training: {steps: 2024-13-45}", "configs/date.yaml"),
    "nul.yaml": ("\0", "configs/nul.yaml"),
    "binary.yaml": (bytes(range(256)), "configs/binary.yaml"),
    "long.yaml": ("x: " + "y" * (1 << 19), "configs/long.yaml"),
    "object.yaml": ("task: !!python/object/apply:os.system ['touch new/ran']\n", "configs/object.yaml"),
    "no-name.yaml": ("task: {size: 4}\n", "task.name"),
    "name.yaml": ("task: {name: 5}\n", "task.name"),
    "task.yaml": ("task: {name: chess}\n", "chess"),
    "key.yaml": ("task: {name: sudoku, size: 4, sice: 9}\n", "task.sice"),
    "section.yaml": ("task: {name: sudoku, size: 4}\ntrainig: {steps: 3}\n", "trainig"),
    "value.yaml": ("task: {name: sudoku, size: four}\n", "task.size"),
    "scalar.yaml": ("task: {name: sudoku, size: 4}\ntraining: 5\n", "training"),
    "null.yaml": ("task:\n", "task"),
}
CONFIG_CASES = [
    case
    for name, (_, words) in CONFIGS.items()
    for case in each(("train", "--config", "{}", "--steps", "1", "--out", "new/run"), words, f"configs/{name}")
] + [
    *each(
        ("import", "weights/good.safetensors", "--task", "{name: sudoku, size: 4}", "--out", "new/m", "--config", "{}"),
        "{}",
        *(f"configs/{name}.yaml" for name in ("list", "tabs", "deep", "bomb", "nul", "binary", "long")),
    ),
    Case((*EVAL, "--data", "bombs/zeros.csv.gz"), "bombs/zeros.csv.gz"),
    Case((*EVAL, "--data", "bombs/line.csv.gz"), "bombs/line.csv.gz"),
    Case(("solve", MODEL, "bombs/zeros.csv.gz"), "bombs/zeros.csv.gz"),
    Case(("data", "xlam", "bombs/line.json.gz"), "bombs/line.json.gz"),
    Case(("data", "hermes", "bombs/zeros.json.gz"), "bombs/zeros.json.gz"),
    Case((*EVAL, "--data", "bombs/sparse.csv"), "bombs/sparse.csv"),
]


def png(width: int, height: int) -> bytes:
    """The head of a PNG file that declares a size, and a part that is not compressed data."""
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", b"x" * 20), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(d)) + kind + d + b"\0" * 4 for kind, d in parts)


def build(folder: Path) -> None:
    """Writes all files."""
    for part in ("tables", "rows", "configs", "pictures", "bombs", "new"):
        (folder / part).mkdir()
    for part, files in (("tables", TABLES), ("configs", CONFIGS), ("rows", ROWS)):
        for name, (content, _) in files.items():
            if not isinstance(content, str | bytes):
                content = json.dumps(content) + "\n"
            (folder / part / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "rows" / "chat.jsonl").write_text(json.dumps(chat(("human", "x"), ("gpt", CALL))) + "\n")
    for name, content in {
        "not.png": b"GIF89a", "bomb.png": png(100_000, 100_000), "cut.png": png(90, 90)[:40], "empty.png": b"",
    }.items():  # fmt: skip
        (folder / "pictures" / name).write_bytes(content)
    os.symlink("loop", folder / "loop")
    for name, block in (("zeros", b"\0"), ("line", b"1")):
        member = gzip.compress(block * (1 << 24), 1)
        for ending in ("csv", "json"):
            with (folder / "bombs" / f"{name}.{ending}.gz").open("wb") as stream:
                for _ in range(256):  # 4 GiB in all
                    stream.write(member)
    with (folder / "bombs" / "sparse.csv").open("wb") as stream:
        stream.truncate(1 << 40)


CASES = TABLE_CASES + TEXTS + ROW_CASES + CONFIG_CASES
