"""Fixtures: a client of the application, with the runs of an empty folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.web import browser
from trm_fast.web.server import ServerOptions, make_access, make_application

if TYPE_CHECKING:
    from fastapi.testclient import TestClient
    from playwright.sync_api import Browser


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def client(runs: Path) -> Iterator[TestClient]:
    pytest.importorskip("fastapi", reason="the page needs the extra web")
    from fastapi.testclient import TestClient

    options = ServerOptions(runs=runs)
    app = make_application(options, make_access(options))
    with TestClient(app, base_url="http://127.0.0.1:8080") as client:
        yield client


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser. Its event loop runs in this thread, so that it is closed after each module."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        launched = playwright.chromium.launch(executable_path=browser.chromium(), args=arguments)
        yield launched
        launched.close()


def lines(client: TestClient, path: str, body: Any) -> list[dict[str, Any]]:
    """The lines of JSON of a streamed answer."""
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]
