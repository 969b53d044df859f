"""Requests as places and labels, labels back as calls; lexical measures; the task end to end on a small file."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Solver
from trm_fast.labels import ArgumentKind
from trm_fast.tasks.base import IGNORE, DataConfig
from trm_fast.tasks.tool_calling.calls import calls_of, labels_of, spans_of
from trm_fast.tasks.tool_calling.conversation import Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.lexical import Lexicon, stems, words
from trm_fast.tasks.tool_calling.select_metrics import accepted_calls, argument_f1, ast_match, copy_calls, same_calls
from trm_fast.tasks.tool_calling.select_task import ToolSelect, ToolSelectConfig
from trm_fast.tasks.tool_calling.selection import Request, Sizes
from trm_fast.tasks.tool_calling.variants import Variants
from trm_fast.training import make_config, read_preset

SIZES = Sizes(places=48, words=24, tools=3, fields=8, bag=4)


def tool(name: str, description: str = "", required: tuple[str, ...] = (), **parameters: dict[str, Any]) -> Tool:
    return Tool(name, description, {"type": "object", "properties": parameters, "required": list(required)})


WEATHER = tool(
    "get_weather", "Weather of a city", ("city",), city={"type": "string"}, days={"type": "integer", "default": 3},
    metric={"type": "boolean"},
)  # fmt: skip
SUM = tool("add_numbers", "Adds numbers", ("numbers",), numbers={"type": "array", "items": {"type": "number"}})
PING = tool("ping", "Pings the server")
LEXICON = Lexicon.of([WEATHER, SUM, PING])


def said(query: str, tools: tuple[Tool, ...] = (WEATHER, SUM, PING), *calls: Call) -> Conversation:
    return Conversation(tools, (Turn("user", query), *map(Turn.calling, calls)), "here")


def round_trip(query: str, *calls: Call) -> list[Call]:
    request = Request.of(query, (WEATHER, SUM, PING), SIZES, LEXICON)
    answer = labels_of(request, calls, SIZES)
    answer[:3] = np.where(answer[:3] == 1, 900, -900)
    return calls_of(request, answer, SIZES)


@pytest.mark.parametrize(
    ("query", "calls"),
    [
        ("Weather in New York for five days?", [Call("get_weather", {"city": "New York", "days": 5})]),
        ("Weather in Đà Nẵng ☀️", [Call("get_weather", {"city": "Đà Nẵng", "days": 3})]),
        ("Weather in Hue, metric please", [Call("get_weather", {"city": "Hue", "metric": True})]),
        ("Add 1,200 and -3.5", [Call("add_numbers", {"numbers": [1200, -3.5]})]),
        ("Ping!", [Call("ping", {})]),
        ("Rome or Oslo weather?", [Call("get_weather", {"city": "Rome"}), Call("get_weather", {"city": "Oslo"})]),
        ("Weather on May 2nd, 2021 in any city", [Call("get_weather", {"city": "2021-05-02"})]),
        ("Weather for dogs", [Call("get_weather", {"city": "dog"})]),
        ("Weather in Hue for 5d", [Call("get_weather", {"city": "Hue", "days": 5})]),
        ("Add [[1, 2], [3]]", [Call("add_numbers", {"numbers": [[1, 2], [3]]})]),
        ("Add [1, 2], then [3, 4]", [Call("add_numbers", {"numbers": n}) for n in ([1, 2], [3, 4])]),
        ("Nothing for you", []),
    ],
)
def test_calls_become_labels_and_labels_calls(query: str, calls: list[Call]) -> None:
    assert same_calls(calls, round_trip(query, *calls))


def test_labels_by_hand() -> None:
    request = Request.of("Weather in Rome?", (WEATHER, PING), SIZES, LEXICON)
    assert [t.name for t in request.tools] == ["get_weather", "ping"]
    labels = labels_of(request, [Call("get_weather", {"city": "Rome"})], SIZES)
    assert labels[:3].tolist() == [1, 0, IGNORE]
    assert labels[3:6].tolist() == [1, 0, 0]  # the city stands in the text, the others are left out
    assert labels[3 + 8 :][:24].tolist() == [0, 0, 1, 0, *[IGNORE] * 20]


def test_a_value_out_of_reach_is_said_to_be_so() -> None:
    request = Request.of("Weather there?", (WEATHER,), SIZES, LEXICON)
    assert labels_of(request, [Call("get_weather", {"city": "Rome"})], SIZES)[3] == ArgumentKind.OTHER


def test_one_value_is_a_run_and_several_are_runs() -> None:
    request = Request.of("Weather in Rome, then in Oslo", (WEATHER,), SIZES, LEXICON)
    calls = [Call("get_weather", {"city": city}) for city in ("Rome", "Oslo")]
    assert labels_of(request, calls[:1], SIZES)[3] == ArgumentKind.SPAN
    assert labels_of(request, calls, SIZES)[3] == ArgumentKind.SPANS
    for some in (calls[:1], calls):
        assert calls_of(request, labels_of(request, some, SIZES), SIZES) == some


def test_the_order_in_which_tools_are_offered_says_nothing() -> None:
    one, other = (Request.of("Hi", tools, SIZES, LEXICON) for tools in ((PING, SUM), (SUM, PING)))
    assert one == other


def test_what_does_not_fit_is_cut_but_tools_stay() -> None:
    tools = (*(tool(f"t{i}", "same") for i in range(9)), WEATHER)
    request = Request.of("weather city " * 5_000, tools, SIZES, LEXICON)
    assert request.cut
    assert len(request.words) == SIZES.words
    assert "get_weather" in [t.name for t in request.tools]


def test_spans_of_tags() -> None:
    assert spans_of(np.array([0, 1, 2, 1, 0, 2, 2])) == [(1, 2), (3, 3), (5, 6)]


def test_the_number_of_tools_may_be_given() -> None:
    request = Request.of("Hi", (PING, SUM), SIZES, LEXICON)
    answer = np.zeros(3 + 8 + 8 * 24, dtype=np.int32)
    answer[:2] = -5, -7
    assert calls_of(request, answer, SIZES) == []
    assert [c.name for c in calls_of(request, answer, SIZES, count=1)] == ["add_numbers"]


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


def test_copying_baseline_and_scores() -> None:
    copied = copy_calls(said('Weather in "Rome" for 4 days'), LEXICON, 1)
    assert copied == [Call("get_weather", {"city": "Rome", "days": 4})]
    gold = [[Call("a", {"x": 1, "y": 2})]]
    assert argument_f1(gold, [[Call("a", {"x": 1})]]) == pytest.approx(2 / 3)
    assert not same_calls(gold[0], [Call("a", {"x": 1})])
    accepted = [{"a": {"x": [1, 2], "y": ["", 5]}}]
    assert ast_match([Call("a", {"x": 2})], accepted)
    assert not ast_match([Call("a", {"x": 3})], accepted)
    assert not ast_match([Call("a", {"x": 2, "z": 0})], accepted)
    assert not ast_match([], accepted)
    assert ast_match([], [])


def test_a_benchmark_is_labelled_with_its_first_accepted_values() -> None:
    asked = replace(said("Weather in Rome"), accepted=[{"get_weather": {"city": ["Rome", "Roma"], "days": ["", 2]}}])
    assert accepted_calls(asked) == [Call("get_weather", {"city": "Rome"})]
    assert accepted_calls(replace(asked, accepted=[])) == []


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


@pytest.mark.parametrize(("size", "millions"), [("tiny", 2.0), ("small", 32.0), ("base", 99.0), ("large", 329.0)])
def test_presets_have_the_documented_sizes(size: str, millions: float) -> None:
    config = make_config(read_preset(f"tool-select-{size}"), size)
    assert config.model.num_parameters() / 1e6 == pytest.approx(millions, rel=0.005)


def written(folder: Path) -> None:
    rows = [said(f"Weather in {c} please", (WEATHER, PING), Call("get_weather", {"city": c})) for c in "ABCDEFGH"]
    for part, some in (("train", rows[:6]), ("val", rows[6:])):
        out = [
            {"tools": json.dumps([t.to_json() for t in r.tools]),
             "messages": [{"role": t.role, "content": t.text} for t in r.turns]} for r in some
        ]  # fmt: skip
        (folder / f"own_{part}.json.gz").write_bytes(gzip.compress(json.dumps(out).encode()))


def small_task() -> ToolSelect:
    return ToolSelect(ToolSelectConfig(
        sets=["own"], tokenizer_kind="char", vocab_size=96, seq_len=48, words=24, tools=3, arguments=8, bag=8,
    ))  # fmt: skip


def test_a_classifier_knows_the_tools_called_in_training_and_says_so(tmp_path: Path) -> None:
    written(tmp_path)
    task = ToolSelect(small_task().config.model_copy(update={"tool_choice": "classifier", "known_tools": 2}))
    made = task.dataset(DataConfig(source=str(tmp_path)), seed=0)
    assert made.test.extra["tool_ids"].tolist() == [[1, 0, 0]] * 2  # the weather alone is called; no one ever pings
    assert task.model_keys(DataConfig())["known_tools"] == 2
    answers = np.zeros_like(made.test.labels)
    assert task.metrics(made.test, answers)["known"] == 0.5
    prediction = task.prediction(task.ask(said("Hi", (PING,))), answers[0], (PING,))
    assert prediction.problems == ("ping was not called in training: this classifier never calls it",)
    narrow = ToolSelect(task.config.model_copy(update={"known_tools": 0}))
    with pytest.raises(UserError, match=r"set task\.known_tools"):
        narrow.dataset(DataConfig(source=str(tmp_path)), seed=0)


def test_the_task_end_to_end(tmp_path: Path) -> None:
    written(tmp_path)
    task, data = small_task(), DataConfig(source=str(tmp_path))
    made = task.dataset(data, seed=0)
    assert len(made.test) == 2
    again = small_task().dataset(data, seed=0)
    for name, array in made.train.arrays().items():
        np.testing.assert_array_equal(array, again.train.arrays()[name])
    right = made.test.labels.copy()
    right[:, :3] = np.where(right[:, :3] == 1, 900, -900)
    perfect = task.metrics(made.test, right)
    assert perfect["call_exact"] == perfect["tool_accuracy"] == perfect["argument_f1"] == perfect["schema_valid"] == 1
    assert bool(task.right(made.test.labels, right)[made.test.labels != IGNORE].all())

    torch.manual_seed(0)
    config = make_config(
        {"task": task.config.model_dump(), "data": {"source": str(tmp_path)},
         "model": {"mixing": "attention", "hidden_size": 16, "num_heads": 2, "inner_multiple": 8, "T_cycles": 1}}, "x",
    )  # fmt: skip
    solver = Solver(TRM(config.model), task)
    task.save_assets(tmp_path)
    prediction, answer = task.predict(solver, said("Weather in Rome"))
    other = small_task()
    other.load_assets(tmp_path)
    assert other.predict(replace(solver, task=other), said("Weather in Rome"))[0] == prediction
    assert 0 <= answer.confidence <= 1
    with pytest.raises(UserError, match="no tools"):
        task.ask(said("Hi", ()))
    with pytest.raises(UserError, match="--tools"):
        task.known_tools()
    with pytest.raises(UserError, match="trm-fast call --tools"):
        task.parse("just words")
