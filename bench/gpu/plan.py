"""The time limits and sizes of bench/gpu.sh. ``TINY`` holds the sizes of --self-test, which runs on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TOTAL_MINUTES = 9.0
PART_SECONDS = {"checks": 90, "step": 150, "op_table": 60, "solver": 40, "training": 480}
"""Time limit of each part in seconds, most important first; the last part is also bounded by TOTAL_MINUTES."""
MIN_SECONDS = 10  # a part that would get less does not start
TEST_SECONDS = 60  # the part of the training part's time that is reserved for its tests
DEVICE_LOST = 75  # exit status of a part that cannot use its device any more, after a kernel failed
RESTARTS = 2  # restarts after a crash; the next process skips the row that crashed

SHALLOW = {"H_cycles": 2, "L_cycles": 1}  # enough to compile: a cycle without gradients and one with

_SMALL_RUN = {
    "model.hidden_size": 32, "model.num_heads": 2, "model.T_cycles": 1, "model.n_latent_steps": 1,
    "model.max_supervision_steps": 2, "training.batch_size": 16, "training.eval_every": 20, "training.steps": 40,
    "training.log_every": 10, "task.train_count": 40, "task.test_count": 20,
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """The sizes of all parts."""

    # step: cases of bench/end_to_end.py; all are measured against the first baseline, then against the next
    steps: tuple[str, ...] = tuple(f"train:{model}:768" for model in ("mixer97", "attention97", "mixer81"))
    baselines: tuple[str, ...] = ("eager", "compiled-net")
    repeats: int = 9  # timed steps of each side
    # op_table
    op_batches: tuple[int, ...] = (768, 8)  # examples
    tokens: int = 97  # with the prefix
    channels: int = 512
    heads: int = 8
    inner: int = 1536  # hidden units of the channel MLP
    token_inner: int = 512  # hidden units of the token mixer
    embeddings: int = 100_000  # rows of the puzzle embedding
    gemm_size: int = 8192  # rows and columns of both matrices
    copy_elements: int = 2**29
    # solver
    solver_models: tuple[str, ...] = ("mixer97", "mixer81", "attention97")
    solver_batches: tuple[int, ...] = (768, 1, 64)  # puzzles
    timed_calls: int = 8
    # training: settings that change the preset, number of test puzzles, and options of the solver for each test
    settings: dict[str, Any] = field(default_factory=lambda: {"training.eval_every": 1000, "training.eval_count": 512})
    puzzles: int = 1000
    solver_variants: tuple[dict[str, Any], ...] = ({}, {"symmetries": 8}, {"rollouts": 8, "noise": 0.3})


FULL = Sizes()
TINY = Sizes(
    steps=("train:sudoku-4x4:8",), baselines=("eager",), repeats=1, op_batches=(2,), tokens=9, channels=32, heads=2,
    inner=48, token_inner=32, embeddings=10, gemm_size=256, copy_elements=2**20, solver_models=("sudoku-cpu",),
    solver_batches=(2,), timed_calls=2, settings=_SMALL_RUN, puzzles=8,
    solver_variants=({}, {"symmetries": 2}, {"rollouts": 2, "noise": 0.3}),
)  # fmt: skip
