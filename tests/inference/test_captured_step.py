"""Captured steps give the same answers as the model."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import pytest
import torch

from trm_fast import ops
from trm_fast.api import TRM
from trm_fast.inference.capture import Eager, Fallback
from trm_fast.inference.captured_step import _steps
from trm_fast.inference.noise import hashed_normal
from trm_fast.inference.steps import run_steps
from trm_fast.models import TRMConfig

from ..training.recorder import Recorder

N = 23
TOKENS = {"vocab_size": 6, "seq_len": 6}
MODELS: dict[str, dict[str, Any]] = {
    "mixer": TOKENS,
    "attention": {**TOKENS, "mixing": "attention", "positions": "rope", "state": "single"},
    "prefix": {**TOKENS, "prefix_tokens": 2, "puzzle_embedding_size": 12, "num_puzzles": 4},
    "values": {"inputs": "values", "input_width": 2, "head": {"kind": "values", "width": 3}, "seq_len": 6},
    "mask": {**TOKENS, "mixing": "attention"},
}


def make(name: str) -> TRM:
    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_heads": 2, "num_layers": 1, "inner_multiple": 8, "T_cycles": 2, "n_latent_steps": 1}
    model = TRM(TRMConfig(**small, **MODELS[name])).requires_grad_(False)
    model.q_head.weight.normal_()
    model.q_head.bias.fill_(-0.3)
    if model.puzzle_embedding is not None:
        model.puzzle_embedding.normal_()
    return model


def arguments(name: str) -> tuple[torch.Tensor, dict[str, Any]]:
    torch.manual_seed(1)
    options: dict[str, Any] = {}
    if name == "prefix":
        options["puzzle_ids"] = torch.arange(N) % 4
    if name == "mask":
        options["extra"] = {"mask": torch.rand(N, 6) < 0.7}
    return torch.randn(N, 6, 2) if name == "values" else torch.randint(1, 6, (N, 6)), options


def answers(model: TRM, name: str, runner: Any, batch_size: int) -> list[dict[str, list[Any]]]:
    inputs, options = arguments(name)
    noise = torch.full((N,), 0.2)
    results = run_steps(model, inputs, 6, batch_size=batch_size, runner=runner, noise=noise, **options)
    return [
        {"rows": r.rows.tolist(), "steps": r.steps.tolist(), "answers": r.answers, "confidence": r.confidence}
        for r in results
    ]


@pytest.mark.parametrize("batch_size", [5, 64])
@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_step_gives_the_models_answers(name: str, batch_size: int) -> None:
    model = make(name)
    want, got = (answers(model, name, runner, batch_size) for runner in (None, Recorder))
    assert len({len(w["rows"]) for w in want}) > 1, "rows leave at different steps"
    for a, b in zip(got, want, strict=True):
        assert (a["rows"], a["steps"]) == (b["rows"], b["steps"])
        torch.testing.assert_close(a["answers"], b["answers"])
        torch.testing.assert_close(a["confidence"], b["confidence"])


def counted() -> tuple[list[Recorder], Callable[[], Recorder]]:
    """A list, and a factory of recorders that appends them to it."""
    recorders: list[Recorder] = []

    def recorder() -> Recorder:
        recorders.append(Recorder())
        return recorders[-1]

    return recorders, recorder


def test_a_recording_is_reused_and_uses_the_current_weights() -> None:
    recorders, recorder = counted()
    model = make("mixer")
    answers(model, "mixer", recorder, 64)
    assert 1 <= len(recorders) <= 4  # for 23, 16, 4 and 1 rows
    count = len(recorders)
    for p in model.parameters():
        p.mul_(1.1)
    changed = answers(model, "mixer", recorder, 64)
    torch.testing.assert_close(changed[0]["confidence"], answers(model, "mixer", None, 64)[0]["confidence"])
    previous = len(recorders)
    model.q_head.weight = torch.nn.Parameter(model.q_head.weight * 2, requires_grad=False)
    changed = answers(model, "mixer", recorder, 64)
    assert len(recorders) > previous >= count, "weights at another address need another recording"
    torch.testing.assert_close(changed[0]["confidence"], answers(model, "mixer", None, 64)[0]["confidence"])
    assert all(key[0] == next(iter(_steps[model]))[0] for key in _steps[model])
    del changed


def test_another_depth_or_backend_needs_another_recording() -> None:
    recorders, recorder = counted()
    model = make("mixer")
    answers(model, "mixer", recorder, 64)
    shallow, count = model.config, len(recorders)
    model.config = shallow.model_copy(update={"T_cycles": 1})
    changed = answers(model, "mixer", recorder, 64)
    assert len(recorders) > count
    torch.testing.assert_close(changed[0]["confidence"], answers(model, "mixer", None, 64)[0]["confidence"])
    model.config, count = shallow, len(recorders)
    answers(model, "mixer", recorder, 64)
    assert len(recorders) == count
    with ops.use_backend("reference"):
        answers(model, "mixer", recorder, 64)
    assert len(recorders) > count


def test_recordings_are_freed_with_their_model() -> None:
    gc.collect()
    count = len(_steps)
    model = make("mixer")
    for runner in (Recorder, Eager):
        answers(model, "mixer", runner, 64)
    assert len(_steps) == count + 1
    del model
    gc.collect()
    assert len(_steps) == count


@pytest.mark.parametrize("runner", [Eager, Recorder])
def test_two_callers_may_alternate(runner: Any) -> None:
    """Two callers, such as two users of a page, use one recording with its static buffers."""
    model, (inputs, _) = make("mixer"), arguments("mixer")
    halves = inputs[:3], inputs[3:6]
    want = [[result.answers for result in run_steps(model, half, 6, halt=False)] for half in halves]
    running = [run_steps(model, half, 6, halt=False, runner=runner) for half in halves]
    for step, (first, second) in enumerate(zip_longest(*running)):
        assert torch.equal(first.answers, want[0][step])
        assert torch.equal(second.answers, want[1][step])


def test_callers_may_use_threads() -> None:
    """The tools of an MCP server do so."""
    model, (inputs, _) = make("mixer"), arguments("mixer")

    def confidences(row: int) -> list[float]:
        results = run_steps(model, inputs[row : row + 1], 30, halt=False, runner=Eager)
        return [float(result.confidence) for result in results]

    want = [confidences(row) for row in range(N)]
    _steps.clear()  # the threads also compete for the capture
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(confidences, range(N))) == want


def test_a_solver_without_a_graph_warns() -> None:
    class Unable(Recorder):
        def capture(self, function: Any) -> None:
            raise RuntimeError("operation not permitted")

    with pytest.warns(UserWarning, match=r"without a CUDA graph: it could not be captured \(operation not permitted\)"):
        answers(make("mixer"), "mixer", lambda: Fallback(Unable()), 64)


def test_hashed_noise_is_normal_and_depends_only_on_its_key() -> None:
    keys = torch.tensor([0, 1, 2**62, 12345, 2**63 - 1])
    noise = hashed_normal(keys, 40_000)
    assert torch.equal(noise[3:4], hashed_normal(keys[3:4], 40_000))
    assert torch.equal(noise[:, :10], hashed_normal(keys, 10))
    assert noise.mean(1).abs().max() < 0.03
    assert (noise.std(1) - 1).abs().max() < 0.02
    tails = torch.tensor([0.6827, 0.9545, 0.9973])
    inside = torch.stack([(noise.abs() < k).float().mean() for k in (1, 2, 3)])
    torch.testing.assert_close(inside, tails, atol=3e-3, rtol=0)
    mixed = torch.corrcoef(torch.cat([noise[:, :-1], noise[:, 1:]]))
    assert (mixed - torch.eye(10)).abs().max() < 0.03, "neither rows nor neighbors correlate"
