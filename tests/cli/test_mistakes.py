"""Mistakes of the command line and of files: each is an error that says what is wrong and where, in a few short lines,
and asks for no memory."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trm_fast.tasks.files import write_text

from .conftest import Run

PUZZLE = "3.......4.3...42"
SOLVE = ["solve", "sudoku-4x4", PUZZLE]
LONG = "9" * 5000
TRAIN = ["train", "--preset", "sudoku-4x4", "--steps", 2, "--set", "task.train_count=50", "--set", "task.test_count=10"]

OPTIONS: dict[str, tuple[list[Any], str]] = {
    "zeros": (["solve", "sudoku-4x4", "/dev/zero"], "/dev/zero is not UTF-8 text"),
    "full": (["solve", "sudoku-4x4", "/dev/full"], "/dev/full is not UTF-8 text"),
    "steps": ([*SOLVE, "--max-steps", "1" * 40], "--max-steps"),
    "symmetries": ([*SOLVE, "--symmetries", 10**18 - 1], "--symmetries"),
    "symmetries that fit no memory": ([*SOLVE, "--symmetries", 10**6, "--rollouts", 10**6], "rollouts x symmetries"),
    "batch": ([*SOLVE, "--batch-size", "9" * 30], "--batch-size"),
    "minimum of steps": ([*SOLVE, "--min-steps", "9" * 30], "--min-steps"),
    "a seed": ([*SOLVE, "--seed", "9" * 30], "--seed"),
    "hints": ([*SOLVE, "--hints", "9" * 30], "--hints"),
    "noise": ([*SOLVE, "--rollouts", 2, "--noise", "nan"], "noise"),
    "a lot of noise": ([*SOLVE, "--rollouts", 2, "--noise", "1e308"], "noise"),
    "budget": ([*SOLVE, "--budget", "nan"], "budget"),
    "digits": ([*SOLVE, "--max-steps", LONG], "--max-steps"),
    "meta": ([*SOLVE, "--device", "meta"], "--device meta can't be used"),
    "hpu": ([*SOLVE, "--device", "hpu"], "--device hpu can't be used"),
    "private device": ([*SOLVE, "--device", "privateuseone"], "--device privateuseone can't be used"),
    "superscript": ([*SOLVE, "--from", "²"], "--from takes a checkpoint such as step_200, not '²'"),
    "long step": ([*SOLVE, "--from", LONG], "--from takes a checkpoint"),
    "long name": (["solve", "x" * 5000, PUZZLE], "there is no run or model"),
    "control characters": (["solve", "a\x1b[31m b", PUZZLE], r"'a\x1b[31m b'"),
    "epochs nan": (["train", "--preset", "sudoku-4x4", "--epochs", "nan"], "--epochs must be a number above 0"),
    "epochs inf": (["train", "--preset", "sudoku-4x4", "--epochs", "inf"], "--epochs must be a number above 0"),
    "epochs": (["train", "--preset", "sudoku-4x4", "--epochs", "1e308"], "--epochs must be a number above 0"),
    "many epochs": (["train", "--preset", "sudoku-4x4", "--epochs", "1e14"], "the limit is 1,000,000,000"),
    "minutes": ([*TRAIN, "--minutes", "nan"], "--minutes must be a number above 0"),
    "training on meta": ([*TRAIN, "--device", "meta"], "--device meta can't be used"),
    "a large network": ([*TRAIN, "--set", "model.hidden_size=200000"], "training needs"),
    "a large batch": ([*TRAIN, "--set", "training.batch_size=900000000"], "training needs"),
    "a large vocabulary": ([*TRAIN, "--set", "model.expansion=1e308"], "model.expansion"),
    "layers": ([*TRAIN, "--set", "model.num_layers=1000000"], "model.num_layers = 1000000"),
    "cycles": ([*TRAIN, "--set", "model.T_cycles=1000000"], "model.T_cycles = 1000000"),
    "depth": ([*TRAIN, "--set", "model.T_cycles=1000", "--set", "model.n_latent_steps=999"], "effective depth"),
    "a long number": ([*TRAIN, "--set", f"training.log_every={LONG}"], "too many digits"),
    "a large number": ([*TRAIN, "--set", f"training.warmup_steps={10**40}"], "limited to 1,000,000,000"),
    "a large seed": ([*TRAIN, "--set", f"training.seed={10**40}"], "training.seed"),
    "slots for sudoku": ([*TRAIN, "--set", "model.outputs=slots"], "model.head.kind = 'slots' contradicts task sudoku"),
    "values for sudoku": ([*TRAIN, "--set", "model.outputs=values"], "model.head.kind = 'values' contradicts"),
    "bags for sudoku": ([*TRAIN, "--set", "model.inputs=bags"], "model.inputs = 'bags' contradicts task sudoku"),
    "examples": ([*TRAIN, "--set", "task.train_count=99999999"], "memory"),
    "no file": (["data", "sudoku", "--size", 4, "--count", 2, "--out", ""], "it is a folder; name a file"),
    "a folder": (["data", "sudoku", "--size", 4, "--count", 2, "--out", "."], "it is a folder; name a file"),
    "a large maze": (["data", "maze", "--count", 2, "--size", LONG, "--out", "mazes.csv"], "--size takes a number"),
    "many puzzles": (["data", "sudoku", "--count", 10**18, "--out", "puzzles.csv"], "--count"),
    "superscript seeds": (["sweep", "--preset", "sudoku-4x4", "--vary", "training.seed=1", "--seeds", "²"], "--seeds"),
}


def check(run: Run, arguments: list[Any], words: str) -> None:
    """Runs a command and checks its error."""
    result = run(*arguments)
    lines = result.printed_err.strip().splitlines()
    assert result.code in (1, 2), result
    assert " ".join(words.split()) in " ".join(result.err.replace("│", " ").split()), result.err
    assert len(lines) <= 10
    assert max(map(len, lines)) < 200
    assert "bug" not in result.err
    assert "Traceback" not in result.err


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", OPTIONS)
def test_wrong_options(name: str, run: Run, tmp_path: Path) -> None:
    check(run, *OPTIONS[name])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def saved(trained: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    folder = tmp_path / "saved"
    folder.mkdir()
    for file in (trained / "model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


SECTIONS: dict[str, tuple[str, Any, str]] = {
    "hidden_size": ("model.hidden_size", 10**9, "model.hidden_size = 1000000000"),
    "hidden_size of another model": ("model.hidden_size", 100_000, "has shape"),
    "hidden_size above 64 bits": ("model.hidden_size", 10**19, "model.hidden_size = 10000000000000000000"),
    "seq_len": ("model.seq_len", 10**9, "model.seq_len = 1000000000"),
    "seq_len of another model": ("model.seq_len", 10**6, "has shape"),
    "vocab_size": ("model.vocab_size", 10**12, "model.vocab_size = 1000000000000"),
    "expansion": ("model.expansion", 1e308, "model.expansion = 1e+308"),
    "inner_multiple": ("model.inner_multiple", 10**12, "model.inner_multiple = 1000000000000"),
    "prefix_tokens": ("model.prefix_tokens", 10**9, "model.prefix_tokens = 1000000000"),
    "num_layers": ("model.num_layers", 200, "does not fit the model"),
    "a relative module": ("task.name", ".x:y", "is not MODULE:CLASS"),
    "parents": ("task.name", "..:y", "is not MODULE:CLASS"),
    "no module": ("task.name", ":x", "is not MODULE:CLASS"),
    "no class": ("task.name", "trm_fast.tasks.base:", "is not MODULE:CLASS"),
    "the base class": ("task.name", "trm_fast.tasks.base:Task", "does not define Config"),
    "no task": ("task.name", "os:system", "not a subclass"),
    "a module": ("task.name", "antigravity:Task", "add --trust-code"),
    "steps": ("solver.max_steps", 10**30, "solver.max_steps"),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_wrong_configurations_of_a_model(name: str, saved: Path, run: Run) -> None:
    key, value, words = SECTIONS[name]
    section, _, key = key.partition(".")
    config = json.loads((saved / "config.json").read_text())
    config.setdefault(section, {})[key] = value
    (saved / "config.json").write_text(json.dumps(config))
    check(run, ["solve", "saved", PUZZLE], words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "saved/config.json: lists and objects are nested more than 100 deep"),
        ('{"a":' * 100_000, "saved/config.json: lists and objects are nested more than 100 deep"),
        ('{"model": ' + LONG + "}", "saved/config.json: not valid JSON: a number has too many digits"),
        (" " * (17 << 20), "saved/config.json has 17.0 MiB"),
    ],
)
def test_wrong_files_of_a_model(text: str, words: str, saved: Path, run: Run) -> None:
    (saved / "config.json").write_text(text)
    check(run, ["solve", "saved", PUZZLE], words)


def test_an_endless_configuration(saved: Path, run: Run) -> None:
    (saved / "config.json").unlink()
    (saved / "config.json").symlink_to("/dev/zero")
    check(run, ["solve", "saved", PUZZLE], "saved/config.json is not UTF-8 text")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float, saved: Path, run: Run) -> None:
    tensors = load_file(saved / "model.safetensors")
    tensors["z_init"][3] = value
    save_file(tensors, saved / "model.safetensors")
    check(run, ["solve", "saved", PUZZLE], "z_init has values that are not finite")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: " + "[" * 20_000, "c.yaml: lists and objects are nested more than 100 deep"),
        ("- " * 5000 + "x", "c.yaml: lists and objects are nested more than 100 deep"),
        (f"training: {{steps: {LONG}}}", "c.yaml: a value of the YAML cannot be read: a number has too many digits"),
        ("training: {steps: 2024-13-45}", "c.yaml: a value of the YAML cannot be read: month must be in 1..12"),
        ("a: &a [*a]", "c.yaml: the YAML stands for more than"),
        ("\0", "c.yaml is not UTF-8 text"),
        ("x: " + "y" * (1 << 19), "c.yaml has"),
    ],
)
def test_wrong_configuration_files(text: str, words: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    save_file({"weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    check(run, ["train", "--config", "c.yaml", "--out", "run"], words)
    check(run, ["import", "x.safetensors", "--task", "sudoku", "--out", "model", "--config", "c.yaml"], words)
    assert not (tmp_path / "run").exists()


def test_an_alias_bomb(run: Run, tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    check(run, ["train", "--config", "c.yaml"], "c.yaml: the YAML stands for more than 100,000 values")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"step": 1, "loss": 0.5}', ""),
        ('{"step": 1, "loss": 1' + "0" * 400 + "}", "not a record of metrics"),
        ('{"step": 1, "loss": ' + "[" * 1000 + "]" * 1000 + "}", "metrics.jsonl:1: lists and objects are nested"),
        ('{"step": "1", "loss": 0.5}', "not a record of metrics"),
        ('{"step": 1, "loss": "high"', "not valid JSON"),
    ],
)
def test_metrics_of_a_run(line: str, words: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("task: {}\n")
    (tmp_path / "run" / "metrics.jsonl").write_text(line + "\n")
    if words:
        check(run, ["plot", "run"], words)
    else:
        assert run("plot", "run").code == 0


def test_compressed_files_that_expand_without_end(run: Run, tmp_path: Path) -> None:
    for name, block in (("zeros.csv.gz", b"\0"), ("line.csv.gz", b"a"), ("line.json.gz", b"[")):
        with gzip.open(tmp_path / name, "wb", 1) as stream:
            for _ in range(100):
                stream.write(block * (1 << 20))
    check(run, ["solve", "sudoku-4x4", "zeros.csv.gz"], "zeros.csv.gz is not UTF-8 text")
    check(run, ["eval", "sudoku-4x4", "--data", "line.csv.gz"], "line.csv.gz")
    check(run, ["data", "xlam", "line.json.gz"], "line.json.gz")


def test_the_agent_reads_no_other_text(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"info\n\xff\n")
    with (tmp_path / "in").open(encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        check(run, ["agent", "sudoku-4x4"], "standard input is not UTF-8 text")


def test_long_values_cost_nothing(run: Run, tmp_path: Path) -> None:
    for key in ("task.name", "training.optimizer", "model.head", "nope", "training.steps", "data.source"):
        (tmp_path / "c.yaml").write_text(
            f"{key.partition('.')[0]}: {{{key.partition('.')[2] or 'x'}: {'y' * 100_000}}}"
        )
        result = run("train", "--config", "c.yaml")
        assert result.code in (1, 2)
        assert len(result.err) < 1500
        assert max(map(len, result.printed_err.splitlines())) < 200
    write_text(tmp_path / "long.csv", f"question,answer\n{'1' * 100_000},{'2' * 100_000}\n")
    check(run, ["eval", "sudoku-4x4", "--data", "long.csv"], "long.csv:2")
