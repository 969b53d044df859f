"""Tiny models of all kinds for the tests, and a comparison of kernels with the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.api import TRM
from trm_fast.models import TRMConfig
from trm_fast.ops._core import dispatch, registry

TINY: dict[str, Any] = {
    "vocab_size": 6,
    "seq_len": 6,
    "hidden_size": 8,
    "num_heads": 2,
    "inner_multiple": 4,
    "T_cycles": 2,
    "n_latent_steps": 2,
    "max_supervision_steps": 4,
}

# A model for each option that changes its shape. Tests that hold for any model run over all of them.
VARIANTS: dict[str, dict[str, Any]] = {
    "mixer": {},
    "deep": {"num_layers": 3, "T_cycles": 3, "n_latent_steps": 1},
    "attention": {"mixing": "attention"},
    "rope": {"mixing": "attention", "positions": "rope", "num_heads": 4},
    "causal": {"mixing": "attention", "causal": True, "positions": "learned"},
    "pre": {"norm_position": "pre"},
    "pre-attention": {"norm_position": "pre", "mixing": "attention"},
    "gated-norm": {"activation": "gated_norm"},
    "gated-norm-attention": {"activation": "gated_norm", "mixing": "attention"},
    "grid": {"positions": "grid", "grid_shape": (2, 3)},
    "single": {"state": "single"},
    "single-published": {"state": "single", "inject_last": False, "mixing": "attention"},
    "initial-states": {"initial_states": 3},
    "own-widths": {"latent_width": 6, "answer_width": 4},
    "own-width-single": {"latent_width": 10, "state": "single", "mixing": "attention"},
    "no-latent-steps": {"n_latent_steps": 0, "state": "single"},
    "prefix": {"prefix_tokens": 2, "puzzle_embedding_size": 12, "num_puzzles": 3},
    "prefix-grid": {
        "prefix_tokens": 1,
        "puzzle_embedding_size": 8,
        "num_puzzles": 2,
        "positions": "grid",
        "grid_shape": (3, 2),
        "mixing": "attention",
    },
}


def config(**changes: Any) -> TRMConfig:
    return TRMConfig(**{**TINY, **changes})


def model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> TRM:
    """A tiny model with a random puzzle embedding and a random Q head, so that rows differ."""
    torch.manual_seed(seed)
    trm = TRM(config(**changes), dtype)
    if dtype == torch.float64:
        trm = trm.to(dtype)
    with torch.no_grad():
        trm.q_head.weight.normal_()
        trm.q_head.bias.zero_()
        if trm.puzzle_embedding is not None:
            trm.puzzle_embedding.normal_()
    return trm


def tokens(rows: int, seed: int = 0) -> Tensor:
    return torch.randint(1, TINY["vocab_size"], (rows, TINY["seq_len"]), generator=torch.Generator().manual_seed(seed))


def kernels_agree(net: TRM, loss: Callable[[], Tensor]) -> None:
    """Asserts that the fused recursion runs if the model can use it, and gives the reference's loss and gradients."""
    if registry.EXTENSION_MISSING:
        pytest.skip(registry.EXTENSION_MISSING)
    results, layers = [], []
    net.net.register_forward_hook(lambda *_: layers.append(dispatch.select("latent_recursion", net.z_init)))
    for name in ("auto", "reference"):
        net.zero_grad()
        with ops.use_backend(name):
            total = loss()
            total.backward()
        results.append({"loss": total.detach()} | {n: p.grad for n, p in net.named_parameters() if p.grad is not None})
    fused = net.config.norm_position == "post" and net.config.activation == "swiglu"
    assert set(layers) == ({"reference"} if fused else {"cpp", "reference"})
    assert results[0].keys() == results[1].keys()
    for name, got in results[0].items():
        torch.testing.assert_close(got, results[1][name], rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
