"""Dialogues about the weather in some cities, written by hand."""

from __future__ import annotations

from typing import Any

from ..rows import SLOTS


def row(number: int, city: str, decision: str = "tool_call", **changes: Any) -> dict[str, Any]:
    call = {"name": "get_weather", "arguments": {"city": city, "unit": "C"}} if decision == "tool_call" else {}
    return SLOTS | {
        "id": f"{number}:1:x",
        "history": [{"role": "user", "content": f"weather in {city} now" if call else f"hello from {city}"}],
        "decision": decision,
        "tool": call,
        "slots": {"city": city, "unit": ""},
    } | changes  # fmt: skip


CITIES = ["Rome", "Paris", "Oslo", "Hue", "Đà Nẵng"]

ROWS = [row(i, city, decision) for i, city in enumerate(CITIES * 4) for decision in ("tool_call", "direct_answer")]

CHAR = {"tokenizer_kind": "char", "vocab_size": 80, "seq_len": 40, "variants": 0}
