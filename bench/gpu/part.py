"""Runs a part of bench/gpu.sh: python part.py NAME OPTIONS, in JSON as run.py makes them."""

from __future__ import annotations

import importlib
import json
import sys

from common import Part

if __name__ == "__main__":  # the sides of the part step are processes that import this file again
    part = Part(sys.argv[1], **json.loads(sys.argv[2]))
    importlib.import_module(sys.argv[1]).measure(part)
    part.finish()
