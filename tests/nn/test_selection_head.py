"""The selection head: its loss by hand, tools out of reach, padding, and no gradient left out."""

from __future__ import annotations

import math

import pytest
import torch

from trm_fast import ops
from trm_fast.nn import TRM, TRMConfig
from trm_fast.nn.loss import IGNORE
from trm_fast.nn.selection_head import ARGUMENTS, SCALE, Selection

from .small import kernels_agree

CONFIG = TRMConfig(
    inputs="bags", outputs="selection", vocab_size=20, seq_len=12, roles=6, features=3, num_tools=3, num_fields=2,
    num_words=4, reasoning_dim=6, action_dim=5, hidden_size=16, num_heads=2, inner_multiple=8, mixing="attention",
    positions="rope", T_cycles=2, n_latent_steps=2,
)  # fmt: skip
T, P, W, B, L = 3, 2, 4, 3, CONFIG.seq_len


def model() -> TRM:
    torch.manual_seed(0)
    return TRM(CONFIG)


def rows(lengths: tuple[int, ...] = (12, 12, 9)) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    N = len(lengths)
    mask = torch.arange(L) < torch.tensor(lengths)[:, None]
    bags = torch.randint(0, 20, (N, L, 4)) * mask[..., None]
    return {
        "inputs": bags, "roles": torch.randint(0, 6, (N, L)) * mask, "features": torch.randn(N, L, 3) * mask[..., None],
        "mask": mask, "tool_places": torch.tensor([[5, 7, 0]] * N), "field_places": torch.tensor([[6, 8]] * N),
    }  # fmt: skip


LABELS = torch.tensor([[1, 0, IGNORE, 1, 0, *[0, 1, 2, 0], *[IGNORE] * 4]] * B)


def test_the_loss_is_the_sum_of_its_parts() -> None:
    tools = torch.tensor([[2.0, 1.0, -1e4]])
    kinds, tags = torch.zeros(1, P, 6), torch.zeros(1, P, W, 3)
    kinds[0, 0, 1] = 1.0
    loss = model().head.loss(Selection(tools, kinds, tags), torch.tensor([0.3]), LABELS[:1])
    tool = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    kind = (math.log(math.e + 5) - 1 + math.log(6)) / 2
    assert loss.answer.item() == pytest.approx(tool + ARGUMENTS * (kind + 4 * math.log(3)), rel=1e-5)
    bare = model().head.loss(Selection(tools, kinds, tags), torch.tensor([0.3]), LABELS[:1], arguments=False)
    assert bare.answer.item() == pytest.approx(tool, rel=1e-5)
    assert (bare.exact, bare.cells) == (loss.exact, loss.cells)  # what counts as right stays
    # The first tool, both kinds (ties go to the first, 0) and two tags are right; the second tool is not called.
    assert loss.cells.tolist() == pytest.approx([(1 + 2 + 2) / 8])
    assert not loss.exact.item()


def test_answers_keep_the_sign_and_the_order_of_the_tools() -> None:
    given, net = rows(), model()
    out = net(given.pop("inputs"), net.initial_state(B), **given)
    answers = net.head.answers(out.logits)
    assert answers.shape == (B, T + P + P * W)
    torch.testing.assert_close(answers[:, :2].float(), out.logits.tools[:, :2] * SCALE, atol=0.5, rtol=0)
    assert bool((answers[:, 2] < -1_000_000).all())  # there is no third tool


def test_gradients_reach_every_parameter_and_every_application() -> None:
    net, given = model(), rows()
    calls: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            calls.append(output)

    net.net.register_forward_hook(keep)
    with ops.use_backend("reference"):  # the fused recursion calls no modules
        out = net(given.pop("inputs"), net.initial_state(B), **given)
    net.loss(out, LABELS).total.backward()
    assert len(calls) == CONFIG.n_latent_steps + 1
    assert all(call.grad is not None and bool(call.grad.abs().sum() > 0) for call in calls)
    without = [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert without == []


def test_kernels_agree() -> None:
    net, given = model(), rows()
    inputs = given.pop("inputs")
    kernels_agree(net, lambda: net.loss(net(inputs, net.initial_state(B), **given), LABELS).total)


def test_a_row_answers_alike_alone_and_among_longer_ones() -> None:
    net, given = model().eval(), rows()
    inputs = given.pop("inputs")
    with torch.no_grad():
        together = net(inputs, net.initial_state(B), **given).logits
        alone = net(inputs[2:], net.initial_state(1), **{k: v[2:] for k, v in given.items()}).logits
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[2:], b, rtol=1e-4, atol=1e-4)


def test_a_bag_is_the_sum_of_its_tokens_in_any_order() -> None:
    net = model()
    weight = net.embedding.tokens.weight
    bag = torch.tensor([[[3, 5, 0, 0]], [[0, 5, 3, 0]]]).expand(2, L, 4)
    made = net.embedding._places(bag, torch.float32)
    torch.testing.assert_close(made[0], made[1])
    torch.testing.assert_close(made[0, 0], (weight[3] + weight[5]) / math.sqrt(2))


def test_parameters_are_counted_before_they_exist() -> None:
    assert model().num_parameters() == CONFIG.num_parameters()


def test_a_classifier_scores_known_tools_wherever_they_stand_and_never_calls_another() -> None:
    torch.manual_seed(0)
    net = TRM(CONFIG.model_copy(update={"known_tools": 7}))
    assert net.num_parameters() == net.config.num_parameters()
    given = rows()
    inputs = given.pop("inputs")
    ids = torch.tensor([[3, 0, 0], [5, 3, 0], [0, 5, 0]])
    with torch.no_grad():
        said, other = (net(inputs, net.initial_state(B), tool_ids=i, **given).logits.tools for i in (ids, ids.flip(1)))
    assert bool((said[ids == 0] == -1e4).all())
    torch.testing.assert_close(said, other.flip(1))
    assert bool((said[ids > 0] > -1e3).all())
