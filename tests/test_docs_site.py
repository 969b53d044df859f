"""The documentation: every command that it shows exists with its options, and the site builds without a warning."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer import Exit
from typer.main import get_command

from trm_fast import ops
from trm_fast.cli.main import COMMANDS, make_app
from trm_fast.training.keys import default_keys

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "trm_fast" / "pretrained" / "README.md"]
ELLIPSIS = re.compile(r"\.\.\.|…|COMMAND|\{")  # a command that is not shown whole


def commands(page: Path) -> Iterator[tuple[str, bool]]:
    """The commands that a page shows, without comments and pipes, and whether each is a whole one: a line of code, or
    only mentioned in a sentence."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^(?: {4}|\$ )?(?:[A-Z_]+=\S+ )*(trm-fast .*)$", text, re.M)
    sentences = [" ".join(code.split()) for code in re.findall(r"`(trm-fast [^`]+)`", text)]
    for command, whole in [*((line, True) for line in lines), *((code, False) for code in sentences)]:
        command = re.split(r" +# | \| | > | 2> | && |; ", command)[0].strip()
        if not ELLIPSIS.search(command):
            yield command, whole


SHOWN = [(page.name, *command) for page in PAGES for command in dict.fromkeys(commands(page))]


def test_commands_are_found() -> None:
    assert len(SHOWN) > 100


@pytest.fixture(scope="module")
def app() -> Any:
    return get_command(make_app([]))


@pytest.mark.parametrize(("page", "command", "whole"), SHOWN)
def test_a_shown_command_exists(page: str, command: str, whole: bool, app: Any) -> None:
    """Its options and arguments are parsed, but nothing runs."""
    words, current = shlex.split(command)[1:], app
    while words and words[0] in getattr(current, "commands", {}):
        current, words = current.commands[words[0]], words[1:]
    if words:  # otherwise it mentions a command by its name
        assert current is not app or words[0].startswith("-"), f"there is no command {words[0]}"
        problem = refusal(current, words)
        assert problem is None or not (whole or "no such option" in problem.lower())


def refusal(command: Any, words: list[str]) -> str | None:
    """Why a command refuses its options and arguments; None if it does not."""
    try:
        command.make_context(command.name, words)
    except Exit:  # --help and --version
        return None
    except Exception as error:
        return str(error) or type(error).__name__
    return None


@pytest.mark.slow
def test_the_site_builds_and_its_reference_is_complete(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or not (ROOT / "mkdocs.yml").is_file():
        pytest.skip('the documentation is built with mkdocs: pip install ".[docs]"')
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stderr
    texts = {path.name: html.unescape(path.read_text()) for path in (tmp_path / "site").rglob("*.html")}
    functions = {name: getattr(ops, name).__module__ for name in set(ops.__all__) - {"reference"}}
    assert all(f'id="{module}.{name}"' in texts["ops.html"] for name, module in functions.items())
    assert all(f"trm-fast {name}" in texts["commands.html"] for name in COMMANDS)
    assert all(f">{key.name.partition('.')[2]}<" in texts["configuration.html"] for key in default_keys())
    for page, text in texts.items():  # nothing is loaded from another host
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//(?!localhost)[^"]*"', text), page
