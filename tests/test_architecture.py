"""The rules between packages: which may import which, what an import loads, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
SOURCES = ("trm_fast", "csrc", "triton_kernels", "bench", "tests")
LONGEST = 400


@cache
def graph() -> grimp.ImportGraph:
    """The imports of all modules, including those inside functions and under TYPE_CHECKING."""
    return grimp.build_graph("trm_fast", cache_dir=None)


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or through others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = imports[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    below = {module: reached(module) for module in imports}
    groups = {
        frozenset(m for m in below[module] if module in below[m]) for module in imports if module in below[module]
    }
    return [set(group) for group in groups]


def sources(*suffixes: str) -> list[Path]:
    paths = [path for folder in SOURCES for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return [path for path in paths if not path.is_symlink() and "build" not in path.relative_to(ROOT).parts]


def test_the_import_contracts_hold() -> None:
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True) == 0


def test_no_modules_import_each_other() -> None:
    imports = {module: graph().find_modules_directly_imported_by(module) for module in graph().modules}
    assert not circles(imports)


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def test_lazy_and_type_checking_imports_are_found() -> None:
    """``trm-fast solve`` imports the solver inside a function; the package imports its exports for type checkers."""
    assert graph().direct_import_exists(importer="trm_fast.cli.solve", imported="trm_fast.inference")
    assert graph().direct_import_exists(importer="trm_fast", imported="trm_fast.api")


def test_no_module_imports_the_package_itself() -> None:
    """``trm_fast`` exports names of the highest packages, so a package that imports it would close a circle."""
    assert graph().find_modules_that_directly_import("trm_fast") == set()


def test_only_tasks_use_the_host_module() -> None:
    users = {path for path in sources(".py") if '"trm_fast._host"' in path.read_text(encoding="utf-8")}
    inside = {path.relative_to(ROOT).parts[:2] for path in users if path.parts[len(ROOT.parts)] == "trm_fast"}
    assert inside == {("trm_fast", "tasks")}


LOADS = """
import sys
import {module}
print(*(name for name in sys.modules if name.split(".")[0] in {watched}))
"""


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("trm_fast", ("trm_fast.version",)),
        (
            "trm_fast.ops",
            ("trm_fast.version", "trm_fast.errors", "trm_fast.ops", "trm_fast.triton_kernels", "trm_fast._C"),
        ),
    ],
)
def test_an_import_loads_no_higher_package(module: str, allowed: tuple[str, ...]) -> None:
    watched = ["trm_fast", "typer", "rich", "matplotlib", "pydantic", "ruamel", "psutil"]
    watched += ["torch"] * (module == "trm_fast")
    code = LOADS.format(module=module, watched=watched)
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert [
        name for name in loaded if name != "trm_fast" and not f"{name}.".startswith(tuple(f"{o}." for o in allowed))
    ] == []


def test_no_file_is_long() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(".py", ".cpp", ".h", ".cu", ".cuh", ".sh")
    }
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_no_file_imports_a_private_name() -> None:
    crossing = []
    for path in sources(".py"):
        name = str(path.relative_to(ROOT))
        if name.startswith("tests/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("trm_fast"):
                private = [a.name for a in node.names if a.name.startswith("_") and not a.name.startswith("__")]
                crossing += [f"{name}:{node.lineno} {each}" for each in private if each not in ("_C", "_core")]
    assert crossing == []
