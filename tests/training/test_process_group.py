"""Several processes train what one would: the same losses, the same files, whoever goes on with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trm_fast.errors import UserError
from trm_fast.inference.capture import CudaGraph
from trm_fast.training import RunConfig, Trainer, checkpoint
from trm_fast.training.folder import read_metrics
from trm_fast.training.process_group import ALONE, ProcessGroup, join, leave

from .small import run_config

ROOT = Path(__file__).parents[2]
MODEL = {"prefix_tokens": 2, "puzzle_embedding_size": 12}
TRAINING = {
    "batch_size": 8, "schedule": "constant", "warmup_steps": 0, "clip_norm": 5.0, "eval_every": 20,
    "puzzle_learning_rate": 1e-3, "puzzle_weight_decay": 0.1, "log_every": 4,
}  # fmt: skip


def torchrun(cwd: Path, count: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)


def train(run: Path, config: RunConfig, count: int, resume: bool = False) -> None:
    """``config.training.steps`` steps in ``count`` processes."""
    if count == 1:
        (Trainer.resume(run, config=config) if resume else Trainer(config, run)).train()
        return
    file = run.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    which = ["--resume", str(run), "--steps", str(config.training.steps)] if resume else ["--config", str(file)]
    out = [] if resume else ["--out", str(run)]
    done = torchrun(run.parent, count, "-m", "trm_fast.cli", "train", *which, *out, "--device=cpu", "--json")
    assert done.returncode == 0, done.stderr
    summaries = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [s["steps"] for s in summaries] == [config.training.steps], "one process speaks for all"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    train(run, run_config(MODEL, steps=40, **TRAINING), 1)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 1), (1, 2)])
def test_two_processes_are_one(counts: tuple[int, int], alone: Path, tmp_path: Path) -> None:
    """20 steps, and 20 more by another number of processes, against 40 by one."""
    run = tmp_path / "run"
    train(run, run_config(MODEL, steps=20, **TRAINING), counts[0])
    train(run, run_config(MODEL, steps=40, **TRAINING), counts[1], resume=True)
    got, want = ([r for r in read_metrics(path) if "loss" in r] for path in (run, alone))
    assert [r["step"] for r in got] == [r["step"] for r in want] == list(range(4, 41, 4))
    for mine, theirs in zip(got, want, strict=True):
        for name in ("loss", "answer_loss", "halting_loss"):
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3), (mine["step"], name)
        # Rounding may decide between two tokens that are as likely: a cell or two.
        assert mine["cell_accuracy"] == pytest.approx(theirs["cell_accuracy"], abs=0.03), mine["step"]
        assert mine["finished"] == theirs["finished"]
    (a, state), (b, _) = checkpoint.load(run), checkpoint.load(alone)
    assert state["step"] == 40
    for group in ("model", "ema", "carry"):
        for name in (name for name in b[group] if not name.startswith("rng")):
            mine, theirs = a[group][name].double(), b[group][name].double()
            assert torch.allclose(mine, theirs, rtol=1e-2, atol=2e-3), f"{group} {name}"
    evaluations = [[r["eval_cell_accuracy"] for r in read_metrics(p) if "eval_count" in r] for p in (run, alone)]
    assert evaluations[0][-1] == pytest.approx(evaluations[1][-1], abs=0.03)
    left = [load_file(path / "model" / "model.safetensors") for path in (run, alone)]
    assert left[0].keys() == left[1].keys()


STEPS = """
import sys
sys.path.append(sys.argv[1])
import numpy as np, torch
from tests.training.small import Source, make_model, training_config
from trm_fast.training.optimizers import AdamATan2
from trm_fast.training import TrainStep
from trm_fast.training.process_group import ALONE, join, leave

MODELS = [
    {"prefix_tokens": 2, "puzzle_embedding_size": 12, "num_puzzles": 4},
    {"mixing": "attention", "positions": "rope", "state": "single"},
    {"norm_position": "pre"},
]
group, device = join("cpu")
for changes in MODELS:
    steps = []
    for mine in (ALONE, group):
        model = make_model(dtype=torch.float64, **changes)
        config = training_config(batch_size=8, clip_norm=0.5, puzzle_learning_rate=0.02)
        optimizer = AdamATan2(model.parameters(), 0.0, weight_decay=0.1, ema_decay=0.9)
        steps.append(TrainStep(model, optimizer, config, Source(), parts=2, group=mine))
    rng = np.random.default_rng(0)
    for number in range(1, 13):
        minimum = rng.integers(0, 4, 8).astype(np.int32)
        for step in steps:
            step.run(0.01 / number, minimum)
        one, ours = steps
        for name, tensor in one.carry.tensors().items():
            torch.testing.assert_close(group.gather(ours.carry.tensors()[name]), tensor, rtol=1e-7, atol=1e-9)
        mine, theirs = (list(step.peek_totals().values()) for step in (ours, one))
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)
        for a, b in zip(ours.optimizer.weights + ours.optimizer.ema, one.optimizer.weights + one.optimizer.ema):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
        if one.model.puzzle_embedding is not None:
            torch.testing.assert_close(ours.model.puzzle_embedding, one.model.puzzle_embedding)
        assert int(ours.pool.taken) == int(one.pool.taken)
    assert 8 < int(one.pool.taken) < 96
if group.writes:
    print("steps agree in", group.size)
leave()
"""


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_shared_step_is_the_step_of_the_whole_batch(count: int, tmp_path: Path) -> None:
    """In float64: losses, carry, averaged weights and sparse rows, with clipping and parts."""
    (tmp_path / "steps.py").write_text(STEPS)
    done = torchrun(tmp_path, count, "steps.py", str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"steps agree in {count}" in done.stdout


REPLAYS = """
import sys
sys.path.append(sys.argv[1])
import numpy as np, torch
from tests.training.recorder import Recorder
from tests.training.small import Source, make_model, training_config
from trm_fast.training.optimizers import AdamATan2
from trm_fast.training import TrainStep
from trm_fast.inference.capture import Eager
from trm_fast.training.process_group import join, leave

MODELS = [
    {"prefix_tokens": 2, "puzzle_embedding_size": 12, "num_puzzles": 4},
    {"mixing": "attention", "positions": "rope", "state": "single"},
]
group, device = join("cpu")
for changes in MODELS:
    steps = []
    for runner in (Eager(), Recorder()):
        model = make_model(**changes)
        config = training_config(batch_size=8, clip_norm=0.5, puzzle_learning_rate=0.02)
        optimizer = AdamATan2(model.parameters(), 0.0, weight_decay=0.1, ema_decay=0.9)
        steps.append(TrainStep(model, optimizer, config, Source(), parts=2, group=group, runner=runner))
    assert sum("c10d" in str(row[0]) for row in runner.tape) == (4 if "prefix_tokens" in changes else 2)
    rng = np.random.default_rng(0)
    for number in range(1, 13):
        minimum = rng.integers(0, 4, 8).astype(np.int32)
        for step in steps:
            step.run(0.01 / number, minimum)
        for a, b in zip(*(step.tensors() for step in steps)):
            assert torch.equal(a.nan_to_num(), b.nan_to_num()), number
    assert 8 < int(steps[0].pool.taken) < 96
if group.writes:
    print("replays are steps")
leave()
"""


@pytest.mark.slow
def test_a_shared_step_replays_bit_for_bit(tmp_path: Path) -> None:
    """Its messages are part of the recording, as NCCL's are of a graph."""
    (tmp_path / "replays.py").write_text(REPLAYS)
    done = torchrun(tmp_path, 2, "replays.py", str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "replays are steps" in done.stdout


LEFT = """
import glob, os
import torch
import torch.distributed as dist
from trm_fast.training.process_group import join, leave

def threads():
    return [name for path in glob.glob("/proc/self/task/*/comm") if "gloo" in (name := open(path).read())]

group, _ = join("cpu")
import torch._dynamo, torch.distributed.fsdp
group.sum_(torch.ones(3))
assert threads()
leave()
assert not threads(), threads()
leave()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_outlives_the_group(tmp_path: Path) -> None:
    """One that does may need Python after its end, which aborts the process now and then."""
    (tmp_path / "left.py").write_text(LEFT)
    done = torchrun(tmp_path, 2, "left.py")
    assert done.returncode == 0, done.stderr[-3000:]


def test_graphs_go_before_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's communicator is not let go while a graph holds a message of its."""
    done: list[str] = []
    runner = CudaGraph(torch.device("cuda"))
    runner.graph = SimpleNamespace(reset=lambda: done.append("graph"))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("group"))
    leave()
    assert done == ["graph", "group"]


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="a GPU of its own, and this machine has 1"):
        join("cuda")


def test_one_process_costs_nothing() -> None:
    tensor: Any = torch.arange(3.0)
    assert ALONE.gather(tensor) is tensor
    assert ALONE.sum_(tensor) is tensor
    assert ALONE.gather_objects(tensor) == [tensor]
    assert ALONE.slice_of_batch(7) == slice(0, 7)


def test_shares_are_equal_and_parts_nearly() -> None:
    groups = [ProcessGroup(rank, 3) for rank in range(3)]
    assert [range(9)[g.slice_of_batch(9)] for g in groups] == [range(3), range(3, 6), range(6, 9)]
    assert [len(range(8)[g.slice_of(8)]) for g in groups] == [2, 3, 3]
    with pytest.raises(UserError, match="batch_size = 8 can't be shared by 3 processes"):
        groups[0].slice_of_batch(8)
