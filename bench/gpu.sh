#!/usr/bin/env bash
# Measures on a machine with a GPU what only a GPU can show, in one call of at most 9 minutes.
#
#   bash bench/gpu.sh [--minutes 9] [--parts PART ...] [--out DIR] [--data DIR] [--preset NAME]
#   bash bench/gpu.sh --self-test       every part on the CPU at small sizes; exit status 1 if one fails
#
# Parts, the most valuable first: checks step op_table solver training. Each writes DIR/PART.json row by row; one that
# fails leaves DIR/PART.error.json, and the next one goes on. docs/gpu.md says more, bench/gpu/plan.py has all limits.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" bench/gpu/run.py "$@"
