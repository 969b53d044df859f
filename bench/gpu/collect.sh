#!/usr/bin/env bash
# Prepares bench/gpu.sh for a machine without a network that has Python 3.12, torch and Triton: downloads wheels of the
# package's small dependencies, and writes the name of the commit, into bench/gpu/wheels. The kernels (trm_fast/_C*.so)
# built here run on any Python version. The functions of trm_fast/_host*.so run in Python where that file is missing.
#
#   bash bench/gpu/collect.sh [PYTHON_VERSION]     3.12 by default
set -euo pipefail
cd "$(dirname "$0")/../.."
version=${1:-3.12}
folder=bench/gpu/wheels
mkdir -p "$folder"
platforms=()
for number in 2_17 2_27 2_28 2_34; do platforms+=(--platform "manylinux_${number}_x86_64"); done
# pip also downloads the dependencies of these packages; none is large.
python3 -m pip download --quiet --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 -d "$folder" \
    numpy psutil pydantic pytest rich ruamel.yaml safetensors typer typing-extensions
git describe --always --dirty >"$folder/COMMIT" 2>/dev/null || rm -f "$folder/COMMIT"
du -sh "$folder"
ls trm_fast/_C*.so >/dev/null 2>&1 || echo "no kernels yet: python setup.py build_ext --inplace"
