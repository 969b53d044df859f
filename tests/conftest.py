"""Settings for the whole suite."""

from __future__ import annotations

import os

# Two tests at a time must not fight over cores: OpenMP spins, and a 30 us op would take milliseconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")
