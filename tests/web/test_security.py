"""Who may use the server: names, origins, tokens, sizes, rates and times."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trm_fast.access import Access, Guard, is_loopback
from trm_fast.errors import UserError
from trm_fast.web.server import ServerOptions, address, make_access, make_application

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

TOKEN = "a-token-of-some-length"
BODY = {"model": "sudoku-4x4", "puzzle": "3.......4.3...42"}


@pytest.fixture
def public(tmp_path: Path) -> Iterator[TestClient]:
    """A client of a server on all addresses, with a token."""
    pytest.importorskip("fastapi", reason="the page needs the extra web")
    from fastapi.testclient import TestClient

    options = ServerOptions(runs=tmp_path, host="0.0.0.0", token=TOKEN, allowed_hosts=("solver.example.org",))
    with TestClient(make_application(options, make_access(options)), base_url="http://192.0.2.1:8080") as client:
        yield client


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "localhost"])
def test_names_of_this_machine(client: TestClient, host: str) -> None:
    assert client.get("/api/info", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "192.0.2.1", "", "a b", "[::1"]
)
def test_other_names_are_refused(client: TestClient, host: str) -> None:
    for path in ("/", "/api/info", "/static/js/main.js"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 421
        assert "--allowed-host" in answer.json()["error"]


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://[",
        "http://[::1",
        "http://127.0.0.1:9999",
        "http://localhost:8080",
        "https://127.0.0.1",
    ],
)
def test_other_origins_are_refused(client: TestClient, origin: str) -> None:
    answer = client.post("/api/solve", json=BODY, headers={"origin": origin})
    assert answer.status_code == 403
    assert client.get("/api/runs", headers={"origin": origin}).status_code == 403


def test_the_page_s_own_origin_may_post(client: TestClient) -> None:
    headers = {"origin": "http://127.0.0.1:8080", "sec-fetch-site": "same-origin"}
    assert client.post("/api/solve", json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_pages_cannot_embed_or_read(client: TestClient, site: str) -> None:
    assert client.get("/api/runs", headers={"sec-fetch-site": site}).status_code == 403
    answer = client.get("/", headers={"sec-fetch-site": site})  # a link on another page
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_bodies_that_forms_can_send_are_refused(client: TestClient, kind: str) -> None:
    answer = client.post("/api/solve", content=json.dumps(BODY), headers={"content-type": kind})
    assert answer.status_code == 415


def test_large_bodies_are_refused(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    assert client.post("/api/solve", content=b"x" * 5_000_000, headers=headers).status_code == 413

    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 2**20

    assert client.post("/api/solve", content=parts(), headers=headers).status_code == 413
    assert client.get("/api/info", params={"x": "x" * 5000}).status_code == 414


def test_a_token_is_needed(public: TestClient) -> None:
    assert public.get("/").status_code == 200  # the page itself holds nothing
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": "Bearer "}):
        answer = public.get("/api/models", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert public.get("/api/models", headers=headers).status_code == 200
    assert public.get("/api/models", headers=headers | {"host": "solver.example.org"}).status_code == 200
    assert public.get("/api/models", headers=headers | {"host": "other.example.org"}).status_code == 421


def test_an_address_of_others_gets_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRM_FAST_WEB_TOKEN", raising=False)
    options = ServerOptions(host="0.0.0.0")
    access = make_access(options)
    assert len(access.token or "") >= 32
    assert address(options, access) == f"http://0.0.0.0:8080/#token={access.token}"
    assert make_access(ServerOptions()).token is None
    with pytest.raises(UserError, match="at least 16"):
        make_access(ServerOptions(host="0.0.0.0", token="short"))
    monkeypatch.setenv("TRM_FAST_WEB_TOKEN", TOKEN)
    assert make_access(options).token == TOKEN


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2f..%2fapp.py",
        "/static//etc/passwd",
        "/static/%2e%2e/server.py",
        "/../pyproject.toml",
    ],
)
def test_no_path_leads_elsewhere(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert "import" not in answer.text


def test_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")] == [True] * 5
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org")] == [
        False
    ] * 5


def ask(
    guard: Guard, *, headers: dict[str, str] | None = None, body: list[bytes] | None = None, delay: float = 0.0
) -> int:
    """The status of a request to a guarded application that reads the whole body."""
    pairs = {"host": "localhost", **(headers or {})}
    scope = {
        "type": "http", "method": "POST", "path": "/", "query_string": b"", "client": ("192.0.2.7", 1),
        "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
    }  # fmt: skip
    parts = list(body or [b""])
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(delay)
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    asyncio.run(guard(scope, receive, send))
    return statuses[0]


async def application(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_rates_are_limited_by_address() -> None:
    now = [0.0]
    guard = Guard(application, Access(rate=2, burst=3), clock=lambda: now[0])
    assert [ask(guard) for _ in range(5)] == [200, 200, 200, 429, 429]
    now[0] = 1.0
    assert [ask(guard) for _ in range(3)] == [200, 200, 429]


def test_slow_and_large_bodies_end() -> None:
    guard = Guard(application, Access(body_seconds=0.2, max_body=100))
    typed = {"content-type": "application/json", "transfer-encoding": "chunked"}
    assert ask(guard, headers=typed, body=[b"x"] * 50, delay=0.02) == 408
    assert ask(guard, headers=typed, body=[b"x" * 60] * 2) == 413
    assert ask(guard, headers=typed, body=[b"x" * 60]) == 200
    assert ask(guard, headers={"content-length": "1e9"}) == 400
