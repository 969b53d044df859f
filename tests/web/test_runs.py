"""The API of runs: start, watch, stop and resume, bit for bit what the command line makes, whatever server looks on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.numpy import load_file

from trm_fast.errors import UserError
from trm_fast.training import Trainer, apply_settings, make_config, read_preset
from trm_fast.web.runs import Runs, checked_settings

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

SMALL: dict[str, Any] = {
    "model.hidden_size": 16, "training.steps": 40, "training.batch_size": 8, "training.checkpoint_every": 20,
    "task.train_count": 60, "task.test_count": 20, "training.log_every": 5,
}  # fmt: skip


def start(client: TestClient, name: str = "mini", **settings: Any) -> dict[str, Any]:
    body = {"preset": "sudoku-4x4", "name": name, "settings": SMALL | settings}
    answer = client.post("/api/runs", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def until(condition: Callable[[], Any], seconds: float = 600) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.1)
    raise AssertionError("it took too long")


def state(client: TestClient, name: str = "mini") -> str:
    return client.get(f"/api/runs/{name}").json()["state"]


def test_a_run_of_the_page_equals_one_of_the_command_line(client: TestClient, runs: Path, tmp_path: Path) -> None:
    assert start(client)["state"] in ("starting", "running")
    assert client.post("/api/runs", json={"preset": "copy", "name": "mini"}).status_code == 400  # the name is taken
    until(lambda: state(client) == "finished")
    settings = [f"{name}={value}" for name, value in SMALL.items()]
    Trainer(make_config(apply_settings(read_preset("sudoku-4x4"), settings), "test"), tmp_path / "other").train()
    for file in ("checkpoints/step_40/model.safetensors", "checkpoints/step_40/ema.safetensors"):
        one, other = (load_file(folder / file) for folder in (runs / "mini", tmp_path / "other"))
        assert all((one[name] == other[name]).all() for name in other)
    assert (runs / "mini/config.yaml").read_bytes() == (tmp_path / "other/config.yaml").read_bytes()

    news = client.get("/api/runs/mini/metrics").json()
    assert [record["step"] for record in news["records"] if "loss" in record] == list(range(5, 41, 5))
    more = client.get("/api/runs/mini/metrics", params={"offset": news["offset"]}).json()
    assert more == {"records": [], "offset": news["offset"], "reset": False, "more": False}
    assert client.get("/api/runs/mini/metrics", params={"offset": 10**9}).json()["reset"] is True

    samples = client.get("/api/runs/mini/samples").json()
    assert samples["step"] == 40
    assert len(samples["samples"]) == 4
    assert all(len(sample["answer"]["cells"]) == 16 for sample in samples["samples"])
    assert "runs/mini" in [model["name"] for model in client.get("/api/models").json()]
    answer = client.post("/api/solve", json={"model": "runs/mini", "puzzle": "3.......4.3...42"}).json()
    assert len(answer["solution"]) == 16


def test_stop_and_resume_from_another_server(client: TestClient, runs: Path) -> None:
    start(client, **{"training.steps": 100_000})
    until(lambda: client.get("/api/runs/mini").json()["step"] > 20)
    other = Runs(runs)  # a server that was started later
    assert other.get("mini")["state"] == "running"
    with pytest.raises(UserError, match="training already"):
        client_resume(other)
    other.stop("mini")
    until(lambda: state(client) == "stopped")
    step = client.get("/api/runs/mini").json()["checkpoints"][-1]
    answer = client.post("/api/runs/mini/resume", json={"steps": step + 5})
    assert answer.status_code == 200
    until(lambda: state(client) == "finished")
    assert client.get("/api/runs/mini").json()["step"] == step + 5
    assert client.post("/api/runs/mini/stop").status_code == 400


def client_resume(runs: Runs) -> None:
    from trm_fast.web.runs import ResumeRequest

    runs.resume("mini", ResumeRequest())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"preset": "nothing", "name": "x"}, "there is no preset"),
        ({"preset": "copy", "name": "../x"}, "a run's name"),
        ({"preset": "copy", "name": ".x"}, "a run's name"),
        ({"preset": "copy", "name": ""}, "a run's name"),
        ({"preset": "copy", "name": "x", "settings": {"training.nothing": 1}}, "unknown key training.nothing"),
        ({"preset": "copy", "name": "x", "settings": {"training.steps": "many"}}, "training.steps"),
        ({"preset": "copy", "name": "x", "settings": {"nothing": 1}}, "there is no key"),
        ({"preset": "copy", "name": "x", "settings": {"data.source": "/etc/passwd"}}, "only the command line"),
        ({"preset": "copy", "name": "x", "settings": {"task.name": "os:path"}}, "only the command line"),
        ({"preset": "multi", "name": "x", "settings": {"task.tasks": [{"name": "os:path"}]}}, "only the command line"),
        ({"preset": "tool-slots", "name": "x", "settings": {"task.set": "../x"}}, "only the command line"),
        ({"preset": "tool-slots", "name": "x", "settings": {"task.tokenizer": "/etc"}}, "only the command line"),
    ],
)
def test_runs_that_are_refused(client: TestClient, runs: Path, body: dict[str, Any], message: str) -> None:
    answer = client.post("/api/runs", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert not runs.exists()


def test_other_folders_are_no_runs(client: TestClient, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.yaml").write_text("task: {name: copy}\n")
    runs.mkdir()
    (runs / "link").symlink_to(tmp_path / "elsewhere")
    assert client.get("/api/runs").json() == []
    for name in ("link", "..", "../elsewhere", "%2e%2e", "..%2felsewhere", ".web"):
        for verb in ("", "/metrics", "/samples"):
            answer = client.get(f"/api/runs/{name}{verb}")
            assert answer.status_code in (400, 404), name


def test_a_run_that_fails_says_why(client: TestClient, runs: Path) -> None:
    start(client, **{"training.batch_size": 8, "training.learning_rate": 1e30})
    run = until(lambda: (run := client.get("/api/runs/mini").json())["state"] == "failed" and run)
    assert "loss is not finite" in run["log"]


def test_settings_keep_their_types() -> None:
    settings = {
        "training.learning_rate": 0.001,
        "task.givens": [4, 6],
        "training.clip_norm": None,
        "training.schedule": "constant",
    }
    assert checked_settings("sudoku-4x4", settings) == [
        "training.learning_rate=0.001", "task.givens=[4, 6]", 'training.schedule="constant"',
    ]  # fmt: skip
