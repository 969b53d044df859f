#!/usr/bin/env bash
# Collects what bench/gpu.sh needs on a machine that has Python 3.12, torch and Triton and can fetch nothing: wheels of
# the package's light dependencies and the name of the commit, into bench/gpu/wheels. The kernels (trm_fast/_C*.so) that
# were built here run on any Python; what trm_fast/_host*.so does is done in Python where there is none for that version.
#
#   bash bench/gpu/collect.sh [PYTHON_VERSION]     3.12 by default
set -euo pipefail
cd "$(dirname "$0")/../.."
version=${1:-3.12}
folder=bench/gpu/wheels
mkdir -p "$folder"
platforms=()
for number in 2_17 2_27 2_28 2_34; do platforms+=(--platform "manylinux_${number}_x86_64"); done
# With what they need themselves: none of that is large.
python3 -m pip download --quiet --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 -d "$folder" \
    numpy psutil pydantic pytest rich ruamel.yaml safetensors typer typing-extensions
git describe --always --dirty >"$folder/COMMIT" 2>/dev/null || rm -f "$folder/COMMIT"
du -sh "$folder"
ls trm_fast/_C*.so >/dev/null 2>&1 || echo "no kernels yet: python setup.py build_ext --inplace"
