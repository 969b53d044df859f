"""Text read as values, and when two values are the same."""

from __future__ import annotations

from typing import Any

import pytest

from trm_fast.tasks.tool_calling.text.values import cast, literal_list, parse_date, parse_number, same, singular


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5), ("-5", -5), ("- 5", -5), ("$1,200.50", 1200.5), ("5th", 5), ("20%", 20), ("three", 3),
        ("twenty-five", 25), ("3 million", 3_000_000), ("3.5", 3.5), ("1e5", None), ("", None), ("-", None),
        ("abc", None), ("٣", 3), ("5 apples", None), ("second", 2),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text: str, value: Any) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("5.5", {"type": "integer"}, None), ("5.0", {"type": "integer"}, 5), ("5", {"type": "number"}, 5),
        ("Yes", {"type": "boolean"}, True), ("maybe", {"type": "boolean"}, None), ("Paris", {}, "Paris"),
        ("c", {"type": "string", "enum": ["C", "F"]}, "C"), ("K", {"type": "string", "enum": ["C", "F"]}, None),
        ("1, 2", {"type": "array"}, None), ("5", {"type": ["null", "integer"]}, 5),
    ],
)  # fmt: skip
def test_text_becomes_a_value_of_its_type_or_none(text: str, schema: dict[str, Any], value: Any) -> None:
    value = cast(text, schema)
    assert value == value
    assert type(value) is type(value)


def test_values_are_compared_by_meaning() -> None:
    assert same("Paris ", "paris")
    assert same(5, "5.0")
    assert same([1, "A"], [1.0, "a"])
    assert same({"a": 1}, {"a": 1})
    assert same(True, "true")
    assert not same(True, 1)
    assert not same([1], [1, 2])
    assert not same({"a": 1}, {"b": 1})
    assert not same("x", 5)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("August 1st, 2022", "2022-08-01"), ("1 Aug 2022", "2022-08-01"), ("the 2nd of May, 2021", "2021-05-02"),
        ("2022/8/1", "2022-08-01"), ("Feb. 29 2024", "2024-02-29"), ("Feb 29 2023", None), ("May", None),
        ("August 2022", None), ("2022-08-01", None),
    ],
)  # fmt: skip
def test_dates_as_people_write_them(text: str, value: str | None) -> None:
    assert parse_date(text) == value


def test_the_singular_of_plain_plurals() -> None:
    assert [singular(t) for t in ("manta rays", "cities", "classes", "glass", "dog", "s")] == [
        "manta ray", "city", "class", None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[1, 2], ['a']]", [[1, 2], ["a"]]), ('[true, "x", null]', [True, "x", None]), ("[1, 2", None),
        ("(1, 2)", None), ("[x]", None), ("[" * 500 + "]" * 500, None), ("[__import__('os')]", None),
    ],
)  # fmt: skip
def test_lists_as_programs_write_them(text: str, value: list[Any] | None) -> None:
    assert literal_list(text) == value
