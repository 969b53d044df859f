"""The CPU kernels without torch, against an oracle in double: other compilers, and Arm in an emulator."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "build_support.py").exists(), reason="the kernels are built from the source tree"),
]


class Target(NamedTuple):
    """A compiler, the architecture that it compiles for, and what runs its programs."""

    compiler: tuple[str, ...]
    architecture: str
    emulator: tuple[str, ...] = ()


# Packages of Debian: g++-aarch64-linux-gnu, clang, qemu-user.
NATIVE = platform.machine()
TARGETS = {
    "g++": Target(("g++",), NATIVE),
    "clang++": Target(("clang++",), NATIVE),
    "arm g++": Target(("aarch64-linux-gnu-g++",), "aarch64", ("qemu-aarch64", "-cpu", "max")),
    "arm clang++": Target(("clang++", "--target=aarch64-linux-gnu"), "aarch64", ("qemu-aarch64", "-cpu", "max")),
}
RULES = """\
rule cxx
  command = {compiler} $flags -c $in -o $out
rule link
  command = {compiler} -static $in -o $out
"""


@pytest.fixture(scope="module")
def support() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_support", ROOT / "build_support.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("build_support", module)  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def build(support: ModuleType, target: Target, folder: Path) -> Path:
    """Compiles the kernels for every instruction set of an architecture, and the program that checks them."""
    needed = {target.compiler[0], *target.emulator[:1]}
    if len(target.compiler) > 1:  # clang++ finds the libraries of the other architecture beside this compiler
        needed.add("aarch64-linux-gnu-g++")
    if missing := sorted(tool for tool in needed if shutil.which(tool) is None):
        pytest.skip(f"not installed: {', '.join(missing)}")
    if (ninja := support.find_ninja()) is None:
        pytest.skip("ninja is not installed")
    common = f"{support.cxx_flags(target.compiler[0])} -I{ROOT / 'csrc'} -DTRM_FAST_BFLOAT16"
    units = [(path, "", common) for path in Path(__file__).parent.glob("*.cpp")]
    units += [(ROOT / "csrc" / "core" / name, "", common) for name in ("isa.cpp", "memory.cpp")]
    sets = support.ISA_FLAGS[support.ARCHITECTURES[target.architecture]]
    for isa, flags in {**sets, "emulated": support.EMULATED_FLAGS}.items():
        sources = support.kernel_sources(ROOT / "csrc", isa)
        units += [(path, f"{isa}.", f"{common} {flags} -DTRM_FAST_ISA={isa}") for path in sources]
    lines, objects = [RULES.format(compiler=" ".join(target.compiler))], []
    for path, prefix, flags in units:
        objects.append(f"{prefix}{path.parent.name}.{path.stem}.o")
        lines.append(f"build {objects[-1]}: cxx {path}\n  flags = {flags}\n")
    lines.append(f"build check: link {' '.join(objects)}\n")
    (folder / "build.ninja").write_text("\n".join(lines))
    jobs = f"-j{os.environ['MAX_JOBS']}" if "MAX_JOBS" in os.environ else "-j2"
    done = subprocess.run([ninja, "-C", str(folder), jobs, "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "warning:" not in done.stdout
    return folder / "check"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRM_FAST_CPU"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("name", TARGETS)
def test_every_instruction_set(support: ModuleType, tmp_path: Path, name: str) -> None:
    target = TARGETS[name]
    if target.architecture not in support.ARCHITECTURES:
        pytest.skip(f"no instruction sets but the portable one on {target.architecture}")
    program = str(build(support, target, tmp_path))
    sets = list(support.ISA_FLAGS[support.ARCHITECTURES[target.architecture]])
    best = run(*target.emulator, program).stdout.strip()
    if target.emulator:
        assert best == "neonbf16"
        plain = run(target.emulator[0], "-cpu", "cortex-a57", program)  # a processor without products of bfloat16
        assert plain.stdout.strip() == "neon"
    checked = ["emulated", *sets[: sets.index(best) + 1]]
    done = run(*target.emulator, program, *checked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == checked
