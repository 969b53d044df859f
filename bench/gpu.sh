#!/usr/bin/env bash
# Checks and measures everything that needs a GPU, in one call of at most 9 minutes.
#
#   bash bench/gpu.sh [--minutes 9] [--parts PART ...] [--out DIR] [--data DIR] [--preset NAME]
#   bash bench/gpu.sh --self-test       runs every part on the CPU at small sizes; exit status 1 if a part fails
#
# Parts, the most important first: checks step op_table solver training. Each writes DIR/PART.json row by row. If a part
# fails, it leaves DIR/PART.error.json and the next part starts. docs/gpu.md explains the parts; bench/gpu/plan.py has
# all limits.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" bench/gpu/run.py "$@"
