"""Fixtures: a client of the application, with the runs of an empty folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient

from trm_fast.web.server import ServerOptions, make_access, make_application


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def client(runs: Path) -> Iterator[TestClient]:
    options = ServerOptions(runs=runs)
    app = make_application(options, make_access(options))
    with TestClient(app, base_url="http://127.0.0.1:8080") as client:
        yield client


def lines(client: TestClient, path: str, body: Any) -> list[dict[str, Any]]:
    """The lines of JSON of a streamed answer."""
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]
