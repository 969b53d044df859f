"""A whole training step and a run of the solver on the Triton backend, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.api import TRM
from trm_fast.models import TRMConfig
from trm_fast.nn.recursion import Fusion, fusion
from trm_fast.tasks.base import Examples
from trm_fast.training import TrainingConfig, TrainStep
from trm_fast.training.optimizers import AdamATan2

SMALL = {
    "vocab_size": 7, "seq_len": 6, "hidden_size": 12, "num_heads": 2, "num_layers": 1, "inner_multiple": 4,
    "T_cycles": 2, "n_latent_steps": 1, "max_supervision_steps": 3,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "mixer": {"prefix_tokens": 1, "puzzle_embedding_size": 12, "num_puzzles": 3},
    "attention": {"mixing": "attention", "positions": "rope"},
    "causal": {"mixing": "attention", "causal": True},
    "pre": {"norm_position": "pre"},
}
B = 3


class Random:
    example_spec = Examples(*(np.zeros((0, *shape), np.int32) for shape in ((6,), (6,), ())))

    def chunk(self, number: int, size: int) -> Examples:
        rng = np.random.default_rng(number)
        cells = rng.integers(1, 7, (2, size, 6), dtype=np.int32)
        return Examples(cells[0], cells[1], rng.integers(0, 3, size, dtype=np.int32))


def model(kind: str, device: torch.device) -> TRM:
    torch.manual_seed(0)
    network = TRM(TRMConfig(**SMALL, **KINDS[kind]), torch.float32)
    with torch.no_grad():
        network.q_head.weight.normal_()
    return network.to(device)


def trained(kind: str, device: torch.device) -> tuple[float, list[Tensor]]:
    """The losses of two steps, and all that they change: weights, moments, averages, puzzle embedding, carry."""
    network = model(kind, device)
    config = TrainingConfig(batch_size=B, gradient_accumulation=1, clip_norm=1.0)
    step = TrainStep(network, AdamATan2(network.parameters(), weight_decay=0.1, ema_decay=0.9), config, Random())
    for _ in range(2):
        step.run(1e-2, np.zeros(B, np.int32))
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return step.peek_totals()["loss"], [t.clone() for t in (*step.tensors(), *gradients)]


@pytest.mark.parametrize("kind", KINDS)
def test_training_steps(triton, device, kind):
    loss, tensors = trained(kind, device)
    with ops.use_backend("reference"):
        want_loss, want = trained(kind, device)
    assert loss == pytest.approx(want_loss, rel=1e-5)
    for a, b in zip(tensors, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("kind", ["mixer", "attention"])
def test_solving_with_padding(triton, device, kind):
    """All supervision steps of a batch with examples of different lengths."""
    network = model(kind, device)
    inputs = torch.from_numpy(Random().chunk(0, B).inputs).to(device)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]], dtype=torch.bool, device=device)
    runs = []
    for name in ("triton", "reference"):
        with ops.use_backend(name), torch.no_grad():
            state, logits = network.initial_state(B), []
            for _ in range(3):
                out = network(inputs, state, network.puzzle_rows(None, B), mask)
                state = out.state
                logits.append(out.logits)
            runs.append(torch.stack(logits))
    torch.testing.assert_close(*runs, rtol=1e-3, atol=1e-4)


def test_models_whose_layers_have_kernels_are_fused(triton, device):
    """Models with layers that have kernels use them, also with padding."""
    for kind, fused in (("attention", True), ("causal", True), ("pre", False)):
        network = model(kind, device)
        state = network.initial_state(1).z
        form = Fusion.PLAIN if fused else Fusion.NONE
        assert fusion(network.net, state) == fusion(network.net, state, masked=True) == form
        assert fusion(network.net, state.half()) == form
        assert fusion(network.net, state.double()) is Fusion.NONE
