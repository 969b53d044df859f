"""The matrix kernels, compiled for GPUs that this machine need not have, spill nothing. (``cuda_on_cpu`` tests that
their shared memory fits.)"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
# Five sizes (mlp_out: four) of two types.
KERNELS = {"token_mixer/cuda": 10, "token_mixer/cuda_bwd": 10, "token_mixer/cuda_bwd_weights": 10, "mlp/cuda": 12}


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("arch", ["80", "90", "90a"])
@pytest.mark.parametrize("file", KERNELS)
def test_nothing_spills(tmp_path, record_property, file, arch):
    command = [str(NVCC), "-O3", "-std=c++17", f"-I{CSRC}", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-cubin"]
    command += ["-Xptxas", "-v", "-o", str(tmp_path / "out.cubin"), str(CSRC / "ops" / f"{file}.cu")]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    record_property("registers", re.findall(r"Used (\d+) registers", report))
    assert spilled == [("0", "0", "0")] * KERNELS[file]
