"""MCP over pipes and HTTP: limits of size, lines that are no messages, tokens, and requests from elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from trm_fast.agent.tool import ReasoningTool
from trm_fast.errors import UserError

pytest.importorskip("mcp", reason="needs the extra mcp")

from trm_fast.agent.http import listen, make_access, make_app
from trm_fast.agent.mcp_server import make_server
from trm_fast.agent.stdio import MAX_MESSAGE

TOKEN = "0123456789abcdef"


def message(number: int | None, method: str, **params: Any) -> bytes:
    content = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps({key: value for key, value in content.items() if value is not None}).encode()


def hello(number: int) -> bytes:
    info = {"name": "test", "version": "0"}
    return message(number, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=info)


def call(number: int, arguments: Any) -> bytes:
    return message(number, "tools/call", name="recursive_reasoning", arguments=arguments)


def test_lines_over_a_pipe() -> None:
    """Each bad line gets an answer, and the server continues."""
    deep = b'{"jsonrpc": "2.0", "id": 7, "method": "x", "params": {"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}"
    lines = [
        hello(1),
        message(None, "notifications/initialized"),
        b"this is not JSON",
        b"",
        b'{"jsonrpc": "1.0", "id": 3, "method": "ping"}',
        b"\xff\xfe",
        b'{"jsonrpc": "2.0", "id": 4, "method": "ping", "x": "' + b"x" * (MAX_MESSAGE + 5) + b'"}',
        deep,
        call(8, {"puzzle": "3.......4.3...42", "size": 4}),
        call(9, {"puzzle": 5}),
        call(10, {}),
        call(11, {"puzzle": "3.......4.3...42", "type": "chess"}),
        message(12, "tools/call", name="other", arguments={}),
        call(13, {"puzzle": "3.......4.3...42"}),
    ]
    command = [sys.executable, "-m", "trm_fast.cli", "mcp", "sudoku-4x4"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    server.stdin.write(b"\n".join(lines) + b"\n")
    server.stdin.flush()
    answers = []
    while 13 not in [answer.get("id") for answer in answers]:
        answers.append(json.loads(server.stdout.readline()))
    rest, errors = server.communicate(timeout=60)
    assert (rest, errors, server.returncode) == (b"", b"", 0)

    unnamed = [answer["error"] for answer in answers if answer.get("id") is None]
    assert sorted(error["code"] for error in unnamed) == [-32700, -32700, -32700, -32600]
    assert any(f"longer than {MAX_MESSAGE:,} bytes" in error["message"] for error in unnamed)
    named = {answer["id"]: answer for answer in answers if answer.get("id") is not None}
    assert named[3]["error"]["code"] == -32600
    for number, words in {
        8: "unknown key 'size'; known: puzzle, type",
        9: "the puzzle must be text or a list of rows, not int",
        10: 'must be an object with a key "puzzle"',
        11: "unknown type of puzzle 'chess'; choose one of: sudoku",
    }.items():
        assert named[number]["result"]["isError"]
        assert words in named[number]["result"]["content"][0]["text"]
        assert "pydantic" not in str(named[number])
    assert named[12]["error"]["code"] == -32602
    assert "the only one is recursive_reasoning" in named[12]["error"]["message"]
    assert named[13]["result"]["structuredContent"]["solution"] == "3124241342311342"


@pytest.fixture(scope="module")
def tool() -> ReasoningTool:
    return ReasoningTool("sudoku-4x4")


HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("host", "token", "names", "headers", "status"),
    [
        ("127.0.0.1", None, [], {"Host": "127.0.0.1:8765"}, 200),
        ("127.0.0.1", None, [], {"Host": "localhost:8765", "Origin": "http://localhost:8765"}, 200),
        ("127.0.0.1", None, [], {"Host": "evil.example:8765"}, 421),
        ("127.0.0.1", None, [], {"Host": "192.0.2.7:8765"}, 421),
        ("127.0.0.1", None, [], {"Host": "localhost:8765", "Origin": "http://evil.example"}, 403),
        ("127.0.0.1", None, [], {"Host": "localhost:8765", "Origin": "null"}, 403),
        ("0.0.0.0", TOKEN, ["solver.example"], {"Host": "solver.example"}, 401),
        ("0.0.0.0", TOKEN, [], {"Host": "localhost:1", "Authorization": "Bearer 0123456789abcdeF"}, 401),
        ("0.0.0.0", TOKEN, [], {"Host": "localhost:1", "Authorization": f"Basic {TOKEN}"}, 401),
        ("0.0.0.0", TOKEN, [], {"Host": "localhost:1", "Authorization": TOKEN}, 401),
        ("0.0.0.0", TOKEN, [], {"Host": "localhost:1", "Authorization": f"bearer {TOKEN}"}, 200),
        ("0.0.0.0", TOKEN, [], {"Host": "192.0.2.7:80", "Authorization": f"Bearer {TOKEN}"}, 200),
        ("0.0.0.0", TOKEN, [], {"Host": "evil.example", "Authorization": f"Bearer {TOKEN}"}, 421),
        ("0.0.0.0", TOKEN, ["Solver.example"], {"Host": "solver.example:80", "Authorization": f"Bearer {TOKEN}"}, 200),
    ],
)
def test_requests_from_elsewhere(
    tool: ReasoningTool, host: str, token: str | None, names: list[str], headers: dict[str, str], status: int
) -> None:
    from starlette.testclient import TestClient

    app = make_app(make_server(tool), make_access(host, token, names))
    with TestClient(app, base_url="http://127.0.0.1:8765") as client:
        response = client.post("/mcp", content=hello(1), headers=HEADERS | headers)
        assert response.status_code == status
        if status == 200:
            large = message(2, "ping", x="x" * MAX_MESSAGE)
            assert client.post("/mcp", content=large, headers=HEADERS | headers).status_code == 413
        if status == 401:
            assert response.headers["www-authenticate"] == "Bearer"
            assert client.get("/elsewhere", headers=headers).status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "127.0.0.1.example.org"])
def test_other_addresses_need_a_token(host: str) -> None:
    with pytest.raises(UserError, match=f"--host {host} can be reached from other machines: set TRM_FAST_MCP_TOKEN"):
        make_access(host, None, [])
    assert make_access(host, TOKEN, []).token == TOKEN


@pytest.mark.parametrize(
    "token", ["", "short", "with a space in the middle", "lützelflüh-im-emmental", "x" * 20 + "\n"]
)
def test_weak_tokens(token: str) -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(UserError, match="the token must have at least 16"):
            make_access(host, token, [])


@pytest.mark.parametrize("name", ["", "http://solver.example", "solver.example:80", "solver.example/", "*", "a b"])
def test_allowed_hosts_are_names_alone(name: str) -> None:
    with pytest.raises(UserError, match=r"--allowed-host .*: give the name alone"):
        make_access("127.0.0.1", None, [name])


def test_loopback_needs_no_token() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"):
        assert make_access(host, None, ["solver.example", "2001:db8::1"]).token is None


def test_hosts_that_do_not_exist_and_ports_in_use() -> None:
    for host in ("no such host", "x" * 300, "a..b"):
        with pytest.raises(UserError, match=f"cannot listen on {host[:70]}.*port 80"):
            listen(host, 80)
    (first,) = listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1 port {port}: Address already in use"):
        listen("127.0.0.1", port)
    first.close()
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1 port 80: Cannot assign"):
        listen("192.0.2.1", 80)
