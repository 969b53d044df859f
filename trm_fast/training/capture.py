"""How a training step is run: called each time, or recorded once and replayed.

The step touches tensors at fixed places only, reads nothing back to the host and bakes no changing number in. So the
same function can be called (``Eager``) or become one CUDA graph; a recorder on the CPU proves it in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Runner(Protocol):
    """``capture`` may run the function (its caller restores the state behind it); ``replay`` runs it once."""

    def capture(self, function: Callable[[], None]) -> None: ...

    def replay(self) -> None: ...


class Eager:
    """No recording: every replay is a call."""

    def capture(self, function: Callable[[], None]) -> None:
        self.function = function

    def replay(self) -> None:
        self.function()
