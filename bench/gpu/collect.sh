#!/usr/bin/env bash
# Collects what bench/gpu.sh needs on a machine that has Python 3.12, torch and Triton and can fetch nothing: wheels of
# the package's pure dependencies into bench/gpu/wheels, and kernels built here for that Python (abi3) into trm_fast/.
#
#   bash bench/gpu/collect.sh [PYTHON_VERSION]     3.12 by default
set -euo pipefail
cd "$(dirname "$0")/../.."
version=${1:-3.12}
folder=bench/gpu/wheels
mkdir -p "$folder"
platforms=()
for number in 2_17 2_27 2_28 2_34; do platforms+=(--platform "manylinux_${number}_x86_64"); done
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 -d "$folder" \
    annotated-types click iniconfig markdown-it-py mdurl packaging pluggy psutil pydantic pygments pytest pyyaml rich \
    safetensors shellingham typer typing-extensions typing-inspection
# pydantic and its core must be of one release.
core=$(unzip -p "$folder"/pydantic-[0-9]*.whl '*/METADATA' | sed -n 's/^Requires-Dist: pydantic-core==\([0-9.]*\).*/\1/p')
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 -d "$folder" "pydantic-core==$core"
du -sh "$folder"
ls trm_fast/_C*.so >/dev/null 2>&1 || echo "no kernels yet: python setup.py build_ext --inplace"
