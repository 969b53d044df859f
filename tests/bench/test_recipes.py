"""The comparison of recipes: shares of a run, results that continue, and the table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from trm_fast.tasks.statistics import mean_interval
from trm_fast.tasks.sudoku.puzzles import generate
from trm_fast.training import make_config, read_preset

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
import recipes  # noqa: E402

SMALL = "model.hidden_size: 16, task.givens: [8, 10], task.train_count: 40, task.test_count: 10"
TINY = f"""
preset: {{{SMALL}}}
shallow:
  {{{SMALL}, training.depth: [{{until: 50 % of steps, T_cycles: 1}}], training.easy_first: 10 % of examples}}
states: {{{SMALL}, model.initial_states: 2, solver.rollouts: 2, solver.start: each}}
"""


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    (folder / "rows.yaml").write_text(TINY)
    command = ["recipes", "--rows", str(folder / "rows.yaml"), "--preset", "sudoku-4x4", "--minutes", "0.01"]
    command += ["--trial-seconds", "0.2", "--eval-data", str(folder / "test.csv"), "--limit", "9"]
    command += ["--runs", str(folder / "runs"), "--results", str(folder / "results"), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    recipes.main()


def test_rows_continue_and_end_in_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    puzzles = generate(4, 12, (8, 10), seed=3)
    pairs = zip(puzzles.questions, puzzles.answers, strict=True)
    lines = [",".join("".join(map(str, grid)) for grid in pair) for pair in pairs]
    (tmp_path / "test.csv").write_text("question,answer\n" + "\n".join(lines) + "\n")
    run(tmp_path, monkeypatch, "--seeds", "0", "--only", "preset,states")
    first = json.loads((tmp_path / "results" / "preset.json").read_text())
    assert first["summary"]["first_try_16"]["sd"] is None
    run(tmp_path, monkeypatch, "--seeds", "0,5")
    printed = capsys.readouterr().out
    rows = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")}
    budget = rows.pop("budget")
    assert sorted(rows) == ["preset", "shallow", "states"]
    assert rows["preset"]["runs"][0] == first["runs"][0], "finished runs are kept"
    assert rows["preset"]["steps"] == first["steps"]
    for row in rows.values():
        assert [run["seed"] for run in row["runs"]] == [0, 5]
        assert all(run["steps"] == row["steps"] > 1 for run in row["runs"])
        for steps in ("16", "64"):
            values = [run["first_try"][steps] for run in row["runs"]]
            figures = row["summary"][f"first_try_{steps}"]
            assert figures["mean"] == pytest.approx(sum(values) / 2)
            assert figures["interval"] == pytest.approx(mean_interval(values))
    assert "tries" in rows["states"]["summary"]
    assert "tries" not in rows["preset"]["summary"]
    assert len(rows["shallow"]["relative_times"]) == 2
    assert rows["states"]["steps"] == round(budget["steps"] / rows["states"]["relative_times"][0])
    (folder,) = (tmp_path / "runs" / "shallow" / "seed-0" / "runs").glob("*/*")
    config = (folder / "config.yaml").read_text()
    assert f"until: {round(rows['shallow']['steps'] / 2)}" in config
    for word in (
        "| row | runs | steps | seconds | 16 steps | 64 steps | tries | training accuracy |",
        "| shallow | 2 |",
    ):
        assert word in printed, printed
    with pytest.raises(SystemExit, match=r"preset\.json has other results \(minutes changed\)"):
        run(tmp_path, monkeypatch, "--minutes", "0.02")


def test_shares_of_a_run() -> None:
    config = make_config(read_preset("sudoku-extreme"), "x")
    settings: dict[str, Any] = {"training.easy_first": "25 % of examples", "a": [{"until": "40 % of steps", "b": 3}]}
    assert recipes.resolve(settings, config, 1000) == {
        "training.easy_first": 0.25 * 1000 * 8 / 5, "a": [{"until": 400, "b": 3}]
    }  # fmt: skip


def test_every_row_is_a_valid_configuration() -> None:
    rows = recipes.read_rows(BENCH / "recipes.yaml")
    sections = read_preset("sudoku-extreme")
    for settings in rows.values():
        resolved = recipes.resolve(settings, recipes.config_of(sections, settings), 2000)
        config = recipes.config_of(sections, resolved)
        assert (config == recipes.config_of(sections, {})) == (not settings)
        assert config.depth_at(2000) == config.model.depth
