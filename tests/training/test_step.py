"""The training step: recordings compute the same as calls, and parts of a batch the same as the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.api import TRM
from trm_fast.inference.capture import Runner
from trm_fast.models import supervision_loss
from trm_fast.training import TrainStep
from trm_fast.training.feed import Feed
from trm_fast.training.optimizers import AdamATan2
from trm_fast.training.step import TOTALS

from .recorder import Recorder
from .small import Source, Values, make_model, run_config, training_config

B, STEPS = 7, 8
PREFIX = {"prefix_tokens": 2, "puzzle_embedding_size": 12, "num_puzzles": 4}

VALUES = {"inputs": "values", "input_width": 2, "head": {"kind": "values", "tolerance": 0.4}}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "dual": ({}, {}, 1),
    "parts": ({}, {}, 3),
    "single": ({"state": "single"}, {"ema_decay": 0.0}, 1),
    "single parts clipped": ({"state": "single"}, {"clip_norm": 0.3}, 3),
    "clipped adamw": ({}, {"clip_norm": 0.3, "optimizer": "adamw"}, 1),
    "muon": ({}, {"optimizer": "muon"}, 1),
    "muon single, parts clipped": (
        {"state": "single"},
        {"clip_norm": 0.3, "optimizer": "muon", "optimizer_options": {"others": "adam_atan2", "nesterov": False}},
        3,
    ),
    "muon bfloat16": ({}, {"optimizer": "muon", "dtype": "bfloat16"}, 1),
    "sgd": ({}, {"optimizer": "sgd", "embedding_learning_rate": 0.02}, 1),
    "sgd clipped bfloat16": (
        {},
        {"clip_norm": 0.3, "optimizer": "sgd", "optimizer_options": {"nesterov": True}, "dtype": "bfloat16"},
        1,
    ),
    "muon with gated norms": ({"activation": "gated_norm"}, {"optimizer": "muon", "dtype": "bfloat16"}, 3),
    "attention": ({"mixing": "attention", "positions": "rope"}, {}, 3),
    "puzzles": (PREFIX, {"puzzle_learning_rate": 0.05}, 1),
    "puzzles parts clipped": (PREFIX | {"mixing": "attention"}, {"clip_norm": 0.3}, 3),
    "dropout": ({"dropout": 0.2}, {}, 1),
    "random start": ({}, {"initial_state": "random"}, 3),
    "random start, noise": (
        {"state": "single", "latent_width": 6},
        {"initial_state": "random", "state_noise": 0.3, "dtype": "bfloat16"},
        1,
    ),
    "unrolled, noise": ({}, {"supervision": "unrolled", "state_noise": 0.3, "initial_state": "random"}, 3),
    "initial states": ({"initial_states": 3}, {}, 3),
    "initial states, random, unrolled": (
        PREFIX | {"initial_states": 2, "state": "single", "mixing": "attention"},
        {"initial_state": "random", "state_noise": 0.3, "supervision": "unrolled", "dtype": "bfloat16"},
        1,
    ),
    "weighted and smoothed": ({}, {"halting_weight": 0.1, "label_smoothing": 0.2}, 3),
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
    """Calls a step like the trainer: with exploration and a new rate each time."""

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
    network = make_model(dtype=torch.bfloat16 if config.dtype == "bfloat16" else dtype, **model)
    source = source or (Values() if network.config.inputs == "values" else Source())
    return step_type(network, config.make_optimizer(network), config, source, parts=parts, runner=runner)


def run(step: TrainStep, count: int = STEPS) -> list[list[Tensor]]:
    """Copies of all tensors that a step changes, after each step."""
    torch.manual_seed(0)  # a capture has drawn random numbers for dropout
    host, states = Host(step), []
    for _ in range(count):
        host()
        states.append([t.detach().clone() for t in step.tensors()])
    return states


def same(a: list[list[Tensor]], b: list[list[Tensor]]) -> bool:
    pairs = [pair for p, q in zip(a, b, strict=True) for pair in zip(p, q, strict=True)]
    return all(torch.equal(x, y) or torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in pairs)


@pytest.fixture(params=["auto", pytest.param("reference", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs with kernels and with the reference."""
    with ops.use_backend(request.param):
        yield


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES)
def test_replays_equal_calls_bit_for_bit(case: str) -> None:
    called = make(*CASES[case])
    recorder = Recorder()
    replayed = make(*CASES[case], runner=recorder)
    assert len(recorder.tape) > 100
    want, got = run(called), run(replayed)
    assert same(want, got)
    assert 0 < int(called.pool.taken) < STEPS * B + (called.unrolled > 1)
    assert called.read_totals() == replayed.read_totals()
    assert not any(called.totals)
    # In this run, rows halt early and late, and all tensors change.
    seen = {int(s) for state in want for s in state[list(called.carry.tensors()).index("steps")]}
    assert seen == ({4} if called.unrolled > 1 else {1, 2, 3, 4})
    constant = [i for i, t in enumerate(want[0]) if all(torch.equal(t, later[i]) for later in want[1:])]
    # Only puzzle_ids may be constant, and in unrolled training halted, too.
    allowed = (torch.int32, torch.bool) if called.unrolled > 1 else (torch.int32,)
    assert all(want[0][i].dtype in allowed for i in constant)


@pytest.mark.parametrize("case", ["dual", "single", "attention", "puzzles", "values"])
def test_recomputing_does_not_change_the_step(case: str) -> None:
    model, training, _ = CASES[case]
    kept, recomputed = (
        make(model, training | {"recompute": how}, 1, dtype=torch.float64) for how in ("none", "latent")
    )
    for got, want in zip(run(recomputed), run(kept), strict=True):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("case", ["dual", "single", "attention"])
def test_recomputing_with_kernels_gives_the_same_gradients(case: str) -> None:
    """Compares the fused application of the network after one step, because later steps amplify rounding."""
    model, training, _ = CASES[case]
    kept, recomputed = (make(model, training | {"recompute": how}, 1) for how in ("none", "latent"))
    for step in (kept, recomputed):
        run(step, 1)
    for a, b in zip(gradients_of(recomputed), gradients_of(kept), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "case", ["dual", "single parts clipped", "attention", "puzzles", "unrolled, noise", "initial states"]
)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_a_batch_compute_the_same_as_the_batch(case: str, parts: int) -> None:
    model, training, _ = CASES[case]
    whole, split = (make(model, training, p, dtype=torch.float64) for p in (1, parts))
    assert [s.stop - s.start for s in split.parts] == {2: [4, 3], 3: [3, 3, 1], 7: [1] * 7}[parts]
    for got, want in zip(run(split), run(whole), strict=True):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_totals_are_sums_over_rows() -> None:
    """Sums over all rows, and over the finished ones, computed again from the carry and the model."""
    step = make({}, {}, 3)
    host, want = Host(step), dict.fromkeys(TOTALS, 0.0)
    for _ in range(STEPS):
        probe = make({}, {}, 1)
        for tensor, source in zip(probe.tensors(), step.tensors(), strict=True):
            tensor.copy_(source)
        carry = {k: v.clone() for k, v in step.carry.tensors().items()}
        weights = {n: p.detach().clone() for n, p in step.model.named_parameters()}
        probe.pool.refill()
        host()
        probe.model.load_state_dict(weights, strict=False)
        for name, tensor in probe.carry.tensors().items():
            tensor.copy_(carry[name])
        probe.carry.refill(probe.pool.next_examples(probe.carry.halted))
        out, loss, _ = probe.carry.supervise(probe.model, slice(None))
        finished = [r for r in range(B) if step.carry.halted[r] and (step.carry.batch.labels[r] != -100).any()]
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
    step, unclipped = make({}, {"clip_norm": 0.3}, 1), make({}, {}, 1)
    run(step, 1), run(unclipped, 1)
    gradients = [p.grad for p in unclipped.model.parameters()]
    norm = torch.cat([g.flatten() for g in gradients if g is not None]).norm()
    for clipped, g in zip(step.optimizer.slots["exp_avg"], gradients, strict=True):
        want = torch.zeros_like(clipped) if g is None else 0.1 * g * 0.3 / norm
        torch.testing.assert_close(clipped, want, rtol=1e-4, atol=1e-9)


def test_puzzle_rows_in_the_batch_change_by_the_scheduled_rate() -> None:
    training = {"puzzle_learning_rate": 0.05, "puzzle_weight_decay": 0.5}
    step = make(PREFIX, training, 3, source=Source(puzzles=3))
    table = step.model.puzzle_embedding
    assert table is not None
    for rate in (0.01, 0.004):
        original = table.clone()
        step.run(rate, np.full(B, 4, dtype=np.int32))
        used = step.carry.batch.puzzle_ids.unique()
        assert 0 < len(used) < len(table)
        lr = 0.05 * rate / 0.01  # both rates have one schedule, as published
        change = table - original * (1 - lr * 0.5)
        torch.testing.assert_close(change[used].abs(), torch.full_like(change[used], lr), rtol=1e-4, atol=1e-6)
        rest = [i for i in range(len(table)) if i not in used.tolist()]
        assert torch.equal(table[rest], original[rest])


def test_no_gradient_remains_for_the_next_step() -> None:
    clean, dirty = make({}, {}, 3), make({}, {}, 3)
    for step in (clean, dirty):
        run(step, 1)
    for p in dirty.model.parameters():
        p.grad = torch.full_like(p, 1e9)
    assert same(run(clean, 1), run(dirty, 1))


def test_a_task_through_its_feed_replays_bit_for_bit() -> None:
    """Trains on sudoku from its generator, with augmentation, exploration and schedule, like the trainer."""
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
        assert 30 < int(step.pool.taken) < 40 * B, "the feed passes over the 30 puzzles more than once"
    assert same(states[:1], states[1:])


def test_the_weight_of_halting_and_smoothing_reach_the_gradients() -> None:
    options = {"halting_weight": 0.1, "label_smoothing": 0.2}
    step, model = make({}, options, 1, dtype=torch.float64), make_model(dtype=torch.float64)
    step.run(0.0, np.zeros(B, dtype=np.int32))
    batch = step.carry.batch
    out = model(batch.inputs, model.initial_state(B))
    loss = supervision_loss(out.logits, out.q, batch.labels, 0.2)
    ((loss.answer + 0.1 * loss.halting) / B).backward()
    for got, want in zip(step.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("parts", [1, 3])
def test_unrolled_is_one_optimizer_step_on_the_mean_of_all_supervision_steps(parts: int) -> None:
    step = make({}, {"supervision": "unrolled"}, parts, dtype=torch.float64)
    model, config = make_model(dtype=torch.float64), step.config
    optimizer = AdamATan2(model.parameters(), 0.01, config.betas, weight_decay=0.1, ema_decay=config.ema_decay)
    count = model.config.max_supervision_steps
    for _ in range(2):
        step.run(0.01, np.zeros(B, dtype=np.int32))
        assert bool(step.carry.halted.all())  # the next step takes only fresh examples
        optimizer.zero_grad()
        state, batch = model.initial_state(B), step.carry.batch
        for _ in range(count):
            out = model(batch.inputs, state)
            state = out.state
            (model.loss(out, batch.labels).total / (B * count)).backward()
        optimizer.step()
    for got, want in zip(step.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)
    assert step.read_totals()["rows"] == 2 * B * count


def test_a_halted_batch_learns_nothing_from_later_steps() -> None:
    step = make({"halting": "batch"}, {"supervision": "unrolled"}, 1, dtype=torch.float64)
    model = make_model(dtype=torch.float64, halting="batch")
    for confident in (step.model, model):  # they halt after the first step, whatever the rows
        with torch.no_grad():
            confident.q_head.weight.zero_()
            confident.q_head.bias.fill_(0.1)
    step.run(0.0, np.zeros(B, dtype=np.int32))
    batch = step.carry.batch
    out = model(batch.inputs, model.initial_state(B))
    (model.loss(out, batch.labels).total / (B * model.config.max_supervision_steps)).backward()
    for got, want in zip(step.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-6, atol=1e-9)
