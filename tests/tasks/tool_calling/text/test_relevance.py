"""How well tools fit a request: by hand, for whole arrays, and for tools without any text."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trm_fast.tasks.tool_calling.data.conversation import Tool
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon, four_grams
from trm_fast.tasks.tool_calling.text.relevance import MEASURES, Relevance, nearest_first, split_clauses

NONE = {"type": "object", "properties": {}, "required": []}

GET_BOOK, GET_PLANE, BOOK_ROOM = (
    Tool(name, description, NONE)
    for name, description in (
        ("get_book", "Finds a novel"),
        ("get_plane", "Finds a jet"),
        ("reserve_room", "In hotels"),
    )
)

TOOLS = (GET_BOOK, GET_PLANE, BOOK_ROOM)

LEXICON = Lexicon.of(TOOLS)


def column(relevance: Relevance, name: str) -> list[float]:
    return [float(value) for value in relevance.measures[:, MEASURES.index(name)]]


def test_overlap_and_its_difference_to_other_tools() -> None:
    relevance = Relevance.of("Get me a plane", TOOLS, LEXICON)
    rare, common = math.log(4 / 2), math.log(4 / 3)  # of a stem in one of three tools, and in two
    name = [common / math.sqrt(common + rare), (common + rare) / math.sqrt(common + rare), 0]
    assert column(relevance, "name") == pytest.approx(name)
    assert column(relevance, "name above others") == pytest.approx([name[0] - name[1], name[1] - name[0], -name[1]])
    assert column(relevance, "name covered") == pytest.approx([common / (common + rare), 1, 0])
    # Two tools have "get", two have "a"; only "plane" is a word that no other tool has.
    assert column(relevance, "own words") == pytest.approx([0, rare / 5, 0])


def test_a_tool_can_be_nearest_to_a_clause_though_another_shares_more_words() -> None:
    request = "Get the novel, the book, then reserve a room. Finally get a jet"
    assert [request[b:e] for b, e in split_clauses(request)] == [
        "Get the novel, the book", "reserve a room.", "Finally get a jet",
    ]  # fmt: skip
    relevance = Relevance.of(request, TOOLS, LEXICON)
    assert relevance.clauses == [request.index(text) for text in ("Get", "reserve", "Finally")]
    assert relevance.shares.argmax(0).tolist() == [0, 2, 1]
    assert relevance.shares.sum(0) == pytest.approx([1, 1, 1])
    assert all(value > 0 for value in column(relevance, "clause above others"))


def test_descriptions_of_arguments_distinguish_tools_with_equal_names() -> None:
    def tool_about(name: str, about: str) -> Tool:
        return Tool(name, "Looks up", {"properties": {"x": {"type": "string", "description": about}}, "required": []})

    tools = (tool_about("find_one", "the ship's harbour"), tool_about("find_two", "the train's platform"))
    lexicon = Lexicon.of(tools)
    relevance = Relevance.of("Which platform has the train? And then tell me of Findtwo", tools, lexicon)
    rare = math.log(3 / 2)
    weight = 2 * rare / math.sqrt(2 * rare)  # "train" and "platform"; "the" and "s" of both tools weigh nothing
    assert column(relevance, "arguments' descriptions") == pytest.approx([0, weight])
    assert column(relevance, "arguments' descriptions above others") == pytest.approx([-weight, weight])
    assert column(relevance, "own words") == pytest.approx([0, 2 * rare / 5])
    assert column(relevance, "clauses won") == pytest.approx([0, 1 / 2])  # no tool wins the second of the two clauses
    # Groups of letters: "Findtwo" shares "find" with both names; it has no space, as "find two" does.
    alike = [1 / len(four_grams("find_one")), 1 / len(four_grams("find_two"))]
    assert column(relevance, "clause, letters") == pytest.approx(alike)
    assert column(relevance, "clause, letters above others") == pytest.approx([0, 0], abs=0.05)


def test_the_second_of_two_similar_tools_comes_last() -> None:
    twin = Tool("get_novel", "Finds a novel book", NONE)
    for tools in ((*TOOLS, twin), (twin, *TOOLS[::-1])):
        order = [tool.name for tool in nearest_first("Get a novel book in hotels", tools, LEXICON)]
        assert order == ["get_book", "reserve_room", "get_novel", "get_plane"]


@pytest.mark.parametrize("request_", ["", "日本のホテル。予約して", "🙂", "and then", "a\n\nb"])
def test_any_text_and_any_tools_can_be_measured(request_: str) -> None:
    for tools in ((), TOOLS[:1], (*TOOLS, Tool("🙂", "", NONE))):
        relevance = Relevance.of(request_, tools, LEXICON)
        assert relevance.measures.shape == (len(tools), len(MEASURES))
        assert np.isfinite(relevance.measures).all()
        assert relevance.shares.shape == (len(tools), len(relevance.clauses))
