"""The model's configuration: errors, counts of parameters and FLOP."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trm_fast import ops
from trm_fast.models import TRMConfig, TRMModel

from .small import TINY, VARIANTS, config, model, tokens


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_sise": 8}, "hidden_sise"),
        ({"hidden_size": "8"}, "hidden_size"),
        ({"hidden_size": 8.0}, "hidden_size"),
        ({"num_layers": True}, "num_layers"),
        ({"causal": 1}, "causal"),
        ({"mixing": "conv"}, "mixing"),
        ({"seq_len": 0}, "seq_len"),
        ({"vocab_size": 1}, "vocab_size"),
        ({"T_cycles": 0}, "T_cycles"),
        ({"n_latent_steps": -1}, "n_latent_steps"),
        ({"dropout": 1.0}, "dropout"),
        ({"norm_eps": float("inf")}, "norm_eps"),
        ({"q_threshold": 0.0}, "q_threshold"),
        ({"q_threshold": 1.0}, "q_threshold"),
        ({"grid_shape": (2.5, 3)}, "grid_shape"),
        ({"grid_shape": (0, 6)}, "grid_shape"),
        ({"mixing": "attention", "num_heads": 3}, "num_heads 3"),
        ({"mixing": "attention", "positions": "rope", "num_heads": 8}, "rope needs an even"),
        ({"causal": True}, "causal needs mixing: attention"),
        ({"positions": "rope"}, "rope needs mixing: attention"),
        ({"positions": "grid"}, "grid_shape"),
        ({"positions": "grid", "grid_shape": (2, 4)}, r"seq_len \(6\)"),
        ({"n_latent_steps": 0}, "network never reads the question"),
        ({"n_latent_steps": 0, "state": "single", "inject_last": False}, "network never reads the question"),
        ({"prefix_tokens": 2, "puzzle_embedding_size": 17}, "prefix_tokens x hidden_size = 16"),
        ({"latent_width": 4}, "go together"),
        ({"latent_width": 4, "answer_width": 4, "state": "single"}, "needs state: dual"),
        (
            {"head": {"kind": "sounds"}},
            "unknown kind of head 'sounds'; choose one of: selection, slots, text, tokens, values",
        ),
        ({"head": "values"}, "section of keys"),
        ({"head": {"num_tools": 2}}, "unknown key num_tools; choose one of: kind"),
        ({"head": {"kind": "values", "breadth": 2}}, "unknown key breadth; choose one of: kind, width, tolerance"),
        ({"head": {"kind": "values", "width": 0}}, "width = 0: "),
        ({"head": {"kind": "text"}}, "needs causal: true"),
        ({"head": {"kind": "selection", "num_words": 6}}, "num_words 6 must be less"),
    ],
)
def test_an_invalid_value_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config(**changes)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().hidden_size = 4


@pytest.mark.parametrize("name", VARIANTS)
def test_json_round_trip(name: str) -> None:
    original = config(**VARIANTS[name])
    assert TRMConfig.model_validate(original.model_dump(mode="json")) == original


def test_sizes_equal_the_published_ones() -> None:
    """Depth and parameters as in the paper, inner widths as in the published code."""
    mixer, attention = TRMConfig.for_sudoku(), TRMConfig.for_maze()
    assert mixer.effective_depth == 42
    assert round(TRMModel.count_parameters(mixer) / 1e6) == 5
    assert round((TRMModel.count_parameters(attention) - 512) / 1e6) == 7
    assert [mixer.network.inner_size(width) for width in (512, 97, 81)] == [1536, 512, 256]
    assert attention.effective_depth == 3 * 5 * 2
    assert attention.total_tokens == TRMConfig.for_arc_agi(num_puzzles=3).total_tokens == 916


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_counted_without_weights(name: str) -> None:
    trm = model(**VARIANTS[name])
    rows = 0 if trm.puzzle_embedding is None else trm.puzzle_embedding.numel()
    assert (
        TRMModel.count_parameters(trm.config) == sum(p.numel() for p in trm.parameters()) + rows == trm.num_parameters()
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "name", ["mixer", "deep", "attention", "single", "no-latent-steps", "prefix", "own-widths", "own-width-single"]
)
def test_matrix_flop_equal_torchs_count(name: str, training: bool) -> None:
    rows, trm = 3, model(**VARIANTS[name])
    counter = FlopCounterMode(display=False)
    # Torch's counter knows neither our kernels nor torch's fused attention on a CPU.
    with counter, ops.use_backend("reference"), sdpa_kernel(SDPBackend.MATH):
        out = trm(tokens(rows), trm.initial_state(rows), trm.puzzle_rows(None, rows))
        if training:
            (out.logits.sum() + out.q.sum()).backward()
    c = trm.config
    heads = 2 * c.total_tokens * c.hidden_size * TINY["vocab_size"] + 2 * c.hidden_size
    counted = counter.get_total_flops() // rows - heads * (3 if training else 1)
    assert counted == c.gemm_flop(training=training)
