"""What padding holds reaches nobody, and the future does not change the past: bit for bit, through the recursion."""

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
def test_padding_is_read_by_nobody(name: str, seed: int) -> None:
    made = model(seed, **VARIANTS[name])
    P = made.config.prefix_tokens
    mask = torch.cat((torch.ones(B, P, dtype=torch.bool), MASK), 1)

    def run(noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Two supervision steps, with other tokens and another state wherever there is padding."""
        seen = tokens(B).where(MASK, 1 + noise.abs().mul(100).long() % 5)
        start = made.initial_state(B)
        filled = [t if t is None else t.where(mask[..., None], noise.mean() * 9) for t in start]
        state, outputs = State(*filled), []
        for _ in range(2):
            out = made(seen, state, made.puzzle_rows(None, B), MASK)
            state = out.state
            outputs.append((out.logits[MASK], out.q))
        return outputs

    first, second = (run(torch.randn(B, 6, generator=torch.Generator().manual_seed(s))) for s in (0, 1))
    for (logits, q), (other_logits, other_q) in zip(first, second, strict=True):
        assert torch.equal(logits, other_logits)
        assert torch.equal(q, other_q)


@pytest.mark.parametrize("name", VARIANTS)
def test_kernels_agree(name: str) -> None:
    made = model(**VARIANTS[name])

    def loss() -> Tensor:
        out = made(tokens(B), made.initial_state(B), made.puzzle_rows(None, B), MASK)
        return made.loss(out, tokens(B, seed=1).where(MASK, -100)).total

    kernels_agree(made, loss)


@pytest.mark.parametrize("name", ["mixer", "attention"])
def test_what_is_not_masked_is_read_by_all(name: str) -> None:
    made = model(**VARIANTS[name])
    before, after = tokens(B), tokens(B)
    after[:, -1] = before[:, -1] % 5 + 1
    first, second = (made(t, made.initial_state(B)).logits for t in (before, after))
    assert (first != second).any(-1).all()


@pytest.mark.parametrize("changes", [{}, {"positions": "rope", "num_heads": 4}, {"norm_position": "pre"}])
@pytest.mark.parametrize("masked", [False, True])
def test_the_future_does_not_change_the_past(changes: dict[str, Any], masked: bool) -> None:
    made = model(mixing="attention", causal=True, **changes)
    mask = MASK if masked else None
    for first_changed in range(1, 6):
        before, after = tokens(B), tokens(B)
        after[:, first_changed:] = before[:, first_changed:] % 5 + 1
        start = made.initial_state(B)
        first, second = (made(t, start, mask=mask).logits for t in (before, after))
        assert torch.equal(first[:, :first_changed], second[:, :first_changed])
        changed = (first[:, first_changed:] != second[:, first_changed:]).any(-1)
        assert changed.all() if mask is None else changed[mask[:, first_changed:]].all()
