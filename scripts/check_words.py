"""Refuses the words that docs/glossary.md retires, in names, comments, docstrings, messages and pages.

python scripts/check_words.py [FILE...]    # all tracked files by default; exit status 1 if a word was found
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs/glossary.md"
TEXT_FILES = (".md", ".yaml", ".yml", ".toml", ".cpp", ".h", ".cu", ".cuh", ".sh")
KEPT = "# name in state_dict"
"""Ends the lines whose names cannot change, because saved models have them."""
UNMISTAKABLE = {"anew", "mine", "settle", "sight", "tidy", "heard", "spoken", "anywhen"}
"""Refused also as a part of a name in snake_case; the other retired names are only refused as whole names."""
EXEMPT = (
    "docs/glossary.md",
    "scripts/check_words.py",
    "bench/baseline/",
    "bench/results/",
    "tests/fixtures/",
    "trm_fast/pretrained/",
)


def retired() -> tuple[dict[str, str], dict[str, str]]:
    """Retired names and retired texts, each with what to write instead, from the glossary's last table."""
    names: dict[str, str] = {}
    texts: dict[str, str] = {}
    for line in GLOSSARY.read_text(encoding="utf-8").partition("## Retired words")[2].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[1] in ("name", "text"):
            kind = names if cells[1] == "name" else texts
            kind.update(dict.fromkeys(cells[0].split(", "), cells[2]))
    return names, texts


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that the code defines, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


def prose_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The text that people read in a file, line by line: all of a page, the comments and strings of Python."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        return
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            # A string without a space is no prose: it is the name of a field or an option.
            if token.type in kinds and (token.type == tokenize.COMMENT or " " in token.string):
                yield from enumerate(token.string.splitlines(), token.start[0])


def faults(path: Path, names: dict[str, str], texts: dict[str, str]) -> Iterator[str]:
    """A message for each retired word in a file."""
    if path.suffix == ".py":
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for line, name in defined_names(ast.parse(source)):
            whole = name.strip("_").lower()
            parts = UNMISTAKABLE.intersection(whole.split("_"))
            if (whole in names or parts) and KEPT not in lines[line - 1]:
                word = whole if whole in names else min(parts)
                yield f"{line}: the name {name}: {names.get(word) or texts[word]}"
    pattern = re.compile(rf"(?<![\w`/<-])({'|'.join(map(re.escape, texts))})(?![\w`/>-])", re.I)
    for line, text in prose_lines(path):
        for match in pattern.finditer(text):
            yield f"{line}: '{match[1]}': {texts[match[1].lower()]}"


def main() -> int:
    if sys.argv[1:]:
        paths = [Path(name).resolve() for name in sys.argv[1:]]
    else:
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        paths = [ROOT / name for name in tracked.splitlines()]
    names, texts = retired()
    count = 0
    for path in paths:
        where = path.relative_to(ROOT).as_posix()
        if where.startswith(EXEMPT) or path.suffix not in (".py", *TEXT_FILES) or not path.is_file():
            continue
        for fault in faults(path, names, texts):
            print(f"{where}:{fault}")
            count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
