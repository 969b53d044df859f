"""Random initial states and noise: their distribution, and what they depend on."""

from __future__ import annotations

import pytest
import torch

from trm_fast.nn import State
from trm_fast.training.random_states import RandomStates

from .small import make_model
from .test_step import Host, make

SHAPE = (8, 20, 64)


def make_states(seed: int = 0, slots: range = range(8), step: int = 0) -> RandomStates:
    return RandomStates(seed, slots, torch.tensor(float(step)))


def test_starts_are_random_directions_of_unit_size() -> None:
    start = make_states().start(State(torch.zeros(SHAPE), torch.zeros(SHAPE)), slice(None), 0)
    assert start.y is not None
    for state in (start.y, start.z):
        torch.testing.assert_close(state.square().mean(-1), torch.ones(8, 20))
        assert state.mean().item() == pytest.approx(0, abs=0.05)
    vectors = torch.cat([start.y.flatten(0, 1), start.z.flatten(0, 1)])
    cosines = vectors @ vectors.T / 64 - torch.eye(len(vectors))
    assert cosines.std().item() == pytest.approx(1 / 8, rel=0.05)  # as between independent directions
    assert cosines.abs().max() < 0.75


def test_noise_is_standard_normal() -> None:
    noise = make_states().noise(torch.zeros(SHAPE), slice(None), 0).flatten()
    assert noise.mean().item() == pytest.approx(0, abs=0.04)
    assert noise.std().item() == pytest.approx(1, abs=0.03)


def test_numbers_depend_on_seed_slot_and_steps_alone() -> None:
    z = torch.zeros(SHAPE)
    noise = make_states().noise(z, slice(None), 0)
    assert torch.equal(make_states().noise(z[:3], slice(2, 5), 0), noise[2:5])
    assert torch.equal(make_states(slots=range(4, 8)).noise(z[:4], slice(None), 0), noise[4:])
    others = [make_states(seed=1), make_states(step=1), make_states(slots=range(1, 9))]
    drawn = [noise, *(states.noise(z, slice(None), 0) for states in others), make_states().noise(z, slice(None), 1)]
    drawn.append(make_states().start(State(None, z), slice(None), 0).z)
    rows = torch.cat([d.flatten(1) for d in drawn])
    cosines = torch.corrcoef(rows) - torch.eye(len(rows))
    cosines[3 * 8 : 4 * 8 - 1, 1:8].fill_diagonal_(0)
    cosines[1:8, 3 * 8 : 4 * 8 - 1].fill_diagonal_(0)
    assert cosines.abs().max() < 0.15, "only slots 1 to 7 of the same step occur twice"


def test_only_fresh_examples_start_randomly_and_noise_reaches_the_latent_state() -> None:
    """The training step runs the model from the random state of fresh slots, plus noise in all slots."""
    step = make({}, {"initial_state": "random", "state_noise": 0.5}, 1, dtype=torch.float64)
    host = Host(step)
    for _ in range(3):
        host()
    step.carry.halted[2] = True
    carry, model = step.carry, make_model(dtype=torch.float64)
    model.load_state_dict(step.model.state_dict())
    assert 0 < int(carry.halted.sum()) < len(carry.halted)
    fresh = carry.halted[:, None, None].clone()
    start = step.random_states.start(carry.state, slice(None), 0)
    z = torch.where(fresh, start.z, carry.state.z) + 0.5 * step.random_states.noise(carry.state.z, slice(None), 0)
    assert start.y is not None
    assert carry.state.y is not None
    y = torch.where(fresh, start.y, carry.state.y)
    host()
    want = model(carry.batch.inputs, State(y, z)).state
    torch.testing.assert_close(carry.state.z, want.z, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(carry.state.y, want.y, rtol=1e-9, atol=1e-12)
