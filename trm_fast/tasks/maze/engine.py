"""The generator and shortest paths: in C++ where ``trm_fast._host`` was built, otherwise in Python."""

from __future__ import annotations

from trm_fast.tasks.host import engine_for
from trm_fast.tasks.maze import reference

engine = engine_for("maze", reference)
