"""Pages of the documentation site that are made from something else: the reference from the code, and others from
sections of the README, the changelog and CONTRIBUTING.md. mkdocs calls the functions ``on_*`` (``hooks`` in
mkdocs.yml)."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")  # label, target, anchor
INCLUDE = re.compile(r"^<!-- README: (.*) -->$", re.M)


def on_startup(**_: Any) -> None:
    """Leaves out the warning that ``trm_fast.ops.__all__`` contains a list of names."""
    logging.getLogger("mkdocs.plugins.griffe").addFilter(lambda record: "__all__: OPS" not in record.getMessage())


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages to the site's files."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Includes sections of the README, and makes links to files outside the site plain text."""
    folder = posixpath.dirname(page.file.src_uri)
    markdown = LINK.sub(lambda m: m[1] if m[2].startswith("../") and not folder else m[0], markdown)
    return INCLUDE.sub(lambda match: from_root(readme_section(match[1]), folder), markdown)


def pages() -> dict[str, str]:
    """The generated pages by path."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {
        "reference/commands.md": commands(),
        "reference/configuration.md": configuration(),
        "reference/ops.md": ops_reference(),
        "reference/python.md": python_reference(),
        "changelog.md": from_root(changelog),
        "contributing.md": from_root(contributing),
    }


def readme_section(title: str) -> str:
    """The text below a heading of the README, without the heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if section is None:
        raise ValueError(f"README.md has no section {title!r}")
    return section[1].strip()


def from_root(markdown: str, folder: str = "") -> str:
    """Text of a file in the repository's root for a page in a folder of the site: its links lead to pages, and those to
    other files become plain text."""

    def link(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        page = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
        path = page.get(target, target.removeprefix("docs/"))
        if target not in page and not target.startswith("docs/"):
            return label if label.startswith("`") or " " in label else f"`{label}`"
        return f"[{label}]({posixpath.relpath(path, folder or '.')}{anchor})"

    return LINK.sub(link, markdown)


def commands() -> str:
    """What ``--help`` prints, for every command."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from trm_fast.cli.main import make_app

    app, runner = make_app([]), CliRunner()
    lines = ["# Commands", "", "What `trm-fast COMMAND --help` prints."]

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        children = getattr(command, "commands", {})
        if path and not children:
            yield path
        for name in children:
            yield from walk(children[name], (*path, name))

    for path in walk(get_command(app), ()):
        environment = {"COLUMNS": "110", "TERMINAL_WIDTH": "110", "NO_COLOR": "1", "TERM": "dumb"}
        result = runner.invoke(app, [*path, "--help"], prog_name="trm-fast", env=environment)
        if result.exit_code:
            raise RuntimeError(f"trm-fast {' '.join(path)} --help fails: {result.output}")
        text = re.sub(r"[ \t]+$", "", result.output, flags=re.M).strip("\n")
        lines += ["", f"## trm-fast {' '.join(path)}", "", "```text", text, "```"]
    return "\n".join(lines) + "\n"


KEYS = """\
# Configuration

Every key of a preset or a YAML file. `trm-fast config PRESET` shows its values, and `--set KEY=VALUE` changes one. The
sections `task` and `model.head` have more keys, which depend on the task and the head: `trm-fast config PRESET` lists
them too.
"""


def configuration() -> str:
    """All keys of a configuration, and those that each task adds."""
    from trm_fast.training.keys import default_keys

    lines = [KEYS]
    for section, keys in groupby(default_keys(), key=lambda key: key.name.partition(".")[0]):
        lines += ["", f"## {section}", "", "| key | default | type | meaning |", "| --- | --- | --- | --- |"]
        for key in keys:
            default = "none" if key.default is None else f"`{key.default}`"
            cells = (f"`{key.name.partition('.')[2]}`", default, key.type, key.meaning)
            lines.append("| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def ops_reference() -> str:
    """The public names of ``trm_fast.ops``."""
    from trm_fast import ops

    lines = ["# Ops", "", "<!-- README: Ops for other projects -->"]
    named = [(name, getattr(ops, name)) for name in ops.__all__ if name != "reference"]
    for is_op in (True, False):
        for name, value in named:
            if (value.__module__.rpartition(".")[0] == "trm_fast.ops") == is_op:
                lines += ["", f"::: {value.__module__}.{name}"]
    return "\n".join(lines) + "\n"


PUBLIC = {
    "trm_fast": ("TRM", "TRMConfig", "Trainer", "Solver", "AdamATan2", "ReasoningTool", "run_task"),
    "trm_fast.inference": ("Answer", "Ensemble", "Evaluation", "evaluate"),
    "trm_fast.training": ("TrainingConfig", "RunConfig", "TrainStep", "Callback", "make_config", "read_preset"),
    "trm_fast.interchange": ("locate", "Located"),
    "trm_fast.tasks.base": ("Task", "Examples", "Dataset", "Question"),
}


def python_reference() -> str:
    """The names that other programs use."""
    lines = ["# Python"]
    for module, names in PUBLIC.items():
        for name in names:
            lines += ["", f"::: {module}.{name}"]
    return "\n".join(lines) + "\n"
