"""One row of each format, written by hand, and the folder of the real data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

DATA = Path(os.environ.get("TRM_FAST_DATA", Path(__file__).parents[4] / "shared" / "data")) / "tools"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the tool-calling data is not at {DATA}")

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
            "required": ["city"],
        },
    },
}
HERMES: dict[str, Any] = {
    "conversations": [
        {"from": "system", "value": f"Be brief.\n<tools>\n{json.dumps([WEATHER])}\n</tools>"},
        {"from": "human", "value": "Weather in Đà Nẵng? ☀️"},
        {
            "from": "gpt",
            "value": "<think>\nA call.\n</think>\n"
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Đà Nẵng"}}\n</tool_call>\n'
            "<tool_call>\n{'name': 'get_weather', 'arguments': {'city': 'Hue', 'unit': 'C'}}\n</tool_call>",
        },
        {
            "from": "tool",
            "value": '<tool_response>\n{"temp": 31}\n</tool_response>\n<tool_response>\n29\n</tool_response>',
        },
        {"from": "gpt", "value": "31 and 29 °C."},
    ]
}
XLAM: dict[str, Any] = {
    "tools": json.dumps([
        {"type": "function", "function": {"name": "ping", "description": "Pings", "parameters": {}}},
        {
            "type": "function",
            "function": {
                "name": "sum_up",
                "description": "Adds",
                "parameters": {
                    "numbers": {"description": "What to add", "type": "List[int]"},
                    "digits": {"description": "Kept", "type": "int, optional", "default": 2},
                },
            },
        },
    ]),
    "messages": [
        {"role": "user", "content": "Add 1 and 2"},
        {"role": "tool_call", "content": '{"name": "sum_up", "arguments": {"numbers": [1, 2]}}'},
    ],
}  # fmt: skip
SLOTS: dict[str, Any] = {
    "id": "7:3:call",
    "tools": [WEATHER],
    "history": [
        {"role": "user", "content": "Weather please"},
        {"role": "assistant", "content": "In which city?"},
        {"role": "user", "content": "In Rome, I think"},
    ],
    "decision": "tool_call",
    "tool": {"name": "get_weather", "arguments": {"city": "Rome"}},
    "slots": {"city": "Rome", "unit": ""},
    "content": "",
}
BFCL: dict[str, Any] = {
    "id": "simple_1",
    "question": [[{"role": "user", "content": "Hypotenuse of 4 and 5?"}]],
    "function": [
        {
            "name": "math.hypot",
            "description": "Hypotenuse",
            "parameters": {
                "type": "dict",
                "properties": {"x": {"type": "float"}, "y": {"type": "float"}},
                "required": ["x", "y"],
            },
        }
    ],
}
