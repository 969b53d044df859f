"""The solver's step at fixed shapes, recorded and replayed, answers as the model does."""

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
from trm_fast.inference.steps import hashed_normal, run_steps
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
    made = TRM(TRMConfig(**small, **MODELS[name])).requires_grad_(False)
    made.q_head.weight.normal_()
    made.q_head.bias.fill_(-0.3)
    if made.puzzle_embedding is not None:
        made.puzzle_embedding.normal_()
    return made


def asked(name: str) -> tuple[torch.Tensor, dict[str, Any]]:
    torch.manual_seed(1)
    options: dict[str, Any] = {}
    if name == "prefix":
        options["puzzle_ids"] = torch.arange(N) % 4
    if name == "mask":
        options["extra"] = {"mask": torch.rand(N, 6) < 0.7}
    return torch.randn(N, 6, 2) if name == "values" else torch.randint(1, 6, (N, 6)), options


def answers(model: TRM, name: str, runner: Any, batch_size: int) -> list[dict[str, list[Any]]]:
    inputs, options = asked(name)
    noise = torch.full((N,), 0.2)
    thoughts = run_steps(model, inputs, 6, batch_size=batch_size, runner=runner, noise=noise, **options)
    return [
        {"rows": now.rows.tolist(), "steps": now.steps.tolist(), "answers": now.answers, "confidence": now.confidence}
        for now in thoughts
    ]


@pytest.mark.parametrize("batch_size", [5, 64])
@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_step_answers_as_the_model(name: str, batch_size: int) -> None:
    model = make(name)
    want, got = (answers(model, name, runner, batch_size) for runner in (None, Recorder))
    assert len({len(w["rows"]) for w in want}) > 1, "rows leave at different steps"
    for mine, theirs in zip(got, want, strict=True):
        assert (mine["rows"], mine["steps"]) == (theirs["rows"], theirs["steps"])
        torch.testing.assert_close(mine["answers"], theirs["answers"])
        torch.testing.assert_close(mine["confidence"], theirs["confidence"])


def counted() -> tuple[list[Recorder], Callable[[], Recorder]]:
    """What makes recorders, and all that it made."""
    made: list[Recorder] = []

    def recorder() -> Recorder:
        made.append(Recorder())
        return made[-1]

    return made, recorder


def test_a_recording_is_used_again_and_follows_its_weights() -> None:
    made, recorder = counted()
    model = make("mixer")
    answers(model, "mixer", recorder, 64)
    assert 1 <= len(made) <= 4  # for 23, 16 and 4 rows and one
    count = len(made)
    for p in model.parameters():
        p.mul_(1.1)
    changed = answers(model, "mixer", recorder, 64)
    torch.testing.assert_close(changed[0]["confidence"], answers(model, "mixer", None, 64)[0]["confidence"])
    before = len(made)
    model.q_head.weight = torch.nn.Parameter(model.q_head.weight * 2, requires_grad=False)
    changed = answers(model, "mixer", recorder, 64)
    assert len(made) > before >= count, "weights elsewhere need another recording"
    torch.testing.assert_close(changed[0]["confidence"], answers(model, "mixer", None, 64)[0]["confidence"])
    assert all(key[0] == next(iter(_steps[model]))[0] for key in _steps[model])
    del changed


def test_a_recording_is_of_one_depth_and_one_choice_of_kernels() -> None:
    made, recorder = counted()
    model = make("mixer")
    answers(model, "mixer", recorder, 64)
    shallow, count = model.config, len(made)
    model.config = shallow.model_copy(update={"T_cycles": 1})
    changed = answers(model, "mixer", recorder, 64)
    assert len(made) > count
    torch.testing.assert_close(changed[0]["confidence"], answers(model, "mixer", None, 64)[0]["confidence"])
    model.config, count = shallow, len(made)
    answers(model, "mixer", recorder, 64)
    assert len(made) == count
    with ops.use_backend("reference"):
        answers(model, "mixer", recorder, 64)
    assert len(made) > count


def test_recordings_end_with_their_model() -> None:
    gc.collect()
    known = len(_steps)
    model = make("mixer")
    for runner in (Recorder, Eager):
        answers(model, "mixer", runner, 64)
    assert len(_steps) == known + 1
    del model
    gc.collect()
    assert len(_steps) == known


@pytest.mark.parametrize("runner", [Eager, Recorder])
def test_who_thinks_with_a_model_in_turns_is_not_disturbed(runner: Any) -> None:
    """A web page that shows two people's steps, say: both use one recording, at fixed places."""
    model, (inputs, _) = make("mixer"), asked("mixer")
    halves = inputs[:3], inputs[3:6]
    want = [[now.answers for now in run_steps(model, half, 6, halt=False)] for half in halves]
    running = [run_steps(model, half, 6, halt=False, runner=runner) for half in halves]
    for step, (first, second) in enumerate(zip_longest(*running)):
        assert torch.equal(first.answers, want[0][step])
        assert torch.equal(second.answers, want[1][step])


def test_who_thinks_with_a_model_in_threads_is_not_disturbed() -> None:
    """As the tools of an MCP server do."""
    model, (inputs, _) = make("mixer"), asked("mixer")

    def confidences(row: int) -> list[float]:
        thoughts = run_steps(model, inputs[row : row + 1], 30, halt=False, runner=Eager)
        return [float(now.confidence) for now in thoughts]

    want = [confidences(row) for row in range(N)]
    _steps.clear()  # they meet in its making, too
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(confidences, range(N))) == want


def test_a_solver_without_a_graph_says_so() -> None:
    class Unable(Recorder):
        def capture(self, function: Any) -> None:
            raise RuntimeError("operation not permitted")

    with pytest.warns(UserWarning, match=r"without a CUDA graph: it could not be captured \(operation not permitted\)"):
        answers(make("mixer"), "mixer", lambda: Fallback(Unable()), 64)


def test_hashed_noise_is_normal_and_a_function_of_its_key() -> None:
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
    assert (mixed - torch.eye(10)).abs().max() < 0.03, "neither rows nor neighbours are alike"
