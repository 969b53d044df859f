"""Masks: padding affects no other position, and later tokens no earlier ones, bit for bit through the recursion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trm_fast.nn import State

from .small import VARIANTS, kernels_agree, model, tokens

MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 1]], dtype=torch.bool)
B = len(MASK)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_padding_affects_no_other_position(name: str, seed: int) -> None:
    trm = model(seed, **VARIANTS[name])
    P = trm.config.prefix_tokens
    mask = torch.cat((torch.ones(B, P, dtype=torch.bool), MASK), 1)

    def run(noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Runs two supervision steps with random tokens and states on padding."""
        seen = tokens(B).where(MASK, 1 + noise.abs().mul(100).long() % 5)
        start = trm.initial_state(B)
        filled = [t if t is None else t.where(mask[..., None], noise.mean() * 9) for t in start]
        state, outputs = State(*filled), []
        for _ in range(2):
            out = trm(seen, state, trm.puzzle_rows(None, B), MASK)
            state = out.state
            outputs.append((out.logits[MASK], out.q))
        return outputs

    first, second = (run(torch.randn(B, 6, generator=torch.Generator().manual_seed(s))) for s in (0, 1))
    for (logits, q), (other_logits, other_q) in zip(first, second, strict=True):
        assert torch.equal(logits, other_logits)
        assert torch.equal(q, other_q)


@pytest.mark.parametrize("name", VARIANTS)
def test_kernels_equal_the_reference_with_a_mask(name: str) -> None:
    trm = model(**VARIANTS[name])

    def loss() -> Tensor:
        out = trm(tokens(B), trm.initial_state(B), trm.puzzle_rows(None, B), MASK)
        return trm.loss(out, tokens(B, seed=1).where(MASK, -100)).total

    kernels_agree(trm, loss)


@pytest.mark.parametrize("name", ["mixer", "attention"])
def test_an_unmasked_token_affects_all_positions(name: str) -> None:
    trm = model(**VARIANTS[name])
    original, changed = tokens(B), tokens(B)
    changed[:, -1] = original[:, -1] % 5 + 1
    first, second = (trm(t, trm.initial_state(B)).logits for t in (original, changed))
    assert (first != second).any(-1).all()


@pytest.mark.parametrize("changes", [{}, {"positions": "rope", "num_heads": 4}, {"norm_position": "pre"}])
@pytest.mark.parametrize("masked", [False, True])
def test_later_tokens_do_not_affect_earlier_positions(changes: dict[str, Any], masked: bool) -> None:
    trm = model(mixing="attention", causal=True, **changes)
    mask = MASK if masked else None
    for first_changed in range(1, 6):
        original, edited = tokens(B), tokens(B)
        edited[:, first_changed:] = original[:, first_changed:] % 5 + 1
        start = trm.initial_state(B)
        first, second = (trm(t, start, mask=mask).logits for t in (original, edited))
        assert torch.equal(first[:, :first_changed], second[:, :first_changed])
        changed = (first[:, first_changed:] != second[:, first_changed:]).any(-1)
        assert changed.all() if mask is None else changed[mask[:, first_changed:]].all()
