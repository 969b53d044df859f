"""The API of solving: questions, steps, answers, files, and batches that clients share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.web.conftest import lines
from trm_fast import Solver
from trm_fast.interchange import locate
from trm_fast.tasks.pictures import write_png

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

PUZZLE, SOLUTION = "3.......4.3...42", "3124241342311342"


def test_models_and_their_views(client: TestClient) -> None:
    models = {model["name"]: model for model in client.get("/api/models").json()}
    assert models["sudoku-4x4"] == {"name": "sudoku-4x4", "task": "sudoku", "kind": "shipped", "size": 4}
    about = client.get("/api/models/sudoku-4x4").json()
    assert about["parameters"] > 10_000
    view = about["view"]
    assert (view["kind"], view["rows"], view["columns"], view["box"]) == ("grid", 4, 4, [2, 2])
    assert view["symbols"] == ["", "", "1", "2", "3", "4"]
    assert client.get("/api/models/maze-small").json()["view"]["palette"] == "maze"
    assert client.get("/api/models/nothing").status_code == 400


def test_an_answer_equals_the_solver_s(client: TestClient) -> None:
    body = {"model": "sudoku-4x4", "puzzle": PUZZLE}
    answer = client.post("/api/solve", json=body).json()
    located = locate("sudoku-4x4")
    expected = Solver(located.model, located.task).solve(PUZZLE).to_json()
    assert {name: answer[name] for name in expected if name != "confidence"} == {
        name: value for name, value in expected.items() if name != "confidence"
    }
    assert answer["confidence"] == pytest.approx(expected["confidence"], abs=1e-5)
    assert answer["solution"] == SOLUTION
    assert answer["cells"] == [int(digit) + 1 for digit in SOLUTION]


def test_a_stream_has_every_step(client: TestClient) -> None:
    options = {"halt": False, "max_steps": 5}
    events = lines(client, "/api/stream", {"model": "sudoku-4x4", "puzzle": PUZZLE, "options": options})
    assert [event["event"] for event in events] == ["question", *["step"] * 5, "answer"]
    steps = events[1:-1]
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5]
    assert all(0 <= step["confidence"] <= 1 and len(step["cells"]) == 16 for step in steps)
    assert all(0 <= percent <= 100 for step in steps for percent in step["cell_confidence"])
    assert steps[-1]["valid"] is True
    assert steps[-1]["conflicts"] == []


def test_further_tries_are_streamed(client: TestClient) -> None:
    options = {"rollouts": 2, "noise": 0.3, "symmetries": 2, "select": "confidence"}
    events = lines(client, "/api/stream", {"model": "sudoku-4x4", "puzzle": PUZZLE, "options": options})
    assert {event["try"] for event in events if event["event"] == "step"} == {0, 1, 2, 3}
    assert all(("cells" in event) == (event["try"] % 2 == 0) for event in events if event["event"] == "step")
    assert events[-1]["tries"] == 4
    assert events[-1]["solution"] == SOLUTION


def test_conflicts_of_a_wrong_answer(client: TestClient) -> None:
    hard = "................................................................................1"
    events = lines(client, "/api/stream", {"model": "sudoku-cpu", "puzzle": hard, "options": {"max_steps": 1}})
    step = events[1]
    assert step["valid"] is False
    assert step["conflicts"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "sudoku-4x4", "puzzle": "33"}, 400, "found 2 cells"),
        ({"model": "../../etc/passwd", "puzzle": PUZZLE}, 400, "there is no model"),
        ({"model": "sudoku-4x4", "puzzle": PUZZLE, "options": {"rollouts": 4}}, 400, "rollouts differ only by noise"),
        ({"model": "sudoku-4x4", "puzzle": PUZZLE, "options": {"rollouts": 10_000}}, 422, "less than or equal to 128"),
        ({"model": "sudoku-4x4", "puzzle": PUZZLE, "options": {"nothing": 1}}, 422, "Extra inputs"),
        ({"model": "sudoku-4x4", "puzzle": PUZZLE, "options": {"rollouts": 128, "symmetries": 2}}, 422, "at most 128"),
        ({"model": "sudoku-4x4"}, 422, "puzzle: Field required"),
        ([], 422, "valid dictionary"),
    ],
)
def test_mistakes(client: TestClient, body: object, status: int, message: str) -> None:
    answer = client.post("/api/solve", json=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    if status == 400:
        assert message in lines(client, "/api/stream", body)[-1]["error"]


def test_generated_puzzles(client: TestClient) -> None:
    one, same, other = (
        client.get("/api/generate", params={"model": "sudoku-6x6", "seed": seed}).json() for seed in (1, 1, 2)
    )
    assert one == same != other
    easy = client.get("/api/generate", params={"model": "sudoku-4x4", "seed": 3, "blanks": 10}).json()
    assert easy["cells"].count(1) == 10
    answer = client.get("/api/generate", params={"model": "sudoku-4x4", "blanks": 16})
    assert answer.status_code == 400
    assert "givens" in answer.json()["error"]
    assert len(client.get("/api/generate", params={"model": "maze-small"}).json()["cells"]) == 81


def test_files(client: TestClient, tmp_path: Path) -> None:
    def upload(model: str, name: str, content: bytes) -> tuple[int, dict]:
        headers = {"content-type": "application/octet-stream"}
        answer = client.post("/api/upload", params={"model": model, "name": name}, content=content, headers=headers)
        return answer.status_code, answer.json()

    status, content = upload("sudoku-4x4", "my puzzles.csv", f"question,answer\n{PUZZLE},{SOLUTION}\n".encode())
    assert status == 200
    assert [question["text"] for question in content["questions"]] == [PUZZLE]
    maze = client.get("/api/generate", params={"model": "maze-small"}).json()
    located = locate("maze-small")
    write_png(tmp_path / "maze.png", located.task.picture(located.task.parse(maze["text"])))
    status, content = upload("maze-small", "maze.png", (tmp_path / "maze.png").read_bytes())
    assert content["questions"][0]["cells"] == maze["cells"]
    status, content = upload("sudoku-4x4", "../../x.csv", b"question,answer\n12,3\n")
    assert status == 400
    assert content["error"].startswith("x.csv")
    assert "/tmp" not in content["error"]
    assert upload("sudoku-4x4", "puzzles.csv.gz", b"")[0] == 400
    assert upload("sudoku-4x4", "/etc/passwd", b"")[0] == 400


def test_clients_share_batches(client: TestClient) -> None:
    batcher = client.app.app.state.service.batcher  # type: ignore[attr-defined]
    body = {"model": "sudoku-4x4", "puzzle": PUZZLE, "options": {"halt": False, "max_steps": 40}}
    client.post("/api/solve", json=body)
    batches, rows = batcher.batches, batcher.rows
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.post("/api/solve", json=body).json(), range(8)))
    assert {answer["solution"] for answer in answers} == {SOLUTION}
    assert batcher.rows - rows == 8 * 40
    assert batcher.batches - batches < 8 * 40
    assert np.ptp([answer["confidence"] for answer in answers]) < 1e-4


def test_the_api_describes_itself(client: TestClient) -> None:
    paths = client.get("/api/openapi.json").json()["paths"]
    assert {"/api/solve", "/api/stream", "/api/models", "/api/runs", "/api/evaluate"} <= set(paths)
    assert all("description" in method for path in paths.values() for method in path.values())
