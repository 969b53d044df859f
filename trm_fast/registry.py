"""Registries, which hold optimizers, heads, halting rules and so on by name, and hints for unknown names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from trm_fast.errors import cut, shown

T = TypeVar("T")
C = TypeVar("C", bound=Any)


class Registry(dict[str, T], Generic[T]):
    """Entries by name. The file that defines an entry registers it. Messages call an entry ``noun``.

    Examples:
        >>> colors: Registry[type] = Registry("color")
        >>> @colors.register("red")
        ... class Red: ...
        >>> colors["red"] is Red
        True
        >>> colors.require("rad")
        Traceback (most recent call last):
        ValueError: unknown color 'rad'; did you mean red?
    """

    def __init__(self, noun: str) -> None:
        super().__init__()
        self.noun = noun

    def register(self, name: str) -> Callable[[C], C]:
        """Returns a decorator that registers a class under ``name``."""

        def add(entry: C) -> C:
            self[name] = entry
            return entry

        return add

    def require(self, name: str) -> str:
        """Returns ``name`` if it is registered.

        Raises:
            ValueError: it is not; the message suggests a registered name.
        """
        if name not in self:
            raise ValueError(f"unknown {self.noun} {shown(name)}; {suggest(name, sorted(self))}")
        return name


def suggest(name: str, choices: Iterable[str]) -> str:
    """A hint for an unknown name: the choice with these initials, the most similar one, or all choices.

    Examples:
        >>> suggest("stps", ["steps", "seed"]), suggest("lr", ["learning_rate", "seed"])
        ('did you mean steps?', 'did you mean learning_rate?')
        >>> suggest("x", ["steps", "seed"])
        'choose one of: steps, seed'
    """
    names = list(choices)
    initials = [choice for choice in names if name == "".join(word[:1] for word in re.split("[_-]", choice))]
    close = initials or difflib.get_close_matches(cut(name, 80), names, 1)  # its time grows fast with the length
    return f"did you mean {close[0]}?" if close else "choose one of: " + ", ".join(names)
