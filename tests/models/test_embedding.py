"""The input embedding and the simplest heads, against the same formulas written differently."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trm_fast.models.embedding import InputEmbedding
from trm_fast.models.heads import TokenHead, TokensConfig
from trm_fast.models.q_head import QHead

from .small import config

B, L, D = 3, 6, 8


def test_embedding_of_tokens_and_prefix() -> None:
    c = config(prefix_tokens=2, puzzle_embedding_size=11, num_puzzles=1)
    part = InputEmbedding(c)
    tokens, rows = torch.tensor([[0, 1, 2, 3, 4, 5]], dtype=torch.int32), torch.randn(1, 11)
    x = part(tokens, rows, torch.float32) / math.sqrt(D)
    torch.testing.assert_close(x[:, 2:], part.tokens.weight[tokens.long()])
    torch.testing.assert_close(x[:, :2].flatten(1)[:, :11], rows)
    assert not x[:, :2].flatten(1)[:, 11:].any()
    with pytest.raises(ValueError, match="puzzle_rows"):
        part(tokens, None, torch.float32)


@pytest.mark.parametrize("prefix", [0, 1])
def test_grid_positions_are_a_row_and_a_column(prefix: int) -> None:
    c = config(positions="grid", grid_shape=(2, 3), prefix_tokens=prefix, puzzle_embedding_size=8)
    part = InputEmbedding(c)
    assert part.rows is not None
    assert part.columns is not None
    tokens, puzzle = torch.zeros(1, 6, dtype=torch.int32), torch.randn(1, 8) if prefix else None
    x = part(tokens, puzzle, torch.float32)[0] / math.sqrt(D)
    for cell in range(6):
        position = (part.rows.weight[cell // 3] + part.columns.weight[cell % 3]) / math.sqrt(2)
        torch.testing.assert_close(x[prefix + cell], (part.tokens.weight[0] + position) / math.sqrt(2))
    if puzzle is not None:  # the prefix has no place on the grid
        torch.testing.assert_close(x[0], puzzle[0] / math.sqrt(2))


def test_learned_positions() -> None:
    part = InputEmbedding(config(positions="learned"))
    assert part.positions is not None
    x = part(torch.zeros(1, 6, dtype=torch.int32), None, torch.float32)[0] / math.sqrt(D)
    torch.testing.assert_close(x, (part.tokens.weight[0] + part.positions.weight) / math.sqrt(2))


def test_heads_read_the_first_position_and_those_after_the_prefix() -> None:
    c = config(prefix_tokens=2, puzzle_embedding_size=16)
    answer, q, tokens = torch.randn(3, 8, D), QHead(c.head_inputs), TokenHead(TokensConfig(), c.head_inputs)
    nn.init.normal_(q.weight)
    torch.testing.assert_close(q(answer), answer[:, 0] @ q.weight[0] + q.bias)
    torch.testing.assert_close(tokens(answer), answer[:, 2:] @ tokens.linear.weight.T)
