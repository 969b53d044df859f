"""Changed copies of conversations: other tools, and other values in requests and calls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trm_fast.tasks.tool_calling.data.conversation import Call
from trm_fast.tasks.tool_calling.data.variants import Variants

from ..weather import PING, SUM, WEATHER, request


def test_variants_keep_the_called_tools_or_call_none() -> None:
    rows = [
        request("Weather in Rome", (WEATHER, PING), Call("get_weather", {"city": "Rome"})),
        request("Add 1", (SUM,)),
    ]
    variants, rng = Variants(rows, 1.0, 0.0), np.random.default_rng(0)
    for row in [variants.of(row, rng) for row in rows * 4]:
        assert {c.name for c in row.calls} <= {t.name for t in row.tools}
    for row in rows * 4:
        other = variants.uncalled(row, rng)
        assert not other.calls
        assert other.query == row.query
        assert not {t.name for t in other.tools} & {t.name for t in row.tools}


def test_values_are_exchanged_in_request_and_call() -> None:
    cities = ["Rome", "New York", "Paris", "Oslo, Norway"]
    rows = [
        request(f"Is it warm in {c}? {c} is nice", (WEATHER,), Call("get_weather", {"city": c, "days": 2}))
        for c in cities
    ]
    variants, rng = Variants(rows, 0.0, 1.0), np.random.default_rng(0)
    seen = set()
    for row in [variants.of(row, rng) for row in rows * 8]:
        city = row.calls[0].arguments["city"]
        assert row.query == f"Is it warm in {city}? {city} is nice"
        assert row.calls[0].arguments["days"] == 2
        seen.add(city)
    assert seen == set(cities)


def test_values_are_exchanged_as_words_and_in_the_next_call() -> None:
    cities = [
        request(f"Fly to {c}", (WEATHER,), Call("get_weather", {"city": c})) for c in ("Berlin", "Madrid", "Vienna")
    ]
    within = request("In Yorkshire", (WEATHER,), Call("get_weather", {"city": "York"}))
    coming = replace(request("Is Paris warm?", (WEATHER,)), call=Call("get_weather", {"city": "Paris"}), reply="Paris!")
    variants, rng = Variants([*cities, within, coming], 0.0, 1.0), np.random.default_rng(0)
    for _ in range(8):
        assert variants.of(within, rng) == within
        changed = variants.of(coming, rng)
        city = changed.call.arguments["city"]
        assert (changed.query, changed.reply) == (f"Is {city} warm?", f"{city}!")


def test_rows_without_tools_have_variants() -> None:
    chat = request("Hello there", ())
    assert Variants([chat], 1.0, 1.0).of(chat, np.random.default_rng(0)) == chat


def test_a_value_inside_another_one_stays() -> None:
    call = Call("get_weather", {"city": "York", "country": "New York"})
    row = request("From York to New York", (WEATHER,), call)
    variants = Variants([row, request("In Rome", (WEATHER,), Call("get_weather", {"city": "Rome"}))], 0.0, 1.0)
    for seed in range(8):
        changed = variants.of(row, np.random.default_rng(seed))
        assert changed.calls[0].arguments["city"] == "York"
        assert f"From York to {changed.calls[0].arguments['country']}" == changed.query
