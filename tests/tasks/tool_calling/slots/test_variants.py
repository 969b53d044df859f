"""Changed copies of dialogues, in which another value replaces a slot's value everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trm_fast.tasks.tool_calling import Call, Turn
from trm_fast.tasks.tool_calling.data.formats.slots import read_slots
from trm_fast.tasks.tool_calling.slots.variants import value_bank, variant

from .cities import CITIES, row


def test_variants_change_a_value_everywhere() -> None:
    first = read_slots(row(0, "Paris"))
    first = replace(first, turns=(*first.turns, Turn("assistant", "Paris, right?"), Turn("user", "Parisian? Paris")))
    bank = value_bank([read_slots(row(i, c)) for i, c in enumerate(CITIES)], ["city"])
    assert bank == {"city": ["Rome", "Paris", "Oslo", "Đà Nẵng"]}  # shorter ones occur by chance too often
    seen = set()
    for seed in range(20):
        made_up = variant(first, bank, np.random.default_rng(seed))
        city = (made_up.slots or {})["city"]
        seen.add(city)
        assert [t.text for t in made_up.turns] == [f"weather in {city} now", f"{city}, right?", f"Parisian? {city}"]
        assert made_up.call == Call("get_weather", {"city": city, "unit": "C"})
    assert seen == set(bank["city"])


def test_a_date_keeps_its_wording() -> None:
    dated = read_slots(row(0, "March 1st"))
    dated = replace(dated, call=Call("get_weather", {"city": "2019-03-01"}))
    assert variant(dated, {"city": ["March 1st", "March 2nd"]}, np.random.default_rng(1)) == dated
