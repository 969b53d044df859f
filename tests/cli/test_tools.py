"""Tool calling from the command line: data, tokenizers, evaluation and calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}
CHAT = {
    "id": "1",
    "conversations": [
        {"from": "system", "value": f"<tools>\n{json.dumps([TOOL])}\n</tools>"},
        {"from": "human", "value": "Weather in Rome? ☀️"},
        {"from": "gpt", "value": '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>'},
    ],
}


def slots(number: int, city: str) -> dict[str, Any]:
    call = number % 2 == 0
    return {
        "id": f"{number}:0:x", "tools": [TOOL], "content": "" if call else "Hello.", "slots": {"city": city},
        "history": [{"role": "user", "content": f"weather in {city}" if call else f"greetings from {city}"}],
        "decision": "tool_call" if call else "direct_answer",
        "tool": {"name": "get_weather", "arguments": {"city": city}} if call else {},
    }  # fmt: skip


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def slots_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps on twenty rows, with the slots head."""
    from trm_fast.training import Trainer, apply_settings, make_config, read_preset

    folder = tmp_path_factory.mktemp("tools")
    cities = ["Rome", "Paris", "Oslo", "Lima", "Bonn"]
    jsonl(folder / "sgd_train.jsonl", [slots(i, cities[i % 5]) for i in range(20)])
    small = ["task.tokenizer_kind=char", "task.vocab_size=80", "task.seq_len=32", "task.variants=0"]
    small += ["model.hidden_size=16", "model.inner_multiple=16", "training.steps=4", "training.batch_size=8"]
    small += [f"data.source={folder}", "data.holdout=0.2"]
    Trainer(make_config(apply_settings(read_preset("tool-slots"), small), "test"), folder / "run").train()
    return folder / "run"


def test_data_converts_counts_and_reports_refused_rows(run: Any, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "chats.jsonl", [CHAT, CHAT | {"id": "2"}, {"conversations": [{"from": "x"}]}])
    swift = tmp_path / "swift.json"
    result = run("data", "hermes", source, "--out", swift, "--refused", tmp_path / "refused.jsonl", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["rows"], report["refused"], report["calls"]) == (2, 1, 2)
    assert f"{source}: 1 of 3 rows cannot be read and are left out" in result.err
    refusal = {"where": f"{source}:3", "field": "conversations[0].from"}
    assert refusal.items() <= report["refusals"][0].items()
    assert refusal.items() <= json.loads((tmp_path / "refused.jsonl").read_text()).items()
    back = run("data", "swift", swift, "--out", tmp_path / "back.jsonl", "--preview", 1)
    assert "get_weather" in back.out
    again = [json.loads(line) for line in (tmp_path / "back.jsonl").read_text(encoding="utf-8").splitlines()]
    assert again[0]["conversations"][1] == {"from": "user", "value": "Weather in Rome? ☀️"}
    drawn = run("data", "hermes", source)
    assert "chats.jsonl:3" in drawn.out.replace("\n", "")


def test_data_splits_by_dialogue(run: Any, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [slots(i, "Rome") for i in range(10)])
    result = run("data", "sgd", source, "--val-split", 0.2, "--out", tmp_path / "set.jsonl", "--json")
    assert json.loads(result.out)["written"] == {
        str(tmp_path / "set_train.jsonl"): 8,
        str(tmp_path / "set_val.jsonl"): 2,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "hermes", "none.json"], "cannot read none.json"),
        (["data", "hermes", "none.json", "--val-split", "0.1"], "--val-split: --out is missing"),
        (["data", "hermes", "none.json", "--val-size", "5"], "--train-size and --val-size: --out is missing"),
        (["data", "hermes", "none.json", "--val-size", "5", "--val-split", "0.1"], "not both"),
        (["data", "hermes", "none.json", "--out", "no/where.json"], "the folder no does not exist"),
        (["train", "--preset", "tool-slots"], "give --data FOLDER or FILE"),
        (["train", "--preset", "tool-slots", "--data", "none.jsonl"], "cannot read none.jsonl"),
        (["call", "sudoku-4x4", "--query", "hi"], "which calls no tools"),
        (["call", "sudoku-4x4"], "give one of --query TEXT"),
    ],
)
def test_mistakes_are_reported(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.code in (1, 2)
    assert message in " ".join(result.err.split())


def test_a_tokenizer_is_trained_and_saved(run: Any, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [slots(i, "Rome") for i in range(10)])
    result = run("tokenizer", "train", "--data", source, "--kind", "char", "--out", tmp_path / "made", "--json")
    assert json.loads(result.out)["characters_per_token"] == 1
    assert (tmp_path / "made" / "tokenizer.json").is_file()


def test_eval_has_the_documented_keys(run: Any, slots_run: Path) -> None:
    report = json.loads(run("eval", slots_run, "--json").out)
    keys = {
        "decision_f1", "decision_accuracy", "slot_presence_accuracy", "slot_span_exact", "tool_accuracy", "call_exact",
        "count",
    }  # fmt: skip
    assert keys <= report.keys()
    drawn = run("eval", slots_run).out
    for title in ("Decision Confusion Matrix", "Evaluation Results", "Per-Slot"):
        assert title in drawn


def test_call_answers_in_json_and_in_words(run: Any, slots_run: Path, tmp_path: Path) -> None:
    command = ["call", slots_run, "--query", "weather in Rome 😀", "--tools", json.dumps([TOOL])]
    report = json.loads(run(*command, "--json").out)
    assert {"decision", "calls", "slots", "problems", "confidence", "steps"} <= report.keys()
    assert all(call["name"] == "get_weather" for call in report["calls"])
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([TOOL]))
    assert run("call", slots_run / "model", "--query", "hello", "--tools", tools).code == 0
    rows = jsonl(tmp_path / "rows.jsonl", [slots(i, "Rome") for i in range(3)])
    assert len(run("call", slots_run, "--data", rows).out.splitlines()) == 3
    seeded = run("call", slots_run, "--query", "hello", "--tools", tools, "--seed", 3)
    assert (seeded.code, "--seed: a model of tool-slots does not search" in seeded.err) == (2, True)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("[", "not valid JSON"),
        ("[]", "it contains no tool"),
        ("missing.json", "cannot read"),
        (json.dumps([{"name": "other"}]), "trained with, get_weather, not other"),
    ],
)
def test_unusable_tools_are_reported(run: Any, slots_run: Path, tools: str, message: str) -> None:
    result = run("call", slots_run, "--query", "hi", "--tools", tools)
    assert result.code in (1, 2)
    assert message in " ".join(result.err.split())


def test_interactive_keeps_the_conversation(run: Any, slots_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO("weather in Rome\nsunny\nIt is sunny.\n\n"))
    result = run("call", slots_run, "--interactive", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out.splitlines()[0])["decision"] in ("tool_call", "direct_answer")


@pytest.fixture(scope="module", params=["tool-select-tiny", "tool-generate"])
def offered_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps whose model is offered its tools with each request."""
    from trm_fast.training import Trainer, apply_settings, make_config, read_preset

    folder = tmp_path_factory.mktemp("offered")
    source = jsonl(folder / "rows.jsonl", [swift(f"Weather in Rome {i}") for i in range(6)])
    small = ["training.steps=2", "training.batch_size=2", "training.gradient_accumulation=1", f"data.source={source}"]
    small += ["model.hidden_size=16", "model.num_heads=2", "model.inner_multiple=8"]
    small += ["task.tokenizer_kind=char", "task.vocab_size=300"]
    config = make_config(apply_settings(read_preset(request.param), small), "test")
    Trainer(config, folder / "run").train()
    return folder / "run"


def swift(text: str, tools: Any = (TOOL,), call: Any = None) -> dict[str, Any]:
    call = call or {"name": "get_weather", "arguments": {"city": "Rome"}}
    messages = [{"role": "user", "content": text}, {"role": "tool_call", "content": json.dumps(call)}]
    return {"tools": json.dumps(list(tools)), "messages": messages}


BARE = {"type": "function", "function": {"name": "ping", "description": "Pings"}}
NODE = {"type": "object", "properties": {"value": {"type": "string"}, "next": {"$ref": "#/$defs/Node"}}}
NESTED = {
    "name": "ping",
    "parameters": {
        "$defs": {"Node": NODE, "Mode": {"enum": ["train", "bus", None]}},
        "properties": {
            "mode": {"$ref": "#/$defs/Mode"}, "tree": {"$ref": "#/$defs/Node"}, "flag": {"const": True},
            "level": {"type": ["integer", "null"], "enum": [1, 2, None]}, "stops": {"items": {"$ref": "#/$defs/Mode"}},
            "budget": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
            "days": {"type": "array", "items": {"oneOf": [{"type": "integer"}, {"type": "null"}]}},
        },
        "required": ["mode", "tree", "flag", "level", "stops", "budget", "days"],
    },
}  # fmt: skip
"""A tool as validation libraries describe them."""


def test_strange_requests_are_answered(run: Any, offered_run: Path, tmp_path: Path) -> None:
    rows = [swift("天気は東京で🌧️? مرحبا"), swift("weather " * 10_000), swift("\u0000\u200b"),
            swift("ping", [BARE], {"name": "ping"}), swift("ping train 5", [NESTED], {"name": "ping"})]  # fmt: skip
    source = jsonl(tmp_path / "rows.jsonl", rows)
    answers = [json.loads(line) for line in run("call", offered_run, "--data", source).out.splitlines()]
    assert len(answers) == len(rows)
    assert all(call["name"] in ("get_weather", "ping") for row in answers for call in row["calls"])
    assert json.loads(run("eval", offered_run, "--data", source, "--json").out)["count"] == len(rows)


def test_rows_that_cannot_be_read_or_answered_keep_their_place(run: Any, offered_run: Path, tmp_path: Path) -> None:
    no_user = {"tools": json.dumps([TOOL]), "messages": [{"role": "assistant", "content": "Hello"}]}
    source = tmp_path / "rows.jsonl"
    texts = [json.dumps(swift("Weather in Rome")), "{oops", "", json.dumps(no_user), json.dumps(swift("Hi"))]
    source.write_text("\n".join(texts))
    result = run("call", offered_run, "--data", source)
    assert result.code == 0
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert ["decision" in answer for answer in answers] == [True, False, False, True]
    assert [answer["where"] for answer in answers[1:3]] == [f"{source}:2", f"{source}:4"]
    assert answers[1]["error"].startswith("row: not valid JSON")
    assert "no user turn" in answers[2]["error"]
    assert f"{source}: 2 of 4 rows cannot be answered; the first: {source}:2: row: not valid JSON" in result.err
    source.write_text("\n".join([texts[1], texts[3]]))
    result = run("call", offered_run, "--data", source)
    assert result.code == 1
    assert len(result.out.splitlines()) == 2
    assert "none of 2 rows can be answered" in result.err


def bfcl(number: int) -> dict[str, Any]:
    question = [[{"role": "user", "content": "Weather in Rome?"}]]
    return {"id": f"simple_{number}", "question": question, "function": [TOOL["function"]]}


def test_rows_without_an_answer_are_not_measured(run: Any, offered_run: Path, tmp_path: Path) -> None:
    unanswered = swift("Weather in Oslo?")
    unanswered["messages"].pop()
    source = tmp_path / "rows.jsonl"
    rows = [json.dumps(row) for row in (swift("Weather in Rome?"), unanswered, bfcl(0))]
    source.write_text("\n".join([*rows, "{oops"]))
    result = run("eval", offered_run, "--data", source, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["count"], report["refused"], report["without_answer"]) == (1, 1, 2)
    assert f"{source}: 1 of 4 rows cannot be read and are left out; the first: {source}:4: row:" in result.err
    assert f"{source}: 2 of 3 rows have no answer and are left out; the first: {source}:2 (an answer is" in result.err
    drawn = run("eval", offered_run, "--data", source).out
    assert "not measured: without answer" in drawn
    assert "not measured: refused" in drawn
    source.write_text("\n".join(rows[1:]))
    result = run("eval", offered_run, "--data", source, "--json")
    assert (result.code, result.out) == (1, "")
    assert "2 of 2 rows have no answer" in result.err


def test_answers_of_a_benchmark_are_found_by_id(run: Any, offered_run: Path, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "simple.json", [bfcl(0), bfcl(1), bfcl(2)])
    answers = [{"id": f"simple_{i}", "ground_truth": [{"get_weather": {"city": ["Rome"]}}]} for i in (0, 2)]
    jsonl(tmp_path / "simple_possible_answer.json", answers)
    report = json.loads(run("eval", offered_run, "--data", source, "--json").out)
    assert (report["count"], report["refused"], report["without_answer"]) == (2, 0, 1)
    assert {"ast_match", "ast_match_low"} <= report.keys()
    assert json.loads(run("data", "bfcl", source, "--json").out)["without_answer"] == 1
    assert f"without an answer\n{source}:2 simple_1" in run("data", "bfcl", source).out
    assert len(run("call", offered_run, "--data", source).out.splitlines()) == 3


def test_every_row_refused_is_a_failure(run: Any, offered_run: Path, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [{"x": 1}, {"messages": []}])
    folder = tmp_path / "out"
    for command in (
        ["data", "swift", source, "--out", tmp_path / "o.json", "--val-split", 0.5], ["data", "bfcl", source],
        ["eval", offered_run, "--data", source], ["call", offered_run, "--data", source],
        ["solve", offered_run, source], ["tokenizer", "train", "--data", source, "--out", folder],
        ["train", "--preset", "tool-select-tiny", "--data", source, "--out", folder],
    ):  # fmt: skip
        result = run(*command)
        assert result.code == 1, command
        assert f"{source}:1: " in result.err
        assert "none of 2 rows can be" in result.err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("o")]
    questions = jsonl(tmp_path / "questions.jsonl", [{"tools": "[]", "messages": [{"role": "user", "content": "Hi"}]}])
    result = run("data", "swift", questions, "--to", "slots", "--out", tmp_path / "o.json")
    assert result.code == 1
    assert "the assistant never answers: there is no decision (none of 1 rows can be written)" in result.err
    assert not (tmp_path / "o.json").exists()
    result = run("solve", offered_run, jsonl(tmp_path / "some.jsonl", [swift("Hi"), {"x": 1}]))
    assert (result.code, result.out) == (1, "")
    assert "some.jsonl:2: row: has none of" in result.err
    assert "1 of 2 rows cannot be read" in result.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"tools": "[]", "messages": [{"role": "user", "content": "\\ud800"}]}', "half of a surrogate pair"),
        ('{"tools": "[]", "messages": []}', "messages: is empty"),
        ('{"tools": "{oops", "messages": [{"role": "user", "content": "x"}]}', "tools: not valid JSON"),
        ('{"tools": "[]"}', "has none of conversations, history"),
        ("[" * 5000 + "]" * 5000, "nested more than 100 deep"), ("", "has no rows"),
    ],
)  # fmt: skip
def test_rows_that_are_no_conversations_are_reported(
    run: Any, offered_run: Path, tmp_path: Path, text: str, message: str
) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text(text)
    for command in ("call", "eval"):
        result = run(command, offered_run, "--data", source)
        assert result.code in (1, 2)
        assert message in " ".join(result.err.split())
        assert str(source) in "".join(result.err.split())


def test_tools_come_from_the_option_or_from_the_data_file(run: Any, offered_run: Path, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [swift("Hi")])
    for arguments, message in (
        (["--data", source, "--tools", "[]"], "leave out --tools"), (["--query", "hi"], "give --tools"),
        (["--query", "caf\udcff", "--tools", json.dumps([TOOL])], "half of a surrogate pair"),
        (["--query", "hi", "--tools", "[5]"], "a tool is an object"),
    ):  # fmt: skip
        result = run("call", offered_run, *arguments)
        assert result.code == 2
        assert message in " ".join(result.err.split())
