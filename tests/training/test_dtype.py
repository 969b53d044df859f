"""The dtype of a run: chosen for the processor, kept when the run is resumed, and that of its solver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trm_fast.interchange import locate
from trm_fast.ops._core import selection
from trm_fast.training import Trainer, make_config, read_preset
from trm_fast.training.process_group import SINGLE_PROCESS, ProcessGroup
from trm_fast.training.state import run_dtype

from .small import run_config

CPU = torch.device("cpu")
FAST = {True: torch.bfloat16, False: torch.float32}


@pytest.fixture
def prefer(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Sets whether the processor's products are faster in bfloat16."""
    return lambda fast: monkeypatch.setattr(selection, "cpu_prefers_bfloat16", lambda: fast)


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_what_is_fast_on_the_processor(fast: bool, prefer: Callable[[bool], None]) -> None:
    prefer(fast)
    assert run_config().compute_dtype(CPU) == FAST[fast]
    assert run_config(dtype="float32").compute_dtype(CPU) == torch.float32
    assert run_config(dtype="bfloat16").compute_dtype(CPU) == torch.bfloat16
    assert run_config().compute_dtype(torch.device("cuda")) == torch.bfloat16
    copy = make_config(read_preset("copy"), "copy")  # of real numbers
    assert copy.compute_dtype(CPU) == torch.float32


@pytest.mark.parametrize("fast", [True, False])
def test_a_resumed_run_keeps_its_dtype(fast: bool, prefer: Callable[[bool], None], tmp_path: Path) -> None:
    prefer(fast)
    whole = Trainer(run_config(steps=4, eval_every=0), tmp_path / "whole")
    whole.train()
    Trainer(run_config(steps=4, eval_every=0, checkpoint_every=2, keep_checkpoints=9), tmp_path / "run").train()
    prefer(not fast)
    resumed = Trainer.resume(tmp_path / "run", from_step=2)
    assert resumed.model.compute_dtype == FAST[fast]
    resumed.train()
    for got, want in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(got, want)


def test_a_checkpoint_of_an_earlier_version_was_in_float32(prefer: Callable[[bool], None]) -> None:
    prefer(True)
    earlier = {"step": 2}
    assert run_dtype(run_config(), CPU, earlier, SINGLE_PROCESS) == torch.float32
    assert run_dtype(run_config(), torch.device("cuda"), earlier, SINGLE_PROCESS) == torch.bfloat16
    assert run_dtype(run_config(dtype="bfloat16"), CPU, earlier, SINGLE_PROCESS) == torch.bfloat16


def test_processes_agree_on_a_dtype_that_is_fast_for_all(prefer: Callable[[bool], None]) -> None:
    class Two(ProcessGroup):
        """The other process runs on a processor without fast products in bfloat16."""

        def gather_objects(self, value: object) -> list[object]:
            return [value, torch.float32]

    prefer(True)
    assert run_dtype(run_config(), CPU, {}, Two()) == torch.float32
    assert run_dtype(run_config(dtype="bfloat16"), CPU, {}, Two()) == torch.bfloat16


def test_the_solver_of_a_run_and_of_a_model_folder(prefer: Callable[[bool], None], tmp_path: Path) -> None:
    prefer(True)
    Trainer(run_config(steps=2, eval_every=0, dtype="float32"), tmp_path / "run").train()
    assert locate(str(tmp_path / "run")).model.compute_dtype == torch.float32
    assert locate(str(tmp_path / "run" / "model")).model.compute_dtype == torch.bfloat16
    prefer(False)
    assert locate(str(tmp_path / "run" / "model")).model.compute_dtype == torch.float32
