"""Where the fastest kernels know the token mixer alone, other layers still have theirs: tried with the C++ kernels in
the place of the ones that know every layer."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch

from trm_fast import ops
from trm_fast.nn.recursion import Fusion, fusion
from trm_fast.ops._core import registry, selection
from trm_fast.ops._core.selection import Choice

from ..models.small import model, tokens

FLOAT = ("latent_recursion", "cpu", torch.float32)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the C++ recursion is called for, on a machine where CUDA's is the fastest."""
    if registry.EXTENSION_MISSING:
        pytest.skip(registry.EXTENSION_MISSING)
    called: list[str] = []
    plain = registry.kernels

    def kernels(name: str) -> Any:
        called.append(name)
        return plain(name)

    monkeypatch.setattr(import_module("trm_fast.ops.latent_recursion"), "kernels", kernels)
    with ops.use_backend("auto"):
        selection.choices[FLOAT] = Choice("cuda", "cuda")
        yield called


@pytest.mark.parametrize(
    "changes", [{"mixing": "attention", "positions": "rope"}, {}, {"mixing": "attention", "causal": True}]
)
def test_a_network_that_the_winner_does_not_take(fused: list[str], changes: dict[str, Any]) -> None:
    """Eight channels are too few for it, attention and causal order are unknown to it."""
    made = model(**changes)
    inputs, state = tokens(3), made.initial_state(3)

    def run() -> list[torch.Tensor]:
        out = made(inputs, state)
        return [out.q, *torch.autograd.grad(made.loss(out, inputs).total, list(made.net.parameters()))]

    without = run()
    assert fusion(made.net, state.z) is Fusion.NONE
    selection.choices[FLOAT] = Choice("cuda", "cuda", "cpp")
    assert fusion(made.net, state.z) is Fusion.PLAIN
    fused.clear()
    for got, want in zip(run(), without, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert "cpp" in fused


def test_what_is_asked_for_by_name_is_not_replaced(fused: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    selection.choices[FLOAT] = Choice("cuda", "cuda", "cpp")
    monkeypatch.setitem(selection._requested, "latent_recursion", "cuda")
    made = model(mixing="attention")
    state = made.initial_state(2)
    weights = [w.detach() for w in made.net.weights()]
    with pytest.raises(ops.BackendUnavailable, match="not for attention"):
        ops.latent_recursion(state.y, state.z, state.z, weights, 1, heads=2)
