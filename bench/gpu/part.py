"""Runs one part of bench/gpu.sh: ``python part.py NAME OPTIONS``, with the options as JSON (run.py starts it)."""

from __future__ import annotations

import importlib
import json
import sys

from common import Part

if __name__ == "__main__":  # guard: part 'step' uses multiprocessing, which re-imports this file
    part = Part(sys.argv[1], **json.loads(sys.argv[2]))
    importlib.import_module(sys.argv[1]).measure(part)
    part.finish()
