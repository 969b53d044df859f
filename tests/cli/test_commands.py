"""The commands from end to end: their JSON, their files, and their error messages."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from trm_fast.training import preset_names

TINY = ["--set", "model.hidden_size=16", "--set", "task.train_count=60", "--set", "task.test_count=20"]
TINY += ["--set", "training.batch_size=8", "--set", "training.log_every=2"]
PUZZLE = "1.3.....4...2..1"


def make_csv(path: Path, run, count: int = 12) -> list[dict[str, str]]:
    assert run("data", "sudoku", "--size", 4, "--count", count, "--out", path).code == 0
    return list(csv.DictReader(path.open()))


def test_version_and_help(run) -> None:
    assert run("--version").out.startswith("trm-fast ")
    for command in ("train", "sweep", "eval", "solve", "plot", "info"):
        result = run(command, "--help")
        assert result.code == 0
        assert "Example" in result.out, f"{command} --help shows no example"


def test_train_resume_eval_solve_plot(run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run("train", "--preset", "sudoku-4x4", *TINY, "--steps", 4, "--seed", 3, "--out", out, "--json")
    assert first.code == 0, first.err
    assert json.loads(first.out)["steps"] == 4
    resumed = run("train", "--resume", out, "--steps", 6, "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["steps"] == 6
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 6]  # logs, and an evaluation at the end

    report = json.loads(run("eval", out, "--json").out)
    assert {"exact_accuracy", "cell_accuracy", "count", "mean_steps", "puzzles_per_second"} <= report.keys()
    assert report["count"] == 20
    assert run("plot", out).code == 0
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert run("eval", out / "model", "--json", "--limit", 5).code == 0


def test_a_dry_run_estimates_a_run_and_starts_none(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    estimates = {}
    for name, changes in {
        "plain": [],
        "recomputed": ["--set", "training.recompute=latent"],
        "longer": ["--steps", 1200],
        "larger": ["--set", "training.batch_size=64"],
        "deeper": ["--set", "model.n_latent_steps=6"],
    }.items():
        result = run("train", "--preset", "sudoku-4x4", *TINY, *changes, "--dry-run", "--device", "cpu", "--json")
        assert result.code == 0, result.err
        estimates[name] = json.loads(result.out)
    plain = estimates["plain"]
    assert plain["memory_bytes"] == plain["weights_bytes"] + plain["carry_bytes"] + plain["activation_bytes"]
    assert plain["seconds"] == pytest.approx(plain["steps"] * plain["seconds_per_step"])
    assert estimates["recomputed"]["weights_bytes"] == plain["weights_bytes"]
    assert estimates["longer"]["steps"] == 2 * plain["steps"] == 1200
    assert estimates["larger"]["flop_per_step"] == 8 * plain["flop_per_step"]
    assert estimates["larger"]["activation_bytes"] == 8 * plain["activation_bytes"]
    assert estimates["deeper"]["activation_bytes"] > 2 * plain["activation_bytes"]
    table = run("train", "--preset", "sudoku-4x4", *TINY, "--dry-run", "--device", "cpu")
    assert table.code == 0
    assert "not started" in table.out
    assert "activations" in table.out
    assert not list(tmp_path.iterdir())
    assert run("train", "--resume", "x", "--dry-run", "--device", "cpu").code == 2


def test_only_a_gpu_without_timings_gives_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trm_fast.cli.train import _announce
    from trm_fast.ops._core import dispatch
    from trm_fast.training import make_config, read_preset

    monkeypatch.setattr("torch.cuda.get_device_name", {"cuda:1": "A card"}.__getitem__)
    for device, timed, expected in (("cuda:1", False, True), ("cuda:1", True, False), ("mps", False, False)):
        monkeypatch.setattr(dispatch, "timings", lambda kind, timed=timed: {"mlp/bfloat16": {}} if timed else {})
        _announce(make_config(read_preset("sudoku-4x4"), "sudoku-4x4"), device, "sudoku-4x4")
        message = capsys.readouterr().err
        assert ("info --measure" in message and "A card" in message) is expected, (device, timed, message)


def test_a_gpu_becomes_the_current_one_and_is_announced_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from trm_fast.cli.console import pick_device
    from trm_fast.ops._core import validation

    touched: list[str] = []
    current: list[str] = []
    cache = tmp_path / "card.json"
    monkeypatch.setattr(validation, "cache_folder", lambda device: cache)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "A card")
    monkeypatch.setattr("torch.cuda.set_device", lambda device: current.append(str(device)))
    monkeypatch.setattr("torch.zeros", lambda size, device: touched.append(str(device)) or torch.empty(()))
    assert (pick_device("cuda:1"), touched, current) == ("cuda:1", ["cuda:1"], ["cuda:1"])
    assert "first use of this A card" in capsys.readouterr().err
    # Under torchrun a process chooses its GPU later, so pick_device touches none.
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    assert (pick_device("cuda"), pick_device("auto"), len(touched), len(current)) == ("cuda", "cuda", 1, 1)
    monkeypatch.setenv("RANK", "0")
    cache.touch()
    pick_device("cuda")
    assert not capsys.readouterr().err


def test_running_out_of_memory_is_not_reported_as_a_bug(run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nMore.")

    monkeypatch.setattr("trm_fast.inference.Solver.run", full)
    result = run("eval", trained)
    assert result.code == 1
    assert result.err.splitlines()[0] == "error: CUDA out of memory. Tried to allocate 20 GiB."
    assert "--batch-size" in result.err


def test_no_graph_is_saved_in_the_configuration(run, tmp_path: Path) -> None:
    for name, options in {"plain": [], "without": ["--no-graph"]}.items():
        out = tmp_path / name
        result = run("train", "--preset", "sudoku-4x4", *TINY, "--steps", 1, "--out", out, *options, "--json")
        assert result.code == 0, result.err
        assert ("graph: off" in (out / "config.yaml").read_text()) == bool(options)


def test_recomputation_refuses_dropout(run, tmp_path: Path) -> None:
    options = ["--set", "training.recompute=latent", "--set", "model.dropout=0.1", "--out", tmp_path / "run"]
    result = run("train", "--preset", "sudoku-4x4", *options)
    assert result.code == 2
    assert "training.recompute needs model.dropout: 0" in result.err


def test_resuming_a_finished_run_changes_nothing(run, trained: Path) -> None:
    previous = (trained / "metrics.jsonl").read_text()
    result = run("train", "--resume", trained, "--json")
    assert (trained / "metrics.jsonl").read_text() == previous
    assert result.code == 0
    assert json.loads(result.out)["steps"] == 6
    assert "has all of its 6 steps" in result.err


def test_epochs_are_passes_over_the_data(run, tmp_path: Path) -> None:
    result = run("train", "--preset", "sudoku-4x4", *TINY, "--epochs", 0.5, "--out", tmp_path / "run", "--json")
    assert json.loads(result.out)["steps"] == 4  # 60 examples / 2 in batches of 8


def test_configuration_file(run, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task: {name: sudoku, size: 4, train_count: 50, test_count: 20}\nmodel: {hidden_size: 16}\n")
    small = ["--set", "training.batch_size=4", "--steps", 1, "--out", tmp_path / "run"]
    assert run("train", "--config", file, *small).code == 0


def test_the_default_folder_is_new_for_each_run(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("train", "--preset", "sudoku-4x4", *TINY, "--steps", 1).code == 0
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"sudoku-4x4", "sudoku-4x4-2"}


@pytest.mark.parametrize("preset", preset_names())
def test_presets_are_valid(preset: str) -> None:
    from trm_fast.training import make_config, read_preset

    config = make_config(read_preset(preset), preset)
    assert config.make_task().name == config.task.name


def test_eval_reads_every_row_of_a_file(run, trained: Path, tmp_path: Path) -> None:
    make_csv(tmp_path / "p.csv", run)
    report = json.loads(run("eval", trained, "--data", tmp_path / "p.csv", "--json", "--no-halt").out)
    assert report["count"] == 12
    assert report["mean_steps"] == 16
    limited = run("eval", trained, "--data", tmp_path / "p.csv", "--max-steps", 2, "--output", tmp_path / "o.json")
    assert "exact accuracy" in limited.out
    assert json.loads((tmp_path / "o.json").read_text())["mean_steps"] <= 2


def test_solve_returns_the_documented_keys(run, trained: Path) -> None:
    result = run("solve", trained, PUZZLE, "--json", "--trajectory", "--max-steps", 3)
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer.keys() == {"solution", "confidence", "steps", "converged", "valid", "trajectory"}
    assert len(answer["solution"]) == 16
    assert len(answer["trajectory"]) == answer["steps"]
    drawn = run("solve", trained, PUZZLE)
    assert re.search(r"^confidence \d+\.\d\d %; (halted after|did not halt within) \d+ steps?; the ", drawn.out, re.M)
    assert "│" in drawn.out


def test_solve_file_and_standard_input(run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_csv(tmp_path / "p.csv", run)
    assert run("solve", trained, tmp_path / "p.csv", "--output", tmp_path / "o.jsonl").code == 0
    answers = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert len(answers) == len(rows)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "p.csv").read_bytes())))
    piped = [json.loads(line) for line in run("solve", trained, "-", "--json").out.splitlines()]
    assert piped == answers
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{PUZZLE}\n{PUZZLE}\n".encode())))
    assert "standard input:2" in run("solve", trained, "-").out
    # Every model that ships for the task may read it, not only the first.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b".36.45.1...61.34..52.6...5.2...42.13\n")))
    assert json.loads(run("solve", "--task", "sudoku", "-", "--json").out)["valid"]


def test_info(run) -> None:
    facts = json.loads(run("info", "--json").out)
    assert facts["versions"]["torch"]
    assert {row["op"] for row in facts["ops"]} >= {"rms_norm", "swiglu", "adam_atan2_"}
    assert "sudoku-cpu" in facts["presets"]
    assert "rms_norm" in run("info").out


BAD = [
    (["train", "--preset", "sudoku-5x5"], 2, "did you mean"),
    (["train", "--preset", "sudoku-4x4", "--config", "x.yaml"], 2, "--preset NAME or --config"),
    (["train", "--preset", "sudoku-4x4", "--set", "model.hiden_size=3"], 2, "hidden_size"),
    (["train", "--preset", "sudoku-4x4", "--set", "model.hidden_size=wide"], 2, "model.hidden_size"),
    (["train", "--preset", "sudoku-4x4", "--set", "hidden_size"], 2, "section.key=value"),
    (["train", "--preset", "sudoku-4x4", "--steps", "0"], 2, "steps"),
    (["train", "--preset", "sudoku-4x4", "--minutes", "-1"], 2, "--minutes"),
    (["train", "--preset", "sudoku-4x4", "--device", "cuda:99"], 2, "cuda:99"),
    (["train", "--preset", "sudoku-4x4", "--from", "step_2"], 2, "--resume"),
    (["train", "--preset", "sudoku-4x4", "--data", "missing.csv"], 1, "missing.csv"),
    (["train", "--config", "missing.yaml"], 2, "missing.yaml"),
    (["train", "--resume", "missing"], 1, "missing"),
    (["eval", "missing"], 1, "missing"),
    (["eval", "{run}", "--data", "missing.csv"], 1, "missing.csv"),
    (["eval", "{run}", "--from", "step_5"], 1, "step_3"),
    (["eval", "{run}", "--from", "five"], 2, "step_200"),
    (["solve", "{run}", "11.............."], 1, "row 1"),
    (["solve", "{run}", "1..."], 1, "16"),
    (["solve", "{run}", "1.x............."], 1, "'x'"),
    (["solve", "{run}", PUZZLE, "--output", "/nowhere/o.jsonl"], 2, "/nowhere"),
    (["plot", "missing"], 1, "missing"),
    (["data", "sudoku", "--size", "5", "--out", "x.csv"], 2, "--size"),
    (["data", "sudoku", "--out", "/nowhere/x.csv"], 2, "/nowhere"),
    (["data", "sudoku", "--size", "4", "--min-givens", "2", "--out", "x.csv"], 2, "givens"),
    (["nonsense"], 2, "nonsense"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "message"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else None
)
def test_mistakes_are_reported_in_a_few_lines(
    run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*(a.replace("{run}", str(trained)) for a in arguments))
    assert result.code == code, result.err
    assert message in result.err
    assert 1 <= len(result.err.strip().splitlines()) <= 10
    assert "Traceback" not in result.err
    assert not result.out
    assert not list(tmp_path.iterdir()), "a command that failed left files behind"


def test_an_existing_run_is_not_overwritten(run, trained: Path) -> None:
    previous = (trained / "metrics.jsonl").read_bytes()
    result = run("train", "--preset", "sudoku-4x4", "--out", trained)
    assert (result.code, (trained / "metrics.jsonl").read_bytes()) == (1, previous)
    assert "--resume" in result.err


def test_a_resumed_run_refuses_another_task_model_or_seed(run, trained: Path) -> None:
    for change in (
        ["--seed", "9"],
        ["--set", "model.hidden_size=8"],
        ["--data", "x.csv"],
        ["--preset", "sudoku-paper"],
    ):
        result = run("train", "--resume", trained, *change)
        assert result.code == 2, result.err
        assert "keeps it" in result.err


def test_a_damaged_checkpoint_names_an_earlier_one(run, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    file = copy / "checkpoints" / "step_6" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    for command in (["train", "--resume", copy, "--steps", 8], ["eval", copy], ["solve", copy, PUZZLE]):
        result = run(*command)
        assert result.code == 1
        assert "step_6" in result.err
        assert "--from step_3" in result.err
    assert run("train", "--resume", copy, "--from", "step_3", "--steps", 8, "--json").code == 0


def test_malformed_rows_are_refused_with_their_line(run, trained: Path, tmp_path: Path) -> None:
    make_csv(tmp_path / "p.csv", run)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    lines[3] = lines[3].replace(lines[3].split(",")[1], "12")
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    for command in (["eval", trained, "--data"], ["solve", trained]):
        result = run(*command, tmp_path / "p.csv")
        assert result.code == 1
        assert "p.csv:4" in result.err
        assert not result.out


def test_a_bug_is_reported_in_one_line_unless_debugging(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from trm_fast.training import plot

    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(plot, "plot_run", broken)
    result = run("plot", "anything")
    assert result.code == 1
    assert "boom" in result.err
    monkeypatch.setenv("TRM_FAST_DEBUG", "1")
    with pytest.raises(RuntimeError, match="boom"):
        run("plot", "anything")
