"""The calls that a conversation expects, and the ways to compare them with a model's calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation
from trm_fast.tasks.tool_calling.text.values import same

T = TypeVar("T")
U = TypeVar("U")
_IGNORED = re.compile(r"[ ,./\-_*^()]")


def expected_calls(conversation: Conversation) -> list[Call]:
    """The calls that follow the last user turn, or else the conversation's next call.

    For a benchmark's question these are the calls with the first accepted value of each argument.
    """
    if conversation.accepted is not None:
        return [
            Call(name, {k: v[0] for k, v in arguments.items() if v and v[0] != ""})
            for answer in conversation.accepted for name, arguments in answer.items()
        ]  # fmt: skip
    turns = conversation.turns
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    calls = [turn.call for turn in turns[last + 1 :] if turn.call is not None]
    return calls or ([conversation.call] if conversation.call else [])


def _count_pairs(items: Iterable[T], others: Iterable[U], fits: Callable[[T, U], bool]) -> int:
    """Pairs each item with the first unused one of ``others`` that fits, and returns the number of pairs."""
    rest, count = list(others), 0
    for item in items:
        index = next((i for i, other in enumerate(rest) if fits(item, other)), None)
        if index is not None:
            rest.pop(index)
            count += 1
    return count


def same_calls(expected: Sequence[Call], calls: Sequence[Call]) -> bool:
    """Whether two lists have the same calls, in any order."""

    def alike(a: Call, b: Call) -> bool:
        return a.name == b.name and same(dict(b.arguments), dict(a.arguments))

    return len(expected) == len(calls) == _count_pairs(expected, calls, alike)


def argument_f1(expected: Sequence[Sequence[Call]], calls: Sequence[Sequence[Call]]) -> float:
    """F1 score over the triples (tool, argument, value) of all rows; NaN if there are none."""

    def alike(a: tuple[str, str, Any], b: tuple[str, str, Any]) -> bool:
        return a[:2] == b[:2] and same(b[2], a[2])

    hits = total = 0
    for pair in zip(expected, calls, strict=True):
        needed, predicted = ([(c.name, k, v) for c in part for k, v in c.arguments.items()] for part in pair)
        hits, total = hits + _count_pairs(needed, predicted, alike), total + len(needed) + len(predicted)
    return 2 * hits / total if total else float("nan")


def _fits(arguments: Mapping[str, Any], accepted: Mapping[str, Sequence[Any]]) -> bool:
    """Whether each argument has an accepted value, and "" is among the accepted values of each missing one."""
    named = all(any(_equal(value, v) for v in accepted.get(name, [])) for name, value in arguments.items())
    return named and all(name in arguments or "" in values for name, values in accepted.items())


def ast_match(calls: Sequence[Call], accepted: Sequence[Mapping[str, Any]]) -> bool:
    """The AST match of the Berkeley Function-Calling Leaderboard: strict about types, lenient about punctuation.

    Args:
        calls: the calls of a model.
        accepted: ``{tool: {argument: [accepted values]}}`` for each expected call. An argument with "" among its values
            may be left out. An empty list accepts no call. Integers and floats are equal by value; a number and
            its text are not.

    Returns:
        Whether calls and accepted answers can be paired, in any order, with none left over.

    Examples:
        >>> from trm_fast.tasks.tool_calling import Call, ast_match
        >>> ast_match([Call("get_weather", {"city": "rome"})], [{"get_weather": {"city": ["Rome"], "days": ["", 3]}}])
        True
    """
    accepted = [{name: arguments} for answer in accepted for name, arguments in answer.items()]
    if len(calls) != len(accepted):
        return False
    if not calls:
        return True
    return any(
        list(answer) == [calls[0].name]
        and _fits(calls[0].arguments, answer[calls[0].name])
        and ast_match(calls[1:], [*accepted[:i], *accepted[i + 1 :]])
        for i, answer in enumerate(accepted)
    )


def _equal(value: Any, choice: Any) -> bool:
    if isinstance(value, str) and isinstance(choice, str):
        return _simplified(value) == _simplified(choice)
    if isinstance(value, bool) or isinstance(choice, bool):
        return value is choice
    if isinstance(value, int | float) and isinstance(choice, int | float):
        return float(value) == float(choice)
    if isinstance(value, Mapping) and isinstance(choice, Mapping):  # an object's values are lists of accepted ones
        return _fits(value, {name: c if isinstance(c, list) else [c] for name, c in choice.items()})
    if isinstance(value, list) and isinstance(choice, list):
        return len(value) == len(choice) and all(_equal(v, c) for v, c in zip(value, choice, strict=True))
    return bool(value == choice)


def _simplified(text: str) -> str:
    """A text in lower case, without spaces and punctuation, as the leaderboard's checker compares it."""
    return _IGNORED.sub("", text).lower().replace("'", '"')
