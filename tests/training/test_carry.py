"""The carry: which slots take new examples, which continue, and when a slot halts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trm_fast.training import Carry, TrainStep
from trm_fast.training.optimizers import AdamATan2

from .small import SPEC, Source, batch_of, make_examples, make_model, training_config

B = 6


def test_all_slots_start_halted_and_empty() -> None:
    carry = Carry(make_model(), B, SPEC)
    assert carry.halted.all()
    assert not carry.steps.any()


@pytest.mark.parametrize("state", ["dual", "single"])
def test_only_halted_slots_are_refilled(state: str) -> None:
    model = make_model(state=state)
    carry = Carry(model, B, SPEC)
    assert ("y" in carry.tensors()) == (state == "dual")
    first, second = (make_examples(B, seed, puzzles=9) for seed in (1, 2))
    tensors = [batch_of(examples) for examples in (first, second)]
    carry.refill(tensors[0])
    carry.supervise(model, slice(None))
    carry.steps.copy_(torch.arange(1, B + 1))
    carry.halted.copy_(torch.tensor([1, 0, 0, 1, 0, 1]).bool())
    state_before = carry.state.detach().rows(slice(None))
    z = state_before.z.clone()
    carry.refill(tensors[1])
    for name, tensor in carry.batch.tensors().items():
        for row in range(B):
            assert torch.equal(tensor[row], tensors[row in (0, 3, 5)].tensors()[name][row])
    assert carry.steps.tolist() == [0, 2, 3, 0, 5, 0]
    assert torch.equal(carry.state.z, z), "the next supervision step, not the refill, resets a halted slot's state"


@pytest.mark.parametrize("state", ["dual", "single"])
def test_refilled_slots_start_afresh_and_the_others_continue(state: str) -> None:
    model = make_model(state=state)
    carry, examples = Carry(model, B, SPEC), make_examples(B)
    carry.refill(batch_of(examples))
    halted = torch.tensor([1, 0, 1, 0, 0, 1]).bool()
    carry.supervise(model, slice(None))
    carry.halted.copy_(halted)
    previous = [t if t is None else t.clone() for t in carry.state]
    out, _, _ = carry.supervise(model, slice(None))
    start = model.initial_state(B)
    fresh = model(carry.batch.inputs, start)
    continued = model(carry.batch.inputs, type(start)(*previous))
    for row in range(B):
        want = fresh if halted[row] else continued
        torch.testing.assert_close(out.logits[row], want.logits[row])
        torch.testing.assert_close(carry.state.z[row], want.state.z[row])
        torch.testing.assert_close(carry.state.answer[row], want.state.answer[row])


@pytest.mark.parametrize("threshold", [0.5, 0.8])
@pytest.mark.parametrize("slices", [[slice(0, B)], [slice(0, 4), slice(4, B)]])
def test_when_a_slot_halts(threshold: float, slices: list[slice]) -> None:
    """Compares with plain Python: confidence above the threshold or the last step, but not before the minimum."""
    model = make_model(q_threshold=threshold, max_supervision_steps=5)
    carry = Carry(model, B, SPEC)
    rng = np.random.default_rng(0)
    steps, halted = [0] * B, [True] * B
    early = late = 0
    for _ in range(60):
        examples = make_examples(B)
        carry.refill(batch_of(examples))
        q = torch.from_numpy(rng.normal(-1, 2, B)).float()
        minimum = rng.choice([0, 0, 2, 4, 5], B).astype(np.int32)
        for rows in slices:
            carry.halt(q[rows], pytest.fail, torch.from_numpy(minimum), rows)
        for i in range(B):
            steps[i] = 1 if halted[i] else steps[i] + 1
            confident = 1 / (1 + np.exp(-q[i].item())) > threshold
            halted[i] = (confident or steps[i] == 5) and steps[i] >= minimum[i]
            early, late = early + (halted[i] and steps[i] < 5), late + (halted[i] and steps[i] == 5)
        assert carry.steps.tolist() == steps
        assert carry.halted.tolist() == halted
    assert early > 10
    assert late > 10


def test_an_example_stays_until_its_slot_halts() -> None:
    model = make_model()
    config = training_config(batch_size=B)
    step = TrainStep(model, AdamATan2(model.parameters(), 1e-3), config, Source(puzzles=1))
    fresh = iter(row for number in range(9) for row in make_examples(64, number).inputs.tolist())
    held: list[list[int]] = [[]] * B
    stayed = replaced = 0
    for _ in range(20):
        halted = step.carry.halted.tolist()
        step.run(1e-3, np.zeros(B, dtype=np.int32))
        for i in range(B):
            current = step.carry.batch.inputs[i].tolist()
            assert current == (next(fresh) if halted[i] else held[i])
            stayed, replaced, held[i] = stayed + (not halted[i]), replaced + halted[i], current
    assert stayed > 20
    assert replaced > 20
    assert int(step.pool.taken) == replaced
