"""Words, their stems, and the overlap of requests with tools."""

from __future__ import annotations

import math

import pytest

from trm_fast.tasks.tool_calling.text.lexicon import Lexicon, stems, words


def test_word_overlap_by_hand() -> None:
    lexicon = Lexicon(3, {"alpha": 1, "beta": 3})
    rare, common = math.log(4 / 2), math.log(4 / 4)
    assert lexicon.weight("alpha") == pytest.approx(rare)
    assert lexicon.weight("beta") == common == 0
    assert lexicon.overlap({"alpha"}, "alpha gamma") == pytest.approx(rare / math.sqrt(rare + math.log(4)))
    assert stems("getCities list_users") == ("get", "cit", "list", "user")
    assert stems("city") == stems("cities")
    split = "3.5 km2 5kg 1075VB 4th nf5ZZ"
    assert [split[b:e] for b, e in words(split)] == ["3.5", "km2", "5", "kg", "1075", "VB", "4", "th", "nf5ZZ"]
