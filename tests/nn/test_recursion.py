"""The recursion against an explicit loop, and which applications have a gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trm_fast.api import TRM

from ..models.small import VARIANTS, model, tokens

B = 3
Gradients = dict[str, Tensor]


def loop(trm: TRM, x: Tensor, y: Tensor | None, z: Tensor, learns: Callable[[int, int], bool]) -> tuple[Tensor, Tensor]:
    """Figure 3 of the paper. ``learns(cycle, application)`` decides whether a state keeps its gradient."""
    c = trm.config

    def read(name: str, state: Tensor) -> Tensor:
        return state if c.latent_width is None else state @ trm.get_parameter(f"net.{name}.reads.weight").mT

    def written(name: str, h: Tensor) -> Tensor:
        if c.latent_width is None:
            return h
        state = h @ trm.get_parameter(f"net.{name}.writes.weight").mT
        return state / (state.square().mean(-1, keepdim=True) + c.norm_eps).sqrt()

    for t in range(c.T_cycles):
        for i in range(c.n_latent_steps):
            h = read("latent", z) + x
            z = written("latent", trm.net(h if y is None else h + read("answer", y), None))
            z = z if learns(t, i) else z.detach()
        h = read("latent", z)
        if y is None:
            z = written("latent", trm.net(h + x if c.inject_last else h, None))
            z = z if learns(t, c.n_latent_steps) else z.detach()
        else:
            y = written("answer", trm.net(read("answer", y) + h, None))
            y = y if learns(t, c.n_latent_steps) else y.detach()
    return (read("latent", z) if y is None else read("answer", y)), z


def run(trm: TRM, learns: Callable[[int, int], bool] | None) -> tuple[Tensor, Tensor, Gradients]:
    """Logits, latent state and gradients of one step: of the model if ``learns`` is None, else of the loop."""
    trm.zero_grad()
    state, rows = trm.initial_state(B), trm.puzzle_rows(torch.tensor([0, 1, 1]), B)
    if learns is None:
        out = trm(tokens(B), state, rows)
        logits, q, z = out.logits, out.q, out.state.z
    else:
        x = trm.embedding(tokens(B), rows, trm.compute_dtype)
        answer, z = loop(trm, x, state.y, state.z, learns)
        logits, q = trm.head(answer), trm.q_head(answer)
    (logits.square().sum() + q.sum()).backward()
    return logits.detach(), z.detach(), {n: p.grad.clone() for n, p in trm.named_parameters() if p.grad is not None}


def differs(a: Gradients, b: Gradients) -> bool:
    return any(n not in b or not torch.allclose(a[n], b[n], rtol=1e-6) for n in a)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # kernels may support only one of them
@pytest.mark.parametrize("name", VARIANTS)
def test_a_supervision_step_and_its_gradient_equal_the_loop(name: str, dtype: torch.dtype) -> None:
    trm = model(dtype=dtype, **VARIANTS[name])
    last = trm.config.T_cycles - 1
    logits, z, gradients = run(trm, None)
    want_logits, want_z, want = run(trm, lambda cycle, i: cycle == last)
    assert gradients.keys() == want.keys()
    with torch.no_grad():
        unlearned = trm(tokens(B), trm.initial_state(B), trm.puzzle_rows(torch.tensor([0, 1, 1]), B))
    pairs = {"logits": (logits, want_logits), "z": (z, want_z)}
    pairs |= {"logits without gradient": (unlearned.logits, want_logits), "z without": (unlearned.state.z, want_z)}
    pairs |= {p: (gradients[p], want[p]) for p in want}
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4
    for what, (got, expected) in pairs.items():
        assert (got - expected).norm() <= tolerance * expected.norm(), what


@pytest.mark.parametrize("name", ["mixer", "single"])
def test_exactly_the_last_cycle_has_a_gradient(name: str) -> None:
    """The gradients differ from those with all cycles learning, and from those with fewer applications learning."""
    trm = model(dtype=torch.float64, **VARIANTS[name])
    last, n = trm.config.T_cycles - 1, trm.config.n_latent_steps
    _, _, gradients = run(trm, None)
    assert differs(gradients, run(trm, lambda cycle, i: True)[2])
    for only in range(1, n + 1):
        assert differs(gradients, run(trm, lambda cycle, i, only=only: cycle == last and i >= only)[2])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_new_state_is_detached_and_changes_the_next_step(name: str) -> None:
    trm = model(**VARIANTS[name])
    rows = trm.puzzle_rows(None, B)
    out = trm(tokens(B), trm.initial_state(B), rows)
    assert out.logits.shape == (B, 6, 6)
    assert out.q.shape == (B,)
    assert (out.state.y is None) == (trm.config.state == "single")
    widths = {"own-widths": (6, 4), "own-width-single": (10, 10)}.get(name, (8, 8))
    for part, width in zip((out.state.z, out.state.answer), widths, strict=True):
        assert part.shape == (B, trm.config.total_tokens, width)
        assert not part.requires_grad
    again = trm(tokens(B), out.state, rows)
    assert not torch.allclose(again.logits, out.logits)


def test_activations_may_be_bfloat16_with_float32_weights() -> None:
    trm = model(dtype=torch.bfloat16)
    out = trm(tokens(B), trm.initial_state(B))
    assert out.logits.dtype == out.state.z.dtype == torch.bfloat16
    assert out.q.dtype == torch.float32
    out.logits.float().sum().backward()
    assert {p.dtype for p in trm.parameters()} == {torch.float32}
    wide = model(dtype=torch.float32)
    want = wide(tokens(B), wide.initial_state(B)).logits
    assert (out.logits - want).norm() < 0.1 * want.norm()


@pytest.mark.parametrize("training", [True, False])
def test_dropout_applies_in_the_recursion_only_in_training(training: bool) -> None:
    trm = model(dropout=0.3).train(training)
    first, second = (trm(tokens(B), trm.initial_state(B)).logits for _ in range(2))
    assert torch.equal(first, second) != training
