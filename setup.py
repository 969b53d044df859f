"""Builds the native parts with ninja. Where that is impossible, it reports why and installs pure Python.

``trm_fast._C``     ops on LibTorch's stable ABI: CPU always, CUDA when nvcc is found
``trm_fast._host``  puzzle generators and solvers, pybind11

TRM_FAST_REQUIRE_NATIVE=1  a native part that cannot be built is an error
TRM_FAST_CUDA=0            no CUDA kernels
TRM_FAST_CUDA_ARCHS        e.g. "80;90a;90+PTX"
MAX_JOBS                   parallel compilers
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT))

from build_support import Plan, plan  # noqa: E402  (in this folder, which a PEP 517 build does not have on its path)

MAPPED = {"trm_fast.triton_kernels": "triton_kernels", "trm_fast.configs": "configs"}


class BuildNative(build_ext):
    """Runs ninja once for all extensions. A part that fails is left out, and ``_build.json`` has the reason."""

    plan: Plan

    def run(self) -> None:
        self.plan.compile(ROOT / "build" / "native", verbose=self.verbose > 1)
        self.plan.warn()
        super().run()
        package = ROOT / "trm_fast" if self.inplace else Path(self.build_lib) / "trm_fast"
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build.json").write_text(json.dumps(self.plan.record(), indent=2) + "\n")

    def build_extension(self, ext: Extension) -> None:
        built = self.plan.built.get(ext.name)
        if built is not None:
            target = Path(self.get_ext_fullpath(ext.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(built, target)

    def copy_extensions_to_source(self) -> None:
        for ext in self.extensions:  # removed, not overwritten, so that running processes keep the old file
            (ROOT / self.get_ext_filename(self.get_ext_fullname(ext.name))).unlink(missing_ok=True)
        super().copy_extensions_to_source()


class BuildPython(build_py):
    """Empties build/lib first, because setuptools keeps files there that the sources no longer have."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


readme = ROOT / "README.md"
native = plan(ROOT, os.environ)
BuildNative.plan = native
mapped = {name: folder for name, folder in MAPPED.items() if (ROOT / folder).is_dir()}

setup(
    long_description=readme.read_text() if readme.exists() else "",
    long_description_content_type="text/markdown",
    packages=[*find_packages(include=["trm_fast", "trm_fast.*"]), *mapped],
    package_dir={"trm_fast": "trm_fast", **mapped},
    package_data={
        "trm_fast": ["py.typed", "ops/*.json", *(f"pretrained/**/*.{kind}" for kind in ("json", "safetensors", "txt"))],
        "trm_fast.web": ["static/**/*"],
        "trm_fast.configs": ["*.yaml"],
        "trm_fast.triton_kernels": ["*.json"],
    },
    # Always declared, so that the tag of the wheel does not depend on which parts were compiled.
    ext_modules=[
        Extension("trm_fast._C", [], py_limited_api=True, optional=True),
        Extension("trm_fast._host", [], optional=True),
    ],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPython},
)
