"""If the fastest kernel supports only token mixers, other networks fall back on a slower one. The C++ kernels stand for
the slower one here."""

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
    """Lists the kernels that are called, on a machine where CUDA's is the fastest."""
    if registry.EXTENSION_MISSING:
        pytest.skip(registry.EXTENSION_MISSING)
    called: list[str] = []
    registered_kernels = registry.kernels

    def kernels(name: str) -> Any:
        called.append(name)
        return registered_kernels(name)

    monkeypatch.setattr(import_module("trm_fast.ops.latent_recursion"), "kernels", kernels)
    with ops.use_backend("auto"):
        selection.choices[FLOAT] = Choice("cuda", "cuda")
        yield called


@pytest.mark.parametrize(
    "changes", [{"mixing": "attention", "positions": "rope"}, {}, {"mixing": "attention", "causal": True}]
)
def test_a_network_that_the_fastest_kernel_does_not_support_falls_back(
    fused: list[str], changes: dict[str, Any]
) -> None:
    """The CUDA kernel supports neither eight channels nor attention nor causal order."""
    trm = model(**changes)
    inputs, state = tokens(3), trm.initial_state(3)

    def run() -> list[torch.Tensor]:
        out = trm(inputs, state)
        return [out.q, *torch.autograd.grad(trm.loss(out, inputs).total, list(trm.net.parameters()))]

    without = run()
    assert fusion(trm.net, state.z) is Fusion.NONE
    selection.choices[FLOAT] = Choice("cuda", "cuda", "cpp")
    assert fusion(trm.net, state.z) is Fusion.PLAIN
    fused.clear()
    for got, want in zip(run(), without, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert "cpp" in fused


def test_a_backend_requested_by_name_does_not_fall_back(fused: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    selection.choices[FLOAT] = Choice("cuda", "cuda", "cpp")
    monkeypatch.setitem(selection._requested, "latent_recursion", "cuda")
    trm = model(mixing="attention")
    state = trm.initial_state(2)
    weights = [w.detach() for w in trm.net.weights()]
    with pytest.raises(ops.BackendUnavailable, match="token mixer, not attention"):
        ops.latent_recursion(state.y, state.z, state.z, weights, 1, heads=2)
