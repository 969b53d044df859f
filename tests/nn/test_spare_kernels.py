"""Where the fastest kernels know the token mixer alone, other layers still have theirs: tried with the C++ kernels in
the place of the ones that know every layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from trm_fast import ops
from trm_fast.nn.recursion import Fusion, fusion
from trm_fast.ops import backend, self_check, winners

from .small import model, tokens

FLOAT = ("latent_recursion", "cpu", torch.float32)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the C++ recursion is called for, on a machine where CUDA's won."""
    if backend.EXTENSION_MISSING:
        pytest.skip(backend.EXTENSION_MISSING)
    called: list[str] = []
    plain = backend.kernels

    def kernels(name: str) -> Any:
        called.append(name)
        return plain(name)

    monkeypatch.setattr(backend, "kernels", kernels)
    for name in ("_table", "_spare"):  # what is settled stays
        monkeypatch.setattr(backend, name, dict(getattr(backend, name)))
    with ops.use_backend("auto"):
        backend._table[FLOAT] = "cuda"
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
    backend._spare[FLOAT] = "cpp"
    assert fusion(made.net, state.z) is Fusion.PLAIN
    fused.clear()
    for got, want in zip(run(), without, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert "cpp" in fused


def test_what_is_asked_for_by_name_is_not_replaced(fused: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    backend._spare[FLOAT] = "cpp"
    monkeypatch.setitem(backend._requested, "latent_recursion", "cuda")
    made = model(mixing="attention")
    state = made.initial_state(2)
    weights = [w.detach() for w in made.net.weights()]
    with pytest.raises(backend.BackendUnavailable, match="not for attention"):
        ops.latent_recursion(state.y, state.z, state.z, weights, 1, heads=2)


def test_a_spare_is_found_with_the_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"cuda", "triton"}
    monkeypatch.setattr(backend, "unavailable", lambda op, name, *_: None if name in there else "no")
    monkeypatch.setattr(self_check, "passed", lambda *_: True)
    monkeypatch.setattr(self_check, "device_name", lambda device: "card")
    table = {"card": {"latent_recursion/bfloat16": {"small": "cuda", "large": "triton"}}}
    monkeypatch.setattr(winners, "_tables", lambda: table)
    monkeypatch.setattr(backend, "_table", {})
    monkeypatch.setattr(backend, "_spare", {})
    assert backend._resolve("latent_recursion", "cuda", torch.bfloat16) == ("cuda", "triton")
    z = torch.empty(2, 3, 1024, dtype=torch.bfloat16)
    key = ("latent_recursion", "cpu", torch.bfloat16)
    backend._table[key], backend._spare[key] = "cuda", backend._spare["latent_recursion", "cuda", torch.bfloat16]
    assert backend.select_masked("latent_recursion", None, True, 8, z) == "triton"
    assert backend.select_masked("latent_recursion", None, True, 2, z) == "reference", "heads are too wide"
    there.remove("triton")
    backend._resolve("latent_recursion", "cuda", torch.bfloat16)
    assert backend._spare["latent_recursion", "cuda", torch.bfloat16] == "reference"
