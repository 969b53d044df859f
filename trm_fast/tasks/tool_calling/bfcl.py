"""The AST match of the Berkeley Function-Calling Leaderboard: whether calls are one of the accepted answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trm_fast.tasks.tool_calling.conversation import Call

_IGNORED = re.compile(r"[ ,./\-_*^()]")


def ast_match(calls: Sequence[Call], accepted: Sequence[Mapping[str, Any]]) -> bool:
    """Each call fits its own accepted answer, in any order, and none is left over; [] accepts no call at all."""
    if len(calls) != len(accepted):
        return False
    if not calls:
        return True
    return any(
        _fits(calls[0], answer) and ast_match(calls[1:], [*accepted[:i], *accepted[i + 1 :]])
        for i, answer in enumerate(accepted)
    )


def _fits(call: Call, answer: Mapping[str, Any]) -> bool:
    """``answer``: ``{tool: {argument: [accepted values]}}``; "" among the values lets the argument be left out."""
    if len(answer) != 1 or call.name not in answer:
        return False
    values = answer[call.name]
    if any(name not in values for name in call.arguments):
        return False
    return all(
        _among(call.arguments[name], choices) if name in call.arguments else "" in choices
        for name, choices in values.items()
    )


def _among(value: Any, choices: Sequence[Any]) -> bool:
    return any(_same(value, choice) for choice in choices)


def _same(value: Any, choice: Any) -> bool:
    if isinstance(value, str) and isinstance(choice, str):
        return _plain(value) == _plain(choice)
    if isinstance(value, bool) or isinstance(choice, bool):
        return value is choice
    if isinstance(value, int | float) and isinstance(choice, int | float):
        return float(value) == float(choice)
    if isinstance(value, Mapping) and isinstance(choice, Mapping):  # an object's values are lists of accepted ones
        known = all(name in choice for name in value)
        return known and all(
            _among(value[n], _listed(c)) if n in value else "" in _listed(c) for n, c in choice.items()
        )
    if isinstance(value, list) and isinstance(choice, list):
        return len(value) == len(choice) and all(_same(v, c) for v, c in zip(value, choice, strict=True))
    return bool(value == choice)


def _listed(choices: Any) -> Sequence[Any]:
    return choices if isinstance(choices, list) else [choices]


def _plain(text: str) -> str:
    """Case, spaces and punctuation don't count, as in the leaderboard's checker."""
    return _IGNORED.sub("", text).lower().replace("'", '"')
