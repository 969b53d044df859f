"""The recursion against a loop written out by hand, and where its gradient comes from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trm_fast.api import TRM

from ..models.small import VARIANTS, model, tokens

B = 3
Gradients = dict[str, Tensor]


def loop(
    made: TRM, x: Tensor, y: Tensor | None, z: Tensor, learns: Callable[[int, int], bool]
) -> tuple[Tensor, Tensor]:
    """Figure 3 of the paper; ``learns(cycle, application)`` says whose state keeps its gradient."""
    c = made.config

    def read(name: str, state: Tensor) -> Tensor:
        return state if c.latent_width is None else state @ made.get_parameter(f"net.{name}.reads.weight").mT

    def written(name: str, h: Tensor) -> Tensor:
        if c.latent_width is None:
            return h
        state = h @ made.get_parameter(f"net.{name}.writes.weight").mT
        return state / (state.square().mean(-1, keepdim=True) + c.norm_eps).sqrt()

    for t in range(c.T_cycles):
        for i in range(c.n_latent_steps):
            now = read("latent", z) + x
            z = written("latent", made.net(now if y is None else now + read("answer", y), None))
            z = z if learns(t, i) else z.detach()
        now = read("latent", z)
        if y is None:
            z = written("latent", made.net(now + x if c.inject_last else now, None))
            z = z if learns(t, c.n_latent_steps) else z.detach()
        else:
            y = written("answer", made.net(read("answer", y) + now, None))
            y = y if learns(t, c.n_latent_steps) else y.detach()
    return (read("latent", z) if y is None else read("answer", y)), z


def run(made: TRM, learns: Callable[[int, int], bool] | None) -> tuple[Tensor, Tensor, Gradients]:
    """Logits, latent and gradients of one supervision step: the model's own for None, else of the loop."""
    made.zero_grad()
    state, rows = made.initial_state(B), made.puzzle_rows(torch.tensor([0, 1, 1]), B)
    if learns is None:
        out = made(tokens(B), state, rows)
        logits, q, z = out.logits, out.q, out.state.z
    else:
        x = made.embedding(tokens(B), rows, made.compute_dtype)
        answer, z = loop(made, x, state.y, state.z, learns)
        logits, q = made.head(answer), made.q_head(answer)
    (logits.square().sum() + q.sum()).backward()
    return logits.detach(), z.detach(), {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


def differs(a: Gradients, b: Gradients) -> bool:
    return any(n not in b or not torch.allclose(a[n], b[n], rtol=1e-6) for n in a)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # kernels may know one and not the other
@pytest.mark.parametrize("name", VARIANTS)
def test_a_supervision_step_and_its_gradient(name: str, dtype: torch.dtype) -> None:
    made = model(dtype=dtype, **VARIANTS[name])
    last = made.config.T_cycles - 1
    logits, z, gradients = run(made, None)
    want_logits, want_z, want = run(made, lambda cycle, i: cycle == last)
    assert gradients.keys() == want.keys()
    with torch.no_grad():
        unlearned = made(tokens(B), made.initial_state(B), made.puzzle_rows(torch.tensor([0, 1, 1]), B))
    pairs = {"logits": (logits, want_logits), "z": (z, want_z)}
    pairs |= {"logits without gradient": (unlearned.logits, want_logits), "z without": (unlearned.state.z, want_z)}
    pairs |= {p: (gradients[p], want[p]) for p in want}
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4
    for name_of, (got, wanted) in pairs.items():
        assert (got - wanted).norm() <= tolerance * wanted.norm(), name_of


@pytest.mark.parametrize("name", ["mixer", "single"])
def test_neither_more_nor_less_carries_gradient(name: str) -> None:
    """The loop above tells these apart: all cycles learning, and only the last application."""
    made = model(dtype=torch.float64, **VARIANTS[name])
    last, n = made.config.T_cycles - 1, made.config.n_latent_steps
    _, _, gradients = run(made, None)
    assert differs(gradients, run(made, lambda cycle, i: True)[2])
    for only in range(1, n + 1):
        assert differs(gradients, run(made, lambda cycle, i, only=only: cycle == last and i >= only)[2])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_kept_state_is_detached_and_goes_on(name: str) -> None:
    made = model(**VARIANTS[name])
    rows = made.puzzle_rows(None, B)
    out = made(tokens(B), made.initial_state(B), rows)
    assert out.logits.shape == (B, 6, 6)
    assert out.q.shape == (B,)
    assert (out.state.y is None) == (made.config.state == "single")
    widths = {"own-widths": (6, 4), "own-width-single": (10, 10)}.get(name, (8, 8))
    for part, width in zip((out.state.z, out.state.answer), widths, strict=True):
        assert part.shape == (B, made.config.total_tokens, width)
        assert not part.requires_grad
    again = made(tokens(B), out.state, rows)
    assert not torch.allclose(again.logits, out.logits)


def test_low_precision_activations_and_float32_weights() -> None:
    made = model(dtype=torch.bfloat16)
    out = made(tokens(B), made.initial_state(B))
    assert out.logits.dtype == out.state.z.dtype == torch.bfloat16
    assert out.q.dtype == torch.float32
    out.logits.float().sum().backward()
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    wide = model(dtype=torch.float32)
    want = wide(tokens(B), wide.initial_state(B)).logits
    assert (out.logits - want).norm() < 0.1 * want.norm()


@pytest.mark.parametrize("training", [True, False])
def test_dropout_inside_the_recursion(training: bool) -> None:
    made = model(dropout=0.3).train(training)
    first, second = (made(tokens(B), made.initial_state(B)).logits for _ in range(2))
    assert torch.equal(first, second) != training
