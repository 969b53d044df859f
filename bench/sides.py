"""The two sides that bench/end_to_end.py compares, each in its own process: the published computation in stock PyTorch
(``baseline``) and ours, from the same weights and data."""

from __future__ import annotations

import importlib
import re
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from trm_fast import TRM, ops
from trm_fast.inference.capture import runner_for
from trm_fast.interchange import from_published, published_config
from trm_fast.models import TRMConfig
from trm_fast.tasks import get_task
from trm_fast.tasks.base import Examples
from trm_fast.training import TrainingConfig, TrainStep
from trm_fast.training.feed import Feed
from trm_fast.training.optimizers import AdamATan2
from trm_fast.training.read_config import make_config, read_preset

eager_trm: Any = importlib.import_module("baseline.eager_trm")
NO_PREFIX = {"tokens": 81, "puzzle_emb_ndim": 0}
SMALL = {**NO_PREFIX, "H_cycles": 2, "L_cycles": 2, "num_heads": 4}
MODELS: dict[str, dict[str, Any]] = {  # with the configuration keys of the published code
    "mixer97": {"tokens": 97},
    "mixer81": NO_PREFIX,
    "attention97": {"tokens": 97, "mixer": False},
    "sudoku-cpu": {**SMALL, "hidden_size": 128},
    "sudoku-4x4": {**SMALL, "hidden_size": 64, "seq_len": 16, "vocab_size": 6},
}
PRESETS = ("sudoku-extreme",)  # of ours, for models that the published code does not have
SOLVER_STEPS = 16
QUICK = 1.0  # seconds; steps shorter than this are timed right after an untimed step


class Problem:
    """What both sides share: the case, its data, and the initial weights: ``model`` is the published model with them,
    or None, and ``our_model`` makes ours."""

    def __init__(self, case: str, data: str | None, device: str, dtype: str) -> None:
        self.kind, name, batch = case.split(":")
        self.batch_size, self.name = int(batch), name
        self.device = torch.device(device)
        self.dtype: torch.dtype = getattr(torch, dtype)
        ours = configuration(name)
        L, V = ours.seq_len, ours.vocab_size
        torch.manual_seed(0)
        self.model = None if name in PRESETS else self._published()
        rows = _rows(data, self.batch_size) if L == 81 else None
        inputs, labels = rows if rows else (torch.randint(1, V, (self.batch_size, L)) for _ in range(2))
        self.batch = {
            "inputs": inputs.int(),
            "labels": labels.long(),
            "puzzle_identifiers": torch.zeros(self.batch_size, dtype=torch.int32),
        }
        self.batch = {name: tensor.to(self.device) for name, tensor in self.batch.items()}

    def _published(self) -> Any:
        self.config = eager_trm.sudoku_config(**MODELS[self.name])
        model = eager_trm.TRM(self.config, dtype=self.dtype).to(self.device)
        if model.rope is not None:
            model.rope = tuple(t.to(self.device) for t in model.rope)
        return model

    def our_model(self) -> TRM:
        """Our model with the weights of both sides."""
        if self.model is not None:
            return from_published(self.model.state_dict(), self.config)
        torch.manual_seed(0)
        return TRM(configuration(self.name))


def _rows(data: str | None, count: int) -> tuple[Any, Any] | None:
    if data is None:
        return None
    sudoku = get_task("sudoku")
    examples = sudoku(sudoku.Config(name="sudoku")).read(data).take(slice(count))
    return torch.from_numpy(examples.inputs), torch.from_numpy(examples.labels)


def baseline_side(problem: Problem, baseline: str) -> Callable[[], float]:
    """A function that runs one step of the published computation and returns its loss, or a sum of confidences."""
    model, batch = problem.model, problem.batch
    if model is None:  # the published code has no such network, so the references of our ops are its stock PyTorch
        if baseline != "eager":
            raise ValueError(f"{problem.name} has only the eager baseline, not {baseline}")
        ops.use_backend("reference")
        return our_side(problem)
    if baseline == "compiled":
        model.forward = torch.compile(model.forward, dynamic=False)
    elif baseline == "compiled-net":  # compiles one application of the network: seconds, not minutes
        model.L_level.forward = torch.compile(model.L_level.forward, dynamic=False)
    with problem.device:
        carry = eager_trm.Carry(model, batch)
    optimizer: Any = eager_trm.AdamATan2(model.parameters())
    if problem.device.type == "cuda":  # the published code uses a fused kernel, which stock PyTorch has for AdamW
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=1.0, fused=True)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}

    # With a device as context, every torch call would go through Python, which would cost a third of a small step.
    def train() -> float:
        return eager_trm.train_step(model, carry, batch, optimizer, average).item()

    def solve() -> float:
        total = 0.0
        with torch.inference_mode():
            with problem.device:
                fresh = eager_trm.Carry(model, batch)
            for _ in range(SOLVER_STEPS):
                total = float(eager_trm.supervise(model, fresh, batch)[1][0].sum())
        return total

    return train if problem.kind == "train" else solve


def our_side(problem: Problem) -> Callable[[], float]:
    """A function that runs one of our steps and returns the same number as that of ``baseline_side``."""
    model, B = problem.our_model(), problem.batch_size
    model.compute_dtype = problem.dtype
    model.to(problem.device)
    if problem.kind == "solve":
        inputs = problem.batch["inputs"]
        return lambda: float(model.solve(inputs, SOLVER_STEPS, halt=False)["confidence"].sum())
    config = TrainingConfig(batch_size=B, gradient_accumulation=1)
    arrays = {name: tensor.int().cpu().numpy() for name, tensor in problem.batch.items()}
    examples = Examples(arrays["inputs"], arrays["labels"], arrays["puzzle_identifiers"])

    class SameExamples(Feed):
        """A feed of the same examples in the same order, without end."""

        def __init__(self) -> None:
            self.examples = examples

        def chunk(self, number: int, size: int) -> Examples:
            return examples.take(np.arange(number * size, (number + 1) * size) % len(examples))

    optimizer, min_steps = AdamATan2(model.parameters(), ema_decay=0.999), np.zeros(B, np.int32)
    step = TrainStep(model, optimizer, config, SameExamples(), runner=(runner := runner_for(problem.device)))
    if reason := getattr(runner, "reason", None):
        print(f"the step runs without a graph: {reason}", file=sys.stderr, flush=True)

    def train() -> float:
        step.run(1e-4, min_steps)
        return step.read_totals()["loss"]

    return train


def side(
    pipe: Connection,
    ours: bool,
    case: str,
    threads: int,
    baseline: str,
    data: str | None,
    device: str,
    dtype: str,
) -> None:
    """The process of a side. It answers each message until ``end``: ``step`` and ``product`` with the seconds and the
    result, ``memory`` with the growth in bytes, ``launches`` with their number (None on a CPU)."""
    torch.set_num_threads(threads)
    problem = Problem(case, data, device, dtype)
    start_memory = _peak(problem.device)
    run = our_side(problem) if ours else baseline_side(problem, baseline)
    peak, latest = start_memory, float("inf")
    for what in iter(pipe.recv, "end"):
        if what == "memory":
            pipe.send(peak - start_memory)
            continue
        if what == "launches":
            pipe.send(_launches(run) if problem.device.type == "cuda" else None)
            continue
        work = run if what == "step" else _product(problem)
        if what == "step" and latest < QUICK:
            run()  # warms caches and threads, which are cold after a pause; in training there is no pause
        start = time.perf_counter()
        value = work()
        seconds = time.perf_counter() - start
        pipe.send((seconds, value))
        if what == "step":
            latest = seconds
            peak = max(peak, _peak(problem.device))
        elif problem.device.type == "cuda":  # the product is not part of a step
            del work  # frees its matrices
            torch.cuda.reset_peak_memory_stats(problem.device)


def _peak(device: Any) -> int:
    """The peak of memory so far, in bytes: of the process, or of what it allocated on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # A process inherits ru_maxrss from the one that started it, so a small case after a large one would not grow.
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.M)):
        return 1024 * int(peak[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _launches(run: Callable[[], float]) -> int:
    """The number of kernels, graphs and copies that the host launches in one step."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
    starts = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")
    return sum(event.count for event in profiler.key_averages() if event.key.startswith(starts))


def _product(problem: Problem) -> Callable[[], float]:
    """A function that computes a large matrix product, whose rate is the ceiling for a step."""
    size = product_size(problem.device.type)
    a, b = torch.randn(2, size, size, device=problem.device, dtype=problem.dtype)
    float((a @ b)[0, 0])
    return lambda: float((a @ b)[0, 0])


def default_dtype(device: str) -> str:
    return "float32" if device == "cpu" else "bfloat16"


def product_size(device: str) -> int:
    """Rows and columns of the matrices of the large product."""
    return 8192 if device.startswith("cuda") else 1536


def configuration(name: str) -> TRMConfig:
    """The configuration of a model of ``MODELS`` or ``PRESETS``."""
    if name in PRESETS:
        return make_config(read_preset(name), name).model
    return published_config(eager_trm.sudoku_config(**MODELS[name]), single=False)


def flop(case: str) -> int:
    """Matrix FLOP of one step of a case."""
    kind, name, batch = case.split(":")
    steps = 1 if kind == "train" else SOLVER_STEPS
    return steps * int(batch) * configuration(name).gemm_flop(training=kind == "train")
