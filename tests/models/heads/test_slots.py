"""The slots head: spans against a search, the loss computed by hand, offered tools, and gradients of every
parameter."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from trm_fast import ops
from trm_fast.api import TRM
from trm_fast.labels import IGNORE, SlotKind
from trm_fast.models import TRMConfig
from trm_fast.models.heads.slots import MAX_SPAN, SlotPrediction, SlotsConfig, best_spans

from ..small import kernels_agree

CONFIG = TRMConfig(
    vocab_size=20, seq_len=12, roles=5, head=SlotsConfig(num_tools=3, num_fields=2, num_values=2), hidden_size=16,
    num_heads=2, inner_multiple=8, mixing="attention", positions="rope", T_cycles=2, n_latent_steps=2,
)  # fmt: skip
B, L = 3, CONFIG.seq_len


def model() -> TRM:
    torch.manual_seed(0)
    return TRM(CONFIG)


def rows(lengths: tuple[int, ...] = (12, 7, 4)) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.arange(L) < torch.tensor(lengths)[:, None]
    N = len(lengths)
    inputs = torch.where(mask, torch.randint(1, 20, (N, L)), 0)
    offered = torch.tensor([[True, True, False]] * N)
    return {"inputs": inputs, "roles": torch.randint(0, 5, (N, L)), "mask": mask, "offered": offered}


def test_best_spans_equal_an_exhaustive_search() -> None:
    torch.manual_seed(0)
    start, end = torch.randn(2, 3, 30), torch.randn(2, 3, 30)
    best = best_spans(start, end)
    for b, f in itertools.product(range(2), range(3)):
        pairs = [(s, e) for s in range(30) for e in range(s, min(30, s + MAX_SPAN))]
        s, e = max(pairs, key=lambda p: float(start[b, f, p[0]]) + float(end[b, f, p[1]]))
        assert (int(best[0][b, f]), int(best[1][b, f])) == (s, e)


def test_spans_stay_in_the_text_and_tools_among_those_offered() -> None:
    arrays, net = rows(), model()
    out = net(arrays.pop("inputs"), net.initial_state(B), **arrays)
    answers = net.head.answers(out.logits)
    lengths = arrays["mask"].sum(1)
    assert answers.shape == (B, 2 + 3 * 2)
    starts, ends = answers[:, 4:6], answers[:, 6:8]
    assert bool((starts <= ends).all())
    assert bool((ends < lengths[:, None]).all())
    assert bool((answers[:, 1] < 2).all())


def test_the_loss_is_the_sum_of_its_parts() -> None:
    prediction = SlotPrediction(
        decision=torch.tensor([[0.0, 1.0]]),
        tool=torch.tensor([[0.5, 0.0, -1.0]]),
        kind=torch.zeros(1, 2, len(SlotKind) + 2),
        start=torch.zeros(1, 2, L),
        end=torch.zeros(1, 2, L),
    )
    labels = torch.tensor([[1, 0, 0, 1, IGNORE, 3, IGNORE, 4]])
    q = torch.tensor([0.3])
    loss = model().head.loss(prediction, q, labels)
    p = math.e / (1 + math.e)
    tool = math.log(math.exp(0.5) + 1 + math.exp(-1)) - 0.5
    by_hand = (1 - p) ** 2 * -math.log(p) + tool + 0.5 * (math.log(len(SlotKind) + 2) + 2 * math.log(L))
    assert loss.answer.item() == pytest.approx(by_hand, rel=1e-5)
    # Ties go to the first: decision, tool and the first kind are right, the second kind and its span are not.
    assert loss.cells.tolist() == pytest.approx([3 / 6])
    assert not loss.exact.item()
    assert loss.halting.item() == pytest.approx(math.log(1 + math.exp(0.3)), rel=1e-5)


def test_a_direct_answer_teaches_no_tool_and_no_argument() -> None:
    net, arrays = model(), rows()
    labels = torch.full((B, 8), IGNORE)
    labels[:, 0] = 0
    out = net(arrays.pop("inputs"), net.initial_state(B), **arrays)
    net.loss(out, labels).answer.backward()
    assert net.head.tool.weight.grad.abs().sum() == 0
    assert net.head.span.weight.grad.abs().sum() == 0
    assert net.head.decision.weight.grad.abs().sum() > 0


def test_gradients_reach_every_parameter_and_every_application() -> None:
    net, arrays = model(), rows()
    calls: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            calls.append(output)

    net.net.register_forward_hook(keep)
    labels = torch.tensor([[1, 0, 1, 1, 2, 1, 3, 1]] * B)
    with ops.use_backend("reference"):  # the fused recursion calls no modules
        out = net(arrays.pop("inputs"), net.initial_state(B), **arrays)
    net.loss(out, labels).total.backward()
    assert len(calls) == CONFIG.n_latent_steps + 1
    assert all(call.grad is not None and bool(call.grad.abs().sum() > 0) for call in calls)
    without = [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert without == []


def test_kernels_agree() -> None:
    net, arrays = model(), rows()
    inputs = arrays.pop("inputs")
    kernels_agree(
        net,
        lambda: (
            net.loss(net(inputs, net.initial_state(B), **arrays), torch.tensor([[1, 0, 1, 1, 2, 1, 3, 1]] * B)).total
        ),
    )


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_an_example_has_the_same_answer_alone_and_in_a_batch(positions: str) -> None:
    torch.manual_seed(0)
    net, arrays = TRM(CONFIG.model_copy(update={"positions": positions})).eval(), rows()
    inputs = arrays.pop("inputs")
    with torch.no_grad():
        batched = net(inputs, net.initial_state(B), **arrays)
        for row in range(B):
            alone = net(inputs[row : row + 1], net.initial_state(1), **{k: v[row : row + 1] for k, v in arrays.items()})
            short = int(arrays["mask"][row].sum())
            for a, b in zip(batched.logits, alone.logits, strict=True):
                part = a[row : row + 1]
                if part.shape[-1] == L:
                    part, b = part[..., :short], b[..., :short]
                torch.testing.assert_close(part, b, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(batched.q[row], alone.q[0], rtol=1e-4, atol=1e-5)


def test_tokens_in_the_padding_change_nothing() -> None:
    net, arrays = model().eval(), rows((7, 7, 4))
    inputs = arrays.pop("inputs")
    other = torch.where(arrays["mask"], inputs, 19)
    with torch.no_grad():
        first = net(inputs, net.initial_state(B), **arrays)
        second = net(other, net.initial_state(B), **arrays)
    for a, b in zip(first.logits, second.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_parameters_are_counted_before_they_exist() -> None:
    assert model().num_parameters() == TRM.count_parameters(CONFIG)
