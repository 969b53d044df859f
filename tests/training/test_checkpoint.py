"""Checkpoints: complete or absent, verified before loading, the right ones kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from trm_fast.errors import UserError
from trm_fast.training import Trainer, checkpoint

from .small import run_config


def groups(value: float) -> dict[str, dict[str, Tensor]]:
    return {
        "model": {"w": torch.full((3, 4), float(value))},
        "carry": {
            "b": torch.tensor([True, False]),
            "half": torch.full((5,), value, dtype=torch.bfloat16),
            "n": torch.arange(6, dtype=torch.int32).view(2, 3).T,
        },
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (10, 20):
        checkpoint.save(tmp_path, step, groups(step), {"seconds": step / 3, "feed": {"rng": 2**80}})
    return tmp_path


def loads(run: Path, step: int, from_step: int | None = None) -> bool:
    tensors, state = checkpoint.load(run, from_step)
    same = all(
        torch.equal(tensor, tensors[group][name]) and tensor.dtype == tensors[group][name].dtype
        for group, expected in groups(step).items()
        for name, tensor in expected.items()
    )
    values = (state["step"], state["seconds"], state["feed"])
    return same and tensors.keys() == groups(0).keys() and values == (step, step / 3, {"rng": 2**80})


def test_round_trip(run: Path) -> None:
    assert loads(run, 20)
    assert loads(run, 20, 20)
    assert loads(run, 10, 10)
    assert checkpoint.saved_steps(run) == [10, 20]


def test_a_step_can_be_written_again(run: Path) -> None:
    checkpoint.save(run, 20, groups(5), {})
    assert checkpoint.load(run)[0]["model"]["w"][0, 0] == 5


def test_a_missing_checkpoint_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint step_15; choose one of: step_10, step_20"):
        checkpoint.load(run, 15)
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoint.load(tmp_path / "elsewhere")


def cut(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def flip(name: str, at: int) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[at] ^= 1
        (folder / name).write_bytes(content)

    return apply


def edit(**keys: Any) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        path = folder / "state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return apply


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated tensors": cut("model.safetensors"),
    "one bit of a weight": flip("model.safetensors", -1),
    "one bit of a header": flip("carry.safetensors", 12),
    "emptied tensors": lambda f: (f / "carry.safetensors").write_bytes(b""),
    "missing tensors": lambda f: (f / "carry.safetensors").unlink(),
    "swapped tensors": lambda f: shutil.copy(f / "model.safetensors", f / "carry.safetensors"),
    "missing state": lambda f: (f / "state.json").unlink(),
    "truncated state": lambda f: (f / "state.json").write_bytes((f / "state.json").read_bytes()[:-9]),
    "one bit of the state": flip("state.json", 60),
    "not text": lambda f: (f / "state.json").write_bytes(b"\xff\xfe"),
    "a list": lambda f: (f / "state.json").write_text("[]"),
    "edited seconds": edit(seconds=1.0),
    "edited step": edit(step=30),
    "edited files": edit(files={}),
    "other version": edit(format_version=2),
    "no hash": edit(sha256=None),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_an_earlier_checkpoint_suggested(run: Path, name: str) -> None:
    DAMAGES[name](run / "checkpoints" / "step_20")
    with pytest.raises(UserError, match=r"step_20 is damaged: .*; use an earlier one with --from step_10"):
        checkpoint.load(run)
    assert loads(run, 10, 10)


def test_a_renamed_checkpoint_is_rejected(run: Path) -> None:
    os.rename(run / "checkpoints" / "step_20", run / "checkpoints" / "step_30")
    with pytest.raises(UserError, match="step_30 is damaged"):
        checkpoint.load(run)


def test_damage_of_the_only_checkpoint_is_found(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step_10")
    cut("model.safetensors")(run / "checkpoints" / "step_20")
    with pytest.raises(UserError, match="step_20 is damaged") as error:
        checkpoint.load(run)
    assert "--from" not in str(error.value)


def test_a_checkpoint_that_a_trainer_removes_meanwhile(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest one is read instead, or the message says what happened."""
    read_state = checkpoint.read_state

    def replaced(folder: Path) -> dict[str, Any]:
        if folder.name == "step_20":
            checkpoint.save(run, 30, groups(30), {"seconds": 10.0})
            shutil.rmtree(folder)
        return read_state(folder)

    monkeypatch.setattr(checkpoint, "read_state", replaced)
    with pytest.raises(UserError, match="step_20 was removed while it was read, by a process that trains it"):
        checkpoint.load(run, 20)
    shutil.rmtree(run / "checkpoints" / "step_30")
    checkpoint.save(run, 20, groups(20), {"seconds": 10.0})
    assert checkpoint.load(run)[1]["step"] == 30


def test_unfinished_folders_are_ignored_and_removed(run: Path) -> None:
    unfinished = run / "checkpoints" / ".writing-step_30"
    shutil.copytree(run / "checkpoints" / "step_20", unfinished)
    (run / "checkpoints" / "step_x").mkdir()
    assert checkpoint.saved_steps(run) == [10, 20]
    assert loads(run, 20)
    checkpoint.save(run, 30, groups(30), {"seconds": 10.0, "feed": {"rng": 2**80}})
    assert not unfinished.exists()
    assert loads(run, 30)


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_at_second(tensors: dict[str, Tensor], file: Path) -> None:
    if file.stem == "carry":
        file.write_bytes(b"half")
        full()
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        ("trm_fast.training.checkpoint.save_tensors", full),
        ("trm_fast.training.checkpoint.save_tensors", full_at_second),
        ("pathlib.Path.write_text", full),
        ("os.fsync", full),
        ("os.rename", full),
    ],
)
@pytest.mark.parametrize("step", [20, 30])
def test_a_full_disk(
    run: Path, function: str, failure: Callable[..., None], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(function, failure)
        with pytest.raises(UserError, match=r"could not be written .*No space left") as error:
            checkpoint.save(run, step, groups(step), {})
    steps = checkpoint.saved_steps(run)
    assert f"step_{steps[-1]} is intact" in str(error.value)
    assert loads(run, steps[-1])
    assert 10 in steps
    assert not list((run / "checkpoints").glob(".writing-*"))


def test_a_full_disk_at_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "save_tensors", full)
    with pytest.raises(UserError, match="could not be written") as error:
        checkpoint.save(tmp_path, 10, groups(1), {})
    assert "intact" not in str(error.value)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match="could not be written"):
        checkpoint.save(tmp_path, 10, groups(1), {})


@pytest.mark.parametrize(
    ("last", "newest", "best", "kept"),
    [
        (60, 3, None, [40, 50, 60]),
        (60, 1, None, [60]),
        (60, 2, 20, [20, 50, 60]),
        (60, 2, 60, [50, 60]),
        (60, 9, 10, [10, 20, 30, 40, 50, 60]),
        (40, 2, 10, [10, 30, 40]),  # 50 and 60 are from before a resume at an earlier step
        (40, 1, None, [40]),
    ],
)
def test_pruning(last: int, newest: int, best: int | None, kept: list[int], tmp_path: Path) -> None:
    for step in range(10, 70, 10):
        checkpoint.save(tmp_path, step, {}, {})
    checkpoint.prune(tmp_path, last, newest, best)
    assert checkpoint.saved_steps(tmp_path) == kept
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == sorted(f"step_{s}" for s in kept)


def test_a_run_resumes_from_an_earlier_checkpoint_than_a_damaged_one(tmp_path: Path) -> None:
    out = tmp_path / "run"
    Trainer(run_config(steps=25), out).train()
    weights = (out / "checkpoints" / "step_25" / "model.safetensors").read_bytes()
    cut("model.safetensors")(out / "checkpoints" / "step_25")
    with pytest.raises(UserError, match="--from step_20"):
        Trainer.resume(out)
    trainer = Trainer.resume(out, from_step=20)
    assert trainer.step == 20
    trainer.train()
    assert Trainer.resume(out).step == 25
    assert (out / "checkpoints" / "step_25" / "model.safetensors").read_bytes() == weights


def test_a_resume_from_an_earlier_step_removes_later_checkpoints(tmp_path: Path) -> None:
    """Otherwise the next resume would continue the abandoned run, and pruning would remove the new checkpoints."""
    out = tmp_path / "run"
    Trainer(run_config(steps=40, keep_checkpoints=4), out).train()
    trainer = Trainer.resume(out, from_step=20, config=run_config(steps=25, keep_checkpoints=1))
    trainer.train()
    assert checkpoint.saved_steps(out)[-1] == 25
    assert Trainer.resume(out).step == 25


def test_a_checkpoint_of_another_model_is_rejected(tmp_path: Path) -> None:
    out = tmp_path / "run"
    Trainer(run_config(steps=2), out).train()
    for config in (run_config({"hidden_size": 16}), run_config({"num_layers": 2}), run_config(batch_size=3)):
        with pytest.raises(UserError, match="the checkpoint does not fit"):
            Trainer.resume(out, config=config)
