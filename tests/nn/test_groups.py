"""Partitions of a grid, and models that mix over groups: what they are equivariant to, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.models import TRMConfig, TRMModel
from trm_fast.nn.groups import Grid, partitions
from trm_fast.tasks.sudoku.rules import units
from trm_fast.tasks.sudoku.symmetry import random_symmetries

SMALL: dict[str, Any] = {
    "hidden_size": 16, "inner_multiple": 8, "T_cycles": 2, "n_latent_steps": 1, "mixing": "groups",
    "groups": ["rows", "columns", "boxes"], "box_shape": (3, 3), "special_tokens": 2,
}  # fmt: skip


def model(seed: int = 0, **changes: Any) -> TRMModel:
    torch.manual_seed(seed)
    result = TRMModel(TRMConfig.for_sudoku(**SMALL | changes))
    with torch.no_grad():
        for p in result.parameters():
            p.add_(0.02 * torch.randn_like(p))  # the Q head starts at zero
    return result


def test_partitions_of_sudoku_are_its_units() -> None:
    groups = partitions(["rows", "columns", "boxes"], Grid((9, 9), (3, 3)))
    members = [torch.nonzero(group == number).flatten().tolist() for group in groups for number in range(9)]
    assert members == units(9).tolist()


def test_boxes_may_be_cut_off_and_shifted() -> None:
    assert partitions(["boxes", "shifted_boxes"], Grid((3, 3), (2, 2))).tolist() == [
        [0, 0, 1, 0, 0, 1, 2, 2, 3], [0, 1, 1, 2, 3, 3, 2, 3, 3],
    ]  # fmt: skip


def test_prefix_is_a_group_of_its_own_except_in_all() -> None:
    assert partitions(["rows", "all"], Grid((2, 1)), prefix=2).tolist() == [[0, 0, 1, 2], [0, 0, 0, 0]]


def test_symbols_share_a_group_in_each_cell_only() -> None:
    groups = partitions(["rows", "columns"], Grid((2, 2)), symbols=3)
    assert groups.shape == (3, 12)
    assert torch.equal(groups[2], torch.arange(4).repeat_interleave(3))
    for group, name in zip(groups, ("rows", "columns"), strict=False):
        cells = partitions([name], Grid((2, 2)))[0]
        want = cells[:, None] * 3 + torch.arange(3)
        assert torch.equal(group.view(4, 3), want)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_symmetric_puzzle_gives_symmetric_answer(backend: str) -> None:
    """All symmetries of sudoku but the transposition, which exchanges rows and columns."""
    net, rng = model(symbols="equivariant"), np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(1, 11, (6, 81)))
    positions, digits = random_symmetries(6, 9, rng)
    tables = torch.from_numpy(np.concatenate((np.zeros((6, 1), np.int64), digits + 1), 1))  # old token -> new token
    moved = tables.gather(1, tokens.gather(1, torch.from_numpy(positions)))
    transposed = torch.tensor([_transposes(p) for p in positions])
    assert 0 < transposed.sum() < 6
    with ops.use_backend(backend), torch.no_grad():
        plain, image = (net(t, net.initial_state(6)) for t in (tokens, moved))
    want = torch.empty_like(plain.logits)
    for row in range(6):
        want[row][:, tables[row]] = plain.logits[row][positions[row]]
    torch.testing.assert_close(image.logits[~transposed], want[~transposed], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(image.q[~transposed], plain.q[~transposed], rtol=1e-4, atol=1e-4)
    assert (image.logits - want)[transposed].abs().max() > 1e-3


def _transposes(positions: np.ndarray) -> bool:
    """Whether a symmetry maps rows to columns: then the cells of its first row come from one column."""
    return len(set((positions[:9] // 9).tolist())) > 1


def test_fused_recursion_agrees_with_modules() -> None:
    net = model(symbols="equivariant")
    tokens = torch.randint(1, 11, (3, 81), generator=torch.Generator().manual_seed(0))
    with ops.use_backend("reference"), torch.no_grad():
        want = net.double()(tokens, _double(net, 3))
    net = net.float()
    with torch.no_grad():
        got = net(tokens, net.initial_state(3))
    torch.testing.assert_close(got.logits.double(), want.logits, rtol=1e-4, atol=1e-4)


def _double(net: TRMModel, batch: int) -> Any:
    net.compute_dtype = torch.float64
    state = net.initial_state(batch)
    net.compute_dtype = torch.float32
    return state


def test_weights_fit_every_size() -> None:
    nine = model(symbols="equivariant")
    four = model(seed=1, symbols="equivariant", seq_len=16, grid_shape=(4, 4), box_shape=(2, 2), vocab_size=6)
    four.load_state_dict(nine.state_dict())
    out = four(torch.ones(2, 16, dtype=torch.int64), four.initial_state(2))
    assert out.logits.shape == (2, 16, 6)


def test_without_symbols_and_with_prefix() -> None:
    net = model(groups=["rows", "all"], prefix_tokens=2, puzzle_embedding_size=20, positions="grid")
    tokens = torch.ones(2, 81, dtype=torch.int64)
    with torch.no_grad():
        plain = net(tokens, net.initial_state(2), net.puzzle_rows(None, 2)).logits
        other = net(tokens, net.initial_state(2), torch.ones(2, 20)).logits
    assert plain.shape == (2, 81, 11)
    assert not torch.allclose(plain, other), "the prefix reaches every cell through the group of all positions"


def test_flop_are_those_of_the_products() -> None:
    config = TRMConfig.for_sudoku(**SMALL | {"symbols": "equivariant", "T_cycles": 1, "n_latent_steps": 1})
    inner = config.network.inner_size(16)
    layer = 2 * 16 * 2 * inner * (729 + 4 * 81) + 2 * 16 * inner * 729
    assert config.gemm_flop(training=False) == 2 * 2 * layer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": []}, "mixing: groups and groups go together"),
        ({"mixing": "mlp"}, "mixing: groups and groups go together"),
        ({"groups": ["rows", "diagonals"]}, "unknown partition 'diagonals'; choose one of"),
        ({"box_shape": None}, "boxes need a box_shape"),
        ({"grid_shape": None}, "mixing: groups needs a grid_shape"),
        ({"causal": True}, "causal needs mixing: attention"),
        ({"symbols": "equivariant", "mixing": "mlp", "groups": []}, "symbols: equivariant needs mixing: groups"),
        ({"symbols": "equivariant", "positions": "learned"}, "has neither positions"),
        ({"symbols": "equivariant", "special_tokens": 11}, "leaves no symbol of 11 tokens"),
        ({"symbols": "equivariant", "inputs": "values", "head": {"kind": "values"}}, "needs inputs: tokens"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TRMConfig.for_sudoku(**SMALL | changes)


def test_gradients_reach_all_weights() -> None:
    net = model(symbols="equivariant")
    tokens = torch.randint(1, 11, (2, 81), generator=torch.Generator().manual_seed(0))
    out = net(tokens, net.initial_state(2))
    (out.logits.sum() + out.q.sum()).backward()
    names = [name for name, p in net.named_parameters() if p.grad is None or not _moves(p.grad)]
    assert not names


def _moves(gradient: Tensor) -> bool:
    return bool(gradient.isfinite().all()) and bool(gradient.abs().max() > 0)
