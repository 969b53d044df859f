"""Classes by the names that a configuration or an option calls them, and a hint where a name is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=Any)


class Registry(dict[str, T], Generic[T]):
    """Classes by name, each added by the file that defines it. ``noun``: what messages call one of them."""

    def __init__(self, noun: str) -> None:
        super().__init__()
        self.noun = noun

    def register(self, name: str) -> Callable[[C], C]:
        """A decorator that adds a class under ``name``."""

        def add(entry: C) -> C:
            self[name] = entry
            return entry

        return add

    def known(self, name: str) -> str:
        """``name``, if a class is registered under it; a ValueError says which names there are."""
        if name not in self:
            raise ValueError(f"there is no such {self.noun}; {suggest(name, sorted(self))}")
        return name


def suggest(name: str, choices: Iterable[str]) -> str:
    """The name that was probably meant, or all there are."""
    names = list(choices)
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else "there are: " + ", ".join(names)
