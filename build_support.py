"""Decides which native parts can be built on this machine, and builds them with ninja; setup.py calls it."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TORCH_MINIMUM = (2, 11)
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"
PYTHON_TARGET = "-DPy_LIMITED_API=0x030a0000"
CUDA_ARCHS = "80;90a;90+PTX"  # PTX of a plain architecture runs on every newer GPU

# Without trapping and errno the compiler can vectorize. NaN, infinity and signed zero keep their meaning. OpenMP only
# marks loops to vectorize; the threads are torch's.
CXX_FLAGS = "-O3 -std=c++17 -fPIC -fvisibility=hidden -Wall -fno-math-errno -fno-trapping-math -fopenmp-simd"
# clang++ warns of a loop that it did not vectorize, of tables of kernels that another file defines, and of warnings
# that only g++ knows.
CLANG_FLAGS = "-Wno-pass-failed -Wno-undefined-var-template -Wno-unknown-warning-option"
# Each op's cpu.cpp and each file of csrc/core/cpu is compiled once for each instruction set of the architecture;
# csrc/core/isa.cpp chooses one at run time. The order is that of csrc/core/kernels.h.
AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512"
PAIRS = "-DTRM_FAST_PAIRS"  # products in bfloat16
ISA_FLAGS = {
    "x86_64": {
        "portable": "",
        "avx2": "-mavx2 -mfma",
        "avx512": AVX512,
        # The warning that is turned off comes from g++'s own headers.
        "avx512bf16": f"{AVX512} -mavx512bf16 {PAIRS} -Wno-maybe-uninitialized",
        "amxbf16": f"{AVX512} -mavx512bf16 -mamx-tile -mamx-bf16 {PAIRS} -DTRM_FAST_AMX -Wno-maybe-uninitialized",
    },
    "aarch64": {
        "portable": "",
        "neon": "-DTRM_FAST_NEON",
        "neonbf16": f"-march=armv8.2-a+bf16 -DTRM_FAST_NEON {PAIRS}",
    },
    "other": {"portable": ""},
}
# The sets that differ from the one before them only in the matrix products, which are in bfloat16.
BFLOAT16_ISAS = {"avx512bf16", "amxbf16", "neonbf16"}
# Products in bfloat16 without the instructions for them, for tests on every machine; -O1 compiles in half the time.
EMULATED_FLAGS = f"-O1 {PAIRS} -DTRM_FAST_EMULATED -Wno-psabi"
# The names that platforms give the architectures.
ARCHITECTURES = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}

# On macOS, the symbols of Python and torch are found when a module is loaded: both are in the process by then.
MACOS = sys.platform == "darwin"
SHARED = "-bundle -undefined dynamic_lookup" if MACOS else "-shared"

NINJA_RULES = """\
rule cxx
  command = {cxx} $flags -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
rule nvcc
  command = {nvcc} $flags -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
rule link
  command = {cxx} {shared} $in -o $out $flags
"""


class BuildError(RuntimeError):
    """A native part cannot be built."""


@dataclass
class Plan:
    """Which parts to build, and why not the others."""

    root: Path
    required: bool
    cxx: str | None = None
    ninja: str | None = None
    torch: Path | None = None
    cuda: Path | None = None
    archs: list[str] = field(default_factory=list)
    jobs: str = ""
    reasons: dict[str, str] = field(default_factory=dict)  # part -> why it is not built
    built: dict[str, Path] = field(default_factory=dict)  # module -> file

    @functools.cached_property
    def isas(self) -> dict[str, str]:
        """The compiler's flags by instruction set. Older compilers lack the products in bfloat16 (before g++ 11), and
        get none of them."""
        flags = ISA_FLAGS[ARCHITECTURES.get(platform.machine(), "other")]
        products = BFLOAT16_ISAS & flags.keys()
        left_out = set() if all(self.accepts(flags[isa]) for isa in products) else products
        return {isa: flags[isa] for isa in flags if isa not in left_out}

    def accepts(self, flags: str) -> bool:
        """Whether the compiler accepts the flags of an instruction set."""
        command = [self.cxx or "c++", *flags.split(), "-E", "-x", "c++", os.devnull]
        return subprocess.run(command, capture_output=True).returncode == 0

    def compile(self, folder: Path, *, verbose: bool) -> None:
        """Compiles the parts of the plan. A part that fails gets an entry in ``reasons``.

        Raises:
            BuildError: a required part cannot be built.
        """
        for part, module in (("cuda", None), ("ops", "trm_fast._C"), ("host", "trm_fast._host")):
            if part in self.reasons:
                continue
            try:
                target = self._ninja(folder, part, verbose)
            except BuildError as error:
                self.reasons[part] = str(error)
                continue
            if module:
                self.built[module] = target
        if self.required and {"ops", "host"} & self.reasons.keys():
            raise BuildError(f"TRM_FAST_REQUIRE_NATIVE=1, and the native build failed: {self.reasons}")

    def _ninja(self, folder: Path, part: str, verbose: bool) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(self.ninja_file(folder))
        target = {"cuda": "cuda", "ops": "_C.so", "host": "_host.so"}[part]
        command = [self.ninja or "ninja", "-C", str(folder), *(["-v"] if verbose else []), *self.jobs.split(), target]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(result.stdout)
        if result.returncode:
            failed = re.findall(r"^.*(?:error|fatal).*$", result.stdout, re.MULTILINE) or ["see the build output"]
            raise BuildError(f"compilation failed: {failed[0].strip()}")
        return folder / target

    def ninja_file(self, folder: Path) -> str:
        """The content of build.ninja. Paths are relative to ``folder``, so a copy of the tree builds only what
        changed."""
        root = self.root / "csrc"
        csrc = Path(os.path.relpath(root, folder))
        lines = [NINJA_RULES.format(cxx=self.cxx, nvcc=self.cuda and self.cuda / "bin" / "nvcc", shared=SHARED)]

        def edge(rule: str, target: str, sources: list[str], flags: str) -> str:
            inputs = " ".join(source.replace(" ", "$ ").replace(":", "$:") for source in sources)
            lines.append(f"build {target}: {rule} {inputs}\n  flags = {flags}\n")
            return target

        include, common = f"-I{csrc}", cxx_flags(self.cxx) if self.cxx else ""

        def sources(*patterns: str) -> list[Path]:
            """Source files by pattern, so that a new op needs no entry here."""
            return sorted(csrc / path.relative_to(root) for pattern in patterns for path in root.glob(pattern))

        def name(path: Path) -> str:
            return ".".join(path.relative_to(csrc).with_suffix("").parts)

        if "ops" not in self.reasons:
            python = sysconfig.get_paths()["include"]
            binding = (
                f"{common} {include} -isystem {self.torch}/include -isystem {python} {TORCH_TARGET} {PYTHON_TARGET}"
            )
            link = "" if MACOS else f"-L{self.torch}/lib -Wl,--no-as-needed -ltorch -Wl,--as-needed"
            if BFLOAT16_ISAS & self.isas.keys():
                binding += " -DTRM_FAST_BFLOAT16"
            cuda_objects = []
            if "cuda" not in self.reasons:
                assert self.cuda is not None
                binding += f" -DTRM_FAST_CUDA -isystem {self.cuda}/include"
                link += f" -L{self.cuda}/lib64 -l:libcudart_static.a -lrt -lpthread -ldl"
                code = " ".join(gencode(arch) for arch in self.archs)
                flags = f"-O3 -std=c++17 -Xcompiler=-fPIC,-fvisibility=hidden {include} {code}"
                for source in sources("ops/*/*.cu"):
                    cuda_objects.append(edge("nvcc", f"cuda.{name(source)}.o", [str(source)], flags))
                lines.append(f"build cuda: phony {' '.join(cuda_objects)}\n")
            objects = [
                edge("cxx", f"torch.{name(source)}.o", [str(source)], binding)
                for source in sources("core/*.cpp", "ops/*/binding.cpp")
            ]
            for isa, isa_flags in {**self.isas, "emulated": EMULATED_FLAGS}.items():
                flags = f"{common} {include} {isa_flags} -DTRM_FAST_ISA={isa}"
                for path in kernel_sources(root, isa):
                    source = csrc / path.relative_to(root)
                    objects.append(edge("cxx", f"{isa}.{name(source)}.o", [str(source)], flags))
            edge("link", "_C.so", objects + cuda_objects, link)
        if "host" not in self.reasons:
            import pybind11

            python = sysconfig.get_paths()["include"]
            flags = f"{common} {include} -isystem {pybind11.get_include()} -isystem {python}"
            objects = [edge("cxx", f"host.{source.stem}.o", [str(source)], flags) for source in sources("host/*.cpp")]
            edge("link", "_host.so", objects, "" if MACOS else "-pthread")
        return "\n".join(lines)

    def record(self) -> dict[str, object]:
        """The record of the build, for ``trm-fast info``."""
        ops: dict[str, object] = {"built": "ops" not in self.reasons}
        if self.cxx:
            ops["compiler"] = compiler_version(self.cxx)
        if self.torch:
            ops["torch"] = importlib.metadata.version("torch")
        if ops["built"]:
            ops["cpu"] = list(self.isas)
        cuda: dict[str, object] = {"built": "cuda" not in self.reasons}
        if cuda["built"]:
            cuda["archs"] = self.archs
        host: dict[str, object] = {"built": "host" not in self.reasons, "python": platform.python_version()}
        parts = {"ops": ops, "cuda": cuda, "host": host}
        for part, reason in self.reasons.items():
            parts[part]["reason"] = reason
        return {"format": 1, **parts}

    def warn(self) -> None:
        missing = {part: self.reasons[part] for part in ("ops", "host") if part in self.reasons}
        if not missing:
            return
        print("\n".join([
            "=" * 100,
            "trm_fast: installing without some native kernels; everything works, more slowly.",
            *(f"  {part}: {reason}" for part, reason in missing.items()),
            "To get them: install torch>=2.11, a C++17 compiler, ninja and pybind11, then",
            "  pip install --no-build-isolation .",
            "=" * 100,
        ]), file=sys.stderr)  # fmt: skip


def plan(root: Path, environ: Mapping[str, str]) -> Plan:
    """Looks for a compiler, ninja, torch, pybind11 and nvcc, and plans the build."""
    result = Plan(root, required=environ.get("TRM_FAST_REQUIRE_NATIVE") == "1")
    result.jobs = f"-j{environ['MAX_JOBS']}" if environ.get("MAX_JOBS") else ""
    result.cxx = next(filter(None, map(shutil.which, (environ.get("CXX", ""), "g++", "c++", "clang++"))), None)
    result.ninja = find_ninja()
    common = None
    if sys.platform not in ("linux", "darwin"):
        common = f"native parts are only built on Linux and macOS, not on {sys.platform}"
    elif result.cxx is None:
        common = "no C++ compiler (looked for $CXX, g++, c++, clang++)"
    elif result.ninja is None:
        common = "ninja is not installed (pip install ninja)"
    if common:
        result.reasons = dict.fromkeys(("ops", "cuda", "host"), common)
        return result

    result.torch, reason = find_torch()
    if reason:
        result.reasons["ops"] = reason
    if not list((root / "csrc" / "host").glob("*.cpp")):
        result.reasons["host"] = "no sources"
    elif importlib.util.find_spec("pybind11") is None:
        result.reasons["host"] = "pybind11 is not installed in the build environment"

    result.archs = environ.get("TRM_FAST_CUDA_ARCHS", CUDA_ARCHS).split(";")
    result.cuda = find_cuda()
    if environ.get("TRM_FAST_CUDA") == "0":
        result.reasons["cuda"] = "turned off by TRM_FAST_CUDA=0"
    elif "ops" in result.reasons:
        result.reasons["cuda"] = result.reasons["ops"]
    elif result.cuda is None:
        result.reasons["cuda"] = "no CUDA toolkit with nvcc and libcudart_static.a"
    return result


def cxx_flags(cxx: str) -> str:
    return f"{CXX_FLAGS} {CLANG_FLAGS}" if "clang" in compiler_version(cxx) else CXX_FLAGS


def kernel_sources(csrc: Path, isa: str) -> list[Path]:
    """The sources of the CPU kernels that are compiled for an instruction set. A new op needs no entry here."""
    patterns = ["core/cpu/*.cpp", "ops/*/cpu.cpp"]
    if isa in BFLOAT16_ISAS:
        patterns = ["core/cpu/gemm.cpp", "core/cpu/peak.cpp"]
    elif isa == "emulated":  # its speed is nobody's peak
        patterns = ["core/cpu/gemm.cpp"]
    return sorted(path for pattern in patterns for path in csrc.glob(pattern))


def find_ninja() -> str | None:
    """ninja from the Python package, even if its folder is not on PATH, or from PATH."""
    if importlib.util.find_spec("ninja") is not None:
        import ninja

        return str(Path(ninja.BIN_DIR) / "ninja")
    return shutil.which("ninja")


def find_torch() -> tuple[Path | None, str | None]:
    """The folder of torch, without the seconds that an import takes; or why it cannot be used."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None, "torch is not installed in the build environment (use --no-build-isolation)"
    version = importlib.metadata.version("torch")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < TORCH_MINIMUM:
        return None, f"torch {version} is older than 2.11"
    return Path(spec.origin).parent, None


def find_cuda() -> Path | None:
    """The folder of the CUDA toolkit, from nvcc itself, because nvcc may be a link or a wrapper."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    try:
        dry_run = subprocess.run([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True)
    except OSError:
        return None
    top = re.search(r"^#\$ TOP=(.*)$", dry_run.stderr, re.MULTILINE)
    root = Path(top.group(1)).resolve() if top else None
    return root if root and (root / "lib64" / "libcudart_static.a").exists() else None


def gencode(arch: str) -> str:
    """The option of nvcc for an architecture: "90a" is machine code for one, "90+PTX" is PTX for it and newer ones."""
    number, _, ptx = arch.partition("+")
    return f"-gencode=arch=compute_{number},code={'compute' if ptx else 'sm'}_{number}"


def compiler_version(cxx: str) -> str:
    return subprocess.run([cxx, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
