"""Tests of the training step and the solver that need a GPU: graphs, no waiting, exact resume."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from trm_fast.inference import Solver
from trm_fast.inference.capture import WARM_UP, CudaGraph, Eager, Fallback, Runner
from trm_fast.tasks.base import Examples
from trm_fast.training import Trainer, TrainStep
from trm_fast.training.folder import read_metrics
from trm_fast.training.optimizers import AdamATan2

from .small import Source, Values, make_model, run_config, training_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

B = 8
VALUES = {"inputs": "values", "input_width": 2, "head": {"kind": "values"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mixer": ({}, {}),
    "attention": ({"mixing": "attention", "positions": "rope"}, {"clip_norm": 0.5}),
    "single recomputed": ({"state": "single"}, {"recompute": "latent"}),
    "puzzles": ({"prefix_tokens": 2, "puzzle_embedding_size": 12, "num_puzzles": 4}, {}),
    "values": (VALUES, {}),
    "muon": ({}, {"optimizer": "muon", "clip_norm": 0.5}),
    "sgd": ({}, {"optimizer": "sgd"}),
}


def make(case: str, runner: Runner) -> TrainStep:
    changes, training = CASES[case]
    model = make_model(dtype=torch.bfloat16, **changes).to("cuda")
    config = training_config(batch_size=B, **training)
    source = Values() if changes == VALUES else Source()
    return TrainStep(model, config.make_optimizer(model), config, source, parts=2, runner=runner)


def advance(step: TrainStep, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(1, count + 1):
        step.run(0.01 / number, rng.integers(0, 4, B).astype(np.int32))


def run(step: TrainStep, count: int) -> list[torch.Tensor]:
    advance(step, count)
    return [t.nan_to_num().clone() for t in step.tensors()]


@pytest.mark.parametrize("case", CASES)
def test_a_graph_computes_the_same_as_calls_bit_for_bit(case: str) -> None:
    called, replayed = run(make(case, Eager()), 30), run(make(case, CudaGraph(torch.device("cuda"))), 30)
    for a, b in zip(called, replayed, strict=True):
        assert torch.equal(a, b)


def test_a_step_never_waits_and_is_one_launch() -> None:
    step = make("puzzles", CudaGraph(torch.device("cuda")))
    run(step, 20)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        advance(step, 6)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        advance(step, 3)
        torch.cuda.synchronize()
    seen = Counter({event.key: event.count for event in profiler.key_averages()})
    assert seen["cudaGraphLaunch"] == 3
    assert not seen["cudaLaunchKernel"], "all kernels are in the graph"


@pytest.mark.parametrize("case", ["mixer", "single recomputed", "muon"])
def test_copies_of_the_weights_and_another_depth(case: str) -> None:
    """Replays keep the copies up to date, and a step that was captured again computes the same as calls."""
    states = []
    for runner in (Eager(), CudaGraph(torch.device("cuda"))):
        step = make(case, runner)
        for T in (1, 2):
            step.set_depth(step.model.config.depth._replace(T_cycles=T))
            advance(step, 5)
            assert step.copies.all_copies
            for key, fresh in step.copies._rounded().items():
                assert torch.equal(step.copies.all_copies[key], fresh)
        states.append([t.nan_to_num().clone() for t in step.tensors()])
    for a, b in zip(*states, strict=True):
        assert torch.equal(a, b)


def test_dropout_draws_new_numbers_in_every_replay() -> None:
    model = make_model(dropout=0.5).to("cuda")
    config = training_config(batch_size=B)
    step = TrainStep(
        model, AdamATan2(model.parameters(), 0.0), config, Source(), runner=CudaGraph(torch.device("cuda"))
    )
    states = []
    for _ in range(2):
        step.carry.halted.fill_(True)
        step.pool.taken.zero_()
        step.pool.restart()
        step.run(1e-9, np.full(B, 4, np.int32))
        states.append(step.carry.state.z.clone())
    assert not torch.equal(*states)


def test_a_resumed_run_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    runs = tmp_path / "straight", tmp_path / "stopped"
    Trainer(run_config(steps=40), runs[0], device="cuda").train()
    Trainer(run_config(steps=20, schedule_steps=40), runs[1], device="cuda").train()
    Trainer.resume(runs[1], config=run_config(steps=40), device="cuda").train()
    losses = [[r["loss"] for r in read_metrics(out) if "loss" in r] for out in runs]
    assert losses[0] == losses[1]


def test_evaluating_between_replays_does_not_change_training(tmp_path: Path) -> None:
    """Evaluation captures its own graphs, empties torch's caches, and shares weights with the replays."""
    losses = []
    for every in (0, 4):
        out = tmp_path / str(every)
        Trainer(run_config(steps=20, eval_every=every), out, device="cuda").train()
        losses.append([r["loss"] for r in read_metrics(out) if "loss" in r])
    assert losses[0] == losses[1]


def test_a_failed_capture_gives_its_reason_and_leaves_the_device_usable() -> None:
    runner, x = Fallback(CudaGraph(torch.device("cuda"))), torch.zeros((), device="cuda")

    def draw() -> None:
        x.copy_(torch.rand((), device="cuda"))
        x.item()  # waits for the device

    runner.capture(draw)
    assert "capturing" in str(runner.reason)
    seen = set()
    for _ in range(3):
        runner.replay()
        seen.add(x.item())
    assert len(seen) == 3, "each call draws a new number"
    other = CudaGraph(torch.device("cuda"))
    other.capture(lambda: fill(x))
    other.replay()
    assert x.item() not in seen


def fill(x: torch.Tensor) -> None:
    x.uniform_()


def test_an_older_graph_in_a_cycle_does_not_break_a_capture() -> None:
    x, calls = torch.zeros((), device="cuda"), Counter[str]()
    old = CudaGraph(torch.device("cuda"))
    old.capture(lambda: fill(x))
    held: list[Any] = [[old]]
    held[0].append(held[0])
    del old

    def busy() -> None:
        calls["all"] += 1
        if calls["all"] == WARM_UP + 1:  # inside the capture, nothing refers to the old graph any more
            held.clear()
        _ = [[] for _ in range(100_000)]  # enough for Python to collect garbage
        fill(x)

    graph = CudaGraph(torch.device("cuda"))
    graph.capture(busy)
    previous = x.item()
    graph.replay()
    assert x.item() != previous


def test_threads_can_solve_with_one_model() -> None:
    config = run_config()
    task = config.make_task()
    examples = task.dataset(config.data, 0).test
    model = make_model(vocab_size=task.vocab_size, seq_len=task.seq_len, dtype=torch.bfloat16).to("cuda").eval()

    def answer(row: int) -> bytes:
        solved = Solver(model, task, batch_size=4, halt=False).run(examples.take(slice(row, row + 1)))
        return bytes(solved.solution.tobytes())

    want = [answer(row) for row in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(answer, range(4))) == want


def test_a_graph_gives_the_same_answers_as_calls() -> None:
    config = run_config()
    task = config.make_task()
    examples = task.dataset(config.data, 0).test
    model = make_model(vocab_size=task.vocab_size, seq_len=task.seq_len, dtype=torch.bfloat16).to("cuda").eval()
    for count in (1, 4):  # full batches: products of other sizes may round differently
        questions: Examples = examples.take(slice(count))
        want, got = (
            Solver(model, task, batch_size=4, halt=False, graph=graph).run(questions) for graph in (False, True)
        )
        assert (want.solution == got.solution).all()
        assert (want.steps == got.steps).all()
