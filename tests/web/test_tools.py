"""The API of tool calling: the call, its check, the words that it copied, and conversations in several formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.web.models import TOOL, dialogue_row, train_caller
from trm_fast.tasks.tool_calling import Call, Conversation, Prediction, Tool, Turn
from trm_fast.web.server import ServerOptions, make_access, make_application
from trm_fast.web.tools import copied

if TYPE_CHECKING:
    from fastapi.testclient import TestClient


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of a server with a small tool-calling model named ``run``."""
    pytest.importorskip("fastapi", reason="the page needs the extra web")
    from fastapi.testclient import TestClient

    folder = tmp_path_factory.mktemp("tools")
    train_caller(folder)
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
    conversation = json.dumps(dialogue_row(0), indent=1)
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
