"""The wheel is complete: installed into an empty folder, it trains and solves without the source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = {"pip", "setuptools", "wheel", "ninja", "pybind11"}
# From the metadata, because importing pip replaces distutils.
MISSING = NEEDED - {d.metadata["Name"].lower() for d in distributions()}


@pytest.mark.slow
@pytest.mark.skipif(
    bool(MISSING) or not (ROOT / "setup.py").exists(), reason=f"a wheel needs the source tree and {MISSING}"
)
def test_wheel(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-build-isolation", "--no-deps", str(ROOT), "-w", str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "empty"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
    elsewhere.mkdir()
    assert (site / "trm_fast" / "triton_kernels" / "configs.json").exists()
    page = site / "trm_fast" / "web" / "static"
    assert all((page / name).exists() for name in ("index.html", "js/main.js", "css/app.css", "vendor/uplot/LICENSE"))

    def run(*arguments: str) -> str:
        code = "import trm_fast; from trm_fast.cli.main import main; print(trm_fast.__file__); main()"
        environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        where, output = done.stdout.split("\n", 1)
        assert where.startswith(str(site)), f"{where} was used, not the wheel"
        return output

    summary = json.loads(run("train", "--preset", "sudoku-4x4", "--steps", "3", "--out", "run", "--json"))
    assert summary["steps"] == 3
    answer = json.loads(run("solve", "run", "3.......4.3...42", "--json"))
    assert len(answer["solution"]) == 16
    facts = json.loads(run("info", "--json"))
    assert {"sudoku-4x4", "sudoku-cpu", "sudoku-paper"} <= set(facts["presets"])
    assert {"sudoku-4x4", "sudoku-6x6", "sudoku-cpu"} <= set(facts["models"])
    shipped = json.loads(run("solve", "sudoku-6x6", ".36.45.1...61.34..52.6...5.2...42.13", "--json"))
    assert shipped["solution"] == "236145415326163452524631351264642513"
