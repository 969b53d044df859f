"""Files of sudoku programs: the sections of SadMan Sudoku (.sdk), and the XML of OpenSudoku."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn
from xml.parsers import expat

from trm_fast.errors import UserError

_SECTION = re.compile(r"^[ \t]*\[(\w+)\][ \t\r]*$", re.MULTILINE)
_PUZZLE = "puzzle"
_OTHERS = {"state", "pencilmarks", "colours", "colors", "solution", "comment", "header"}
"""Sections that say how far somebody has got, or describe the puzzle."""


def has_sections(text: str) -> bool:
    """Whether a text has the sections of an .sdk file, such as ``[Puzzle]``."""
    return any(name.lower() in {_PUZZLE, *_OTHERS} for name in _SECTION.findall(text))


def puzzle_sections(text: str, where: str) -> str:
    """The text with spaces in place of all lines outside the sections ``[Puzzle]``. Lines keep their places.

    Raises:
        UserError: a section is unknown, or there is no section ``[Puzzle]``.
    """
    prefix = f"{where}: " if where else ""
    kept, end, has_puzzle = "", 0, False
    for match in _SECTION.finditer(text):
        kept += text[end : match.start()] if has_puzzle else _blanked(text[end : match.start()])
        kept += _blanked(match[0])
        name, end = match[1].lower(), match.end()
        if name not in {_PUZZLE, *_OTHERS}:
            raise UserError(f"{prefix}unknown section [{match[1]}]; the cells belong into a section [Puzzle]")
        has_puzzle = name == _PUZZLE
    if _PUZZLE not in map(str.lower, _SECTION.findall(text)):
        raise UserError(f"{prefix}there is no section [Puzzle]")
    return kept + (text[end:] if has_puzzle else _blanked(text[end:]))


def opensudoku(text: str, where: str) -> Iterator[tuple[str, str]]:
    """The cells of each game in the XML of OpenSudoku, with its place.

    Raises:
        UserError: the text is not such XML, declares entities, or has games in progress instead of puzzles.
    """
    prefix = f"{where}: " if where else ""
    games: list[tuple[str, int]] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "game" and "data" in attributes:
            games.append((attributes["data"], parser.CurrentLineNumber))

    def refuse(*_: object) -> NoReturn:
        raise UserError(f"{prefix}XML with a document type is not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text.lstrip(), True)
    except expat.ExpatError as error:
        raise UserError(f"{prefix}not valid XML: {error}") from None
    if not games:
        raise UserError(f'{prefix}this XML has no sudokus: elements <game data="..."> as OpenSudoku writes them')
    for number, (data, line) in enumerate(games, 1):
        location = f"{where}:{line}" if where else f"game {number}"
        if data.lstrip().startswith("version"):
            raise UserError(f"{location}: this is a game in progress: export the puzzle without its state")
        yield data, location


def _blanked(text: str) -> str:
    return re.sub(r"[^\r\n]", " ", text)
