"""The selection head: losses and spans computed by hand, missing tools, padding, and gradients of every parameter."""

from __future__ import annotations

import math

import pytest
import torch

from trm_fast import ops
from trm_fast.api import TRM
from trm_fast.labels import IGNORE, SCORE_SCALE
from trm_fast.models import TRMConfig
from trm_fast.models.heads.selection import SPANS, Selection, SelectionConfig, _span_cost, _tags
from trm_fast.nn.precision import CAST_AT_USE

from ..small import kernels_agree

CONFIG = TRMConfig(
    inputs="bags", vocab_size=20, seq_len=12, roles=6, features=3, hidden_size=16, num_heads=2, inner_multiple=8,
    mixing="attention", positions="rope", T_cycles=2, n_latent_steps=2,
    head=SelectionConfig(num_tools=3, num_fields=2, num_words=4, tool_width=6, value_width=5),
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
    assert loss.answer.item() == pytest.approx(
        tool + SelectionConfig().argument_weight * (kind + math.log(10)), rel=1e-5
    )  # four words have ten spans, all equally likely
    at_last = TRM(CONFIG.model_copy(update={"head": CONFIG.head.model_copy(update={"arguments": "last"})})).head
    again = at_last.loss(Selection(tools, kinds, tags), torch.tensor([0.3]), LABELS[:1])
    assert again.answer == loss.answer
    bare = at_last.loss(Selection(tools, kinds, tags), torch.tensor([0.3]), LABELS[:1], last=False)
    assert bare.answer.item() == pytest.approx(tool, rel=1e-5)
    assert (bare.exact, bare.cells) == (loss.exact, loss.cells)  # the same entries are right
    # The first tool, both kinds (ties go to the first, 0) and one tag are right (among equal spans the first one is
    # chosen); the second tool is not called.
    assert loss.cells.tolist() == pytest.approx([(1 + 2 + 1) / 8])
    assert not loss.exact.item()


def test_answers_keep_the_sign_and_the_order_of_the_tools() -> None:
    arrays, net = rows(), model()
    out = net(arrays.pop("inputs"), net.initial_state(B), **arrays)
    answers = net.head.answers(out.logits)
    assert answers.shape == (B, T + P + P * W)
    torch.testing.assert_close(answers[:, :2].float(), out.logits.tools[:, :2] * SCORE_SCALE, atol=0.5, rtol=0)
    assert bool((answers[:, 2] < -1_000_000).all())  # there is no third tool


def by_hand(logits: list[list[float]], forbidden: set[int]) -> tuple[float, list[int]]:
    """The most likely span of one argument and its log odds, by comparing all spans."""
    spans = []
    for first in range(len(logits)):
        for last in range(first, len(logits)):
            if forbidden.isdisjoint(range(first, last + 1)):
                words = logits[first : last + 1]
                score = words[0][1] - words[0][0] + sum(word[2] - word[0] for word in words[1:])
                tags = [1 if w == first else 2 if first < w <= last else 0 for w in range(len(logits))]
                spans.append((score, tags))
    return max(spans, default=(-math.inf, []), key=lambda item: item[0])


@pytest.mark.parametrize("seed", range(20))
def test_the_most_likely_span_is_chosen_and_a_tool_uses_words_once(seed: int) -> None:
    torch.manual_seed(seed)
    logits, W = torch.randn(1, 4, 7, 3) * 3, 7
    kinds, owners = torch.tensor([[1, 2, 1, 1]]), torch.tensor([[0, 0, 0, 1]])
    tags = _tags(logits, kinds, owners)[0].tolist()
    runs = [by_hand(logits[0, p].tolist(), set()) for p in range(4)]
    for p in range(4):
        taken = {
            w for o in range(4) if owners[0, o] == owners[0, p] and runs[o][0] > runs[p][0]
            for w in range(W) if runs[o][1][w]
        }  # fmt: skip
        _, remaining = by_hand(logits[0, p].tolist(), taken)
        assert tags[p] == (remaining or runs[p][1])


def test_the_cost_of_a_span_is_its_cross_entropy_among_all_spans() -> None:
    torch.manual_seed(0)
    W = 6
    logits = (torch.randn(1, 1, W, 3) * 2).requires_grad_()
    begins, inside = (logits[0, 0, :, 1:] - logits[0, 0, :, :1]).unbind(-1)
    runs = [(b, e) for b in range(W) for e in range(b, W)]
    scores = torch.stack([begins[b] + inside[b + 1 : e + 1].sum() for b, e in runs])
    for i, (b, e) in enumerate(runs):
        tags = torch.tensor([[[1 if w == b else 2 if b < w <= e else 0 for w in range(W)]]])
        got, want = _span_cost(logits, tags).sum(), -scores.log_softmax(0)[i]
        torch.testing.assert_close(got.float(), want)
        torch.testing.assert_close(*(torch.autograd.grad(cost, logits, retain_graph=True)[0] for cost in (got, want)))


def test_the_cost_of_several_values_is_that_of_their_tags() -> None:
    head, tools = model().head, torch.tensor([[2.0, 1.0, -1e4]])
    labels = LABELS[:1].clone()
    labels[0, T] = SPANS
    alone = head.loss(Selection(tools, torch.zeros(1, P, 9), torch.zeros(1, P, W, 3)), torch.zeros(1), labels)
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2 + SelectionConfig().argument_weight * (
        math.log(9) + 4 * math.log(3)
    )
    assert alone.answer.item() == pytest.approx(expected, rel=1e-5)


def test_several_values_are_tagged_word_by_word_and_missing_words_never() -> None:
    net, arrays = model().eval(), rows()
    with torch.no_grad():
        out = net(arrays.pop("inputs"), net.initial_state(B), **arrays).logits
        out.tags[:, :, :4] += torch.tensor([-9.0, 5.0, 6.0])  # every word is likely to be in a value
        tags = net.head.answers(out._replace(kinds=torch.full_like(out.kinds, 0.0)))[:, T + P :].view(B, P, W)
        assert bool((tags > 0).all())
        shorter = rows() | {"tool_places": torch.tensor([[4, 7, 0]] * B)}
        out = net(shorter.pop("inputs"), net.initial_state(B), **shorter).logits
        assert not net.head.answers(out)[:, T + P :].view(B, P, W)[:, :, 3:].any()
    logits = torch.zeros(1, 1, 4, 3)
    logits[0, 0, :, 1] = 1.0
    assert _tags(logits, torch.tensor([[SPANS]]), None).tolist() == [[[1, 1, 1, 1]]]
    assert int((_tags(logits, torch.tensor([[1]]), None) > 0).sum()) == 1
    assert not _tags(logits, torch.tensor([[SPANS + 1]]), None).any()


def test_gradients_reach_every_parameter_and_every_application() -> None:
    net, arrays = model(), rows()
    calls: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            calls.append(output)

    net.net.register_forward_hook(keep)
    with ops.use_backend("reference"):  # the fused recursion calls no modules
        out = net(arrays.pop("inputs"), net.initial_state(B), **arrays)
    net.loss(out, LABELS).total.backward()
    assert len(calls) == CONFIG.n_latent_steps + 1
    assert all(call.grad is not None and bool(call.grad.abs().sum() > 0) for call in calls)
    without = [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert without == []


def test_kernels_agree() -> None:
    net, arrays = model(), rows()
    inputs = arrays.pop("inputs")
    kernels_agree(net, lambda: net.loss(net(inputs, net.initial_state(B), **arrays), LABELS).total)


def test_an_example_has_the_same_answer_alone_and_in_a_batch() -> None:
    net, arrays = model().eval(), rows()
    inputs = arrays.pop("inputs")
    with torch.no_grad():
        batched = net(inputs, net.initial_state(B), **arrays).logits
        alone = net(inputs[2:], net.initial_state(1), **{k: v[2:] for k, v in arrays.items()}).logits
    for a, b in zip(batched[:4], alone[:4], strict=True):
        torch.testing.assert_close(a[2:], b, rtol=1e-4, atol=1e-4)


def test_a_bag_is_the_sum_of_its_tokens_in_any_order() -> None:
    net = model()
    weight = net.embedding.tokens.weight
    bag = torch.tensor([[[3, 5, 0, 0]], [[0, 5, 3, 0]]]).expand(2, L, 4)
    embedded = net.embedding._embedded(bag, torch.float32, CAST_AT_USE)
    torch.testing.assert_close(embedded[0], embedded[1])
    torch.testing.assert_close(embedded[0, 0], (weight[3] + weight[5]) / math.sqrt(2))


def test_parameters_are_counted_before_they_exist() -> None:
    assert model().num_parameters() == TRM.count_parameters(CONFIG)


def test_a_classifier_scores_known_tools_at_any_position_and_never_calls_others() -> None:
    torch.manual_seed(0)
    net = TRM(CONFIG.model_copy(update={"head": CONFIG.head.model_copy(update={"known_tools": 7})}))
    assert net.num_parameters() == TRM.count_parameters(net.config)
    arrays = rows()
    inputs = arrays.pop("inputs")
    ids = torch.tensor([[3, 0, 0], [5, 3, 0], [0, 5, 0]])
    with torch.no_grad():
        logits, other = (
            net(inputs, net.initial_state(B), tool_ids=i, **arrays).logits.tools for i in (ids, ids.flip(1))
        )
    assert bool((logits[ids == 0] == -1e4).all())
    torch.testing.assert_close(logits, other.flip(1))
    assert bool((logits[ids > 0] > -1e3).all())
