"""How much of each tool a request asks for: by hand, whole arrays, and tools that have nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trm_fast.tasks.tool_calling.data.conversation import Tool
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon, letters
from trm_fast.tasks.tool_calling.text.relevance import MEASURES, Relevance, clauses_of, nearest_first

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


def test_overlap_and_what_other_tools_have_of_it() -> None:
    found = Relevance.of("Get me a plane", TOOLS, LEXICON)
    rare, common = math.log(4 / 2), math.log(4 / 3)  # in one tool of three, in two
    name = [common / math.sqrt(common + rare), (common + rare) / math.sqrt(common + rare), 0]
    assert column(found, "name") == pytest.approx(name)
    assert column(found, "name above others") == pytest.approx([name[0] - name[1], name[1] - name[0], -name[1]])
    assert column(found, "name covered") == pytest.approx([common / (common + rare), 1, 0])
    # "get" is of two tools, "a" of two: the plane alone is the second tool's own.
    assert column(found, "own words") == pytest.approx([0, rare / 5, 0])


def test_a_tool_is_near_to_one_clause_though_another_has_more_of_the_words() -> None:
    request = "Get the novel, the book, then reserve a room. Finally get a jet"
    assert [request[b:e] for b, e in clauses_of(request)] == [
        "Get the novel, the book", "reserve a room.", "Finally get a jet",
    ]  # fmt: skip
    found = Relevance.of(request, TOOLS, LEXICON)
    assert found.clauses == [request.index(text) for text in ("Get", "reserve", "Finally")]
    assert found.shares.argmax(0).tolist() == [0, 2, 1]
    assert found.shares.sum(0) == pytest.approx([1, 1, 1])
    assert all(value > 0 for value in column(found, "clause above others"))


def test_tools_of_one_name_part_by_what_is_said_of_their_arguments() -> None:
    def told(name: str, about: str) -> Tool:
        return Tool(name, "Looks up", {"properties": {"x": {"type": "string", "description": about}}, "required": []})

    tools = (told("find_one", "the ship's harbour"), told("find_two", "the train's platform"))
    lexicon = Lexicon.of(tools)
    found = Relevance.of("Which platform has the train? And then tell me of Findtwo", tools, lexicon)
    rare = math.log(3 / 2)
    weight = 2 * rare / math.sqrt(2 * rare)  # train and platform; "the" and "s" are of both tools and weigh nothing
    assert column(found, "arguments' descriptions") == pytest.approx([0, weight])
    assert column(found, "arguments' descriptions above others") == pytest.approx([-weight, weight])
    assert column(found, "own words") == pytest.approx([0, 2 * rare / 5])
    assert column(found, "clauses won") == pytest.approx([0, 1 / 2])  # of two clauses the second is nobody's
    # Groups of letters: "Findtwo" has "find" of both names, and no space as "find two" has.
    alike = [1 / len(letters("find_one")), 1 / len(letters("find_two"))]
    assert column(found, "clause, letters") == pytest.approx(alike)
    assert column(found, "clause, letters above others") == pytest.approx([0, 0], abs=0.05)


def test_the_second_of_two_like_tools_comes_after_what_is_left() -> None:
    twin = Tool("get_novel", "Finds a novel book", NONE)
    for tools in ((*TOOLS, twin), (twin, *TOOLS[::-1])):
        order = [tool.name for tool in nearest_first("Get a novel book in hotels", tools, LEXICON)]
        assert order == ["get_book", "reserve_room", "get_novel", "get_plane"]


@pytest.mark.parametrize("request_", ["", "日本のホテル。予約して", "🙂", "and then", "a\n\nb"])
def test_any_text_and_any_tools_can_be_measured(request_: str) -> None:
    for tools in ((), TOOLS[:1], (*TOOLS, Tool("🙂", "", NONE))):
        found = Relevance.of(request_, tools, LEXICON)
        assert found.measures.shape == (len(tools), len(MEASURES))
        assert np.isfinite(found.measures).all()
        assert found.shares.shape == (len(tools), len(found.clauses))
