"""What the package makes public: every name exists and is documented, and every docstring example runs."""

from __future__ import annotations

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import trm_fast
from trm_fast import ops

PACKAGE = Path(inspect.getfile(trm_fast)).parent
WITH_EXAMPLES = [
    ".".join(("trm_fast", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", trm_fast.__all__)
def test_names_of_the_package(name: str) -> None:
    assert name == "__version__" or inspect.getdoc(getattr(trm_fast, name))


@pytest.mark.parametrize("name", ops.__all__)
def test_names_of_the_ops(name: str) -> None:
    assert inspect.getdoc(getattr(ops, name))


def test_every_exported_op_is_listed() -> None:
    """The functions and classes of the package's own that ``trm_fast.ops`` holds, and no others."""
    held = {
        name
        for name, value in vars(ops).items()
        if not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value))
    }
    assert held - {"request"} <= set(ops.__all__)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstring_examples(name: str) -> None:
    if "triton_kernels" in name:
        pytest.importorskip("triton")
    result = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
