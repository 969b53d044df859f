"""The API of tool calling: the call, its check, the words that it copied, and conversations in several formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from trm_fast.tasks.tool_calling import Call, Conversation, Prediction, Tool, Turn
from trm_fast.training import Trainer, apply_settings, make_config, read_preset
from trm_fast.web.server import ServerOptions, make_access, make_application
from trm_fast.web.tools import copied

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}
CITIES = ("Rome", "Paris", "Oslo", "Lima", "Bonn")


def row(number: int) -> dict[str, Any]:
    """A row of a dialogue that ends with a call or with an answer."""
    calls, city = number % 2 == 0, CITIES[number % len(CITIES)]
    return {
        "id": f"{number}:0:x", "tools": [TOOL], "content": "" if calls else "Hello.", "slots": {"city": city},
        "history": [{"role": "user", "content": f"weather in {city}" if calls else f"greetings from {city}"}],
        "decision": "tool_call" if calls else "direct_answer",
        "tool": {"name": "get_weather", "arguments": {"city": city}} if calls else {},
    }  # fmt: skip


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of a server with a small tool-calling model named ``run``."""
    pytest.importorskip("fastapi", reason="the page needs the extra web")
    from fastapi.testclient import TestClient

    folder = tmp_path_factory.mktemp("tools")
    (folder / "sgd_train.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(20)))
    small = ["task.tokenizer_kind=char", "task.vocab_size=80", "task.seq_len=32", "task.variants=0"]
    small += ["model.hidden_size=16", "model.inner_multiple=16", "training.steps=4", "training.batch_size=8"]
    small += [f"data.source={folder}", "data.holdout=0.2"]
    Trainer(make_config(apply_settings(read_preset("tool-slots"), small), "test"), folder / "run").train()
    options = ServerOptions([str(folder / "run")], folder / "none")
    with TestClient(make_application(options, make_access(options)), base_url="http://127.0.0.1:8080") as client:
        yield client


def test_a_model_that_was_named_at_the_start(caller: TestClient) -> None:
    about = caller.get("/api/models/run").json()
    assert about["kind"] == "named"
    assert [tool["function"]["name"] for tool in about["tools"]] == ["get_weather"]


def test_a_message_and_a_conversation(caller: TestClient) -> None:
    result = caller.post("/api/tools", json={"model": "run", "query": "weather in Rome"}).json()
    assert set(result) >= {"decision", "calls", "slots", "problems", "confidence", "steps", "turns", "copied"}
    assert result["turns"] == [{"role": "user", "text": "weather in Rome"}]
    conversation = json.dumps(row(0), indent=1)
    other = caller.post("/api/tools", json={"model": "run", "conversation": conversation}).json()
    assert other["turns"] == result["turns"]
    assert other["confidence"] == pytest.approx(result["confidence"], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "run"}, "give a conversation, or a message"),
        ({"model": "run", "query": "x", "conversation": "y"}, "give a conversation, or a message"),
        ({"model": "run", "query": "x", "tools": "[1]"}, "a tool is an object"),
        ({"model": "run", "conversation": "not JSON"}, "conversation"),
        ({"model": "sudoku-4x4", "query": "x"}, "calls no tools"),
    ],
)
def test_mistakes(caller: TestClient, body: dict[str, Any], message: str) -> None:
    answer = caller.post("/api/tools", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert "/tmp" not in answer.json()["error"]


def test_copied_words() -> None:
    tool = Tool.of(TOOL)
    conversation = Conversation((tool,), (Turn("system", "Hi"), Turn("user", "Weather in rome, please")), "")
    prediction = Prediction.of_calls([Call("get_weather", {"city": "Rome", "days": 3, "x": None})], [tool])
    assert copied(conversation, prediction) == [{"argument": "city", "turn": 1, "start": 11, "end": 15}]
