"""The text head: distribution, copy scores and loss computed by hand; decoding step by step equals the whole
sequence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trm_fast import ops
from trm_fast.api import TRM
from trm_fast.labels import IGNORE
from trm_fast.models import TRMConfig
from trm_fast.models.heads.base import rows_at
from trm_fast.models.heads.text import GATE_SCALE, KEY_RADIUS, STEM_RADIUS, STEM_SCORES, Next

from ..small import kernels_agree

L, V = 12, 15


def config(**changes: object) -> TRMConfig:
    keys = {
        "causal": True, "mixing": "attention", "positions": "rope", "state": "single",
        "vocab_size": V, "seq_len": L, "hidden_size": 16, "num_heads": 2, "inner_multiple": 8,
        "T_cycles": 2, "n_latent_steps": 1, "max_supervision_steps": 2,
    }  # fmt: skip
    head = {"kind": "text", "pointer_width": 4} | {n: changes.pop(n) for n in ("row_symbols", "stems") if n in changes}
    return TRMConfig.model_validate(keys | changes | {"head": head})


def model(**changes: object) -> TRM:
    torch.manual_seed(0)
    return TRM(config(**changes)).eval()


def whole(net: TRM, ids: torch.Tensor) -> torch.Tensor:
    state = net.initial_state(len(ids))
    with torch.no_grad():
        for _ in range(net.config.max_supervision_steps):
            out = net(ids, state)
            state = out.state
    return out.logits.scores


OWN_WIDTHS = {"latent_width": 6, "answer_width": 4}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"state": "dual"},
        {"norm_position": "pre"},
        {"positions": "none"},
        OWN_WIDTHS | {"state": "dual"},
        {"latent_width": 6},
    ],
)
def test_decoding_step_by_step_equals_the_whole_sequence(changes: dict[str, object]) -> None:
    net = model(**changes)
    ids = torch.randint(1, V, (1, L))
    scores = whole(net, ids)[0].numpy()
    row, tokens = net.incremental(), ids[0].tolist()
    got = [row.extend(tokens[:5])] + [row.extend([token]) for token in tokens[5:]]
    np.testing.assert_allclose(np.stack(got), scores[4:], atol=1e-4)
    assert row.free == 0
    with pytest.raises(ValueError, match="13 tokens"):
        row.extend([1])


def test_a_fork_is_independent() -> None:
    net = model()
    row = net.incremental()
    row.extend([1, 2, 3])
    other = row.fork()
    other.extend([4])
    again = net.incremental()
    again.extend([1, 2, 3])
    np.testing.assert_allclose(row.extend([5]), again.extend([5]), atol=1e-5)


def test_a_position_does_not_see_later_ones() -> None:
    net = model()
    ids = torch.randint(1, V, (1, L))
    other = ids.clone()
    other[0, 6:] = torch.randint(1, V, (L - 6,))
    torch.testing.assert_close(whole(net, ids)[:, :6], whole(net, other)[:, :6])


def test_every_position_has_a_distribution_that_can_copy() -> None:
    net = model()
    ids = torch.full((1, L), 7)
    torch.testing.assert_close(whole(net, ids).exp().sum(-1), torch.ones(1, L), atol=1e-4, rtol=0)
    with torch.no_grad():
        net.head.wanted.weight.mul_(0)
        net.head.anew.weight.mul_(0)
        net.head.anew.bias.fill_(math.log(3))
        answer = torch.randn(1, L, 16)
        scores = net.head(answer, inputs=ids).scores.exp()
        plain = net.head.linear(answer).softmax(-1)
    for position in range(L):  # generating weighs as much as three positions; all positions have symbol 7
        copied = max(0, position + 1 - KEY_RADIUS)
        expected = (copied + 3 * plain[0, position, 7]) / (copied + 3)
        torch.testing.assert_close(scores[0, position, 7], expected)


ROW = {"inputs": "bags", "row_symbols": L, "features": 3, "stems": 4, "seq_len": L}


def rows(count: int = 2) -> dict[str, torch.Tensor]:
    """Random bags of tokens, symbols of an example's own, features, stems and links."""
    drawn = torch.Generator().manual_seed(0)

    def numbers(most: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, most, (count, L, *shape), generator=drawn)

    return {
        "inputs": numbers(V, 3), "symbols": numbers(V + L), "sources": numbers(2).bool(), "stems": numbers(4, 4),
        "calls": numbers(3), "features": torch.randn(count, L, 3, generator=drawn),
        "links": torch.rand(count, L, 2, generator=drawn),
    }  # fmt: skip


def test_symbols_of_an_example_can_only_be_copied() -> None:
    net, extra = model(**ROW), rows()
    with torch.no_grad():
        scores = net(extra.pop("inputs"), net.initial_state(2), **extra).logits.scores
    assert scores.shape == (2, L, V + L)
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(2, L), atol=1e-4, rtol=0)
    for row in range(2):
        for position in range(L):
            free = extra["sources"][row, : max(0, position + 1 - KEY_RADIUS)]
            states = set(extra["symbols"][row, : len(free)][free].tolist())
            likely = {V + i for i in torch.nonzero(scores[row, position, V:] > math.log(2e-9)).flatten().tolist()}
            assert likely <= states
            assert {symbol for symbol in states if symbol >= V} - likely == set()


def test_decoding_step_by_step_with_features_equals_the_whole_sequence() -> None:
    net, extra = model(**ROW), rows(1)
    inputs = extra.pop("inputs")
    state = net.initial_state(1)
    with torch.no_grad():
        for _ in range(net.config.max_supervision_steps):
            out = net(inputs, state, **extra)
            state = out.state
    row, arrays = net.incremental(), {name: tensor[0].numpy() for name, tensor in extra.items()}
    parts = [slice(0, 5), *(slice(i, i + 1) for i in range(5, L))]
    got = [row.extend(inputs[0, part].numpy(), {n: a[part] for n, a in arrays.items()}) for part in parts]
    np.testing.assert_allclose(np.stack(got), out.logits.scores[0, 4:].numpy(), atol=1e-4)


def test_copy_scores_are_as_defined() -> None:
    """Against loops: shared stems near a position, links, continued copies, written symbols, and the position's
    features."""
    net, extra = model(**ROW), rows()
    meeting, free = net.head.meeting, extra["sources"]
    positions = torch.tensor([[4, 9, 11], [2, 6, 10]])
    states = torch.randn(2, L, 19)
    with torch.no_grad():
        got = meeting(rows_at(states, positions), positions, extra["symbols"], free, extra["features"],
                      **{n: extra[n] for n in ("stems", "links", "calls")})  # fmt: skip
        gates = GATE_SCALE * meeting.gates(rows_at(states, positions))
        kernel, worth = meeting.near.weight.detach(), meeting.worth(extra["features"])
    symbols, stems, calls = (extra[name].tolist() for name in ("symbols", "stems", "calls"))
    for b in range(2):
        for k, i in enumerate(positions[b].tolist()):
            for j in range(L):
                met = [0.0] * STEM_SCORES
                for tap in range(2 * STEM_RADIUS + 1):
                    at = j + tap - STEM_RADIUS
                    if 0 <= at <= i and free[b, at] and stems[b][at][0] > 0:
                        for half in range(2):
                            if stems[b][at][0] in stems[b][i][2 * half : 2 * half + 2]:
                                met = [m + float(kernel[c, half, tap]) for c, m in enumerate(met)]
                one = j >= 1 and symbols[b][i] == symbols[b][j - 1]
                two = one and j >= 2 and symbols[b][i - 1] == symbols[b][j - 2]
                scores = [n for n in range(i + 1) if calls[b][n] and symbols[b][n] == symbols[b][j]]
                here = [n for n in scores if calls[b][n] == calls[b][i]]
                linked = float(extra["links"][b, i] @ extra["links"][b, j])
                plain = [linked, float(one), float(two), float(bool(scores)), float(bool(here))]
                expected = float(gates[b, k] @ torch.tensor([*met, *plain, *worth[b, j].tolist()]))
                assert float(got[b, k, j]) == pytest.approx(expected, abs=1e-4), (b, i, j)


def test_the_loss_is_a_mean_weighted_by_role() -> None:
    prediction = torch.full((1, 3, V), -math.log(V))
    prediction[0, 1] = -20.0
    prediction[0, 1, 4] = -0.5
    labels, weights = torch.tensor([[IGNORE, 4, 2]]), torch.tensor([[0.0, 2.0, 1.0]])
    scores = Next(prediction, torch.arange(3)[None])
    loss = model().head.loss(scores, torch.tensor([0.0]), labels, weights=weights)
    assert loss.answer.item() == pytest.approx((2 * 0.5 + math.log(V)) / 3, rel=1e-5)
    assert loss.cells.tolist() == [0.5]


def test_positions_without_weight_are_left_out_and_change_nothing() -> None:
    net, ids = model(), torch.randint(1, V, (2, L))
    mask = torch.arange(L) < torch.tensor([[L - 1], [8]])
    weights = torch.zeros(2, L)
    weights[0, 3], weights[0, 9], weights[1, 5] = 1.0, 2.0, 1.0
    labels = torch.where(weights > 0, ids.roll(-1, 1), IGNORE)
    with torch.no_grad():
        every, some = (net(ids, net.initial_state(2), mask=mask, **extra) for extra in ({}, {"weights": weights}))
        assert some.logits.scores.shape == (2, 2, V)
        losses = [net.loss(out, labels, weights=weights) for out in (every, some)]
        answers = [net.head.answers(out.logits) for out in (every, some)]
    for one, other in zip(*losses, strict=True):
        torch.testing.assert_close(one, other)
    assert answers[1].shape == (2, L)
    torch.testing.assert_close(answers[0][weights > 0], answers[1][weights > 0])


def test_gradients_reach_every_parameter_and_every_application() -> None:
    net, calls = model().train(), []

    def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            calls.append(output)

    net.net.register_forward_hook(keep)
    ids = torch.randint(1, V, (2, L))
    mask = torch.arange(L) < torch.tensor([[L], [8]])
    with ops.use_backend("reference"):  # the fused recursion calls no modules
        out = net(ids, net.initial_state(2), mask=mask)
    labels = torch.where(mask, ids.roll(-1, 1), IGNORE)
    net.loss(out, labels, weights=mask.float()).total.backward()
    assert len(calls) == net.config.n_latent_steps + 1
    assert all(call.grad is not None and bool(call.grad.abs().sum() > 0) for call in calls)
    assert [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


def test_kernels_agree() -> None:
    net, ids = model(), torch.randint(1, V, (3, L))
    mask = torch.arange(L) < torch.tensor([[L], [8], [1]])
    labels = torch.where(mask, ids.roll(-1, 1), IGNORE)

    def loss() -> torch.Tensor:
        out = net(ids, net.initial_state(3), mask=mask)
        total: torch.Tensor = net.loss(out, labels, weights=mask.float()).total
        return total

    kernels_agree(net, loss)


def test_the_halting_logit_of_a_causal_model_reads_the_last_token() -> None:
    net = model()
    with torch.no_grad():
        net.q_head.weight.normal_()
    ids = torch.randint(1, V, (1, L))
    mask = torch.arange(L) < 8
    with torch.no_grad():
        alone = net(ids[:, :8], net.initial_state(1).positions(8)).q
        padded = net(ids, net.initial_state(1), mask=mask[None]).q
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-4)


def test_text_needs_a_causal_model() -> None:
    with pytest.raises(ValueError, match="causal"):
        config(causal=False)
    for changes in ({}, ROW):
        assert model(**changes).num_parameters() == TRM.count_parameters(config(**changes))
