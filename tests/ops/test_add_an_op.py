"""docs/add_an_op.md, followed literally in a copy of the sources."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPORT = "trm_fast/ops/__init__.py"
SOURCES = ("trm_fast", "csrc", "triton_kernels", "configs", "tests", "bench", "setup.py", "build_support.py",
           "conftest.py", "pyproject.toml", "README.md")  # fmt: skip


def blocks() -> dict[str, str]:
    """Each file that the page names in front of a code block, with the content of the block."""
    page = (ROOT / "docs" / "add_an_op.md").read_text()
    return dict(re.findall(r"^`([\w./]+)`[^\n]*\n\n```\w+\n(.*?)^```", page, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("copy") / "trm_fast"
    copy.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "_build.json")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=unwanted)
        else:
            shutil.copy2(ROOT / name, copy / name)
    if (ROOT / "build" / "native").is_dir():  # so that only the new files are built
        shutil.copytree(ROOT / "build" / "native", copy / "build" / "native")
    for link, folder in (("triton_kernels", "../triton_kernels"), ("configs", "../configs")):
        if not (copy / "trm_fast" / link).exists():
            (copy / "trm_fast" / link).symlink_to(folder)
    for name, text in blocks().items():
        if name == EXPORT:
            init = (copy / EXPORT).read_text()
            text = init.replace("from trm_fast.ops.sign_sgd", text + "from trm_fast.ops.sign_sgd")
            assert len(text.splitlines()) == len(init.splitlines()) + 1
        else:
            assert not (copy / name).exists(), f"{name} is no new file"
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    return copy


def python(copy: Path, *arguments: str, **variables: str) -> str:
    run = subprocess.run(
        [sys.executable, *arguments], cwd=copy, env={**os.environ, "PYTHONPATH": str(copy), **variables},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
    return run.stdout


def test_nothing_but_the_export_line_is_edited(followed: Path) -> None:
    new = {name for name in blocks() if name != EXPORT}
    assert len(new) <= 8
    assert all("scale" in name for name in new)
    changed = [
        str(path.relative_to(ROOT))
        for name in SOURCES
        for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
        if path.is_file() and path.suffix not in (".so", ".pyc") and path.name != "_build.json"
        if not filecmp.cmp(path, followed / path.relative_to(ROOT), shallow=False)
    ]
    assert changed == [EXPORT]


def test_the_reference_works_before_anything_is_built(followed: Path) -> None:
    code = "import torch; from trm_fast import ops; print(ops.scale(torch.ones(2), 3.0).tolist())"
    assert python(followed, "-c", code).strip() == "[3.0, 3.0]"


@pytest.mark.slow
def test_the_kernels_pass_their_tests(followed: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no compiler")
    python(followed, "setup.py", "build_ext", "--inplace", TRM_FAST_REQUIRE_NATIVE="1", TRM_FAST_CUDA="0")
    code = "from trm_fast import ops; print([r.backend for r in ops.table(['cpu']) if r.op == 'scale'])"
    assert python(followed, "-c", code).strip() == "['cpp', 'cpp']"
    python(followed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/test_scale.py")
    python(followed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/test_isa.py", "-k", "scale")
    bench = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "bench/test_ops.py", "-k", "scale and cpp")
    python(followed, *bench, PYTEST_ADDOPTS="")  # bench has no option --slow


@pytest.mark.slow
def test_the_triton_kernel_agrees_in_the_interpreter(followed: Path) -> None:
    pytest.importorskip("triton")
    code = """
import torch
from trm_fast.ops._core import validation
print(validation.check("scale", "triton", torch.float32, "cpu"))
"""
    assert python(followed, "-c", code, TRITON_INTERPRET="1").strip() == "None"
