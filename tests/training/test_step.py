"""The training step: a recording of it is the step itself, and parts of a batch are the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.api import TRM
from trm_fast.nn.optim import AdamATan2
from trm_fast.training import TrainStep
from trm_fast.training.capture import CudaGraph, Eager, Fallback, Runner, runner_for
from trm_fast.training.feed import Feed
from trm_fast.training.step import TOTALS

from .recorder import HostRead, Recorder
from .small import Source, Values, make_model, run_config, training_config

B, STEPS = 7, 8
PREFIX = {"prefix_tokens": 2, "puzzle_embedding_size": 12, "num_puzzles": 4}

VALUES = {"inputs": "values", "outputs": "values", "input_width": 2, "output_width": 1, "tolerance": 0.4}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "dual": ({}, {}, 1),
    "parts": ({}, {}, 3),
    "single": ({"state": "single"}, {"ema_decay": 0.0}, 1),
    "single parts clipped": ({"state": "single"}, {"clip_norm": 0.3}, 3),
    "clipped adamw": ({}, {"clip_norm": 0.3, "optimizer": "adamw"}, 1),
    "attention": ({"mixing": "attention", "positions": "rope"}, {}, 3),
    "puzzles": (PREFIX, {"puzzle_learning_rate": 0.05}, 1),
    "puzzles parts clipped": (PREFIX | {"mixing": "attention"}, {"clip_norm": 0.3}, 3),
    "dropout": ({"dropout": 0.2}, {}, 1),
    "unrolled": ({}, {"supervision": "unrolled"}, 1),
    "unrolled, batches halt": ({"halting": "batch"}, {"supervision": "unrolled"}, 1),
    "unrolled puzzles parts": (PREFIX, {"supervision": "unrolled"}, 3),
    "bfloat16": ({}, {"dtype": "bfloat16"}, 1),
    "recomputed": ({}, {"recompute": "latent"}, 1),
    "recomputed attention": ({"mixing": "attention", "state": "single"}, {"recompute": "latent"}, 3),
    "values": (VALUES, {}, 1),
    "values with puzzles": (VALUES | PREFIX, {"recompute": "latent"}, 3),
}


class Host:
    """What the trainer does around a step: exploration, and a new rate each time."""

    def __init__(self, step: TrainStep) -> None:
        self.step, self.rng, self.count = step, np.random.default_rng(1), 0

    def __call__(self) -> None:
        self.count += 1
        minimum = self.rng.integers(0, 4, self.step.config.batch_size).astype(np.int32)
        self.step.run(0.01 / self.count, minimum)


def make(
    model: dict[str, Any],
    training: dict[str, Any],
    parts: int,
    runner: Runner | None = None,
    step_type: type[TrainStep] = TrainStep,
    dtype: torch.dtype = torch.float32,
    source: Any = None,
) -> TrainStep:
    config = training_config(batch_size=B, **training)
    made = make_model(dtype=torch.bfloat16 if config.dtype == "bfloat16" else dtype, **model)
    optimizer = AdamATan2(
        made.parameters(), 0.0, weight_decay=0.1, ema_decay=config.ema_decay or None, variant=config.optimizer
    )
    source = source or (Values() if made.config.inputs == "values" else Source())
    return step_type(made, optimizer, config, source, parts=parts, runner=runner)


def run(step: TrainStep, count: int = STEPS) -> list[list[Tensor]]:
    """All that a step changes, after each step."""
    torch.manual_seed(0)  # a capture drew dropout, too
    host, states = Host(step), []
    for _ in range(count):
        host()
        states.append([t.detach().clone() for t in step.tensors()])
    return states


def same(a: list[list[Tensor]], b: list[list[Tensor]]) -> bool:
    pairs = [pair for p, q in zip(a, b, strict=True) for pair in zip(p, q, strict=True)]
    return all(torch.equal(x, y) or torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in pairs)


@pytest.fixture(params=["auto", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """With kernels, and with what a GPU without them would run."""
    with ops.use_backend(request.param):
        yield


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES)
def test_replays_are_steps_bit_for_bit(case: str) -> None:
    called = make(*CASES[case])
    recorder = Recorder()
    replayed = make(*CASES[case], runner=recorder)
    assert len(recorder.tape) > 100
    want, got = run(called), run(replayed)
    assert same(want, got)
    assert 0 < int(called.pool.taken) < STEPS * B + (called.unrolled > 1)
    assert called.read_totals() == replayed.read_totals()
    assert not any(called.totals)
    # The run is one that halts rows early and late, and moves everything there is to move.
    seen = {int(s) for state in want for s in state[list(called.carry.tensors()).index("steps")]}
    assert seen == ({4} if called.unrolled > 1 else {1, 2, 3, 4})
    constant = [i for i, t in enumerate(want[0]) if all(torch.equal(t, later[i]) for later in want[1:])]
    still = (torch.int32, torch.bool) if called.unrolled > 1 else (torch.int32,)  # unrolled, all have halted each time
    assert all(want[0][i].dtype in still for i in constant), "puzzle_ids alone may stand still"


@pytest.mark.parametrize("case", ["dual", "single", "attention", "puzzles", "values"])
def test_recomputing_changes_nothing(case: str) -> None:
    model, training, _ = CASES[case]
    kept, recomputed = (
        make(model, training | {"recompute": how}, 1, dtype=torch.float64) for how in ("none", "latent")
    )
    for got, want in zip(run(recomputed), run(kept), strict=True):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("case", ["dual", "single", "attention"])
def test_recomputing_with_kernels(case: str) -> None:
    """The fused application of the network: one step, as later ones multiply rounding."""
    model, training, _ = CASES[case]
    kept, recomputed = (make(model, training | {"recompute": how}, 1) for how in ("none", "latent"))
    for step in (kept, recomputed):
        run(step, 1)
    for a, b in zip(gradients_of(recomputed), gradients_of(kept), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


class Unable(Recorder):
    """A device that fails in the middle of a capture."""

    def capture(self, function: Callable[[], None]) -> None:
        super().capture(function)
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")


def test_what_cannot_be_captured_is_called_and_says_why() -> None:
    runner = Fallback(Unable())
    assert same(run(make(*CASES["puzzles"])), run(make(*CASES["puzzles"], runner=runner)))
    assert runner.reason == "operation not permitted when stream is capturing"
    graph = Fallback(Recorder())
    assert same(run(make(*CASES["puzzles"])), run(make(*CASES["puzzles"], runner=graph)))
    assert graph.reason is None
    assert isinstance(graph.runner, Recorder)


def test_a_failed_capture_gives_the_generator_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that is not there: what torch leaves waiting for the capture's end is replaced."""

    class Generator:
        waits = "for the end of a capture"

        def clone_state(self) -> str:
            return "a copy that waits for nothing"

        def graphsafe_set_state(self, state: str) -> None:
            self.waits = state

    class Invalidated(nullcontext[None]):
        def __exit__(self, *_: Any) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    generator, calls = Generator(), list[int]()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: Invalidated())
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    runner = Fallback(CudaGraph(torch.device("cuda")))
    runner.capture(lambda: calls.append(1))
    assert "previous error" in str(runner.reason)
    assert generator.waits == "a copy that waits for nothing"
    calls.clear()
    runner.replay()
    assert calls == [1]


def test_memory_that_is_short_is_no_reason_to_call() -> None:
    class Full(Recorder):
        def capture(self, function: Callable[[], None]) -> None:
            raise torch.OutOfMemoryError("12 GB wanted")

    with pytest.raises(torch.OutOfMemoryError):
        make(*CASES["dual"], runner=Fallback(Full()))


def test_graphs_are_for_gpus() -> None:
    assert isinstance(runner_for(torch.device("cpu")), Eager)
    assert isinstance(runner_for(torch.device("cuda"), graph=False), Eager)
    taken = runner_for(torch.device("cuda"))
    assert isinstance(taken, Fallback)
    assert isinstance(taken.runner, CudaGraph)


def test_capturing_leaves_the_state_alone() -> None:
    fresh, captured = (make(*CASES["puzzles"], runner=runner) for runner in (None, Recorder()))
    assert same([fresh.tensors()], [captured.tensors()])


class RateInPython(TrainStep):
    """A rate kept in a Python float, as naive code has it."""

    def run(self, learning_rate: float, minimum_steps: np.ndarray) -> None:
        self.rate = learning_rate
        super().run(learning_rate, minimum_steps)

    def _clip(self, gradients: list[Tensor]) -> Tensor:
        return torch.full((), 0.5 + 50 * getattr(self, "rate", 0.01), device=self.numbers.device)


class CountInPython(TrainStep):
    """A step count kept in Python, used in a branch."""

    count = 0

    def _clip(self, gradients: list[Tensor]) -> Tensor | None:
        self.count += 1
        return None if self.count % 2 else torch.full((), 0.1, device=self.numbers.device)


@pytest.mark.parametrize("step_type", [RateInPython, CountInPython])
def test_the_recorder_sees_what_python_keeps(step_type: type[TrainStep]) -> None:
    called = run(make({}, {}, 1, step_type=step_type))
    assert same(called, run(make({}, {}, 1, step_type=step_type)))
    assert not same(called, run(make({}, {}, 1, step_type=step_type, runner=Recorder())))


X = torch.arange(4.0)
READS: dict[str, Any] = {
    "item": lambda: X.sum().item(),
    "branch": lambda: X.sum() > 1 and 0,
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "cpu": lambda: X.cpu(),
    "array": lambda: np.asarray(X),
    "mask": lambda: X[X > 1],
    "mask assignment": lambda: X.clone().__setitem__(X > 1, 0),
    "nonzero": lambda: X.nonzero(),
    "unique": lambda: X.unique(),
    "equal": lambda: torch.equal(X, X + 0),
    "allclose": lambda: torch.allclose(X, X + 0),
    "slice": lambda: X[: X.sum().long()],
    "numbers": lambda: X + torch.tensor([1.0, 2.0, 3.0, 4.0], device=X.device),
    "new numbers": lambda: X + X.new_tensor([1.0, 2.0, 3.0, 4.0]),
    "array from the host": lambda: X + torch.from_numpy(np.ones(4, np.float32)),
    "where": lambda: torch.where(X > 1),
    "histogram": lambda: X.histc(3),
    "seed": lambda: torch.manual_seed(0),
    "generator of its own": lambda: torch.rand(4, device=X.device, generator=torch.Generator()),
}


@pytest.mark.parametrize("name", READS)
def test_the_recorder_refuses_to_wait(name: str) -> None:
    with pytest.raises(HostRead):
        Recorder().capture(READS[name])
    assert X.tolist() == [0, 1, 2, 3]  # reading is possible again


@pytest.mark.parametrize("forgotten", [True, False])
def test_the_recorder_sees_a_device_that_was_forgotten(forgotten: bool) -> None:
    total = torch.zeros(4)

    def add() -> None:
        total.add_(torch.ones(4) if forgotten else torch.ones(4, device=total.device))

    with pytest.raises(HostRead, match="on what device") if forgotten else nullcontext():
        Recorder().capture(add)


@pytest.mark.parametrize("case", ["dual", "single parts clipped", "attention", "puzzles"])
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_a_batch_are_the_batch(case: str, parts: int) -> None:
    model, training, _ = CASES[case]
    whole, split = (make(model, training, p, dtype=torch.float64) for p in (1, parts))
    assert [s.stop - s.start for s in split.slices] == {2: [4, 3], 3: [3, 3, 1], 7: [1] * 7}[parts]
    for got, want in zip(run(split), run(whole), strict=True):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_totals() -> None:
    """Sums over all rows, and over the finished ones, from the carry and a second look at the model."""
    step = make({}, {}, 3)
    host, want = Host(step), dict.fromkeys(TOTALS, 0.0)
    for _ in range(STEPS):
        probe = make({}, {}, 1)
        for mine, theirs in zip(probe.tensors(), step.tensors(), strict=True):
            mine.copy_(theirs)
        before = {k: v.clone() for k, v in step.carry.tensors().items()}
        weights = {n: p.detach().clone() for n, p in step.model.named_parameters()}
        probe.pool.refill()
        host()
        probe.model.load_state_dict(weights, strict=False)
        for name, tensor in probe.carry.tensors().items():
            tensor.copy_(before[name])
        probe.carry.refill(probe.pool.fresh(probe.carry.halted))
        out, loss, _ = probe.carry.supervise(probe.model, slice(None))
        finished = [r for r in range(B) if step.carry.halted[r] and (step.carry.rows["labels"][r] != -100).any()]
        want["rows"] += B
        want["loss"] += loss.total.item()
        want["answer_loss"] += loss.answer.item()
        want["halting_loss"] += loss.halting.item()
        for r in finished:
            want["finished"] += 1
            want["exact"] += loss.exact[r].item()
            want["cells"] += loss.cells[r].item()
            want["q_right"] += float((out.q[r].item() > 0) == loss.exact[r].item())
            want["steps"] += step.carry.steps[r].item()
    assert step.read_totals() == pytest.approx(want, rel=1e-5)
    assert set(step.read_totals().values()) == {0.0}


def gradients_of(step: TrainStep) -> list[Tensor]:
    return [p.grad for p in step.model.parameters() if p.grad is not None]


def test_clipping_bounds_the_gradient_norm() -> None:
    step = make({}, {"clip_norm": 0.3}, 1)
    Host(step)()
    norm = torch.cat([g.flatten() for g in gradients_of(step)]).norm().item()
    assert norm > 0.3
    scale = step._clip(gradients_of(step))
    assert scale is not None
    assert scale.item() * norm == pytest.approx(0.3, rel=1e-4)
    for p in step.model.parameters():
        p.grad = None if p.grad is None else p.grad * (0.1 / norm)
    small = step._clip(gradients_of(step))
    assert small is not None
    assert small.item() == 1.0


def test_clipping_reaches_the_optimizer() -> None:
    step, free = make({}, {"clip_norm": 0.3}, 1), make({}, {}, 1)
    run(step, 1), run(free, 1)
    gradients = [p.grad for p in free.model.parameters()]
    norm = torch.cat([g.flatten() for g in gradients if g is not None]).norm()
    for clipped, g in zip(step.optimizer.exp_avg, gradients, strict=True):
        want = torch.zeros_like(clipped) if g is None else 0.1 * g * 0.3 / norm
        torch.testing.assert_close(clipped, want, rtol=1e-4, atol=1e-9)


def test_puzzle_rows_in_use_move_by_the_scheduled_rate() -> None:
    training = {"puzzle_learning_rate": 0.05, "puzzle_weight_decay": 0.5}
    step = make(PREFIX, training, 3, source=Source(puzzles=3))
    table = step.model.puzzle_embedding
    assert table is not None
    for rate in (0.01, 0.004):
        before = table.clone()
        step.run(rate, np.full(B, 4, dtype=np.int32))
        used = step.carry.rows["puzzle_ids"].unique()
        assert 0 < len(used) < len(table)
        lr = 0.05 * rate / 0.01  # one schedule for both, as published
        moved = table - before * (1 - lr * 0.5)
        torch.testing.assert_close(moved[used].abs(), torch.full_like(moved[used], lr), rtol=1e-4, atol=1e-6)
        rest = [i for i in range(len(table)) if i not in used.tolist()]
        assert torch.equal(table[rest], before[rest])


def test_no_gradient_is_kept_from_one_step_to_the_next() -> None:
    clean, dirty = make({}, {}, 3), make({}, {}, 3)
    for step in (clean, dirty):
        run(step, 1)
    for p in dirty.model.parameters():
        p.grad = torch.full_like(p, 1e9)
    assert same(run(clean, 1), run(dirty, 1))


def test_a_task_through_its_feed_replays_bit_for_bit() -> None:
    """Sudoku from its generator, augmented, with exploration and the schedule, as the trainer runs it."""
    config = run_config({"prefix_tokens": 1, "puzzle_embedding_size": 8})
    feed = Feed(task := config.make_task(), task.dataset(config.data, 0).train, 0)
    states = []
    for runner in (None, Recorder()):
        torch.manual_seed(0)
        model = TRM(config.model)
        optimizer = AdamATan2(model.parameters(), 0.0, ema_decay=0.9)
        step = TrainStep(model, optimizer, config.training, feed, runner=runner)
        for number in range(1, 41):
            minimum = feed.minimum_steps(number, B, 0.3, 4)
            step.run(config.training.learning_rate_at(number), minimum)
        states.append([t.clone() for t in step.tensors()])
        assert 30 < int(step.pool.taken) < 40 * B, "more than one pass over the 30 puzzles"
    assert same(states[:1], states[1:])


@pytest.mark.parametrize("parts", [1, 3])
def test_unrolled_is_one_optimizer_step_on_the_mean_of_all_supervision_steps(parts: int) -> None:
    step = make({}, {"supervision": "unrolled"}, parts, dtype=torch.float64)
    model, config = make_model(dtype=torch.float64), step.config
    optimizer = AdamATan2(model.parameters(), 0.01, config.betas, weight_decay=0.1, ema_decay=config.ema_decay)
    most = model.config.max_supervision_steps
    for _ in range(2):
        step.run(0.01, np.zeros(B, dtype=np.int32))
        assert bool(step.carry.halted.all())  # the next step takes fresh examples alone
        optimizer.zero_grad()
        state, rows = model.initial_state(B), step.carry.rows
        for _ in range(most):
            out = model(rows["inputs"], state)
            state = out.state
            (model.loss(out, rows["labels"]).total / (B * most)).backward()
        optimizer.step()
    for mine, wanted in zip(step.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-9)
    assert step.read_totals()["rows"] == 2 * B * most


def test_a_batch_that_is_sure_learns_nothing_more_from_its_later_steps() -> None:
    step = make({"halting": "batch"}, {"supervision": "unrolled"}, 1, dtype=torch.float64)
    model = make_model(dtype=torch.float64, halting="batch")
    for made in (step.model, model):  # sure after the first step, whatever the rows
        with torch.no_grad():
            made.q_head.weight.zero_()
            made.q_head.bias.fill_(0.1)
    step.run(0.0, np.zeros(B, dtype=np.int32))
    rows = step.carry.rows
    out = model(rows["inputs"], model.initial_state(B))
    (model.loss(out, rows["labels"]).total / (B * model.config.max_supervision_steps)).backward()
    for mine, wanted in zip(step.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-6, atol=1e-9)
