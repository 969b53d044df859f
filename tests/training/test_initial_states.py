"""Several initial states: all are advanced, the one with the lowest loss learns, and the solver tries each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trm_fast.api import TRM
from trm_fast.errors import UserError
from trm_fast.inference import Solver
from trm_fast.nn import State
from trm_fast.tasks.base import Examples
from trm_fast.training import Carry

from ..inference.echo import Echo, questions
from ..inference.echo import make_model as echo_model
from .small import SPEC, batch_of, make_examples, make_model, run_config
from .test_step import PREFIX

B, K = 5, 3


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean stablemax cross-entropy of the labeled cells of one example, from its definition; 0 without any."""
    labeled = labels != -100
    scores = torch.where(logits >= 0, logits + 1, 1 / (1 - logits.clamp(max=0)))
    cost = -(scores / scores.sum(-1, keepdim=True)).log()
    return sum(cost[i, labels[i]] for i in labeled.nonzero().flatten()) / max(1, int(labeled.sum())) + 0 * logits.sum()


def one_row(state: State, slot: int, number: int) -> State:
    return State(*(None if t is None else t[slot, number][None] for t in state))


@pytest.mark.parametrize("changes", [{}, {"state": "single", "mixing": "attention"}, PREFIX])
def test_the_state_with_the_lowest_loss_learns(changes: dict[str, Any]) -> None:
    """Compares with one state of one example at a time, for three supervision steps of which slots halt in two."""
    model = make_model(dtype=torch.float64, initial_states=K, **changes)
    carry = Carry(model, B, SPEC)
    states: list[list[State]] = [[] for _ in range(B)]
    chosen = []
    for number in range(3):
        carry.refill(batch_of(make_examples(B, number, puzzles=4)))
        for slot in range(B):
            if carry.halted[slot]:
                vectors = [(None if model.y_init is None else model.y_init[k], model.z_init[k]) for k in range(K)]
                shape = (1, model.config.total_tokens, -1)
                states[slot] = [State(*(None if v is None else v.expand(shape) for v in pair)) for pair in vectors]
        batch, total, want_q = carry.batch, torch.zeros((), dtype=torch.float64), []
        want_rows = torch.zeros(B, 12, dtype=torch.float64)
        model.zero_grad()
        for slot in range(B):
            tries = []
            for state in states[slot]:
                rows = model.puzzle_rows(batch.puzzle_ids[slot : slot + 1], 1)
                rows = None if rows is None else rows.clone().requires_grad_()
                out = model(batch.inputs[slot : slot + 1], state, rows)
                tries.append((answer_loss(out.logits[0], batch.labels[slot].long()), out, rows))
            best = min(range(K), key=lambda k, tries=tries: tries[k][0].item())
            chosen.append(best)
            answer, out, rows = tries[best]
            right = ((out.logits[0].argmax(-1) == batch.labels[slot]) | (batch.labels[slot] == -100)).all()
            loss = answer + 0.5 * F.binary_cross_entropy_with_logits(out.q, right.to(out.q.dtype)[None])
            loss.backward()
            total += loss.detach()
            want_q.append(out.q.detach())
            if rows is not None:
                want_rows[slot] = rows.grad
            states[slot] = [out.state for _, out, _ in tries]
        want = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        out, batch_loss, leaf = carry.supervise(model, slice(None))
        batch_loss.total.backward()
        torch.testing.assert_close(batch_loss.total.detach(), total)
        torch.testing.assert_close(out.q.detach(), torch.cat(want_q))
        for parameter, grad in zip(model.parameters(), want, strict=True):
            assert (parameter.grad is None) == (grad is None)
            if grad is not None:
                torch.testing.assert_close(parameter.grad, grad)
        if leaf is not None:
            torch.testing.assert_close(leaf.grad, want_rows)
        for slot in range(B):
            for k in range(K):
                for got, kept in zip(one_row(carry.state, slot, k), states[slot][k], strict=True):
                    assert got is None or torch.allclose(got, kept, rtol=1e-9)
        carry.halted.copy_(torch.tensor([True, False, True, False, False]))
    assert len(set(chosen)) == K, "each state wins sometimes"


def test_one_initial_state_is_as_without_the_option() -> None:
    one, plain = (make_model(**changes) for changes in ({"initial_states": 1}, {}))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), plain.state_dict().values(), strict=True))
    assert one.z_init.shape == (8,)
    several = make_model(initial_states=K)
    assert several.z_init.shape == (K, 8)
    chosen = several.initial_state(2, torch.tensor([2, 0]))
    assert torch.equal(chosen.z[:, 3], several.z_init[[2, 0]])
    assert torch.equal(several.initial_state(2).z, several.z_init[:1, None].expand(2, 6, 8))


def test_rollouts_start_from_each_of_the_states() -> None:
    torch.manual_seed(3)
    model = echo_model()
    several = TRM(model.config.model_copy(update={"initial_states": K}))
    vectors = {name: torch.randn(K, 8) for name in ("z_init", "y_init")}
    several.load_state_dict(model.state_dict() | vectors)
    examples = Examples.of_questions(np.stack([q.inputs for q in questions(20)]))
    got = Solver(several.eval(), Echo(False), rollouts=K, start="each", max_steps=3, halt=False).run(examples)
    for k in range(K):
        model.load_state_dict(model.state_dict() | {name: v[k] for name, v in vectors.items()})
        want = Solver(model, Echo(False), max_steps=3, halt=False).run(examples)
        np.testing.assert_array_equal(got.tries[:, k], want.solution)
        np.testing.assert_allclose(got.try_confidence[:, k], want.confidence, atol=1e-6)
    assert (got.tries[:, 1] != got.tries[:, 0]).any()
    with_rules = Solver(several, Echo(True), rollouts=K, start="each", max_steps=3).run(examples)
    first = Solver(several, Echo(True), max_steps=3).run(examples)
    assert with_rules.valid is not None
    assert first.valid is not None
    assert with_rules.valid.sum() > first.valid.sum()
    noisy = Solver(several, Echo(False), rollouts=2 * K, noise=0.5, start="each", max_steps=3, halt=False).run(examples)
    np.testing.assert_array_equal(noisy.tries[:, 0], got.tries[:, 0])
    assert (noisy.tries[:, K + 1] != noisy.tries[:, 1]).any()


def test_options_that_contradict_several_states_are_refused() -> None:
    several, one = echo_model(initial_states=K), echo_model()
    with pytest.raises(UserError, match="start each: this model has one initial state"):
        Solver(one, Echo(), rollouts=2, start="each")
    with pytest.raises(UserError, match="has 3 initial states, so 4 rollouts would repeat some"):
        Solver(several, Echo(), rollouts=4, start="each")
    with pytest.raises(UserError, match="start each needs rollouts: each has another initial state"):
        Solver(several, Echo(), symmetries=2, start="each")
    with pytest.raises(UserError, match="start needs rollouts or symmetries"):
        Solver(several, Echo(), start="each")
    with pytest.raises(UserError, match="train_step trains a single initial state"):
        several.train_step(torch.ones(1, 5, dtype=torch.int32), torch.ones(1, 5, dtype=torch.int32))
    with pytest.raises(UserError, match=r"initial_states above 1 needs model\.dropout: 0"):
        run_config({"initial_states": 2, "dropout": 0.1})
    with pytest.raises(UserError, match="initial_states above 1 needs states of hidden_size"):
        run_config({"initial_states": 2, "latent_width": 8, "answer_width": 8})


def test_the_cost_of_a_step_counts_all_states() -> None:
    """T = 2 cycles: 2 forwards, and a backward of one cycle of twice its forward. Each further state: 2 forwards."""
    plain, several = run_config(), run_config({"initial_states": K})
    cycle = plain.model.gemm_flop(training=False) // 2
    assert plain.flop() == 40 * 4 * cycle
    assert several.flop() == 40 * (4 + 2 * K) * cycle
    assert run_config({"initial_states": K}, supervision="unrolled").flop() == 4 * several.flop()
