"""Parameters of tools in all dialects."""

from __future__ import annotations

from typing import Any

import pytest

from trm_fast.tasks.tool_calling.data.schema import normalized_parameters


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("str, optional", {"type": "string"}),
        ("str, optional, default 'London'", {"type": "string"}),
        ("List[List[int]]", {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
        ("List[Union[int, float]]", {"type": "array"}),
        ("Tuple[float, float]", {"type": "array"}),
        ("Optional[bool]", {"type": "boolean"}),
        ("dict", {"type": "object"}),
        ("float", {"type": "number"}),
        ("any", {}),
        ("Callable[[float], float]", {}),
        (["string", "null"], {"type": ["string", "null"]}),
    ],
)
def test_types(kind: Any, schema: dict[str, Any]) -> None:
    assert normalized_parameters({"p": {"type": kind}} if kind != "any" else {"p": {"type": "any"}})["properties"] == {
        "p": schema
    }


@pytest.mark.parametrize("nothing", [None, {}, "", [], {"type": "object"}, {"type": "dict", "properties": {}}])
def test_no_parameters(nothing: Any) -> None:
    assert normalized_parameters(nothing) == {"type": "object", "properties": {}, "required": []}


def test_a_parameter_may_be_called_type() -> None:
    schema = normalized_parameters({"type": {"type": "str", "description": "kind"}, "id": {"type": "int"}})
    assert list(schema["properties"]) == ["type", "id"]


@pytest.mark.parametrize("wrong", [5, ["a"], {"p": 5}, {"type": "object", "properties": [1]}])
def test_malformed_schemas(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be an object"):
        normalized_parameters(wrong)
