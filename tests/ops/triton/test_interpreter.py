"""Without a GPU: runs the tests of this folder in a process with Triton's interpreter, which is chosen at import."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trm_fast.ops._core import registry

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(registry.INTERPRETED, reason="this is the process with the interpreter")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the GPU")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_in_the_interpreter():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--slow", "-p", "no:cacheprovider", str(HERE)],
        cwd="/",  # a checkout without a build would hide the installed package
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
