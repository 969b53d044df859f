"""Generator and shortest paths: C++ where ``trm_fast._host`` was built, else the same bytes from Python."""

from __future__ import annotations

from trm_fast.tasks.host import engine_for
from trm_fast.tasks.maze import reference

engine = engine_for("maze", reference)
