"""Emulation of CUDA and PTX on a CPU, to test the arithmetic, addresses and barriers of kernels without a GPU."""

from __future__ import annotations

import shutil

import pytest

from ..ops.conftest import check, judge, native, random  # noqa: F401  (fixtures)
from .cuda_launchers import Launchers, compile_kernels


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Launchers:
    """The CUDA kernels, emulated on the CPU."""
    if not (compiler := shutil.which("g++")):
        pytest.skip("no g++")
    return compile_kernels(compiler, tmp_path_factory.mktemp("cuda_on_cpu") / "kernels.so")
