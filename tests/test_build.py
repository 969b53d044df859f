"""The build where something is missing: it reports what, and builds the rest."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def support(monkeypatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_support", ROOT / "build_support.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "build_support", module)
    spec.loader.exec_module(module)
    return module


def test_no_compiler(support, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(support.shutil, "which", lambda _: None)
    plan = support.plan(ROOT, {})
    plan.compile(tmp_path, verbose=False)
    plan.warn()
    record = plan.record()
    for part in ("ops", "cuda", "host"):
        assert not record[part]["built"]
        assert "no C++ compiler" in record[part]["reason"]
    assert "--no-build-isolation" in capsys.readouterr().err


def test_no_torch_still_builds_the_host_module(support, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(support.importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    plan = support.plan(ROOT, {})
    assert "torch is not installed" in plan.reasons["ops"]
    assert plan.reasons["cuda"] == plan.reasons["ops"]
    assert "_C.so" not in plan.ninja_file(Path("build/native").resolve())
    assert ("host" in plan.reasons) != ("build _host.so" in plan.ninja_file(Path("build/native").resolve()))


def test_old_torch(support, monkeypatch):
    monkeypatch.setattr(support.importlib.metadata, "version", lambda _: "2.9.1+cpu")
    assert support.find_torch() == (None, "torch 2.9.1+cpu is older than 2.11")


def test_cuda_can_be_turned_off(support):
    plan = support.plan(ROOT, {"TRM_FAST_CUDA": "0"})
    assert "TRM_FAST_CUDA=0" in plan.reasons["cuda"]
    assert "-DTRM_FAST_CUDA" not in plan.ninja_file(Path("build/native").resolve())


def test_failed_build_is_an_error_when_required(support, tmp_path):
    plan = support.plan(ROOT, {"TRM_FAST_REQUIRE_NATIVE": "1", "CXX": "false", "TRM_FAST_CUDA": "0"})
    with pytest.raises(support.BuildError, match="TRM_FAST_REQUIRE_NATIVE=1"):
        plan.compile(tmp_path, verbose=False)


def test_architectures(support):
    assert support.gencode("90a") == "-gencode=arch=compute_90a,code=sm_90a"
    assert support.gencode("90+PTX") == "-gencode=arch=compute_90,code=compute_90"


@pytest.mark.slow
def test_clang_builds_kernels_that_agree_with_the_references(support, tmp_path, capsys):
    """Without warnings, and without OpenMP's library: the threads are torch's."""
    if shutil.which("clang++") is None:
        pytest.skip("not installed: clang++")
    environ = {"CXX": "clang++", "TRM_FAST_CUDA": "0", "TRM_FAST_REQUIRE_NATIVE": "1"}
    plan = support.plan(ROOT, environ | {"MAX_JOBS": os.environ.get("MAX_JOBS", "2")})
    plan.compile(tmp_path / "build", verbose=False)
    assert "warning:" not in capsys.readouterr().out
    package = tmp_path / "trm_fast"
    shutil.copytree(ROOT / "trm_fast", package, ignore=shutil.ignore_patterns("*.so", "__pycache__", "pretrained"))
    for module, suffix in (("_C", ".abi3.so"), ("_host", sysconfig.get_config_var("EXT_SUFFIX"))):
        shutil.copy(plan.built[f"trm_fast.{module}"], package / f"{module}{suffix}")
    (package / "_build.json").write_text(json.dumps(plan.record()))
    assert not [name for name in (b"libgomp", b"libomp", b"libiomp") if name in (package / "_C.abi3.so").read_bytes()]
    code = (
        "import trm_fast._host, trm_fast.ops.report as report\n"
        "print(trm_fast.__file__)\n"
        "for row in report.check_all('cpu'): print(*row, sep='\\t')"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    where, *rows = done.stdout.splitlines()
    assert where == str(package / "__init__.py")
    assert len(rows) > 20
    assert not [row for row in rows if not row.endswith("passed")]
