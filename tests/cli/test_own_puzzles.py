"""Puzzles of one's own from the command line: training from a table alone, and everything that uses the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

TINY = ["--set", "model.hidden_size=16", "--set", "training.batch_size=8", "--set", "training.log_every=5"]
SYMBOLS = ["♜", "♞", "e\u0301", "."]


def table(path: Path, count: int, seed: int) -> Path:
    """Grids of 2 x 3 symbols and their mirror images."""
    rng = np.random.default_rng(seed)
    rows = {tuple(row) for row in rng.integers(0, 4, (count, 6)).tolist()}
    with path.open("w", encoding="utf-8") as stream:
        stream.write("question,answer\n")
        for row in sorted(rows):
            grid = np.array(SYMBOLS)[list(row)].reshape(2, 3)
            question, answer = ("\n".join("".join(line) for line in part) for part in (grid, grid[:, ::-1]))
            stream.write(f'"{question}","{answer}"\n')
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from trm_fast.training import Trainer, apply_settings, make_config, read_preset

    folder = tmp_path_factory.mktemp("own")
    settings = [f"data.source={table(folder / 'mine.csv', 60, 0)}", "task.symmetries=reflect", "training.steps=6"]
    sections = apply_settings(read_preset("grid"), [*settings, *TINY[1::2]])
    Trainer(make_config(sections, "grid"), folder / "run").train()
    return folder / "run"


def test_data_alone_trains_and_resumes(run, tmp_path: Path) -> None:
    data, out = table(tmp_path / "mine.csv", 60, 0), tmp_path / "run"
    result = run("train", "--data", data, "--symmetries", "reflect", *TINY, "--steps", 30, "--out", out)
    assert result.code == 0, result.err
    assert "2 x 3 cells; 4 symbols" in result.err
    assert "symmetries: reflect" in result.err
    assert "held out" in result.err
    config = (out / "config.yaml").read_text()
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logged if "loss" in line]
    assert losses[-1] < losses[0]

    data.write_text(data.read_text() + '"♛♛♛\n♛♛♛","♛♛♛\n♛♛♛"\n')  # a resumed run keeps its symbols
    refused = run("train", "--resume", out, "--steps", 32)
    assert refused.code == 1
    assert "is not a symbol of this task" in refused.err
    table(data, 60, 0)
    assert run("train", "--resume", out, "--steps", 32).code == 0
    assert (out / "config.yaml").read_text() == config.replace("steps: 30", "steps: 32")


def test_all_commands_use_the_run(run, trained: Path, tmp_path: Path) -> None:
    data = table(tmp_path / "more.csv", 20, 1)
    report = json.loads(run("eval", trained, "--data", data, "--json", "--symmetries", 4).out)
    assert report["count"] == len(data.read_text().splitlines()) // 3
    assert "by task.symmetries" in run("eval", trained, "--data", data, "--symmetries", 5).err
    question = "♜♞.\n..é"
    answer = json.loads(run("solve", trained, question, "--json").out)
    assert answer["valid"] is None
    assert len(answer["solution"].replace("e\u0301", "é")) == len(question)
    listed = json.loads(run("solve", trained, json.dumps([["♜", "♞", "."], [".", ".", "é"]]), "--json").out)
    assert ["".join(row) for row in json.loads(listed["solution"])] == answer["solution"].split("\n")
    assert "♛" in run("solve", trained, "♜♞.\n..♛").err
    assert run("solve", trained, data, "--png", tmp_path / "a.png").code == 0
    exported = tmp_path / "model"
    assert run("export", trained, "--format", "safetensors", "--out", exported).code == 0
    assert json.loads(run("solve", exported, question, "--json").out)["solution"] == answer["solution"]


def test_the_agent_solves_them(trained: Path) -> None:
    from trm_fast import ReasoningTool

    tool = ReasoningTool(str(trained))
    answer = tool({"puzzle": [["♜", "♞", "."], [".", ".", "é"]], "type": "grid"})
    assert [len(row) for row in answer["solution"]] == [3, 3]


def test_options_of_other_tasks_are_refused(run, tmp_path: Path) -> None:
    result = run("train", "--preset", "copy", "--shape", "2x2", "--steps", 1, "--out", tmp_path / "a")
    assert result.code == 2
    assert "task.shape" in result.err
    alone = run("train", "--preset", "grid", "--steps", 1, "--out", tmp_path / "b")
    assert alone.code == 2
    assert "--data FILE" in alone.err


class TestFineTuning:
    """A run on other data keeps the meaning of the trained model's tokens."""

    def more(self, path: Path, symbols: str) -> Path:
        """Grids of some symbols only, of which others would be inferred in another order."""
        rows = [f'"{a}{b}{a}\n{b}{a}{a}","{a}{b}{a}\n{a}{a}{b}"' for a in symbols for b in symbols]
        path.write_text("\n".join(["question,answer", *rows]) + "\n", encoding="utf-8")
        return path

    def test_the_vocabulary_and_the_shape_are_the_models(self, run, trained: Path, tmp_path: Path) -> None:
        from trm_fast.training.folder import read_run_config

        data = self.more(tmp_path / "more.csv", ".♞")
        result = run("train", "--data", data, "--init-from", trained, *TINY, "--steps", 2, "--out", tmp_path / "run")
        assert result.code == 0, result.err
        want, got = (read_run_config(folder).task.model_dump() for folder in (trained, tmp_path / "run"))
        assert want["vocabulary"] is not None
        assert [got[key] for key in ("vocabulary", "shape", "separator")] == [
            want[key] for key in ("vocabulary", "shape", "separator")
        ]
        assert "starts fresh" not in result.err

    def test_unknown_symbols_are_refused(self, run, trained: Path, tmp_path: Path) -> None:
        data = self.more(tmp_path / "more.csv", ".♛")
        refused = run("train", "--data", data, "--init-from", trained, *TINY, "--out", tmp_path / "run")
        assert refused.code in (1, 2)
        assert "♛" in refused.err
        assert "is not a symbol of this task" in refused.err
        assert not (tmp_path / "run").exists()

    def test_another_order_is_refused(self, run, trained: Path, tmp_path: Path) -> None:
        data = self.more(tmp_path / "more.csv", ".♞")
        command = ("train", "--data", data, "--init-from", trained, *TINY, "--out", tmp_path / "run")
        refused = run(*command, "--vocabulary", "♞♜é.")
        assert refused.code == 2
        assert "its tokens would change their meaning" in refused.err

    def test_a_model_of_another_task_needs_a_recipe(self, run, tmp_path: Path) -> None:
        data = self.more(tmp_path / "more.csv", ".♞")
        refused = run("train", "--data", data, "--init-from", "sudoku-4x4", "--out", tmp_path / "run")
        assert refused.code == 2
        assert "sudoku-4x4 is a model for sudoku: name the recipe with --preset" in refused.err
        refused = run("train", "--init-from", "sudoku-4x4")
        assert refused.code == 2
        assert "--init-from needs a recipe" in refused.err
