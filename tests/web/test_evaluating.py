"""The API of evaluations: numbers, curves, groups, confusions, and every example with its result."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.web.conftest import lines
from trm_fast import Solver
from trm_fast.inference import evaluate
from trm_fast.interchange import locate

if TYPE_CHECKING:
    from fastapi.testclient import TestClient


def test_an_evaluation_equals_the_command_line_s(client: TestClient) -> None:
    events = lines(client, "/api/evaluate", {"model": "sudoku-4x4", "limit": 50})
    assert {event["event"] for event in events} <= {"note", "progress", "result"}
    result = events[-1]
    located = locate("sudoku-4x4")
    examples = located.task.dataset(located.data, located.seed).test.take(slice(50))
    expected = evaluate(Solver(located.model, located.task), examples)
    assert result["exact_accuracy"] == expected.exact_accuracy
    assert result["interval"] == pytest.approx(expected.interval)
    assert result["mean_steps"] == pytest.approx(expected.mean_steps)
    assert sum(example["right"] for example in result["examples"]) == round(50 * expected.exact_accuracy)
    assert len(result["examples"]) == 50

    groups = result["difficulty"]
    assert sum(group["count"] for group in groups) == 50
    assert all(one["to"] < other["from"] for one, other in pairwise(groups))
    assert result["difficulty_means"] == "cells to fill in"
    confusion = np.array(result["confusion"]["counts"])
    blanks = int((examples.inputs == 1).sum())
    assert confusion.sum() == blanks
    assert result["confusion"]["symbols"] == ["1", "2", "3", "4"]
    assert result["examples"][0]["text"].count(".") == result["examples"][0]["difficulty"]


def test_accuracy_by_steps_equals_separate_evaluations(client: TestClient) -> None:
    result = lines(client, "/api/evaluate", {"model": "sudoku-cpu", "limit": 40})[-1]
    located = locate("sudoku-cpu")
    examples = located.task.dataset(located.data, located.seed).test.take(slice(40))
    for point in (result["compute"][0], result["compute"][2], result["compute"][-1]):
        expected = evaluate(Solver(located.model, located.task, max_steps=point["max_steps"]), examples)
        assert point["accuracy"] == pytest.approx(expected.exact_accuracy)
        assert point["mean_steps"] == pytest.approx(expected.mean_steps)


def test_tries_give_no_curve(client: TestClient) -> None:
    body = {"model": "sudoku-4x4", "limit": 5, "options": {"symmetries": 2, "select": "majority"}}
    assert lines(client, "/api/evaluate", body)[-1]["compute"] is None


def test_a_file(client: TestClient) -> None:
    content = b"question,answer\n3.......4.3...42,3124241342311342\n"
    headers = {"content-type": "application/octet-stream"}
    parameters = {"model": "sudoku-4x4", "name": "mine.csv"}
    answer = client.post("/api/evaluate/upload", params=parameters, content=content, headers=headers)
    assert '"exact_accuracy":1.0' in answer.text
    answer = client.post("/api/evaluate/upload", params=parameters, content=b"question,answer\n3,4\n", headers=headers)
    assert "mine.csv:2" in answer.text
    assert "/tmp" not in answer.text


def test_mistakes(client: TestClient) -> None:
    assert client.post("/api/evaluate", json={"model": "sudoku-4x4", "limit": 0}).status_code == 422
    assert "there is no model" in lines(client, "/api/evaluate", {"model": "nothing"})[-1]["error"]
