"""Initial weights and states have the statistics of the published code (arXiv 2510.04871)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from trm_fast.api import TRM
from trm_fast.models import TRMConfig
from trm_fast.nn.layers import truncated_normal_

CUT = 2 / 0.8796256610342398
"""Where a normal distribution truncated at two standard deviations ends, in those of the truncated one."""
WITHIN = math.erf(2 / CUT / math.sqrt(2)) / math.erf(2 / math.sqrt(2))
"""The share of the truncated distribution within one of its standard deviations."""


@pytest.fixture(scope="module")
def model() -> TRM:
    torch.manual_seed(0)
    return TRM(TRMConfig(hidden_size=128, vocab_size=600, seq_len=90, num_layers=1, positions="learned", num_heads=4))


def assert_truncated_normal(weight: Tensor, std: float) -> None:
    count = weight.numel()
    assert weight.std().item() == pytest.approx(std, rel=4 / count**0.5)
    assert abs(weight.mean().item()) < 4 * std / count**0.5
    assert weight.abs().max() <= CUT * std * 1.0001
    # The tails rule out a uniform distribution, and a normal one that is clamped to the bound.
    assert weight.abs().max() > 0.97 * CUT * std
    assert (weight.abs() > 0.999 * CUT * std).float().mean() < 1e-3
    assert (weight.abs() < std).float().mean().item() == pytest.approx(WITHIN, abs=4 * 0.48 / count**0.5)


def test_linear_weights_are_truncated_normal(model: TRM) -> None:
    linears = {n: p for n, p in model.named_parameters() if n.startswith("net.") or n.startswith("head")}
    assert len(linears) == 5
    for weight in linears.values():
        assert_truncated_normal(weight.detach(), weight.shape[1] ** -0.5)


def test_embeddings_are_truncated_normal(model: TRM) -> None:
    assert_truncated_normal(model.embedding.tokens.weight.detach(), 128**-0.5)
    assert model.embedding.positions is not None
    assert_truncated_normal(model.embedding.positions.weight.detach(), 128**-0.5)
    x = model.embedding(torch.randint(600, (4, 90)), None, torch.float32)
    assert x.std().item() == pytest.approx(1, abs=0.05)


def test_an_untrained_model_does_not_halt(model: TRM) -> None:
    assert not model.q_head.weight.any()
    assert model.q_head.bias.tolist() == [-5.0]
    out = model(torch.ones(2, 90, dtype=torch.int32), model.initial_state(2))
    assert out.q.tolist() == [-5.0, -5.0]


def test_initial_states_are_fixed_vectors_of_unit_variance() -> None:
    model = TRM(TRMConfig(hidden_size=4096, num_layers=1, inner_multiple=1, expansion=0.01, seq_len=2))
    for vector in (model.z_init, model.y_init):
        assert vector is not None
        assert_truncated_normal(vector, 1.0)
        assert not isinstance(vector, nn.Parameter)
    assert not torch.equal(model.z_init, model.y_init)
    state = model.initial_state(3)
    assert torch.equal(state.z, model.z_init.expand(3, 2, 4096))
    assert torch.equal(state.answer, model.y_init.expand(3, 2, 4096))


def test_the_puzzle_embedding_starts_at_zero() -> None:
    model = TRM(TRMConfig(hidden_size=8, seq_len=4, prefix_tokens=2, puzzle_embedding_size=16, num_puzzles=5))
    assert model.puzzle_embedding is not None
    assert model.puzzle_embedding.shape == (5, 16)
    assert not model.puzzle_embedding.any()


def test_the_seed_determines_the_weights() -> None:
    first, second = truncated_normal_(torch.empty(9), 1.0), truncated_normal_(torch.empty(9), 1.0)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    first = truncated_normal_(torch.empty(9), 1.0)
    torch.manual_seed(1)
    assert torch.equal(first, truncated_normal_(torch.empty(9), 1.0))
