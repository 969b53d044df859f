"""Options that set one key each, the newest run, and hints for names that do not exist."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from trm_fast.cli.run_config import merged_settings
from trm_fast.elsewhere import ELSEWHERE
from trm_fast.errors import UserError
from trm_fast.run_folder import newest_run
from trm_fast.training import Trainer, preset_config
from trm_fast.training.folder import read_run_config
from trm_fast.training.keys import default_keys

from .conftest import Run

SMALL = ["--set", "task.train_count=40", "--set", "task.test_count=10", "--steps", 1, "--json"]
OPTIONS = {
    "--batch-size 4": ("training.batch_size", 4),
    "--batch_size 4": ("training.batch_size", 4),
    "--lr 2e-3": ("training.learning_rate", 2e-3),
    "--learning-rate 2e-3": ("training.learning_rate", 2e-3),
    "--warmup-ratio 0.5": ("training.warmup_ratio", 0.5),
    "--layers 1": ("model.num_layers", 1),
    "--n_layers 1": ("model.num_layers", 1),
    "--hidden-size 8": ("model.hidden_size", 8),
    "--d_model 8": ("model.hidden_size", 8),
    "--heads 2": ("model.num_heads", 2),
    "--h-cycles 2": ("model.T_cycles", 2),
    "--n_recursion_steps 2": ("model.T_cycles", 2),
    "--l-cycles 1": ("model.n_latent_steps", 1),
    "--n_latent_steps 1": ("model.n_latent_steps", 1),
    "--supervision-steps 3": ("model.max_supervision_steps", 3),
    "--n_supervision_steps 3": ("model.max_supervision_steps", 3),
}


def test_each_option_sets_its_key(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """The configuration that training starts with has the value of each option."""
    from trm_fast.cli import train

    for option, (key, value) in OPTIONS.items():
        seen = []
        monkeypatch.setattr(train, "_dry_run", lambda config, *_, seen=seen: seen.append(config))
        assert run("train", "--preset", "sudoku-4x4", "--dry-run", *option.split()).code == 0, option
        section, name = key.split(".")
        assert getattr(getattr(seen[0], section), name) == value, option


def test_data_options_set_their_keys() -> None:
    options = {
        "--val-data": ("data.test", "v.json"),
        "--tokenizer": ("task.tokenizer", "folder"),
        "--lr": ("a.b", None),
    }
    assert merged_settings(["x.y=1"], {**options, "--lr": ("a.b", None)}) == [
        "x.y=1",
        'data.test="v.json"',
        'task.tokenizer="folder"',
    ]
    with pytest.raises(UserError, match=r"--val-data and --set data.test both give data.test"):
        merged_settings(["data.test=w.json"], options)


@pytest.mark.parametrize("option", ["--steps", "--seed", "--batch-size", "--layers"])
def test_an_option_and_a_setting_of_the_same_key_are_refused(run: Run, option: str) -> None:
    keys = {"--steps": "training.steps", "--seed": "training.seed", "--batch-size": "training.batch_size"}
    key = keys.get(option, "model.num_layers")
    result = run("train", "--preset", "sudoku-4x4", option, 2, "--set", f"{key}=3")
    assert result.code == 2
    assert f"{option} and --set {key} both give {key}" in result.err


def test_train_alone_says_what_there_is(run: Run) -> None:
    result = run("train")
    assert result.code == 2
    assert "sudoku-4x4" in result.err
    assert "Learns 4x4 sudoku" in result.err
    assert "--data FILE" in result.err


def test_train_to_an_output_and_evaluate_the_newest(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nothing = run("eval")
    assert nothing.code == 2
    assert "runs/ has no run" in nothing.err
    command = ["train", "--preset", "sudoku-4x4", "--d_model", 8, "--batch_size", 4, *SMALL]
    for name in ("b", "a"):
        assert run(*command, "-o", f"runs/{name}").code == 0
    assert read_run_config(Path("runs/a")).model.hidden_size == 8
    shutil.copytree("runs/a", "runs/c", ignore=shutil.ignore_patterns("checkpoints", "model", "best_model"))
    for name, age in (("a", 100), ("b", 50), ("c", 0)):  # c has no weights
        for path in Path("runs", name).iterdir():
            os.utime(path, (path.stat().st_atime, 2e9 - age))
    assert newest_run(Path("runs")) == Path("runs/b")
    newest = run("eval", "--json", "--limit", 5)
    assert newest.code == 0
    assert "the newest run: runs/b" in newest.err
    named = run("eval", "-m", "runs/a", "--json", "--limit", 5)
    assert json.loads(named.out)["model"].startswith("runs/a ")
    twice = run("eval", "runs/a", "--model", "runs/b")
    assert twice.code == 2
    assert "given twice" in twice.err


HINTS = [
    (["train", "--preset", "sudoku-4x"], "did you mean sudoku-4x4?"),
    (["train", "--preset", "sudoku-4x4", "--set", "training.lr=1"], "did you mean training.learning_rate?"),
    (["train", "--preset", "sudoku-4x4", "--set", "model.d_model=1"], "did you mean model.hidden_size?"),
    (["train", "--preset", "sudoku-4x4", "--set", "model.hiden_size=1"], "did you mean hidden_size?"),
    (["train", "--preset", "sudoku-4x4", "--set", "batch_size=1"], "did you mean training.batch_size?"),
    (["train", "--preset", "sudoku-4x4", "--set", "task.name=sudoko"], "did you mean 'sudoku'?"),
    (["eval", "sudoku-4x"], "did you mean sudoku-4x4?"),
]


@pytest.mark.parametrize(("command", "hint"), HINTS, ids=[" ".join(command) for command, _ in HINTS])
def test_names_that_do_not_exist_get_a_hint(run: Run, command: list[str], hint: str) -> None:
    result = run(*command)
    assert result.code in (1, 2)
    assert hint in result.err


def test_names_of_other_programs_lead_to_keys_that_exist() -> None:
    keys = {key.name for key in default_keys()} | {f"task.{key.name.rpartition('.')[2]}" for key in default_keys()}
    assert set(ELSEWHERE.values()) <= keys


def test_a_preset_with_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"hidden_size": 8, "batch_size": 4, "steps": 2, "train_count": 40, "test_count": 10}
    monkeypatch.chdir(tmp_path)
    trainer = Trainer.from_preset("sudoku-4x4", **changes, **{"training.log_every": 1})
    assert trainer.out == Path("runs/sudoku-4x4")
    assert trainer.train()["steps"] == 2
    config = read_run_config(trainer.out)
    assert (config.model.hidden_size, config.training.log_every, config.task.model_dump()["train_count"]) == (8, 1, 40)


MISTAKES = [
    ({"lr": 1e-3}, "unknown key 'lr'; did you mean training.learning_rate"),
    ({"batchsize": 4}, "did you mean batch_size"),
    ({"color": 1}, "unknown key 'color'; choose one of"),
    ({"learning_rate": "fast"}, "training.learning_rate = 'fast'"),
    ({"training.lr": 1.0}, "did you mean training.learning_rate"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=[str(changes) for changes, _ in MISTAKES])
def test_wrong_changes_of_a_preset(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        preset_config("sudoku-4x4", **changes)
