"""The server as a process: the example client, many clients, hostile ones, and one that is killed and restarted."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from tests.web.browser import ROOT, Server

pytest.importorskip("fastapi", reason="the page needs the extra web")
pytest.importorskip("uvicorn", reason="the page needs the extra web")
pytestmark = pytest.mark.slow
BODY = {"model": "sudoku-4x4", "puzzle": "3.......4.3...42"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "runs")
    yield server
    server.kill()


def post(server: Server, path: str, body: Any, timeout: float = 120) -> Any:
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(server.address + path, json.dumps(body).encode(), headers), timeout=timeout) as answer:
        return [json.loads(line) for line in answer]


def get(server: Server, path: str) -> Any:
    with urlopen(server.address + path, timeout=120) as answer:
        return json.load(answer)


def test_the_example_client(server: Server) -> None:
    command = [sys.executable, str(ROOT / "examples" / "web_client.py"), server.address]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert output[0] == "question 3.......4.3...42"
    assert re.fullmatch(r"step confidence \d\.\d\d", output[1])
    assert output[-1] == "answer 3124241342311342"


def test_an_idle_server_is_small(server: Server) -> None:
    memory = psutil.Process(server.process.pid).memory_info().rss / 2**20
    print(f"the idle server takes {memory:.0f} MiB")
    assert memory < 600


def test_twenty_clients_at_once(server: Server) -> None:
    body = BODY | {"options": {"halt": False, "max_steps": 20}}
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: post(server, "/api/stream", body), range(20)))
    assert {answer[-1]["solution"] for answer in answers} == {"3124241342311342"}
    assert all(len(answer) == 22 for answer in answers)


def test_idle_connections_do_not_block_others(server: Server) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    try:
        assert post(server, "/api/solve", BODY)[0]["valid"] is True
        idle[0].settimeout(60)
        assert idle[0].recv(1) == b""  # the server closes what stays silent
    finally:
        for each in idle:
            each.close()


def test_a_client_that_does_not_read_is_no_harm(server: Server) -> None:
    body = json.dumps(BODY | {"options": {"halt": False, "max_steps": 200}}).encode()
    head = f"POST /api/stream HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    slow = []
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        slow.append(connection)
    assert post(server, "/api/solve", BODY)[0]["valid"] is True
    for connection in slow:
        connection.close()
    assert post(server, "/api/solve", BODY)[0]["valid"] is True


def test_a_huge_body_is_refused_before_it_arrives(server: Server) -> None:
    head = f"POST /api/solve HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}Content-Length: {100 * 2**20}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(1000)


def test_a_name_that_was_rebound_is_refused(server: Server) -> None:
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(server.address + "/api/models", headers={"Host": f"evil.example:{server.port}"}), timeout=60)
    assert refused.value.code == 421


def test_a_run_survives_the_server(server: Server, tmp_path: Path) -> None:
    settings = {"training.steps": 100_000, "training.batch_size": 8, "model.hidden_size": 16, "task.train_count": 60}
    post(server, "/api/runs", {"preset": "sudoku-4x4", "name": "long", "settings": settings})
    end = time.monotonic() + 300
    while get(server, "/api/runs/long")["step"] < 20 and time.monotonic() < end:
        time.sleep(0.3)
    server.kill()
    server.start()
    run = get(server, "/api/runs/long")
    assert run["state"] == "running"
    assert run["step"] >= 20
    post(server, "/api/runs/long/stop", {})
    while get(server, "/api/runs/long")["state"] == "running" and time.monotonic() < end:
        time.sleep(0.3)
    assert get(server, "/api/runs/long")["state"] == "stopped"


def test_a_port_in_use(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trm_fast.cli", "serve", "--port", str(server.port), "--runs", str(tmp_path)]
    process = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300)
    assert process.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {server.port}" in process.stderr
