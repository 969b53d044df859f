"""Callbacks: their calls, their files, and the messages for missing packages."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console as Terminal

from trm_fast.errors import UserError
from trm_fast.training import Callback, Trainer
from trm_fast.training.callbacks import callback_names, make_callback
from trm_fast.training.callbacks.base import CALLBACKS, Run, scalars
from trm_fast.training.callbacks.console import Console
from trm_fast.training.folder import read_metrics

from .small import KillAt, Killed, run_config

STEPS = {"steps": 8, "log_every": 2, "eval_every": 4, "checkpoint_every": 4}


class Recording(Callback):
    """Records all calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_start(self, run: Run) -> None:
        self.calls.append(("start", (run.step, run.folder.name, run.train_count, run.test_count, run.noun)))

    def on_step(self, step: int) -> None:
        self.calls.append(("step", step))

    def on_log(self, record: dict[str, Any]) -> None:
        self.calls.append(("log", record))

    def on_end(self, summary: dict[str, Any] | None) -> None:
        self.calls.append(("end", summary and summary["steps"]))


def test_several_callbacks_get_the_same_calls_in_order(tmp_path: Path) -> None:
    one, other = Recording(), Recording()
    Trainer(run_config(**STEPS), tmp_path / "run", callbacks=[one, other]).train()
    assert one.calls == other.calls
    assert one.calls[0] == ("start", (0, "run", 30, 6, "puzzles"))
    assert one.calls[-1] == ("end", 8)
    assert [step for what, step in one.calls if what == "step"] == list(range(1, 9))
    assert [json.loads(json.dumps(r)) for what, r in one.calls if what == "log"] == read_metrics(tmp_path / "run")


def test_callbacks_are_ended_when_a_run_fails(tmp_path: Path) -> None:
    class Fails(Callback):
        def on_start(self, run: Run) -> None:
            raise UserError("no such account")

    recording = Recording()
    with pytest.raises(Killed):
        Trainer(run_config(**STEPS), tmp_path / "killed", callbacks=[recording, KillAt(3)]).train()
    assert recording.calls[-1] == ("end", None)
    recording = Recording()
    with pytest.raises(UserError, match="no such account"):
        Trainer(run_config(**STEPS), tmp_path / "failed", callbacks=[recording, Fails()]).train()
    assert [what for what, _ in recording.calls] == ["start", "end"]


def test_a_resumed_run_passes_its_step(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        Trainer(run_config(**STEPS), tmp_path / "run", callbacks=[KillAt(6)]).train()
    recording = Recording()
    Trainer.resume(tmp_path / "run", callbacks=[recording]).train()
    assert recording.calls[0][1][0] == 4


def test_callbacks_have_names() -> None:
    assert {"console", "json_lines", "tensorboard", "wandb"} <= set(callback_names())
    with pytest.raises(UserError, match=r"unknown callback 'tensorbord'; choose one of: .*console, .*json_lines"):
        make_callback("tensorbord")
    assert isinstance(make_callback("console"), Console)


def test_curves_have_conventional_names() -> None:
    record = {"step": 3, "loss": 1.5, "exact_accuracy": None, "seconds": 2.0, "finished": 4}
    assert scalars(record) == {"train/loss": 1.5, "train/finished": 4}
    assert scalars({"step": 3, "eval_exact_accuracy": 0.5, "eval_interval": (0, 1)}) == {"eval/exact_accuracy": 0.5}


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == package or m.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"trm_fast.training.callbacks.{name}", raising=False)
    with pytest.raises(UserError, match=rf'{name} needs a further package .*pip install "trm-fast\[{name}\]"'):
        make_callback(name)


def test_optional_packages_are_imported_at_first_use() -> None:
    code = (
        "import sys, trm_fast.training; "
        "print(sorted({'typer', 'rich', 'tensorboard', 'wandb', 'matplotlib'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_tensorboard_files_hold_the_logged_values(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    with pytest.raises(Killed):
        Trainer(run_config(**STEPS), out, callbacks=[make_callback("tensorboard"), KillAt(7)]).train()
    Trainer.resume(out, callbacks=[make_callback("tensorboard")]).train()
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    records = read_metrics(out)
    for name, key in (("train/loss", "loss"), ("eval/exact_accuracy", "eval_exact_accuracy")):
        want = [(r["step"], r[key]) for r in records if key in r]
        got = [(e.step, e.value) for e in events.Scalars(name)]
        assert [step for step, _ in got] == [step for step, _ in want], "each step once, also in a resumed run"
        assert [value for _, value in got] == pytest.approx([value for _, value in want])


@pytest.fixture
def not_imported() -> Iterator[None]:
    """Makes W&B's callback unimported, before and after the test."""

    def forget() -> None:
        sys.modules.pop("trm_fast.training.callbacks.wandb", None)
        CALLBACKS.pop("wandb", None)

    forget()
    yield
    forget()


@pytest.mark.usefixtures("not_imported")
def test_wandb_gets_the_logged_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes the package and checks curves, configuration, and the id of a resumed run."""
    inits, logged, finished = [], [], []

    def init(**options: Any) -> Any:
        inits.append(options)
        return SimpleNamespace(
            id=options["id"] or "abc123",
            log=lambda values, step: logged.append((step, values)),
            summary={},
            finish=lambda exit_code: finished.append(exit_code),
        )

    fake = ModuleType("wandb")
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    out = tmp_path / "run"
    with pytest.raises(Killed):
        Trainer(run_config(**STEPS), out, callbacks=[make_callback("wandb"), KillAt(5)]).train()
    Trainer.resume(out, callbacks=[make_callback("wandb")]).train()
    assert [options["id"] for options in inits] == [None, "abc123"]
    assert inits[0]["config"]["training"]["steps"] == 8
    assert inits[0]["name"] == "run"
    assert finished == [1, 0]
    assert logged[0][0] == 2
    assert logged[0][1]["train/loss"] == read_metrics(out)[0]["loss"]
    assert any("eval/exact_accuracy" in values for _, values in logged)


@pytest.mark.slow  # its service takes a while to start
@pytest.mark.usefixtures("not_imported")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="W&B is not installed: the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))
    out = tmp_path / "run"
    Trainer(run_config(**STEPS), out, callbacks=[make_callback("wandb")]).train()
    assert list((out / "wandb").glob("offline-run-*/*.wandb"))
    assert (out / "wandb_id.txt").read_text().strip()


def test_the_console_without_a_terminal_prints_a_line_per_record(tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(terminal=Terminal(file=text, width=200))
    Trainer(run_config(**STEPS), tmp_path / "run", callbacks=[console]).train()
    lines = text.getvalue().splitlines()
    assert "sudoku: 30 puzzles to learn from, 6 unseen" in lines[0]
    assert [line.split("  ")[0] for line in lines if "  loss" in line] == ["step 2", "step 4", "step 6", "step 8"]
    assert sum("unseen puzzles exactly right" in line for line in lines) == 2
