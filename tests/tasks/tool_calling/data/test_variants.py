"""Variants of conversations: other tools, other values, in request and call alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trm_fast.tasks.tool_calling.data.conversation import Call
from trm_fast.tasks.tool_calling.data.variants import Variants

from ..weather import PING, SUM, WEATHER, said


def test_variants_keep_what_is_called_or_call_nothing() -> None:
    rows = [said("Weather in Rome", (WEATHER, PING), Call("get_weather", {"city": "Rome"})), said("Add 1", (SUM,))]
    variants, rng = Variants(rows, 1.0, 0.0), np.random.default_rng(0)
    for row in [variants.of(row, rng) for row in rows * 4]:
        assert {c.name for c in row.calls} <= {t.name for t in row.tools}
    for row in rows * 4:
        other = variants.uncalled(row, rng)
        assert not other.calls
        assert other.query == row.query
        assert not {t.name for t in other.tools} & {t.name for t in row.tools}


def test_values_are_exchanged_in_request_and_call_alike() -> None:
    cities = ["Rome", "New York", "Paris", "Oslo, Norway"]
    rows = [
        said(f"Is it warm in {c}? {c} is nice", (WEATHER,), Call("get_weather", {"city": c, "days": 2})) for c in cities
    ]
    variants, rng = Variants(rows, 0.0, 1.0), np.random.default_rng(0)
    seen = set()
    for row in [variants.of(row, rng) for row in rows * 8]:
        city = row.calls[0].arguments["city"]
        assert row.query == f"Is it warm in {city}? {city} is nice"
        assert row.calls[0].arguments["days"] == 2
        seen.add(city)
    assert seen == set(cities)


def test_values_are_exchanged_as_words_and_in_the_call_to_come() -> None:
    cities = [said(f"Fly to {c}", (WEATHER,), Call("get_weather", {"city": c})) for c in ("Berlin", "Madrid", "Vienna")]
    within = said("In Yorkshire", (WEATHER,), Call("get_weather", {"city": "York"}))
    coming = replace(said("Is Paris warm?", (WEATHER,)), call=Call("get_weather", {"city": "Paris"}), reply="Paris!")
    variants, rng = Variants([*cities, within, coming], 0.0, 1.0), np.random.default_rng(0)
    for _ in range(8):
        assert variants.of(within, rng) == within
        made = variants.of(coming, rng)
        city = made.call.arguments["city"]
        assert (made.query, made.reply) == (f"Is {city} warm?", f"{city}!")


def test_rows_without_tools_have_variants() -> None:
    chat = said("Hello there", ())
    assert Variants([chat], 1.0, 1.0).of(chat, np.random.default_rng(0)) == chat


def test_a_value_within_another_one_stays() -> None:
    call = Call("get_weather", {"city": "York", "country": "New York"})
    row = said("From York to New York", (WEATHER,), call)
    variants = Variants([row, said("In Rome", (WEATHER,), Call("get_weather", {"city": "Rome"}))], 0.0, 1.0)
    for seed in range(8):
        made = variants.of(row, np.random.default_rng(seed))
        assert made.calls[0].arguments["city"] == "York"
        assert f"From York to {made.calls[0].arguments['country']}" == made.query
