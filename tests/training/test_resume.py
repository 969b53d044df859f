"""A resumed run equals the uninterrupted run bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from trm_fast.training import RunConfig, Trainer, checkpoint

from .small import KillAt, Killed, run_config

KINDS: dict[str, RunConfig] = {
    "float32": run_config(),
    "dropout": run_config({"dropout": 0.2, "state": "single"}),
    "bfloat16": run_config(dtype="bfloat16", gradient_accumulation=3, clip_norm=1.0),
    "from easy to hard": run_config({"state": "single"}, easy_first=90),
    "random states": run_config(initial_state="random", state_noise=0.2, gradient_accumulation=2),
    "initial states": run_config({"initial_states": 3, "state": "single"}, gradient_accumulation=2),
    "no average": run_config({"mixing": "attention"}, ema_decay=0.0, optimizer="adamw", eval_every=0),
}


def content(out: Path) -> dict[str, Any]:
    """Everything that a run writes, except its seconds."""
    written: dict[str, Any] = {"steps": checkpoint.saved_steps(out)}
    for step in written["steps"]:
        groups, state = checkpoint.load(out, step)
        written |= {f"{step}/{group}/{name}": t for group, tensors in groups.items() for name, t in tensors.items()}
        written |= {f"{step}/{key}": state[key] for key in ("step", "parts", "best")}
    written |= {f"model/{n}": t for n, t in load_file(out / "model" / "model.safetensors").items()}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    written["metrics"] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    written["config"] = (out / "config.yaml").read_text()
    return written


def assert_same(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        equal = torch.equal(got[name], value) if isinstance(value, Tensor) else got[name] == value
        assert equal, f"{name} differs"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    runs = {}
    for kind, config in KINDS.items():
        out = tmp_path_factory.mktemp("straight") / "run"
        Trainer(config, out).train()
        runs[kind] = content(out)
    return runs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [3, 20, 27])
def test_stopped_and_resumed(kind: str, stop: int, tmp_path: Path, straight: dict[str, dict[str, Any]]) -> None:
    """At a checkpoint, between checkpoints, and before the first one."""
    out = tmp_path / "run"
    with pytest.raises(Killed):
        Trainer(KINDS[kind], out, callbacks=[KillAt(stop)]).train()
    torch.rand(5)  # other users of the global generator have no influence
    trainer = Trainer.resume(out)
    assert trainer.step == {3: 0, 20: 10, 27: 20}[stop]
    trainer.train()
    assert_same(content(out), straight[kind])


def test_stopped_twice(tmp_path: Path, straight: dict[str, dict[str, Any]]) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        Trainer(KINDS["dropout"], out, callbacks=[KillAt(14)]).train()
    with pytest.raises(Killed):
        Trainer.resume(out, callbacks=[KillAt(36)]).train()
    Trainer.resume(out).train()
    assert_same(content(out), straight["dropout"])


def test_the_seed_determines_the_run(tmp_path: Path, straight: dict[str, dict[str, Any]]) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        Trainer(run_config(seed=seed), tmp_path / name).train()
    assert_same(content(tmp_path / "same"), straight["float32"])
    assert content(tmp_path / "other")["metrics"] != straight["float32"]["metrics"]


@pytest.mark.parametrize("kind", ["dropout"])
def test_evaluating_does_not_change_training(kind: str, tmp_path: Path, straight: dict[str, dict[str, Any]]) -> None:
    Trainer(run_config({"dropout": 0.2, "state": "single"}, eval_every=1), tmp_path / "run").train()
    got = content(tmp_path / "run")
    for name, value in straight[kind].items():
        if name.startswith("40/") and isinstance(value, Tensor):
            assert torch.equal(got[name], value), name


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    """With a rate that does not depend on the length, 20 steps and 20 more equal 40."""
    constant = {"schedule": "constant", "eval_every": 20}
    Trainer(run_config(**constant), tmp_path / "straight").train()
    Trainer(run_config(steps=20, **constant), tmp_path / "longer").train()
    Trainer.resume(tmp_path / "longer", config=run_config(**constant)).train()
    assert_same(content(tmp_path / "longer"), content(tmp_path / "straight"))


KILLED_AT_STEP = """
import os, signal, sys
from pathlib import Path
from trm_fast.training import Callback, Trainer, make_config
from trm_fast.training import read_yaml

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

rename = os.rename

def rename_or_die(source, target, **options):
    die() if Path(target).name.startswith("step_") else rename(source, target, **options)

class Reporter(Callback):
    def on_step(self, step):
        if step == 27 and sys.argv[1] == "training":
            die()
        if step == 30 and sys.argv[1] == "writing":  # all files exist, but not under the checkpoint's name
            os.rename = rename_or_die

config, out = Path(sys.argv[2]), sys.argv[3]
Trainer(make_config(read_yaml(config), str(config)), out, callbacks=[Reporter()]).train()
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["training", "writing"])
def test_killed_and_resumed(moment: str, tmp_path: Path, straight: dict[str, dict[str, Any]]) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(KINDS["float32"].to_yaml())
    command = [sys.executable, "-c", KILLED_AT_STEP, moment, str(config), str(out)]
    # Another folder, because the source tree could hide an installed package and its kernels.
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == -9, done.stderr
    unfinished = list((out / "checkpoints").glob(".writing-*"))
    assert len(unfinished) == (0 if moment == "training" else 1)
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 28, "lo')  # as if the kill had interrupted a write
    trainer = Trainer.resume(out)
    assert trainer.step == 20
    trainer.train()
    assert not list((out / "checkpoints").glob(".writing-*"))
    assert_same(content(out), straight["float32"])
