"""Several processes train the same as one: equal losses and files, also if other processes continue the run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from trm_fast.errors import UserError
from trm_fast.inference.capture import CudaGraph
from trm_fast.training import RunConfig, Trainer, checkpoint
from trm_fast.training.folder import read_metrics
from trm_fast.training.process_group import SINGLE_PROCESS, ProcessGroup, join, leave, restarted_run

from .small import run_config

ROOT = Path(__file__).parents[2]
MODEL = {"prefix_tokens": 2, "puzzle_embedding_size": 12}
TRAINING = {
    "batch_size": 8, "schedule": "constant", "warmup_steps": 0, "clip_norm": 5.0, "eval_every": 20,
    "puzzle_learning_rate": 1e-3, "puzzle_weight_decay": 0.1, "log_every": 4, "dtype": "float32",
}  # fmt: skip


def torchrun(cwd: Path, count: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)


def train(run: Path, config: RunConfig, count: int, resume: bool = False) -> None:
    """Trains ``config.training.steps`` steps in ``count`` processes."""
    if count == 1:
        (Trainer.resume(run, config=config) if resume else Trainer(config, run)).train()
        return
    file = run.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    source = ["--resume", str(run), "--steps", str(config.training.steps)] if resume else ["--config", str(file)]
    out = [] if resume else ["--out", str(run)]
    done = torchrun(run.parent, count, "-m", "trm_fast.cli", "train", *source, *out, "--device=cpu", "--json")
    assert done.returncode == 0, done.stderr
    summaries = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [s["steps"] for s in summaries] == [config.training.steps], "one process prints for all"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    train(run, run_config(MODEL, steps=40, **TRAINING), 1)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 1), (1, 2)])
def test_two_processes_train_the_same_as_one(counts: tuple[int, int], alone: Path, tmp_path: Path) -> None:
    """20 steps and 20 more with another number of processes equal 40 steps of one process, up to rounding."""
    run = tmp_path / "run"
    train(run, run_config(MODEL, steps=20, **TRAINING), counts[0])
    train(run, run_config(MODEL, steps=40, **TRAINING), counts[1], resume=True)
    got, want = ([r for r in read_metrics(path) if "loss" in r] for path in (run, alone))
    assert [r["step"] for r in got] == [r["step"] for r in want] == list(range(4, 41, 4))
    for shared, single in zip(got, want, strict=True):
        for name in ("loss", "answer_loss", "halting_loss"):
            assert shared[name] == pytest.approx(single[name], rel=2e-3), (shared["step"], name)
        # Rounding may change the choice between equally likely tokens in a cell or two.
        assert shared["cell_accuracy"] == pytest.approx(single["cell_accuracy"], abs=0.03), shared["step"]
        assert shared["finished"] == single["finished"]
    (a, state), (b, _) = checkpoint.load(run), checkpoint.load(alone)
    assert state["step"] == 40
    for group in ("model", "ema", "carry"):
        for name in (name for name in b[group] if not name.startswith("rng")):
            shared_tensor, single_tensor = a[group][name].double(), b[group][name].double()
            assert torch.allclose(shared_tensor, single_tensor, rtol=1e-2, atol=2e-3), f"{group} {name}"
    evaluations = [[r["eval_cell_accuracy"] for r in read_metrics(p) if "eval_count" in r] for p in (run, alone)]
    assert evaluations[0][-1] == pytest.approx(evaluations[1][-1], abs=0.03)
    models = [load_file(path / "model" / "model.safetensors") for path in (run, alone)]
    assert models[0].keys() == models[1].keys()


STEPS = """
import sys
import time
sys.path.append(sys.argv[1])
import numpy as np, torch
from tests.training.small import Source, make_model, training_config
from trm_fast.training.optimizers import AdamATan2
from trm_fast.training import TrainStep
from trm_fast.training.process_group import SINGLE_PROCESS, join, leave

MODELS = [
    {"prefix_tokens": 2, "puzzle_embedding_size": 12, "num_puzzles": 4},
    {"mixing": "attention", "positions": "rope", "state": "single"},
    {"norm_position": "pre", "initial_states": 2},
]
RANDOM = {"initial_state": "random", "state_noise": 0.2}
group, device = join("cpu")
for changes in MODELS:
    steps = []
    for step_group in (SINGLE_PROCESS, group):
        model = make_model(dtype=torch.float64, **changes)
        config = training_config(batch_size=8, clip_norm=0.5, puzzle_learning_rate=0.02, **RANDOM)
        optimizer = AdamATan2(model.parameters(), 0.0, weight_decay=0.1, ema_decay=0.9)
        steps.append(TrainStep(model, optimizer, config, Source(), parts=2, group=step_group))
    rng = np.random.default_rng(0)
    for number in range(1, 13):
        minimum = rng.integers(0, 4, 8).astype(np.int32)
        for step in steps:
            step.run(0.01 / number, minimum)
        single, shared = steps
        for name, tensor in single.carry.tensors().items():
            torch.testing.assert_close(group.gather(shared.carry.tensors()[name]), tensor, rtol=1e-7, atol=1e-9)
        totals = [list(step.peek_totals().values()) for step in (shared, single)]
        torch.testing.assert_close(*totals, rtol=1e-6, atol=0)
        optimizers = shared.optimizer, single.optimizer
        for a, b in zip(*(optimizer.weights + optimizer.ema for optimizer in optimizers)):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
        if single.model.puzzle_embedding is not None:
            torch.testing.assert_close(shared.model.puzzle_embedding, single.model.puzzle_embedding)
        assert int(shared.pool.taken) == int(single.pool.taken)
    assert 8 < int(single.pool.taken) < 96
if group.writes:
    print("steps agree in", group.size)
leave()
"""


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_shared_step_equals_the_step_of_the_whole_batch(count: int, tmp_path: Path) -> None:
    """Compares losses, carry, averaged weights and puzzle rows in float64, with clipping and parts."""
    (tmp_path / "steps.py").write_text(STEPS)
    done = torchrun(tmp_path, count, "steps.py", str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"steps agree in {count}" in done.stdout


REPLAYS = """
import sys
import time
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
    """Its collectives are part of the recording, like NCCL's of a graph."""
    (tmp_path / "replays.py").write_text(REPLAYS)
    done = torchrun(tmp_path, 2, "replays.py", str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "replays are steps" in done.stdout


THREADS = """
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
    """A thread that does may need Python after its end, which sometimes aborts the process."""
    (tmp_path / "threads.py").write_text(THREADS)
    done = torchrun(tmp_path, 2, "threads.py")
    assert done.returncode == 0, done.stderr[-3000:]


def test_graphs_are_destroyed_before_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's communicator waits for graphs that hold its collectives."""
    done: list[str] = []
    runner = CudaGraph(torch.device("cuda"))
    runner.graph = SimpleNamespace(reset=lambda: done.append("graph"))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("group"))
    leave()
    assert done == ["graph", "group"]


def test_more_processes_than_gpus_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="a GPU of its own, and this machine has 1"):
        join("cuda")


def test_one_process_copies_nothing() -> None:
    tensor: Any = torch.arange(3.0)
    assert SINGLE_PROCESS.gather(tensor) is tensor
    assert SINGLE_PROCESS.sum_(tensor) is tensor
    assert SINGLE_PROCESS.gather_objects(tensor) == [tensor]
    assert SINGLE_PROCESS.batch_share(7) == slice(0, 7)


def test_shares_of_a_batch_are_equal_and_other_shares_nearly() -> None:
    groups = [ProcessGroup(rank, 3) for rank in range(3)]
    assert [range(9)[g.batch_share(9)] for g in groups] == [range(3), range(3, 6), range(6, 9)]
    assert [len(range(8)[g.share(8)]) for g in groups] == [2, 3, 3]
    with pytest.raises(UserError, match="batch_size = 8 can't be shared by 3 processes"):
        groups[0].batch_share(8)


@pytest.mark.slow
def test_a_killed_process_comes_back_and_the_run_goes_on(tmp_path: Path) -> None:
    config = run_config(steps=400, eval_every=0, checkpoint_every=20, log_every=20, batch_size=8)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    train(tmp_path / "whole", config, 2)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1",
        "-m", "trm_fast.cli", "train", "--config", "config.yaml", "--out", "run", "--device=cpu", "--json",
    ]  # fmt: skip
    launcher = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "step_60").exists() and time.monotonic() < deadline:
            assert launcher.poll() is None
            time.sleep(0.02)
        workers = [p for p in psutil.Process(launcher.pid).children() if "trm_fast.cli" in p.cmdline()]
        assert len(workers) == 2
        workers[1].kill()
        stdout, stderr = launcher.communicate(timeout=200)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, stderr
    summaries = [json.loads(line) for line in stdout.splitlines() if line.startswith("{")]
    assert [s["steps"] for s in summaries] == [400]
    (got, _), (want, _) = checkpoint.load(tmp_path / "run"), checkpoint.load(tmp_path / "whole")
    for group in ("model", "ema", "optimizer"):
        for name, tensor in want[group].items():
            assert torch.equal(got[group][name], tensor), f"{group} {name}"


def test_what_restarted_processes_go_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert restarted_run(tmp_path) is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert restarted_run(tmp_path) is None  # they ended before there was a run
    (tmp_path / "config.yaml").touch()
    assert restarted_run(tmp_path) == tmp_path
    with pytest.raises(UserError, match="name the run with --out"):
        restarted_run(None)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--rollouts", "3", "--noise", "0.5", "--select", "confidence")])
def test_two_processes_evaluate_as_one(options: tuple[str, ...], tmp_path: Path) -> None:
    Trainer(run_config(steps=8, eval_every=0), tmp_path / "run").train()
    data = subprocess.run(
        [sys.executable, "-m", "trm_fast.cli", "data", "sudoku", "--size", "4", "--count", "37", "--out", "p.csv"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert data.returncode == 0
    command = ("-m", "trm_fast.cli", "eval", "run", "--data", "p.csv", "--device", "cpu", "--json", *options)
    one = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
    two = torchrun(tmp_path, 2, *command)
    assert two.returncode == 0, two.stderr
    lines = [line for line in two.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1, "one process prints for all"
    want, got = json.loads(one.stdout), json.loads(lines[0])
    for timed in ("seconds", "puzzles_per_second"):
        del want[timed], got[timed]
    assert got == want
    assert got["count"] == 37
