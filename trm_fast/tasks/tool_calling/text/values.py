"""Reads text as values of a schema's types, and compares values."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_FACTORS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "k": 1000, "m": 10**6}
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NUMBER_WORDS = frozenset([*_ONES, *_ORDINALS, *_TENS, *_FACTORS])
_JSON = {"true": "True", "false": "False", "null": "None"}
MAX_LITERAL_LENGTH = 1000
"""The maximum length of a text that is read as a list."""


def parse_number(text: str) -> float | int | None:
    """The number that a text expresses; None if it is not a number.

    Examples:
        >>> [parse_number(text) for text in ("$1,200.50", "5th", "20%", "3 million", "twenty-five", "many")]
        [1200.5, 5, 20, 3000000, 25, None]
    """
    rest = text.strip().lower().lstrip("$€£¥").replace("- ", "-").strip()
    rest = re.sub(r"(?<=\d)\s*(?:st|nd|rd|th|%|°|percent)$", "", rest)
    plain, _, factor = rest.rpartition(" ")
    if factor in _FACTORS and (inner := parse_number(plain)) is not None:
        return inner * _FACTORS[factor]
    if rest and (match := _NUMBER.fullmatch(rest)) and match.group(0) not in ("", "-", "+"):
        value = float(rest.replace(",", ""))
        return int(value) if "." not in rest else value
    parts = rest.replace("-", " ").split()
    if len(parts) == 1 and parts[0] in _ONES:
        return _ONES.index(parts[0])
    if len(parts) == 1 and parts[0] in _ORDINALS:
        return 1 + _ORDINALS.index(parts[0])
    if parts and parts[0] in _TENS and len(parts) <= 2 and (len(parts) == 1 or parts[1] in _ONES[1:10]):
        return _TENS[parts[0]] + (_ONES.index(parts[1]) if len(parts) == 2 else 0)
    return None


_MONTH = rf"(?P<month>{'|'.join(MONTHS)})[a-z]*\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_MONTH} {_DAY},? {_YEAR}", rf"(?:the )?{_DAY} (?:of )?{_MONTH},? {_YEAR}",
        rf"{_YEAR}[/.](?P<month>\d{{1,2}})[/.](?P<day>\d{{1,2}})",
    )
]  # fmt: skip


def parse_date(text: str) -> str | None:
    """The ISO date that a text expresses; None if it is not a date.

    Examples:
        >>> [parse_date(text) for text in ("August 1st, 2022", "1 Aug 2022", "2022/8/1", "soon")]
        ['2022-08-01', '2022-08-01', '2022-08-01', None]
    """
    for pattern in _DATES:
        if match := pattern.fullmatch(text.strip()):
            month = match["month"].lower()
            number = MONTHS.index(month) + 1 if month in MONTHS else int(month)
            try:
                return date(int(match["year"]), number, int(match["day"])).isoformat()
            except ValueError:
                return None
    return None


def singular(text: str) -> str | None:
    """Words without the ending of an English plural; None if they do not end in one."""
    for ending, replacement in (("ies", "y"), ("sses", "ss"), ("s", "")):
        if text.endswith(ending) and len(text) > len(ending) + 1 and not text.endswith("ss"):
            return text[: -len(ending)] + replacement
    return None


def bracketed(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The indices of each "[" and its closing "]" among words."""
    opened: list[int] = []
    for i, word in enumerate(words):
        if word == "[":
            opened.append(i)
        elif word == "]" and opened:
            yield opened.pop(), i


def literal_list(text: str) -> list[Any] | None:
    """The list that a text writes in JSON or Python; None for any other text."""
    if not (text.startswith("[") and text.endswith("]")) or len(text) > MAX_LITERAL_LENGTH:
        return None
    try:
        value = ast.literal_eval(re.sub(r"\b(true|false|null)\b", lambda m: _JSON[m[0]], text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, list) else None


def json_type(schema: Mapping[str, Any]) -> str:
    """The JSON type that a schema asks for; ``string`` if it has none."""
    kind = schema.get("type", "string")
    return kind if isinstance(kind, str) else next((k for k in kind if k != "null"), "string")


def cast(text: str, schema: Mapping[str, Any]) -> Any:
    """Reads a text as a value of a schema's type; None if that is impossible.

    Examples:
        >>> cast("five", {"type": "integer"}), cast("yes", {"type": "boolean"}), cast("c", {"enum": ["C", "F"]})
        (5, True, 'C')
    """
    kind = json_type(schema)
    if kind in ("integer", "number"):
        number = parse_number(text)
        if number is None or (kind == "integer" and not float(number).is_integer()):
            return None
        return int(number) if kind == "integer" else number
    if kind == "boolean":
        return {"true": True, "yes": True, "false": False, "no": False}.get(text.strip().lower())
    if kind in ("array", "object", "null"):
        return None
    choices = schema.get("enum")
    if isinstance(choices, list) and text not in choices:
        return next((c for c in choices if isinstance(c, str) and c.casefold() == text.strip().casefold()), None)
    return text


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same: numbers by value, even if one is text; text ignoring case and surrounding
    spaces; lists and objects element by element."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b or str(a).casefold() == str(b).casefold()
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, int | float) or isinstance(b, int | float):
        try:
            return float(a) == float(b)
        except (TypeError, ValueError):
            return False
    return str(a).strip().casefold() == str(b).strip().casefold()
